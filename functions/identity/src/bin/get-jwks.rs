//! The `get-jwks` function.

fn main() -> std::process::ExitCode {
    platform::main(identity::get_jwks::function())
}
