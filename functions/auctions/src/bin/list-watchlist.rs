//! The `list-watchlist` function.

fn main() -> std::process::ExitCode {
    platform::main(auctions::list_watchlist::function())
}
