//! The `snapshot-products` function.

fn main() -> std::process::ExitCode {
    platform::main(catalog::snapshot_products::function())
}
