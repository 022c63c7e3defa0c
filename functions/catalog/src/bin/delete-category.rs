//! The `delete-category` function.

fn main() -> std::process::ExitCode {
    platform::main(catalog::delete_category::function())
}
