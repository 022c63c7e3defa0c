//! The `login` function.

fn main() -> std::process::ExitCode {
    platform::main(identity::login::function())
}
