//! The `create-category` function.

fn main() -> std::process::ExitCode {
    platform::main(catalog::create_category::function())
}
