//! The `unwatch-item` function.

fn main() -> std::process::ExitCode {
    platform::main(auctions::unwatch_item::function())
}
