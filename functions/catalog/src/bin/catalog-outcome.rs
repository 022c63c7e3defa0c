//! The `catalog-outcome` function.

fn main() -> std::process::ExitCode {
    platform::main(catalog::catalog_outcome::function())
}
