//! Makes the streams and consumers that the files under `nats/` describe.
//!
//! The files hold exactly what the server's API and `nats stream add --config` take. Applying them
//! again changes nothing; a changed file is applied; a change that the server refuses is explained.

use std::time::Duration;

use anyhow::{Context, bail};
use serde_json::{Value, json};

use crate::bus::Bus;

/// The server's code for "stream not found".
const NO_STREAM: u64 = 10059;
/// The server's code for "consumer already exists".
const OTHER_CONSUMER: u64 = 10148;
/// How long to wait for a server that is starting.
const PATIENCE: Duration = Duration::from_secs(30);

/// The streams and consumers that must exist.
#[derive(Debug, Clone, Default)]
pub struct Definitions {
    /// Stream configurations.
    pub streams: Vec<Value>,
    /// The stream of each consumer, and the consumer's configuration.
    pub consumers: Vec<(String, Value)>,
}

/// What applying changed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Applied {
    /// Streams that exist now as described.
    pub streams: usize,
    /// Consumers that exist now as described.
    pub consumers: usize,
}

impl Definitions {
    /// Reads files by their path below `nats/`: `streams/<NAME>.json` and
    /// `consumers/<STREAM>/<name>.json`. Others are left alone.
    pub fn from_files<'a>(files: impl IntoIterator<Item = (&'a str, &'a str)>) -> anyhow::Result<Self> {
        let mut definitions = Self::default();
        for (path, content) in files {
            let parts: Vec<&str> = path.split('/').collect();
            let read = || serde_json::from_str(content).with_context(|| format!("read nats/{path}"));
            match parts[..] {
                ["streams", _] => definitions.streams.push(read()?),
                ["consumers", stream, _] => definitions.consumers.push((stream.to_owned(), read()?)),
                _ => {}
            }
        }
        Ok(definitions)
    }

    /// The names of the streams.
    pub(crate) fn stream_names(&self) -> Vec<String> {
        let names = self.streams.iter().filter_map(|stream| stream.get("name")?.as_str());
        names.map(str::to_owned).collect()
    }

    /// Makes the server agree: what is missing is made, what differs is changed.
    pub async fn apply(&self, bus: &Bus) -> anyhow::Result<Applied> {
        self.provision(bus, true).await
    }

    /// Makes what is missing, and leaves the rest as it is: somebody may have deployed newer definitions than these.
    pub async fn restore(&self, bus: &Bus) -> anyhow::Result<Applied> {
        self.provision(bus, false).await
    }

    async fn provision(&self, bus: &Bus, change: bool) -> anyhow::Result<Applied> {
        let ready = async {
            while bus.js.query_account().await.is_err() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(PATIENCE, ready)
            .await
            .context("nats-server does not answer with JetStream: is it running, with `jetstream` in its configuration?")?;
        for stream in &self.streams {
            let name = name(stream)?;
            // Asked first: creating a stream that exists reserves its room a second time.
            let exists = call(bus, format!("STREAM.INFO.{name}"), &json!({})).await?;
            match exists {
                Ok(()) if !change => {}
                Ok(()) => {
                    update(bus, format!("STREAM.UPDATE.{name}"), stream, &format!("stream {name}")).await?;
                }
                Err(_) => {
                    let made = call(bus, format!("STREAM.CREATE.{name}"), stream).await?;
                    made.map_err(|code| anyhow::anyhow!("stream {name}: the server answered {code}"))?;
                }
            }
        }
        for (stream, consumer) in &self.consumers {
            let name = name(consumer)?;
            let subject = match consumer.get("filter_subject").and_then(Value::as_str) {
                Some(filter) => format!("CONSUMER.CREATE.{stream}.{name}.{filter}"),
                None => format!("CONSUMER.CREATE.{stream}.{name}"),
            };
            let request = |action| json!({ "stream_name": stream, "config": consumer, "action": action });
            match call(bus, subject.clone(), &request("create")).await? {
                Ok(()) => {}
                Err(OTHER_CONSUMER) if !change => {}
                Err(OTHER_CONSUMER) => {
                    update(bus, subject, &request("update"), &format!("consumer {name} of {stream}")).await?;
                }
                Err(_) => bail!("consumer {name}: there is no stream {stream}"),
            }
        }
        Ok(Applied { streams: self.streams.len(), consumers: self.consumers.len() })
    }
}

fn name(config: &Value) -> anyhow::Result<&str> {
    config.get("name").and_then(Value::as_str).context("a definition under nats/ has no name")
}

/// Calls the API; the codes above are answers, everything else is a failure.
async fn call(bus: &Bus, subject: String, request: &Value) -> anyhow::Result<Result<(), u64>> {
    let answer: Value =
        bus.js.request(subject.clone(), request).await.with_context(|| format!("call {subject}"))?;
    let Some(error) = answer.get("error") else { return Ok(Ok(())) };
    match error.get("err_code").and_then(Value::as_u64) {
        Some(code @ (NO_STREAM | OTHER_CONSUMER)) => Ok(Err(code)),
        _ => bail!("{subject}: {}", error.get("description").and_then(Value::as_str).unwrap_or("refused")),
    }
}

async fn update(bus: &Bus, subject: String, request: &Value, what: &str) -> anyhow::Result<()> {
    let updated = call(bus, subject, request).await.with_context(|| {
        format!(
            "{what} exists with a configuration that cannot be changed into the one under nats/: \
             undo the change to the file, or delete it with the nats CLI and let it be made again"
        )
    })?;
    updated.map_err(|code| anyhow::anyhow!("{what}: the server answered {code} to an update"))
}
