//! The `get-me` function.

fn main() -> std::process::ExitCode {
    platform::main(identity::get_me::function())
}
