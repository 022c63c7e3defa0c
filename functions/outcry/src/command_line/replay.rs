//! `outcry replay`: a projection, made anew while everything runs.

use std::time::Duration;

use anyhow::bail;
use platform::{Bus, replay};

use super::{is_running, join, say};

/// How often the progress is asked for.
const EVERY: Duration = Duration::from_millis(300);

/// Has a consumer rebuild its projection, and shows how it goes. The consumer does the work: it goes on when this
/// command is ended.
pub(crate) async fn replay(consumer: &str) -> anyhow::Result<()> {
    let projections: Vec<&str> = outcry::functions()
        .iter()
        .filter(|function| function.spec().rebuild.is_some())
        .map(|function| function.spec().name)
        .collect();
    if !projections.contains(&consumer) {
        bail!("{consumer} keeps no projection; those that do: {}", projections.join(", "));
    }
    let (_, bus) = join().await?;
    let rebuilt = follow(&bus, consumer).await;
    bus.close().await;
    rebuilt
}

async fn follow(bus: &Bus, consumer: &str) -> anyhow::Result<()> {
    let mut progress = match replay::start(bus, consumer).await {
        Err(_) if !is_running(bus, consumer).await => {
            bail!("is {consumer} running? `just run {consumer}` starts one");
        }
        started => started?,
    };
    let mut shown = String::new();
    while progress.running {
        let line = format!(
            "{}: {} events of the snapshot, {} of the stream",
            progress.step, progress.told, progress.heard
        );
        if line != shown {
            say(&line);
            shown = line;
        }
        tokio::time::sleep(EVERY).await;
        progress = replay::progress(bus, consumer).await?;
    }
    let Some(ended_at) = progress.ended_at else {
        bail!(
            "broken off while {}: the process ended; what is live was not touched, start again",
            progress.step
        );
    };
    if let Some(error) = progress.error {
        bail!("not rebuilt, what is live was not touched: {error}");
    }
    say(&format!(
        "rebuilt {consumer} in {:.1?}: {} events of the snapshot, {} of the stream",
        ended_at.since(progress.started_at),
        progress.told,
        progress.heard
    ));
    Ok(())
}
