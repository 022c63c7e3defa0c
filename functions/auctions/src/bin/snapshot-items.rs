//! The `snapshot-items` function.

fn main() -> std::process::ExitCode {
    platform::main(auctions::snapshot_items::function())
}
