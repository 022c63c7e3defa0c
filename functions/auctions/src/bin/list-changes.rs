//! The `list-changes` function.

fn main() -> std::process::ExitCode {
    platform::main(auctions::list_changes::function())
}
