//! The `register` function.

fn main() -> std::process::ExitCode {
    platform::main(identity::register::function())
}
