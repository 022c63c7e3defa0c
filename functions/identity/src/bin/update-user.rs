//! The `update-user` function.

fn main() -> std::process::ExitCode {
    platform::main(identity::update_user::function())
}
