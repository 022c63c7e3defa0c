//! The `verify-2fa` function.

fn main() -> std::process::ExitCode {
    platform::main(identity::verify_2fa::function())
}
