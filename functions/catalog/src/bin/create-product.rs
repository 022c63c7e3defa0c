//! The `create-product` function.

fn main() -> std::process::ExitCode {
    platform::main(catalog::create_product::function())
}
