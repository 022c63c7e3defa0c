//! The `list-users` function.

fn main() -> std::process::ExitCode {
    platform::main(identity::list_users::function())
}
