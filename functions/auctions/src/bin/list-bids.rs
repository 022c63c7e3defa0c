//! The `list-bids` function.

fn main() -> std::process::ExitCode {
    platform::main(auctions::list_bids::function())
}
