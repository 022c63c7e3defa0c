//! The `delete-product` function.

fn main() -> std::process::ExitCode {
    platform::main(catalog::delete_product::function())
}
