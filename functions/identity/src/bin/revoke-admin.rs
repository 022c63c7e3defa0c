//! The `revoke-admin` function.

fn main() -> std::process::ExitCode {
    platform::main(identity::revoke_admin::function())
}
