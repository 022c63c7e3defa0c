//! The `create-item` function.

fn main() -> std::process::ExitCode {
    platform::main(auctions::create_item::function())
}
