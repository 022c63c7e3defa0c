//! The `close-auction` function.

fn main() -> std::process::ExitCode {
    platform::main(auctions::close_auction::function())
}
