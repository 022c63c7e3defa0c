//! The `find-user` function.

fn main() -> std::process::ExitCode {
    platform::main(identity::find_user::function())
}
