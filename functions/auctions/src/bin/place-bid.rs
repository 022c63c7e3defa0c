//! The `place-bid` function.

fn main() -> std::process::ExitCode {
    platform::main(auctions::place_bid::function())
}
