//! `outcry run`, `deploy` and `ps`: parts of the platform in processes of their own.

use std::path::PathBuf;

use anyhow::{Context, bail};
use outcry::{
    control::{self, Ask},
    launch,
};
use platform::{Bus, Config, Env, Host, database, relay};

use super::{join, say};

/// Serves one part until a signal: a function, a relay, the edge, or `maintain`.
pub(crate) async fn run(name: &str) -> anyhow::Result<()> {
    let env = Env::load_joined()?;
    let config: Config = env.read()?;
    platform::init_telemetry(&config);
    let (stop, bus) = (platform::stop_on_signal(), Bus::connect(&config, name).await?);
    let functions = outcry::functions();
    let pool = |domain: &str| {
        Ok::<_, anyhow::Error>(database::pool(&config, database::options(&env, domain)?, name))
    };
    tracing::info!(part = name, nats = config.nats_url, "serving");
    if let Some(function) = functions.iter().find(|function| function.spec().name == name) {
        let host = Host::new(
            function.clone().tuned(&config),
            pool(function.spec().domain)?,
            Some(bus.clone()),
            &env,
        )?;
        platform::serve(host, bus.clone(), stop).await?;
    } else if let Some(domain) =
        launch::relayed().into_iter().find(|domain| name == format!("{domain}-relay"))
    {
        relay::serve(domain, pool(domain)?, bus.clone(), stop).await?;
    } else if name == "edge" {
        edge::run(env, bus.clone(), stop).await?;
    } else if name == "maintain" {
        let definitions = outcry::definitions()?;
        platform::maintain::serve(&env, &config, &bus, &outcry::databases(), &definitions, stop).await?;
    } else {
        bail!("there is no function {name}; `outcry functions` lists them");
    }
    bus.close().await;
    Ok(())
}

/// Replaces a part of the platform that runs here by a release binary that was built: the one beside this program, or
/// `program`.
pub(crate) async fn deploy(name: &str, program: Option<PathBuf>) -> anyhow::Result<()> {
    let program = match program {
        Some(program) => program,
        None => std::env::current_exe()?.with_file_name(name),
    };
    let program = program.canonicalize().with_context(|| {
        format!("there is no program {}: build it first, or use `just deploy {name}`", program.display())
    })?;
    // First what it may need: tables, streams and consumers that are new with it.
    let (env, bus) = join().await?;
    database::migrate(&env, &outcry::databases()).await?;
    outcry::definitions()?.apply(&bus).await?;
    bus.close().await;
    say(&control::ask(&launch::data_folder(&env), &Ask::Deploy { name: name.to_owned(), program }).await?);
    Ok(())
}

/// Lists the parts of the platform that runs here.
pub(crate) async fn ps() -> anyhow::Result<()> {
    say(&control::ask(&launch::data_folder(&Env::load()?), &Ask::Parts).await?);
    Ok(())
}
