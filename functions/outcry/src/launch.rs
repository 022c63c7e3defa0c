//! Starts everything in one process: services, tables, streams, functions, relays and the edge.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use local::Durability;
use platform::{Bus, Config, Env, Function, Host, database, relay};
use tokio::net::TcpListener;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::services::{self, Services};

/// How long the functions may take to answer for the first time.
const READY_WITHIN: Duration = Duration::from_secs(30);
/// How long a part that failed waits before it is started again.
const AGAIN: Duration = Duration::from_secs(1);
/// The domains that say something, each with a relay.
const RELAYED: [&str; 2] = [identity::DOMAIN, auctions::DOMAIN];

/// What kind of platform to start.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where its data lives.
    pub data: PathBuf,
    /// The address of its edge; port 0 for a free one.
    pub listen: String,
    /// Forget earlier data.
    pub fresh: bool,
    /// Its data need not survive the machine: for tests and demonstrations.
    pub throwaway: bool,
    /// Functions that are left to other processes.
    pub without: Vec<String>,
}

/// A running platform.
pub struct Platform {
    /// Where people reach it.
    pub url: String,
    /// With the addresses of its services.
    pub env: Env,
    services: Services,
    tasks: TaskTracker,
    stop: CancellationToken,
    bus: Bus,
}

/// Starts a platform; each step is told to `say`.
pub async fn start(mut env: Env, options: Options, say: fn(&str)) -> anyhow::Result<Platform> {
    // First what can be refused at once.
    let listener = TcpListener::bind(&options.listen).await.with_context(|| {
        format!(
            "{} is taken by another program: stop it, or choose another port with PORT=8081",
            options.listen
        )
    })?;
    let url = format!("http://localhost:{}", listener.local_addr()?.port());
    let services = find_services(&mut env, &options, say).await?;
    let config: Config = env.read()?;

    let started = Instant::now();
    let databases = crate::databases();
    database::migrate(&env, &databases).await?;
    say(&format!(
        "databases migrated: {} in {:.1?}",
        names(databases.iter().map(|d| d.domain)),
        started.elapsed()
    ));

    let bus = Bus::connect(&config, "outcry").await?;
    let definitions = crate::definitions()?;
    let applied = definitions.apply(&bus).await?;
    say(&format!("streams and consumers applied: {} and {}", applied.streams, applied.consumers));

    let stop = CancellationToken::new();
    let tasks = TaskTracker::new();
    let platform = Platform { url, env, services, tasks, stop, bus };
    platform.services.watch(&platform.stop);
    platform.spawn_functions(&config, &options)?;
    platform.spawn_maintain(&config, definitions);
    // The edge last: what it asks of the functions at its start must find them.
    platform.ready(&options, say).await?;
    let served = edge::serve(platform.env.clone(), platform.bus.clone(), listener, platform.stop.clone());
    let stop = platform.stop.clone();
    platform.tasks.spawn(async move {
        if let Err(error) = served.await {
            tracing::error!(error = format!("{error:#}"), "the edge stopped");
            stop.cancel();
        }
    });
    Ok(platform)
}

/// Takes the services that the environment names, and starts the others.
async fn find_services(env: &mut Env, options: &Options, say: fn(&str)) -> anyhow::Result<Services> {
    let needs_data = env.get("NATS_URL").is_none() || env.get("DATABASE_URL").is_none();
    let options = options.clone();
    let given = (env.get("NATS_URL").map(str::to_owned), env.get("DATABASE_URL").map(str::to_owned));
    let (services, nats, postgres, data) = tokio::task::spawn_blocking(move || {
        let mut services = Services::default();
        let data = services::folder(&options.data)?;
        if options.fresh && needs_data {
            services::wipe(&data)?;
            say("earlier data forgotten");
        }
        let nats = match given.0 {
            Some(url) => {
                say("nats-server given by NATS_URL");
                url
            }
            None => services.start_nats(&data, &say)?,
        };
        let durability = if options.throwaway { Durability::Throwaway } else { Durability::Durable };
        let postgres = match given.1 {
            Some(url) => {
                say("Postgres given by DATABASE_URL");
                url
            }
            None => services.start_postgres(&data, durability, &say)?,
        };
        Ok::<_, anyhow::Error>((services, nats, postgres, data))
    })
    .await??;
    env.set("NATS_URL", nats);
    env.set("DATABASE_URL", postgres);
    if env.get("JWT_KEY_FILE").is_none() {
        env.set("JWT_KEY_FILE", data.join("jwt-key.pem").display().to_string());
    }
    Ok(services)
}

impl Platform {
    fn spawn_functions(&self, config: &Config, options: &Options) -> anyhow::Result<()> {
        let mut pools = std::collections::HashMap::new();
        for database in crate::databases() {
            let connection = database::options(&self.env, database.domain)?;
            pools.insert(database.domain, database::pool(config, connection, "outcry"));
        }
        let chosen = |function: &Function| !options.without.iter().any(|name| name == function.spec().name);
        for function in crate::functions().into_iter().filter(chosen) {
            let function = function.tuned(config);
            let (name, domain) = (function.spec().name, function.spec().domain);
            let pool = pools.get(domain).with_context(|| format!("{name} has no database"))?.clone();
            let (env, bus, stop) = (self.env.clone(), self.bus.clone(), self.stop.clone());
            self.supervise(name, move || {
                let host = Host::new(function.clone(), pool.clone(), Some(bus.clone()), &env);
                let (bus, stop) = (bus.clone(), stop.clone());
                async move { platform::serve(host?, bus, stop).await }
            });
        }
        for domain in RELAYED {
            let pool = pools.get(domain).with_context(|| format!("{domain} has no database"))?.clone();
            let (bus, stop) = (self.bus.clone(), self.stop.clone());
            self.supervise(domain, move || relay::serve(domain, pool.clone(), bus.clone(), stop.clone()));
        }
        Ok(())
    }

    fn spawn_maintain(&self, config: &Config, definitions: platform::provision::Definitions) {
        let (env, config, bus, stop) =
            (self.env.clone(), config.clone(), self.bus.clone(), self.stop.clone());
        self.tasks.spawn(async move {
            platform::maintain::serve(&env, &config, &bus, &crate::databases(), &definitions, stop).await;
        });
    }

    /// Runs a part until the platform stops; one that fails or panics is started again.
    fn supervise<F>(&self, name: &'static str, start: impl Fn() -> F + Send + 'static)
    where
        F: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        let stop = self.stop.clone();
        self.tasks.spawn(async move {
            while !stop.is_cancelled() {
                let error = match tokio::spawn(start()).await {
                    Ok(Ok(())) if stop.is_cancelled() => return,
                    Ok(Ok(())) => "it ended".to_owned(),
                    Ok(Err(error)) => format!("{error:#}"),
                    Err(error) => error.to_string(),
                };
                tracing::error!(part = name, error, "stopped, starting it again");
                tokio::time::sleep(AGAIN).await;
            }
        });
    }

    /// Waits until every function answers.
    async fn ready(&self, options: &Options, say: fn(&str)) -> anyhow::Result<()> {
        let deadline = Instant::now() + READY_WITHIN;
        let mut ready = Vec::new();
        for function in crate::functions() {
            let name = function.spec().name;
            if options.without.iter().any(|other| other == name) {
                continue;
            }
            while !self.bus.is_serving(name, Duration::from_millis(500)).await {
                if Instant::now() > deadline || self.stop.is_cancelled() {
                    bail!("{name} does not answer; the log lines above say why");
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            ready.push(name);
        }
        say(&format!("functions ready: {}", names(ready.into_iter())));
        Ok(())
    }

    /// The process ids of the nats-server and the Postgres that were started here.
    pub fn service_pids(&self) -> (Option<u32>, Option<u32>) {
        self.services.pids()
    }

    /// Cancelled when the platform is stopping.
    pub fn stopping(&self) -> &CancellationToken {
        &self.stop
    }

    /// Finishes what is in flight and ends.
    pub async fn stop(self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        self.bus.close().await;
        // Servers are stopped by blocking calls.
        let stopped = tokio::task::spawn_blocking(move || self.services.stop()).await;
        if !matches!(stopped, Ok(Ok(()))) {
            tracing::warn!("a service did not end in order; it ends with this process");
        }
    }
}

fn names<'a>(names: impl Iterator<Item = &'a str>) -> String {
    names.collect::<Vec<_>>().join(", ")
}
