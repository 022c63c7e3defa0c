//! HTTP in, NATS out: every request becomes one command or one query, every answer goes out as it came.
//!
//! There are no rules here and there is no SQL. The edge knows who is calling, how large a request may be and which
//! function it is for; what a request means is the function's affair.
//!
//! | I look for | here |
//! |---|---|
//! | a URL, and what it sends | `routes` |
//! | how a request becomes a message, and an answer a response | `exchange`, `decode` |
//! | what happens to an item, as it happens | `live` |
//! | who is calling | `auth` |
//! | what became of a command | `commands` |
//! | what an error looks like | `problem` |
//! | what every answer carries | `frame` |
//! | how much is let in, and how long it may take | `limits`, `server`, `head_timeout`, `descriptors` |
//! | how often, and where from | `throttle`, `address` |
//! | what is counted, and who may read it | `metrics` |

mod address;
mod auth;
pub mod command_token;
mod commands;
mod decode;
mod descriptors;
mod exchange;
mod frame;
mod head_timeout;
mod health;
mod limits;
mod live;
mod metrics;
mod problem;
mod routes;
mod server;
#[cfg(test)]
mod tests;
mod throttle;

use std::{process::ExitCode, sync::Arc};

use anyhow::{Context, ensure};
use axum::{Router, http::HeaderValue, middleware};
use platform::{Bus, Env, Sender, config::Mode, service::Service};
use serde::Deserialize;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tower_http::cors::{AllowOrigin, CorsLayer};

use crate::{
    address::Proxies, auth::Auth, command_token::CommandKey, health::Readiness, limits::Room, live::Live,
    metrics::Metrics, throttle::Throttle,
};

pub use crate::exchange::{Line, send};

/// How many requests over NATS are answered at once, for each function.
const SERVED: usize = 64;

/// The edge's own settings.
#[derive(Debug, Clone, Deserialize)]
pub struct Settings {
    /// Where HTTP is served.
    #[serde(default = "default_port")]
    pub port: u16,
    /// Who makes the access tokens.
    #[serde(default = "default_issuer")]
    pub jwt_issuer: String,
    /// The web sites whose pages may call, for example `https://outcry.example`; none when empty.
    #[serde(default)]
    pub cors_origins: Vec<String>,
    /// Signs the names of undecided commands; at least 32 characters, the same for all replicas. Random when missing:
    /// then such a name is good with the process that gave it, and as long as that lives.
    pub edge_key: Option<String>,
    /// Who reads `/metrics` must have it; at least 32 characters. When missing everybody may in development, and
    /// nobody in production.
    pub metrics_token: Option<String>,
    /// Requests a second of one user, or of one address that brings no known token: 100 in production and off in
    /// development when missing, off when 0.
    pub rate_limit: Option<u32>,
    /// Failed logins to one account from one network within 15 minutes, before each further one has to wait; ten times as
    /// many an hour to one account, twenty times from one address. 5 in production and off in development when missing, off
    /// when 0.
    pub login_limit: Option<u32>,
    /// Registrations an hour from one address: 10 in production and off in development when missing, off when 0.
    pub register_limit: Option<u32>,
    /// Networks and addresses of proxies whose `X-Forwarded-For` and `Forwarded` count; none when empty.
    #[serde(default)]
    pub trusted_proxies: Vec<String>,
    /// How careful the platform is.
    #[serde(default)]
    pub outcry_env: Mode,
}

fn default_port() -> u16 {
    8080
}

fn default_issuer() -> String {
    "outcry".into()
}

/// Every route that there is: method, and path as a template such as `/api/v1/items/{item_id}`.
pub fn routes() -> Vec<(&'static str, &'static str)> {
    let own = health::PATHS.into_iter().chain([metrics::PATH]).map(|path| ("GET", path));
    routes::table().iter().flat_map(Line::routes).chain(own).collect()
}

/// The whole body of the binary: `edge` serves until a signal, `edge health` exits with 0 when one is ready.
pub fn main() -> ExitCode {
    if std::env::args().nth(1).as_deref() == Some("health") {
        return health::probe();
    }
    platform::run("edge", async |env, _config, bus, stop| run(env, bus, stop).await)
}

/// Takes the listener that whoever started us hands over, else the port on all addresses, and serves HTTP until told to
/// stop.
///
/// A listener comes as systemd's socket activation gives it. It outlives each edge, so that connections wait while one takes
/// over from another.
pub async fn run(env: Env, bus: Bus, stop: CancellationToken) -> anyhow::Result<()> {
    let listener = match listenfd::ListenFd::from_env().take_tcp_listener(0).context("LISTEN_FDS")? {
        Some(listener) => {
            listener.set_nonblocking(true)?;
            TcpListener::from_std(listener)?
        }
        None => bind(env.read::<Settings>()?.port).await?,
    };
    serve(env, bus, listener, stop).await
}

async fn bind(port: u16) -> anyhow::Result<TcpListener> {
    TcpListener::bind(("0.0.0.0", port)).await.with_context(|| {
        format!("PORT: cannot listen on port {port}; choose another one, for example PORT=8081")
    })
}

/// Serves HTTP until told to stop; returns when what was in flight is finished, or after 25 seconds.
pub async fn serve(env: Env, bus: Bus, listener: TcpListener, stop: CancellationToken) -> anyhow::Result<()> {
    serve_with(env, bus, listener, Vec::new(), stop).await
}

/// The same with lines beside those of the table, for a measurement that has its own.
pub async fn serve_with(
    env: Env,
    bus: Bus,
    listener: TcpListener,
    more: Vec<Line>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let settings: Settings = env.read()?;
    let connections = descriptors::connections();
    if connections < descriptors::MOST {
        tracing::info!(connections, "more would fit with a higher hard limit of open files (ulimit -Hn)");
    }
    let lines = routes::table().into_iter().chain(more).collect();
    let (router, app) = router(lines, &settings, bus.clone(), stop.clone()).await?;
    let full = full(&app);
    let service = service(&app).start(&bus).await?;
    let keys = tokio::spawn(async move { tokio::join!(app.auth.keep_keys(), app.auth.keep_ended()) });
    server::serve(router, full, connections, listener, stop).await;
    service.stop().await;
    keys.abort();
    Ok(())
}

/// Every command's endpoint on NATS, `svc.<domain>.<function>`.
fn service(app: &Arc<App>) -> Service {
    let about = "takes commands as HTTP does: a token in Authorization, a key in Idempotency-Key";
    let service = Service::new("edge", about, serde_json::json!({}));
    routes::table().iter().filter_map(Line::served).fold(service, |service, served| {
        let (app, function, subject) = (Arc::clone(app), served.function, served.subject.clone());
        service.answering(function, subject, SERVED, move |request| served.answer(Arc::clone(&app), request))
    })
}

/// What every request may use.
struct App {
    sender: Sender,
    auth: Auth,
    commands: CommandKey,
    readiness: Readiness,
    room: Room,
    proxies: Proxies,
    throttle: Throttle,
    live: Live,
    metrics: Metrics,
}

/// The lines with everything around them.
async fn router(
    lines: Vec<Line>,
    settings: &Settings,
    bus: Bus,
    stop: CancellationToken,
) -> anyhow::Result<(Router, Arc<App>)> {
    let app = Arc::new(App {
        sender: Sender::start(bus.clone()).await?,
        auth: Auth::new(bus.clone(), &settings.jwt_issuer),
        commands: CommandKey::new(settings.edge_key.as_deref())?,
        live: Live::new(bus.clone(), stop, descriptors::connections()),
        proxies: Proxies::parse(&settings.trusted_proxies)?,
        throttle: Throttle::new(settings, bus.metrics()),
        metrics: Metrics::new(bus.clone(), settings)?,
        readiness: Readiness::of(bus, lines.iter().filter_map(Line::function)),
        room: Room::default(),
    });
    let router = lines
        .into_iter()
        .fold(Router::new(), |router, line| line.add_to(router))
        .merge(health::routes())
        .merge(metrics::routes())
        .method_not_allowed_fallback(async || problem::Problem::method_not_allowed())
        .fallback(async || problem::Problem::not_found())
        .with_state(Arc::clone(&app));
    Ok((surround(router, &app, &settings.cors_origins)?, app))
}

/// What a connection gets for which there is no room: how it goes, and else that it may come again.
fn full(app: &Arc<App>) -> Router {
    health::routes()
        .merge(metrics::routes())
        .fallback(async || problem::Problem::unavailable())
        .layer(axum::middleware::map_response(server::last))
        .layer(middleware::from_fn_with_state(Arc::clone(app), frame::frame))
        .with_state(Arc::clone(app))
}

/// Limits inside CORS inside the frame: a page can read what the limits answer, and everything is framed.
fn surround(router: Router, app: &Arc<App>, origins: &[String]) -> anyhow::Result<Router> {
    let mut router = router.layer(middleware::from_fn_with_state(Arc::clone(app), limits::limit));
    if !origins.is_empty() {
        router = router.layer(cors(origins)?);
    }
    Ok(router.layer(middleware::from_fn_with_state(Arc::clone(app), frame::frame)))
}

fn cors(origins: &[String]) -> anyhow::Result<CorsLayer> {
    use axum::http::{HeaderName, Method, header};
    let origins = origins.iter().map(|origin| parse_origin(origin.trim())).collect::<Result<Vec<_>, _>>()?;
    let named = HeaderName::from_static;
    Ok(CorsLayer::new()
        .allow_origin(AllowOrigin::list(origins))
        .allow_methods([Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE])
        .allow_headers([
            header::AUTHORIZATION,
            header::CONTENT_TYPE,
            header::IF_NONE_MATCH,
            header::IF_MATCH,
            named("idempotency-key"),
            named("last-event-id"),
            named("traceparent"),
            named("x-correlation-id"),
            named("x-request-id"),
        ])
        .expose_headers([
            header::ETAG,
            header::LOCATION,
            header::RETRY_AFTER,
            named("idempotent-replayed"),
            named("ratelimit"),
            named("ratelimit-policy"),
            named("x-request-id"),
            named("x-trace-id"),
        ])
        .max_age(std::time::Duration::from_secs(600)))
}

/// One web site, exactly as browsers write it. `*` and `null` are none.
fn parse_origin(text: &str) -> anyhow::Result<HeaderValue> {
    let exact =
        url::Url::parse(text).is_ok_and(|url| url.has_host() && url.origin().ascii_serialization() == text);
    ensure!(
        exact,
        "CORS_ORIGINS: expected origins separated by commas, for example \
         CORS_ORIGINS=https://outcry.example,http://localhost:5173 (not `{text}`)"
    );
    Ok(HeaderValue::from_str(text)?)
}
