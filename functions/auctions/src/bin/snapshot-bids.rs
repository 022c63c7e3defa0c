//! The `snapshot-bids` function.

fn main() -> std::process::ExitCode {
    platform::main(auctions::snapshot_bids::function())
}
