//! The `challenge-2fa` function.

fn main() -> std::process::ExitCode {
    platform::main(identity::challenge_2fa::function())
}
