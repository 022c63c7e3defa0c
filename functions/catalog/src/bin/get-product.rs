//! The `get-product` function.

fn main() -> std::process::ExitCode {
    platform::main(catalog::get_product::function())
}
