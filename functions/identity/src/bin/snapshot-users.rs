//! The `snapshot-users` function.

fn main() -> std::process::ExitCode {
    platform::main(identity::snapshot_users::function())
}
