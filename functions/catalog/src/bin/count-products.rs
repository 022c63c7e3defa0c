//! The `count-products` function.

fn main() -> std::process::ExitCode {
    platform::main(catalog::count_products::function())
}
