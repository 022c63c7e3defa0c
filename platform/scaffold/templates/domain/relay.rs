//! Publishes what the somedomain domain says.

fn main() -> std::process::ExitCode {
    platform::relay_main(somedomain::DOMAIN, "somedomain-relay")
}
