//! The `update-stats` function.

fn main() -> std::process::ExitCode {
    platform::main(stats::update_stats::function())
}
