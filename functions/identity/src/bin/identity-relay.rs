//! Publishes what the identity functions emit.

fn main() -> std::process::ExitCode {
    platform::relay_main(identity::DOMAIN, "identity-relay")
}
