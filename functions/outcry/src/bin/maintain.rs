//! The `maintain` function: keeps streams, consumers and databases as they should be.

fn main() -> std::process::ExitCode {
    outcry::maintain_main()
}
