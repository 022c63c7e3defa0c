//! The `list-my-bids` function.

fn main() -> std::process::ExitCode {
    platform::main(auctions::list_my_bids::function())
}
