//! The `delete-user` function.

fn main() -> std::process::ExitCode {
    platform::main(identity::delete_user::function())
}
