//! Starts everything, in one process or in many: services, tables, streams, functions, relays and the edge.

use std::{
    collections::BTreeMap,
    net::TcpListener,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use local::Durability;
use platform::{
    Bus, Config, Env, Function, Host,
    config::{DATA, RUNNING, write_private},
    database,
    permissions::{ALL_IN_ONE, OPERATOR},
    provision::Definitions,
    relay,
};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::{
    control,
    launcher::{Launcher, Program},
    parts::Parts,
    services::{self, Services},
    users,
};

/// How long the functions may take to answer for the first time.
const READY_WITHIN: Duration = Duration::from_secs(30);
/// Below the data folder: how the `nats` CLI reaches this platform, `nats --context .outcry/nats-context.json`.
pub const NATS_CONTEXT: &str = "nats-context.json";
/// What a platform consists of. The default is everything that there is; a measurement changes it.
#[derive(Debug, Clone, Copy)]
pub struct Menu {
    /// Every function.
    pub functions: fn() -> Vec<Function>,
    /// The streams and consumers.
    pub definitions: fn() -> anyhow::Result<Definitions>,
    /// Lines of the edge beside those that it always has.
    pub lines: fn() -> Vec<edge::Line>,
}

impl Default for Menu {
    fn default() -> Self {
        Self { functions: crate::functions, definitions: crate::definitions, lines: Vec::new }
    }
}

/// What kind of platform to start.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where its data lives.
    pub data: PathBuf,
    /// The address of its edge; port 0 for a free one. None for services, tables and streams alone: then
    /// everything else is left to other processes.
    pub listen: Option<String>,
    /// Forget earlier data.
    pub fresh: bool,
    /// Its data need not survive the machine: for tests and demonstrations.
    pub throwaway: bool,
    /// Functions that are left to other processes.
    pub without: Vec<String>,
    /// Every part in a process of its own; in this process when missing.
    pub split: Option<Split>,
    /// What it consists of when it is not split: programs of their own have the default menu.
    pub menu: Menu,
}

/// How a platform is split into processes.
#[derive(Debug, Clone)]
pub struct Split {
    /// What they execute.
    pub programs: Programs,
    /// How many processes a part has, when it is more than one.
    pub replicas: BTreeMap<String, usize>,
}

/// What the processes of a split platform execute.
#[derive(Debug, Clone)]
pub enum Programs {
    /// Every part its own binary, in this folder.
    Own(PathBuf),
    /// All parts this one, as `outcry run <part>`.
    One(PathBuf),
}

impl Split {
    /// The program of a part. An error when it was not built, or when replicas are asked for that there cannot be.
    fn program(&self, name: &str) -> anyhow::Result<Program> {
        match &self.programs {
            Programs::One(outcry) => Ok(Program::new(outcry.clone(), vec!["run".into(), name.into()])),
            Programs::Own(folder) => {
                let path = folder.join(name);
                ensure!(
                    path.exists(),
                    "there is no program {}: build all of them first with `cargo build --release --workspace --bins`",
                    path.display()
                );
                Ok(Program::new(path, Vec::new()))
            }
        }
    }

    fn replicas(&self, name: &str) -> usize {
        self.replicas.get(name).copied().unwrap_or(1)
    }

    /// Replicas of something that is no part are a mistake.
    fn check(&self) -> anyhow::Result<()> {
        let parts = part_names();
        for (name, replicas) in &self.replicas {
            ensure!(parts.contains(name), "there is no part {name}; the parts are {}", parts.join(", "));
            ensure!(*replicas > 0, "{name} needs at least one process");
        }
        Ok(())
    }
}

/// The one word of every part: functions, relays, `maintain` and `edge`.
pub fn part_names() -> Vec<String> {
    let functions = crate::functions().into_iter().map(|function| function.spec().name.to_owned());
    let relays = relayed().into_iter().map(|domain| format!("{domain}-relay"));
    functions.chain(relays).chain(["maintain".to_owned(), "edge".to_owned()]).collect()
}

/// The domains that say something: each has a relay, `<domain>-relay`.
pub fn relayed() -> Vec<&'static str> {
    let functions = crate::functions();
    let says = |domain: &str| {
        functions.iter().any(|function| function.spec().domain == domain && !function.spec().emits.is_empty())
    };
    let domains = crate::databases().into_iter().map(|database| database.domain);
    domains.filter(|domain| says(domain)).collect()
}

/// The folder that `OUTCRY_DATA` names, or the usual one.
pub fn data_folder(env: &Env) -> PathBuf {
    PathBuf::from(env.get("OUTCRY_DATA").unwrap_or(DATA))
}

/// A running platform.
pub struct Platform {
    /// Where people reach it.
    pub url: String,
    /// With the addresses of its services.
    pub env: Env,
    services: Services,
    parts: Arc<Parts>,
    stop: CancellationToken,
    bus: Bus,
    data: PathBuf,
}

/// Starts a platform; each step is told to `say`.
pub async fn start(mut env: Env, options: Options, say: fn(&str)) -> anyhow::Result<Platform> {
    // First what can be refused at once.
    options.split.iter().try_for_each(Split::check)?;
    let listener = match &options.listen {
        Some(address) => Some(Arc::new(listen(address).await?)),
        None => None,
    };
    let port = match &listener {
        Some(listener) => listener.local_addr()?.port(),
        None => env.read::<edge::Settings>()?.port,
    };
    let url = format!("http://localhost:{port}");
    let (services, data) = find_services(&mut env, &options, say).await?;
    env.set("OUTCRY_URL", url.clone());
    env.set("OUTCRY_DATA", data.display().to_string());
    let config: Config = env.read()?;

    let started = Instant::now();
    let databases = crate::databases();
    database::migrate(&env, &databases).await?;
    say(&format!(
        "databases migrated: {} in {:.1?}",
        names(databases.iter().map(|d| d.domain)),
        started.elapsed()
    ));

    let bus = Bus::connect(&config, ALL_IN_ONE).await?;
    let definitions = (options.menu.definitions)()?;
    let applied = definitions.apply(&bus).await?;
    say(&format!("streams and consumers applied: {} and {}", applied.streams, applied.consumers));

    let stop = CancellationToken::new();
    let launcher = Launcher::new(bus.clone(), env.clone(), listener.clone());
    let parts = Arc::new(Parts::new(launcher, &data, stop.clone()));
    let platform = Platform { url, env, services, parts, stop, bus, data };
    platform.services.watch(&platform.stop);
    platform.let_others_join()?;
    match (&options.split, listener) {
        (_, None) => platform.spawn_maintain(&config, definitions),
        (None, Some(listener)) => {
            platform.spawn_maintain(&config, definitions);
            platform.spawn_functions(&config, &options)?;
            // The edge last: what it asks of the functions at its start must find them.
            platform.ready(&options, say).await?;
            platform.spawn_edge(listener, options.menu.lines);
        }
        (Some(split), Some(_)) => {
            let is_here = |name: &String| name != "edge" && !options.without.contains(name);
            for name in part_names().iter().filter(|name| is_here(name)) {
                platform.parts.start(name, &split.program(name)?, split.replicas(name))?;
            }
            platform.ready(&options, say).await?;
            platform.parts.start("edge", &split.program("edge")?, split.replicas("edge"))?;
        }
    }
    if options.listen.is_some() {
        platform.wait_for("edge").await?;
    }
    Ok(platform)
}

async fn listen(address: &str) -> anyhow::Result<TcpListener> {
    let listener = tokio::net::TcpListener::bind(address).await.with_context(|| {
        format!("{address} is taken by another program: stop it, or choose another port with PORT=8081")
    })?;
    Ok(listener.into_std()?)
}

/// Takes the services that the environment names, and starts the others. Returns the data folder as well.
async fn find_services(
    env: &mut Env,
    options: &Options,
    say: fn(&str),
) -> anyhow::Result<(Services, PathBuf)> {
    let needs_data = env.get("NATS_URL").is_none() || env.get("DATABASE_URL").is_none();
    if env.get("NATS_URL").is_none() {
        // Of another server, if anybody's.
        env.set("NATS_USER", "");
        env.set("NATS_PASSWORD", "");
    }
    let options = options.clone();
    let secret = env.get("NATS_SECRET").map(str::to_owned);
    let given = (env.get("NATS_URL").map(str::to_owned), env.get("DATABASE_URL").map(str::to_owned));
    let (services, nats, secret, postgres, data) = tokio::task::spawn_blocking(move || {
        let mut services = Services::default();
        let data = services.take(&options.data)?;
        if options.fresh && needs_data {
            services::wipe(&data)?;
            say("earlier data forgotten");
        }
        let (nats, secret) = match given.0 {
            Some(url) => {
                say("nats-server given by NATS_URL");
                (url, secret)
            }
            None => {
                let secret =
                    secret.map_or_else(|| kept_secret(&data, "nats-secret.env", "NATS_SECRET"), Ok)?;
                let (functions, definitions) = ((options.menu.functions)(), (options.menu.definitions)()?);
                let config = users::server_config(&functions, &definitions, &secret);
                (services.start_nats(&data, &config, &say)?, Some(secret))
            }
        };
        let durability = if options.throwaway { Durability::Throwaway } else { Durability::Durable };
        let postgres = match given.1 {
            Some(url) => {
                say("Postgres given by DATABASE_URL");
                url
            }
            None => services.start_postgres(&data, durability, &say)?,
        };
        Ok::<_, anyhow::Error>((services, nats, secret, postgres, data))
    })
    .await??;
    env.set("NATS_URL", nats);
    env.set("NATS_SECRET", secret.unwrap_or_default());
    env.set("DATABASE_URL", postgres);
    if env.get("JWT_KEY_FILE").is_none() {
        env.set("JWT_KEY_FILE", data.join("jwt-key.pem").display().to_string());
    }
    if env.get("EDGE_KEY").is_none() {
        // It signs the names of undecided commands, and such a name outlives a restart.
        env.set("EDGE_KEY", kept_secret(&data, "edge-key.env", "EDGE_KEY")?);
    }
    Ok((services, data))
}

/// A random secret that is kept with the data, made when it is not there.
fn kept_secret(data: &Path, file: &str, name: &str) -> anyhow::Result<String> {
    let path = data.join(file);
    if !path.exists() {
        let random: [u8; 32] = rand::random();
        let hex: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
        Env::note(&path, &[(name, &hex)])?;
    }
    let kept = Env::of_file(&path)?;
    kept.get(name).map(str::to_owned).with_context(|| format!("{} holds no {name}", path.display()))
}

impl Platform {
    /// Notes in the data folder where everything is, for functions that are started alone, the command line
    /// and the `nats` CLI.
    fn let_others_join(&self) -> anyhow::Result<()> {
        let ours = ["JWT_KEY_FILE", "EDGE_KEY", "OUTCRY_URL"];
        let ours = ours.into_iter().filter_map(|name| Some((name, self.env.get(name)?)));
        let known: Vec<(&str, &str)> = self.env.services().chain(ours).collect();
        Env::note(&self.data.join(RUNNING), &known)?;
        let (user, password) = self.env.read::<Config>()?.login(OPERATOR).unzip();
        let context = json!({
            "description": "the Outcry platform that runs on this folder",
            "url": self.env.get("NATS_URL"),
            "user": user,
            "password": password,
        });
        write_private(&self.data.join(NATS_CONTEXT), &format!("{context:#}\n"))?;
        control::serve(&self.data, Arc::clone(&self.parts), self.services.clone(), self.stop.clone())
    }

    fn spawn_functions(&self, config: &Config, options: &Options) -> anyhow::Result<()> {
        let mut pools = std::collections::HashMap::new();
        for database in crate::databases() {
            let connection = database::options(&self.env, database.domain)?;
            pools.insert(database.domain, database::pool(config, connection, "outcry"));
        }
        let chosen = |function: &Function| !options.without.iter().any(|name| name == function.spec().name);
        for function in (options.menu.functions)().into_iter().filter(chosen) {
            let function = function.tuned(config);
            let (name, domain) = (function.spec().name, function.spec().domain);
            let pool = pools.get(domain).with_context(|| format!("{name} has no database"))?.clone();
            let (env, bus) = (self.env.clone(), self.bus.clone());
            self.parts.spawn(name, move |stop| {
                let host = Host::new(function.clone(), pool.clone(), Some(bus.clone()), &env);
                let bus = bus.clone();
                async move { platform::serve(host?, bus, stop).await }
            });
        }
        for domain in relayed() {
            let pool = pools.get(domain).with_context(|| format!("{domain} has no database"))?.clone();
            let bus = self.bus.clone();
            self.parts.spawn(format!("{domain}-relay"), move |stop| {
                relay::serve(domain, pool.clone(), bus.clone(), stop)
            });
        }
        Ok(())
    }

    fn spawn_edge(&self, listener: Arc<TcpListener>, lines: fn() -> Vec<edge::Line>) {
        let (env, bus) = (self.env.clone(), self.bus.clone());
        self.parts.spawn("edge", move |stop| {
            let (env, bus, listener) = (env.clone(), bus.clone(), Arc::clone(&listener));
            async move {
                let listener = tokio::net::TcpListener::from_std(listener.try_clone()?)?;
                edge::serve_with(env, bus, listener, lines(), stop).await
            }
        });
    }

    fn spawn_maintain(&self, config: &Config, definitions: Definitions) {
        let (env, config, bus) = (self.env.clone(), config.clone(), self.bus.clone());
        let definitions = Arc::new(definitions);
        self.parts.spawn("maintain", move |stop| {
            let (env, config, bus) = (env.clone(), config.clone(), bus.clone());
            let definitions = Arc::clone(&definitions);
            async move {
                platform::maintain::serve(&env, &config, &bus, &crate::databases(), &definitions, stop).await
            }
        });
    }

    /// Waits until every function answers.
    async fn ready(&self, options: &Options, say: fn(&str)) -> anyhow::Result<()> {
        let mut ready = Vec::new();
        for function in (options.menu.functions)() {
            let name = function.spec().name;
            if !options.without.iter().any(|other| other == name) {
                self.wait_for(name).await?;
                ready.push(name);
            }
        }
        say(&format!("functions ready: {}", names(ready.into_iter())));
        Ok(())
    }

    async fn wait_for(&self, name: &str) -> anyhow::Result<()> {
        let deadline = Instant::now() + READY_WITHIN;
        while !self.bus.is_serving(name, Duration::from_millis(500)).await {
            if Instant::now() > deadline || self.stop.is_cancelled() {
                bail!("{name} does not answer; the log lines above say why");
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    /// The process ids of the nats-server and the Postgres that were started here.
    pub fn service_pids(&self) -> (Option<u32>, Option<u32>) {
        self.services.pids()
    }

    /// The processes of all parts that do not run in this one.
    pub fn part_pids(&self) -> Vec<u32> {
        self.parts.all_pids()
    }

    /// The processes of a part; none when it runs in this one.
    pub fn pids(&self, part: &str) -> Vec<u32> {
        self.parts.pids(part)
    }

    /// Cancelled when the platform is stopping.
    pub fn stopping(&self) -> &CancellationToken {
        &self.stop
    }

    /// Finishes what is in flight and ends: the edge first, while everything that it asks is still there.
    pub async fn stop(self) {
        self.parts.stop("edge").await;
        self.stop.cancel();
        self.parts.ended().await;
        for note in [RUNNING, NATS_CONTEXT] {
            let _ = std::fs::remove_file(self.data.join(note));
        }
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
