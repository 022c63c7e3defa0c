//! The `get-category` function.

fn main() -> std::process::ExitCode {
    platform::main(catalog::get_category::function())
}
