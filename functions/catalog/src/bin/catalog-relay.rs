//! Publishes what the catalog domain says.

fn main() -> std::process::ExitCode {
    platform::relay_main(catalog::DOMAIN, "catalog-relay")
}
