//! The `cancel-item` function.

fn main() -> std::process::ExitCode {
    platform::main(auctions::cancel_item::function())
}
