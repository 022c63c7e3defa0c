//! The `list-products` function.

fn main() -> std::process::ExitCode {
    platform::main(catalog::list_products::function())
}
