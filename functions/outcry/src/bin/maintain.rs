//! The `maintain` function: keeps streams, consumers and databases as they should be.

fn main() -> std::process::ExitCode {
    platform::run("maintain", async |env, config, bus, stop| {
        let definitions = outcry::definitions()?;
        platform::maintain::serve(&env, &config, &bus, &outcry::databases(), &definitions, stop).await
    })
}
