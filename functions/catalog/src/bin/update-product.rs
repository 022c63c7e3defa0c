//! The `update-product` function.

fn main() -> std::process::ExitCode {
    platform::main(catalog::update_product::function())
}
