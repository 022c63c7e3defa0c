//! The `list-my-items` function.

fn main() -> std::process::ExitCode {
    platform::main(auctions::list_my_items::function())
}
