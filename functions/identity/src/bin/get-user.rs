//! The `get-user` function.

fn main() -> std::process::ExitCode {
    platform::main(identity::get_user::function())
}
