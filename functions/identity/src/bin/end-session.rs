//! The `end-session` function.

fn main() -> std::process::ExitCode {
    platform::main(identity::end_session::function())
}
