//! The `buy-now` function.

fn main() -> std::process::ExitCode {
    platform::main(auctions::buy_now::function())
}
