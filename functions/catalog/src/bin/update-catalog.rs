//! The `update-catalog` function.

fn main() -> std::process::ExitCode {
    platform::main(catalog::update_catalog::function())
}
