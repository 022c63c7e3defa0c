//! The `disable-2fa` function.

fn main() -> std::process::ExitCode {
    platform::main(identity::disable_2fa::function())
}
