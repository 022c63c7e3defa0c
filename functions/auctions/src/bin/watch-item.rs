//! The `watch-item` function.

fn main() -> std::process::ExitCode {
    platform::main(auctions::watch_item::function())
}
