//! The `get-item` function.

fn main() -> std::process::ExitCode {
    platform::main(auctions::get_item::function())
}
