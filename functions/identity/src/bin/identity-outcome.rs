//! The `identity-outcome` function.

fn main() -> std::process::ExitCode {
    platform::main(identity::identity_outcome::function())
}
