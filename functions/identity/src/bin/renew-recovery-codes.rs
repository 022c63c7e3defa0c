//! The `renew-recovery-codes` function.

fn main() -> std::process::ExitCode {
    platform::main(identity::renew_recovery_codes::function())
}
