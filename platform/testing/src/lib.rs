//! The slice-test harness: one function, a real database, no bus.
//!
//! A slice runs the whole pipeline of a function, from the bytes of its message to the committed
//! row and the outbox, against a database of its own that is cloned from a migrated template.

pub mod exposition;

use std::{
    collections::HashMap,
    path::Path,
    sync::{Mutex, OnceLock, PoisonError},
    time::{Duration, Instant},
};

use platform::{
    Answer, Bus, Caller, Command, Config, Delivery, Env, Error, Event, Function, Host, Query, Result, Role,
    Timestamp, Trace, UserId, Verdict, database::Database, provision::Definitions, wire::header,
};
use sqlx::{AssertSqlSafe, Connection, PgConnection, PgPool, postgres::PgConnectOptions};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// The Postgres of this test process: started once, gone with the process.
fn server() -> &'static local::Postgres {
    static SERVER: OnceLock<local::Postgres> = OnceLock::new();
    SERVER.get_or_init(|| local::Postgres::throwaway(&|_| {}).unwrap_or_else(|error| panic!("{error:#}")))
}

/// Where the Postgres of this test process is, as its administrator.
pub fn database_url() -> String {
    server().url()
}

/// A nats-server of its own for one test, with the platform's settings and open to everybody.
pub fn nats() -> local::Nats {
    let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../nats/settings.conf");
    local::Nats::throwaway(&config, &|_| {}).unwrap_or_else(|error| panic!("{error:#}"))
}

/// A nats-server of its own with the platform's streams and consumers, and a connection to it.
pub async fn bus() -> (local::Nats, Bus) {
    let nats = tokio::task::spawn_blocking(nats).await.unwrap_or_else(|error| panic!("{error}"));
    let bus = connect(&nats.url()).await;
    definitions().apply(&bus).await.unwrap_or_else(|error| panic!("{error:#}"));
    (nats, bus)
}

fn config(url: &str) -> Config {
    Env::of([("NATS_URL", url)]).read().unwrap_or_else(|error| panic!("{error:#}"))
}

/// Does in a database of this test process what its functions have no right to do.
pub async fn as_administrator(pool: &PgPool, sql: &'static str) {
    let name = pool.connect_options().get_database().unwrap_or_default().to_owned();
    let options: PgConnectOptions = database_url().parse().unwrap_or_else(|error| panic!("{error}"));
    let connected = PgConnection::connect_with(&options.database(&name)).await;
    let mut connection = connected.unwrap_or_else(|error| panic!("{error}"));
    sqlx::raw_sql(sql).execute(&mut connection).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
}

/// A connection to a nats-server, as the user in the URL.
pub async fn connect(url: &str) -> Bus {
    let config = config(url);
    Bus::connect(&config, "test").await.unwrap_or_else(|error| panic!("{error:#}"))
}

/// Sends a request as `nats req <subject> <body> -H ...` does; returns the answer's headers and body.
pub async fn request(
    url: &str,
    subject: &str,
    headers: &[(&str, &str)],
    body: serde_json::Value,
) -> (HashMap<String, String>, serde_json::Value) {
    let (user, password) = config(url).login("test").unwrap_or_default();
    let options = async_nats::ConnectOptions::with_user_and_password(user, password);
    let client = options.connect(url).await.unwrap_or_else(|error| panic!("{error}"));
    let mut given = async_nats::HeaderMap::new();
    for (name, value) in headers {
        given.insert(*name, *value);
    }
    let answer = client.request_with_headers(subject.to_owned(), given, body.to_string().into()).await;
    let answer = answer.unwrap_or_else(|error| panic!("{subject}: {error}"));
    let headers = answer.headers.iter().flat_map(async_nats::HeaderMap::iter);
    let headers = headers.map(|(name, values)| {
        let value = values.first().map(|value| value.as_str().to_owned()).unwrap_or_default();
        (AsRef::<str>::as_ref(name).to_owned(), value)
    });
    (headers.collect(), serde_json::from_slice(&answer.payload).unwrap_or_default())
}

/// The code of a refusal; `done` when it was none.
pub fn code(answer: &Answer) -> String {
    match answer.parse::<serde_json::Value>() {
        Ok(_) => "done".into(),
        Err(Error::Refused(refused)) => refused.code.into_owned(),
        Err(error) => panic!("{error:?}"),
    }
}

/// The streams and consumers under `nats/`.
pub fn definitions() -> Definitions {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../nats");
    let mut files = Vec::new();
    for pattern in ["streams", "consumers/COMMANDS", "consumers/CREDENTIALS", "consumers/EVENTS"] {
        let folder = root.join(pattern);
        for entry in
            std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        {
            let entry = entry.unwrap_or_else(|error| panic!("{error}"));
            let name = entry.file_name().to_string_lossy().into_owned();
            let content =
                std::fs::read_to_string(entry.path()).unwrap_or_else(|error| panic!("{name}: {error}"));
            files.push((format!("{pattern}/{name}"), content));
        }
    }
    let files = files.iter().map(|(path, content)| (path.as_str(), content.as_str()));
    Definitions::from_files(files).unwrap_or_else(|error| panic!("{error:#}"))
}

/// A database of its own, with the domain's tables.
pub async fn database(database: &Database) -> PgPool {
    let name = format!("test_{}", Uuid::new_v4().simple());
    let options = clone_of_template(database, &name).await.unwrap_or_else(|error| panic!("{error:#}"));
    let config: Config = Env::default().read().unwrap_or_else(|error| panic!("{error:#}"));
    platform::database::pool(&config, options, "test")
}

/// Cloning a migrated template takes a tenth of the time of migrating.
async fn clone_of_template(database: &Database, name: &str) -> anyhow::Result<PgConnectOptions> {
    static TEMPLATES: OnceLock<Mutex<HashMap<&'static str, PgConnectOptions>>> = OnceLock::new();
    // One at a time: a template cannot be cloned while somebody is connected to it.
    static MAKING: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
    let _making = MAKING.lock().await;
    let url = tokio::task::spawn_blocking(database_url).await?;
    let templates = TEMPLATES.get_or_init(Mutex::default);
    let template = format!("template_{}", database.domain);
    let known = templates.lock().unwrap_or_else(PoisonError::into_inner).get(database.domain).cloned();
    let options = match known {
        Some(options) => options,
        None => {
            let options = platform::database::migrate_as(&url, database, &template).await?;
            templates.lock().unwrap_or_else(PoisonError::into_inner).insert(database.domain, options.clone());
            options
        }
    };
    let mut admin = PgConnection::connect(&url).await?;
    // Test names are hexadecimal and domains are words: nothing needs quoting.
    let sql = format!("create database {name} template {template}");
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut admin).await?;
    admin.close().await?;
    Ok(options.database(name))
}

/// One function, a real database, no bus.
#[derive(Clone)]
pub struct Harness {
    pool: PgPool,
    env: Env,
    caller: Option<Caller>,
    now: Option<Timestamp>,
    key: Option<String>,
    bus: Option<Bus>,
}

impl Harness {
    /// With a database of its own.
    pub async fn start(database: Database) -> Self {
        let pool = self::database(&database).await;
        Self { pool, env: Env::default(), caller: None, now: None, key: None, bus: None }
    }

    /// With these configuration variables as well.
    #[must_use]
    pub fn with_env<const N: usize>(mut self, variables: [(&str, &str); N]) -> Self {
        for (name, value) in variables {
            self.env.set(name, value);
        }
        self
    }

    /// The same platform, seen by this user.
    #[must_use]
    pub fn as_user(&self, id: UserId) -> Self {
        let caller = Some(Caller { id, role: Role::User, session: None });
        Self { caller, ..self.clone() }
    }

    /// The same caller, in this session.
    #[must_use]
    pub fn in_session(&self, session: Uuid) -> Self {
        Self { caller: self.caller.map(|caller| Caller { session: Some(session), ..caller }), ..self.clone() }
    }

    /// The same platform, seen by this administrator.
    #[must_use]
    pub fn as_admin(&self, id: UserId) -> Self {
        let caller = Some(Caller { id, role: Role::Admin, session: None });
        Self { caller, ..self.clone() }
    }

    /// The same platform, where messages are stamped with this time.
    #[must_use]
    pub fn at(&self, now: Timestamp) -> Self {
        Self { now: Some(now), ..self.clone() }
    }

    /// The same platform, where commands carry this `Idempotency-Key`.
    #[must_use]
    pub fn with_key(&self, key: &str) -> Self {
        Self { key: Some(key.to_owned()), ..self.clone() }
    }

    /// The same platform, with a bus: for functions that ask others or look at the stream.
    #[must_use]
    pub fn with_bus(self, bus: Bus) -> Self {
        Self { bus: Some(bus), ..self }
    }

    /// The bus.
    pub fn bus(&self) -> &Bus {
        self.bus.as_ref().unwrap_or_else(|| panic!("this harness has no bus"))
    }

    /// The database, as the function's own role.
    pub fn pool(&self) -> &PgPool {
        &self.pool
    }

    /// The function, ready to run.
    pub fn host(&self, function: &Function) -> Host {
        Host::new(function.clone(), self.pool.clone(), self.bus.clone(), &self.env)
            .unwrap_or_else(|error| panic!("{error:#}"))
    }

    /// Serves the function on the bus, from when this returns until the test ends.
    pub async fn serve(&self, function: &Function) {
        let (host, bus, name) = (self.host(function), self.bus(), function.spec().name);
        tokio::spawn(platform::serve(host, bus.clone(), CancellationToken::new()));
        let deadline = Instant::now() + Duration::from_secs(10);
        while !bus.is_serving(name, Duration::from_millis(100)).await {
            assert!(Instant::now() < deadline, "{name} does not answer");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Asks a query that is served until its answer came from memory: from now on what it loads is kept.
    pub async fn kept<Q: Query>(&self, query: &Q) -> Q::Reply {
        let deadline = Instant::now() + Duration::from_secs(10);
        let hits = || {
            let told = exposition::Told::read(&self.bus().metrics().tell());
            told.value("cache_lookups_total", &[("fn", Q::FUNCTION), ("result", "hit")])
        };
        let before = hits();
        loop {
            let answer = self.served(query).await;
            if hits() > before {
                return answer;
            }
            assert!(Instant::now() < deadline, "{} keeps nothing", Q::FUNCTION);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Asks a query that is served.
    pub async fn served<Q: Query>(&self, query: &Q) -> Q::Reply {
        let answer = self.bus().ask(query, self.caller, &Trace::start()).await;
        let answer = answer.unwrap_or_else(|error| panic!("{error}"));
        answer.parse().unwrap_or_else(|error| panic!("{}: {error}", Q::FUNCTION))
    }

    /// Sends a command and returns what its caller would get.
    pub async fn call<C: Command>(&self, function: &Function, command: &C) -> Result<C::Reply> {
        self.answer(function, command).await.parse()
    }

    /// Sends a command and returns the answer as it goes out.
    pub async fn answer<C: Command>(&self, function: &Function, command: &C) -> Answer {
        let delivery = self.delivery(&platform::wire::command_subject(command), &serde_json::json!(command));
        let mut verdicts = self.host(function).execute(&[delivery]).await;
        match verdicts.pop() {
            Some(Verdict::Answered(answer)) => answer,
            other => panic!("not answered: {other:?}"),
        }
    }

    /// Sends commands of several users as one batch.
    pub async fn batch<C: Command>(&self, function: &Function, commands: &[(UserId, C)]) -> Vec<Answer> {
        let deliveries = commands.iter().map(|(user, command)| {
            let subject = platform::wire::command_subject(command);
            self.as_user(*user).delivery(&subject, &serde_json::json!(command))
        });
        let verdicts = self.host(function).execute(&deliveries.collect::<Vec<_>>()).await;
        let answers = verdicts.into_iter().map(|verdict| match verdict {
            Verdict::Answered(answer) => answer,
            other => panic!("not answered: {other:?}"),
        });
        answers.collect()
    }

    /// Asks a query function.
    pub async fn ask<Q: Query>(&self, function: &Function, query: &Q) -> Result<Q::Reply> {
        let delivery = self.delivery("qry", &serde_json::json!(query));
        self.host(function).answer(&delivery).await.parse()
    }

    /// Delivers events as one batch, as the stream would. Each pair is an event's id and the event.
    pub async fn deliver<E: Event>(&self, function: &Function, events: &[(Uuid, E)]) -> Vec<Verdict> {
        let deliveries = events.iter().map(|(id, event)| {
            let (fact, version) = E::NAME.rsplit_once('.').unwrap_or((E::NAME, ""));
            let envelope =
                serde_json::json!({ "id": id, "event": fact, "version": version, "payload": event });
            self.delivery(&format!("events.{}.{}", E::NAME, event.key()), &envelope)
        });
        self.host(function).execute(&deliveries.collect::<Vec<_>>()).await
    }

    /// Lets due work look at the clock once; returns how much it did.
    pub async fn work(&self, function: &Function) -> Result<usize> {
        self.host(function).work().await
    }

    /// When due work is next due.
    pub async fn next_due(&self, function: &Function) -> Result<Option<Timestamp>> {
        self.host(function).next_due().await
    }

    /// A message as the stream would deliver it for the first time.
    pub fn delivery(&self, subject: &str, body: &serde_json::Value) -> Delivery {
        static SEQUENCE: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(1);
        let mut delivery = Delivery {
            subject: subject.to_owned(),
            headers: Default::default(),
            body: body.to_string().into(),
            stamp: self.now.unwrap_or_else(Timestamp::now),
            stream: "TEST".into(),
            sequence: SEQUENCE.fetch_add(1, std::sync::atomic::Ordering::Relaxed),
            delivered: 1,
        };
        delivery.headers.insert(header::MESSAGE_ID, Uuid::now_v7().to_string());
        if let Some(caller) = self.caller {
            delivery.headers.insert(header::USER_ID, caller.id.to_string());
            delivery.headers.insert(header::USER_ROLE, caller.role.as_str());
            if let Some(session) = caller.session {
                delivery.headers.insert(header::SESSION_ID, session.to_string());
            }
        }
        if let Some(key) = &self.key {
            delivery.headers.insert(header::IDEMPOTENCY_KEY, key.as_str());
        }
        delivery
    }

    /// The events of one kind that were committed, in order.
    pub async fn emitted<E: Event>(&self) -> Vec<E> {
        let rows: Vec<String> = sqlx::query_scalar("select events from platform.outbox order by id")
            .fetch_all(&self.pool)
            .await
            .unwrap_or_else(|error| panic!("{error}"));
        let events = rows.iter().flat_map(|row| {
            serde_json::from_str::<Vec<platform::wire::Outgoing>>(row)
                .unwrap_or_else(|error| panic!("{error}"))
        });
        events
            .filter(|event| event.subject.starts_with(&format!("events.{}.", E::NAME)))
            .map(|event| {
                let envelope: platform::wire::Envelope<E> =
                    serde_json::from_str(event.body.get()).unwrap_or_else(|error| panic!("{error}"));
                envelope.payload
            })
            .collect()
    }
}
