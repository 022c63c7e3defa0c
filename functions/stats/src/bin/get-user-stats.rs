//! The `get-user-stats` function.

fn main() -> std::process::ExitCode {
    platform::main(stats::get_user_stats::function())
}
