//! The `relist-item` function.

fn main() -> std::process::ExitCode {
    platform::main(auctions::relist_item::function())
}
