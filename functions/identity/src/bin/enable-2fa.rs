//! The `enable-2fa` function.

fn main() -> std::process::ExitCode {
    platform::main(identity::enable_2fa::function())
}
