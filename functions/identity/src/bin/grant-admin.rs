//! The `grant-admin` function.

fn main() -> std::process::ExitCode {
    platform::main(identity::grant_admin::function())
}
