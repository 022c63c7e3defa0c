//! The `close-item` function.

fn main() -> std::process::ExitCode {
    platform::main(auctions::close_item::function())
}
