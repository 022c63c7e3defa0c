//! `maintain`: keeps streams, consumers and databases as they should be.
//!
//! Makes streams and consumers that are missing, at start and whenever the connection is made again, so that
//! memory streams and a wiped store come back; makes and drops outbox partitions and forgets what is
//! past keeping, with the owners' roles. Tells how much waits everywhere.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::{
    bus::Bus,
    config::{Config, Env},
    database::{self, Database},
    depths::Depths,
    provision::Definitions,
    service::Service,
};

/// How often the databases are looked after.
const EVERY: Duration = Duration::from_secs(15 * 60);
/// How long to wait after a failure.
const AGAIN: Duration = Duration::from_secs(1);

/// Maintains until told to stop.
pub async fn serve(
    env: &Env,
    config: &Config,
    bus: &Bus,
    databases: &[Database],
    definitions: &Definitions,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let about = "keeps streams, consumers and databases as they should be";
    let running =
        Service::new("maintain", about, serde_json::json!({ "wakes": "the clock" })).start(bus).await?;
    let depths = Depths::new(env, config, bus, definitions.stream_names(), databases)?;
    tokio::join!(
        keep_provisioned(bus, definitions, &stop),
        keep_databases(env, config, databases, &stop),
        depths.keep(&stop)
    );
    running.stop().await;
    Ok(())
}

async fn keep_provisioned(bus: &Bus, definitions: &Definitions, stop: &CancellationToken) {
    let mut connections = bus.connections();
    let mut provisioned = None;
    while !stop.is_cancelled() {
        let connection = *connections.borrow_and_update();
        if provisioned != Some(connection) {
            match definitions.restore(bus).await {
                Ok(_) => provisioned = Some(connection),
                Err(error) => {
                    tracing::warn!(error = format!("{error:#}"), "streams not provisioned, trying again");
                }
            }
        }
        tokio::select! {
            () = stop.cancelled() => {}
            Ok(()) = connections.changed() => {}
            () = tokio::time::sleep(AGAIN), if provisioned != Some(connection) => {}
        }
    }
}

async fn keep_databases(env: &Env, config: &Config, databases: &[Database], stop: &CancellationToken) {
    let mut due = tokio::time::interval(EVERY);
    let work = async {
        loop {
            due.tick().await;
            if let Err(error) = database::maintain(env, config, databases).await {
                tracing::warn!(error = format!("{error:#}"), "databases not maintained, trying again later");
            }
        }
    };
    stop.run_until_cancelled(work).await;
}
