//! The `list-items` function.

fn main() -> std::process::ExitCode {
    platform::main(catalog::list_items::function())
}
