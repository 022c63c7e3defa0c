//! The `refresh` function.

fn main() -> std::process::ExitCode {
    platform::main(identity::refresh::function())
}
