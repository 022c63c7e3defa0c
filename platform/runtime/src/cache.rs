//! What queries keep in memory, and when they let go of it.
//!
//! Whatever commits a change says so on `changed.<domain>`, before it answers anybody and over the same connection. A
//! query that keeps something hears that over the connection on which its questions come. One nats-server hands
//! both on in order, so a question of somebody who was answered comes behind the change of which the answer spoke: it
//! is enough to hear, before anything kept is shown, what has arrived until then. The relay of the domain says it once
//! more before it publishes the events, for a process that was killed between its commit and its word.
//!
//! So what is shown is never older than the newest change that this process has heard of, and with one nats-server
//! never older than an answer or an event that its asker had before. (Several servers may hand a question on before a
//! change that was said a moment earlier elsewhere.) Where that cannot be known, nothing is kept: until a word
//! of its own has come back over the connection that stands, and from the moment on that this connection is gone.
//! Should a word be lost all the same, what is kept is a few seconds old at most.
//!
//! A slot is filled once and belongs to the time after the last change. Who reads the database while a change is heard
//! fills a slot that nobody finds any more.

use std::{
    any::Any,
    collections::BTreeSet,
    fmt::Write,
    future::Future,
    marker::PhantomData,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_nats::{Message, Subscriber};
use bytes::Bytes;
use prometheus::IntCounter;
use serde::Deserialize;
use tokio::{
    sync::OnceCell,
    time::{Instant, MissedTickBehavior},
};
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;

use crate::{
    Result,
    bus::{self, Bus, SUBSCRIPTION_CAPACITY, Session},
    config::Env,
    metrics::Metrics,
    wire,
};

/// Nothing is kept for longer, whatever was heard.
const LONGEST: Duration = Duration::from_secs(5);
/// How often changes are heard when nobody asks for anything.
const HEAR_EVERY: Duration = Duration::from_millis(100);
/// How long a word of its own may take to come back.
const COMES_BACK_WITHIN: Duration = Duration::from_secs(1);
/// More keys than this are said as everything: a message must stay small.
const MOST_KEYS: usize = 1_000;

/// How much is kept.
#[derive(Deserialize)]
struct Settings {
    /// The most entries of one function in one process; 0: nothing is kept.
    #[serde(default = "default_entries")]
    cache_entries: u64,
}

fn default_entries() -> u64 {
    10_000
}

/// A value whose type only the handler knows.
type Kept = Arc<dyn Any + Send + Sync>;
/// Filled by the first who needs it; the others wait for the same.
type Slot = Arc<OnceCell<Kept>>;
/// In which time without a gap, and of what.
type Place = (u64, Uuid);

/// What one function keeps.
pub(crate) struct Cache {
    slots: moka::sync::Cache<Place, Slot>,
    hearing: Mutex<Hearing>,
    counts: Counts,
}

struct Counts {
    hits: IntCounter,
    misses: IntCounter,
    bypassed: IntCounter,
    changed: IntCounter,
    silenced: IntCounter,
}

#[derive(Default)]
struct Hearing {
    /// Where changes are heard; nowhere before the function is served.
    ears: Option<Ears>,
    /// The connection on which a word of its own came back: nothing that was said since was missed.
    sure: Option<Session>,
    /// A word that was sent and is to come back.
    word: Option<Word>,
    /// Counts the times without a gap; what was kept in another one is not found any more.
    time: u64,
}

struct Ears {
    bus: Bus,
    subject: String,
    changes: Subscriber,
}

struct Word {
    key: Uuid,
    session: Session,
    sent: Instant,
}

impl Cache {
    /// Of this function; none when the configuration wants none.
    pub(crate) fn new(function: &str, env: &Env, metrics: &Metrics) -> anyhow::Result<Option<Arc<Self>>> {
        let entries = env.read::<Settings>()?.cache_entries;
        if entries == 0 {
            return Ok(None);
        }
        let help =
            "What was looked for in memory: there, loaded, or not looked for because changes are not heard.";
        let lookups = metrics.counter("cache_lookups_total", help, &["fn", "result"]);
        let help = "What was let go of, because it changed or because changes were not heard any more.";
        let dropped = metrics.counter("cache_dropped_total", help, &["fn", "reason"]);
        let counts = Counts {
            hits: lookups.with_label_values(&[function, "hit"]),
            misses: lookups.with_label_values(&[function, "miss"]),
            bypassed: lookups.with_label_values(&[function, "bypass"]),
            changed: dropped.with_label_values(&[function, "changed"]),
            silenced: dropped.with_label_values(&[function, "silence"]),
        };
        let slots = moka::sync::Cache::builder().max_capacity(entries).time_to_live(LONGEST).build();
        Ok(Some(Arc::new(Self { slots, hearing: Mutex::default(), counts })))
    }

    /// Hears what changes in this domain until what is returned is dropped. Nothing is kept before.
    pub(crate) async fn hear(
        self: &Arc<Self>,
        bus: &Bus,
        domain: &str,
    ) -> anyhow::Result<AbortOnDropHandle<()>> {
        let subject = wire::changed_subject(domain);
        let changes = bus.client.subscribe(subject.clone()).await?;
        lock(&self.hearing).ears = Some(Ears { bus: bus.clone(), subject, changes });
        let cache = Arc::clone(self);
        Ok(AbortOnDropHandle::new(tokio::spawn(async move {
            let mut ticks = tokio::time::interval(HEAR_EVERY);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                ticks.tick().await;
                if let Some((bus, subject, word)) = cache.word() {
                    let _ = bus.client.publish(subject, word).await;
                }
            }
        })))
    }

    /// A word of its own, if one is needed.
    fn word(&self) -> Option<(Bus, String, Bytes)> {
        // Room is made, and the old is let go of, also when nobody asks.
        self.slots.run_pending_tasks();
        let mut hearing = lock(&self.hearing);
        if self.is_sure(&mut hearing) {
            return None;
        }
        let Ears { bus, subject, .. } = hearing.ears.as_ref()?;
        let session = bus.session();
        let on_its_way = |word: &Word| word.session == session && word.sent.elapsed() < COMES_BACK_WITHIN;
        if !bus.is_connected() || hearing.word.as_ref().is_some_and(on_its_way) {
            return None;
        }
        let (bus, subject, key) = (bus.clone(), subject.clone(), Uuid::new_v4());
        hearing.word = Some(Word { key, session, sent: Instant::now() });
        // To the others it is a key that they do not know.
        Some((bus, subject, changes([key])?))
    }

    /// A place that is newer than all that has arrived until now; none while something may be missed.
    fn slot(&self, key: Uuid) -> Option<(Place, Slot)> {
        let mut hearing = lock(&self.hearing);
        if !self.is_sure(&mut hearing) {
            self.counts.bypassed.inc();
            return None;
        }
        let place = (hearing.time, key);
        Some((place, self.slots.get_with(place, Slot::default)))
    }

    /// Hears what has arrived; whether nothing can have been missed.
    fn is_sure(&self, hearing: &mut Hearing) -> bool {
        let Some(Ears { bus, changes, .. }) = &mut hearing.ears else { return false };
        let session = bus.is_connected().then(|| bus.session());
        let arrived: Vec<Message> = bus::arrived(changes).collect();
        // The client throws away what finds no room, and only a full queue has none.
        if session.is_none() || hearing.sure != session || arrived.len() >= SUBSCRIPTION_CAPACITY {
            // What was thrown away came behind such a word.
            hearing.word.take_if(|_| arrived.len() >= SUBSCRIPTION_CAPACITY);
            if hearing.sure.take().is_some() {
                self.forget(hearing, &self.counts.silenced);
            }
        }
        for change in arrived {
            self.take(hearing, session.as_ref(), &change.payload);
        }
        hearing.sure.is_some()
    }

    /// Hears one change.
    fn take(&self, hearing: &mut Hearing, session: Option<&Session>, said: &[u8]) {
        let keys = std::str::from_utf8(said).ok().filter(|said| !said.is_empty());
        let keys = keys.and_then(|said| said.split(' ').map(|key| key.parse::<Uuid>().ok()).collect());
        let Some(keys): Option<Vec<Uuid>> = keys else {
            return self.forget(hearing, &self.counts.changed);
        };
        for key in keys {
            if let Some(word) = hearing.word.take_if(|word| word.key == key)
                && session == Some(&word.session)
            {
                hearing.sure = Some(word.session);
            }
            if self.slots.remove(&(hearing.time, key)).is_some() {
                self.counts.changed.inc();
            }
        }
    }

    /// Lets go of everything.
    fn forget(&self, hearing: &mut Hearing, count: &IntCounter) {
        self.slots.run_pending_tasks();
        let entries = self.slots.entry_count();
        if entries > 0 {
            count.inc_by(entries);
            self.slots.invalidate_all();
        }
        hearing.time += 1;
    }
}

/// A place for something that is kept, as it is at this moment.
pub struct Cached<T> {
    found: Option<(Arc<Cache>, Place, Slot)>,
    value: PhantomData<fn() -> T>,
}

impl<T: Send + Sync + 'static> Cached<T> {
    pub(crate) fn find(cache: Option<&Arc<Cache>>, key: Uuid) -> Self {
        let found = cache.and_then(|cache| {
            let (place, slot) = cache.slot(key)?;
            Some((Arc::clone(cache), place, slot))
        });
        Self { found, value: PhantomData }
    }

    /// What is kept, else what is loaded, which is then kept. Of many who need the same one loads it. What fails to
    /// load is not kept.
    pub async fn or_load(self, load: impl Future<Output = Result<T>> + Send) -> Result<Arc<T>> {
        let Some((cache, place, slot)) = self.found else { return load.await.map(Arc::new) };
        let mut loaded = false;
        let filled = slot.get_or_try_init(async || {
            loaded = true;
            load.await.map(|value| Arc::new(value) as Kept)
        });
        let kept = filled.await.cloned();
        if loaded {
            cache.counts.misses.inc()
        } else {
            cache.counts.hits.inc()
        }
        if kept.is_err() {
            cache.slots.invalidate(&place);
        }
        let kept = Arc::downcast(kept?);
        kept.map_err(|_| anyhow::anyhow!("two types are kept under one key").into())
    }
}

/// What is said of these keys; nothing when there is none.
pub(crate) fn changes(keys: impl IntoIterator<Item = Uuid>) -> Option<Bytes> {
    let keys: BTreeSet<Uuid> = keys.into_iter().collect();
    if keys.is_empty() {
        return None;
    }
    if keys.len() > MOST_KEYS {
        return Some(everything());
    }
    let mut said = String::with_capacity(keys.len() * 37);
    for key in keys {
        let space = if said.is_empty() { "" } else { " " };
        let _ = write!(said, "{space}{key}");
    }
    Some(said.into())
}

/// What is said when anything may have changed.
pub(crate) fn everything() -> Bytes {
    Bytes::new()
}

/// The key at the end of a subject, if there is one.
pub(crate) fn key_of(subject: &str) -> Option<Uuid> {
    subject.rsplit('.').next()?.parse().ok()
}

fn lock(hearing: &Mutex<Hearing>) -> MutexGuard<'_, Hearing> {
    hearing.lock().unwrap_or_else(PoisonError::into_inner)
}
