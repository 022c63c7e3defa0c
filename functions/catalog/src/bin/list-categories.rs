//! The `list-categories` function.

fn main() -> std::process::ExitCode {
    platform::main(catalog::list_categories::function())
}
