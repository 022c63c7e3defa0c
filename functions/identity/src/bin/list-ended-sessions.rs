//! The `list-ended-sessions` function.

fn main() -> std::process::ExitCode {
    platform::main(identity::list_ended_sessions::function())
}
