//! The `update-category` function.

fn main() -> std::process::ExitCode {
    platform::main(catalog::update_category::function())
}
