//! The nats-server and the Postgres of a platform that was not given any.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::Context;
use local::{Durability, Hold, Nats, Postgres};
use platform::config::write_private;
use tokio_util::sync::CancellationToken;

/// How often a service is looked at.
const WATCH_EVERY: Duration = Duration::from_millis(200);
/// Below the data folder: the configuration of nats-server, with the passwords of its users.
const NATS_CONFIG: &str = "nats-server.conf";

/// Services that were started here. They end with the process, however it ends.
#[derive(Default, Clone)]
pub(crate) struct Services {
    /// The data folder, as long as this lives.
    hold: Option<Arc<Hold>>,
    nats: Option<Arc<Mutex<Nats>>>,
    postgres: Option<Arc<Mutex<Postgres>>>,
}

impl Services {
    /// Takes the folder of a platform's data, made if missing: nobody else may run a platform on it.
    pub(crate) fn take(&mut self, data: &Path) -> anyhow::Result<PathBuf> {
        std::fs::create_dir_all(data).with_context(|| format!("make the data folder {}", data.display()))?;
        let data = data.canonicalize().with_context(|| format!("find the data folder {}", data.display()))?;
        self.hold = Some(Arc::new(Hold::take(&data.join("platform"))?));
        Ok(data)
    }

    /// Starts a nats-server with this configuration; returns its URL.
    pub(crate) fn start_nats(
        &mut self,
        data: &Path,
        config_text: &str,
        say: &dyn Fn(&str),
    ) -> anyhow::Result<String> {
        let config = data.join(NATS_CONFIG);
        write_private(&config, config_text)?;
        let nats = Nats::start(&config, &data.join("nats"), say)?;
        say(&format!("nats-server {} {}, on {}", nats.version(), nats.found(), nats.url()));
        let url = nats.url();
        self.nats = Some(Arc::new(Mutex::new(nats)));
        Ok(url)
    }

    /// Has the nats-server go by another configuration. False when it was not started here.
    pub(crate) fn change_nats(&self, data: &Path, config_text: &str) -> anyhow::Result<bool> {
        let Some(nats) = &self.nats else { return Ok(false) };
        let path = data.join(NATS_CONFIG);
        if std::fs::read_to_string(&path).is_ok_and(|known| known == config_text) {
            return Ok(true);
        }
        write_private(&path, config_text)?;
        nats.lock().unwrap_or_else(PoisonError::into_inner).reload()?;
        Ok(true)
    }

    /// Starts a Postgres; returns its administrator's URL.
    pub(crate) fn start_postgres(
        &mut self,
        data: &Path,
        durability: Durability,
        say: &dyn Fn(&str),
    ) -> anyhow::Result<String> {
        let postgres = Postgres::start(&data.join("postgres"), durability, say)?;
        say(&format!(
            "Postgres {} {}, on 127.0.0.1:{}",
            postgres.version(),
            postgres.found(),
            postgres.port()
        ));
        let url = postgres.url();
        self.postgres = Some(Arc::new(Mutex::new(postgres)));
        Ok(url)
    }

    /// Starts a service again when it dies unasked, on the same port and data.
    pub(crate) fn watch(&self, stop: &CancellationToken) {
        macro_rules! watch {
            ($service:expr, $name:literal) => {
                if let Some(service) = $service.clone() {
                    let stop = stop.clone();
                    std::thread::spawn(move || {
                        while !stop.is_cancelled() {
                            std::thread::sleep(WATCH_EVERY);
                            let mut service = service.lock().unwrap_or_else(PoisonError::into_inner);
                            if stop.is_cancelled() || !matches!(service.ended(), Ok(Some(_))) {
                                continue;
                            }
                            tracing::error!(service = $name, "died, starting it again");
                            if let Err(error) = service.resume(&|line| tracing::info!("{line}")) {
                                tracing::error!(
                                    service = $name,
                                    error = format!("{error:#}"),
                                    "cannot be started"
                                );
                            }
                        }
                    });
                }
            };
        }
        watch!(self.nats, "nats-server");
        watch!(self.postgres, "Postgres");
    }

    /// Stops what was started here, in order, and returns when it has ended.
    pub(crate) fn stop(&self) -> anyhow::Result<()> {
        if let Some(nats) = &self.nats {
            nats.lock().unwrap_or_else(PoisonError::into_inner).halt()?;
        }
        if let Some(postgres) = &self.postgres {
            postgres.lock().unwrap_or_else(PoisonError::into_inner).halt()?;
        }
        Ok(())
    }

    /// The process ids of the services that were started here: nats-server and Postgres.
    pub(crate) fn pids(&self) -> (Option<u32>, Option<u32>) {
        let nats =
            self.nats.as_ref().and_then(|nats| nats.lock().unwrap_or_else(PoisonError::into_inner).pid());
        let postgres = self
            .postgres
            .as_ref()
            .and_then(|postgres| postgres.lock().unwrap_or_else(PoisonError::into_inner).pid());
        (nats, postgres)
    }
}

/// Empties a platform's data.
pub(crate) fn wipe(data: &Path) -> anyhow::Result<()> {
    Nats::wipe(&data.join("nats"))?;
    Postgres::wipe(&data.join("postgres"))?;
    Ok(())
}
