//! The `some-function` function.

fn main() -> std::process::ExitCode {
    platform::main(somedomain::some_function::function())
}
