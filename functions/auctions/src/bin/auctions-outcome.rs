//! The `auctions-outcome` function.

fn main() -> std::process::ExitCode {
    platform::main(auctions::auctions_outcome::function())
}
