//! The `logout` function.

fn main() -> std::process::ExitCode {
    platform::main(identity::logout::function())
}
