//! The `list-sessions` function.

fn main() -> std::process::ExitCode {
    platform::main(identity::list_sessions::function())
}
