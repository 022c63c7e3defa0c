//! The `change-password` function.

fn main() -> std::process::ExitCode {
    platform::main(identity::change_password::function())
}
