//! The `request-password-reset` function.

fn main() -> std::process::ExitCode {
    platform::main(identity::request_password_reset::function())
}
