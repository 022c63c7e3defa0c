//! The `delete-item` function.

fn main() -> std::process::ExitCode {
    platform::main(auctions::delete_item::function())
}
