//! Publishes what the auctions domain says.

fn main() -> std::process::ExitCode {
    platform::relay_main(auctions::DOMAIN, "auctions-relay")
}
