//! The `logout-all` function.

fn main() -> std::process::ExitCode {
    platform::main(identity::logout_all::function())
}
