//! The `update-item` function.

fn main() -> std::process::ExitCode {
    platform::main(auctions::update_item::function())
}
