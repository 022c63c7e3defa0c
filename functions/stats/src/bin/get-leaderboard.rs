//! The `get-leaderboard` function.

fn main() -> std::process::ExitCode {
    platform::main(stats::get_leaderboard::function())
}
