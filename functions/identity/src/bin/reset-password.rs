//! The `reset-password` function.

fn main() -> std::process::ExitCode {
    platform::main(identity::reset_password::function())
}
