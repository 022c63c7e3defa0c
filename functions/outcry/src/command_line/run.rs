//! `outcry run`, `deploy` and `ps`: parts of the platform in processes of their own.

use std::{io::Write, path::PathBuf, process::ExitCode};

use anyhow::Context;
use outcry::{
    control::{self, Ask},
    launch,
};
use platform::{Env, config::RUNNING, database};

use super::{join, say};

/// Serves one part until a signal. Has a runtime of its own, as the part's own binary has.
pub(crate) fn run(name: &str) -> ExitCode {
    outcry::run_part(name).unwrap_or_else(|| {
        let parts = launch::part_names().join(", ");
        let _ = writeln!(std::io::stderr(), "outcry: there is no part {name}; the parts are {parts}");
        ExitCode::FAILURE
    })
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
    admit(&env).await?;
    outcry::definitions()?.apply(&bus).await?;
    bus.close().await;
    say(&control::ask(&launch::data_folder(&env), &Ask::Deploy { name: name.to_owned(), program }).await?);
    Ok(())
}

/// Has the nats-server of the platform that runs here know the users of all functions that this program has. Where it
/// was not started by a platform, whoever looks after it does that.
pub(crate) async fn admit(env: &Env) -> anyhow::Result<()> {
    let data = launch::data_folder(env);
    let (Some(secret), true) = (env.get("NATS_SECRET"), data.join(RUNNING).exists()) else { return Ok(()) };
    say(&control::ask(&data, &Ask::Users(outcry::users::local_config(secret)?)).await?);
    Ok(())
}

/// Lists the parts of the platform that runs here.
pub(crate) async fn ps() -> anyhow::Result<()> {
    say(&control::ask(&launch::data_folder(&Env::load()?), &Ask::Parts).await?);
    Ok(())
}
