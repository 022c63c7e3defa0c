//! The live view of an item: what happens to it as Server-Sent Events, each change once and in order.
//!
//! There are two sources. The bus tells a change at once, and may lose it; the item's log
//! ([`ListChanges`]) knows them all, and has to be asked. Versions are dense, so who has sent version 7
//! knows that 8 comes next: it is sent when it is heard. Whatever else is heard, and whatever happens that may
//! have silenced the bus, is a doubt, and the log is asked until there is none.
//!
//! Watchers of one item share a [`Feed`]: one subscription, one reading of each event, and one answer of the
//! log for all who need the same.

use std::{
    collections::HashMap,
    convert::Infallible,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use axum::{
    body::Body,
    http::{HeaderName, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use contracts::{
    ItemId,
    auctions::{Changes, GetItem, ItemChange, ListChanges},
};
use futures_util::{Stream, StreamExt, stream};
use platform::{
    Answer, Bus, Caller, Query, Trace,
    metrics::{Gauge, IntCounter},
};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::{
    sync::{Mutex as AsyncMutex, OnceCell, OwnedSemaphorePermit, Semaphore, broadcast, watch},
    time::{Instant, sleep_until, timeout},
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use crate::{auth::Verified, metrics::Active, problem::Problem};

mod list;
pub(crate) use list::items;
#[cfg(test)]
mod tests;

/// After so much silence a stream says that it is alive.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// After so many of them in a row the log is asked: the last thing that was said may have been lost.
const SILENT_BEATS: u32 = 2;
/// How long to wait after the log could not be asked.
const AGAIN: Duration = Duration::from_secs(1);
/// How long who begins a stream waits for an answer before it begins without one.
const FIRST_WITHIN: Duration = Duration::from_secs(5);
/// The most questions at once. A function takes some at a time and refuses the others: a crowd waits here.
const QUESTIONS: usize = 16;
/// How many runs a watcher may be behind before it has to ask the log. A client that does not read holds no more.
const BEHIND: usize = 128;
/// The most changes that are heard as one run.
const RUN: usize = 64;

/// A browser that loses the connection comes again after a second.
const RETRY: &[u8] = b"retry: 1000\n\n";
const ALIVE: &[u8] = b": alive\n\n";

/// All live views of this process.
pub(crate) struct Live {
    bus: Bus,
    stop: CancellationToken,
    room: Arc<Semaphore>,
    /// For items of lists.
    listed: Arc<Semaphore>,
    questions: Arc<Semaphore>,
    feeds: Arc<Feeds>,
    heartbeat: Duration,
    first_within: Duration,
    clients: Gauge,
    shed: IntCounter,
}

impl Live {
    /// Holds so many streams at once. They end when told to stop: clients go on elsewhere from the last version
    /// they saw.
    pub(crate) fn new(bus: Bus, stop: CancellationToken, streams: usize) -> Self {
        let clients = bus.metrics().gauge("sse_clients", "Open live views.");
        let shed = bus.metrics().shed("edge", "streams");
        Self {
            clients,
            shed,
            bus,
            stop,
            room: Arc::new(Semaphore::new(streams)),
            listed: Arc::new(Semaphore::new(list::MOST_LISTED)),
            questions: Arc::new(Semaphore::new(QUESTIONS)),
            feeds: Arc::default(),
            heartbeat: HEARTBEAT,
            first_within: FIRST_WITHIN,
        }
    }

    /// Begins a stream: with what happened after the version that was seen last, else with the item as it is now.
    /// When there is no answer in time, who has seen something gets it later on the stream.
    pub(crate) async fn watch(
        &self,
        item: ItemId,
        seen: Option<i64>,
        caller: Option<Verified>,
        trace: &Trace,
    ) -> Result<Response, Problem> {
        let place = self.place()?;
        let (watcher, first) = self.begin(item, seen, caller, trace).await?;
        let opening = [RETRY, first.as_deref().unwrap_or(ALIVE)].concat();
        let frames = stream::unfold((watcher, place), async |(mut watcher, place)| {
            Some((watcher.next().await?, (watcher, place)))
        });
        Ok(self.respond(opening, frames))
    }

    /// A place for one more stream.
    fn place(&self) -> Result<Place, Problem> {
        let room = Arc::clone(&self.room).try_acquire_owned().map_err(|_| self.full())?;
        Ok(Place { _room: room, _client: Active::one(&self.clients) })
    }

    fn full(&self) -> Problem {
        self.shed.inc();
        Problem::unavailable()
    }

    /// Begins to watch an item; with what is to be sent first, if it is known in time.
    async fn begin(
        &self,
        item: ItemId,
        seen: Option<i64>,
        caller: Option<Verified>,
        trace: &Trace,
    ) -> Result<(Watcher, Option<Bytes>), Problem> {
        // Heard first, asked then: nothing happens between the two unheard.
        let feed = self.join(item).await?;
        let mut watcher = Watcher {
            heard: feed.runs.subscribe(),
            connections: self.bus.connections(),
            feed,
            caller,
            sent: seen.unwrap_or_default(),
            doubt: None,
            ask_at: Instant::now(),
            asking: None,
            gone: false,
            heartbeat: self.heartbeat,
            beat_at: Instant::now() + self.heartbeat,
            beats: 0,
        };
        watcher.connections.mark_unchanged();
        let first = match seen {
            None => {
                let snapshot = snapshot(&watcher.feed, watcher.caller(), trace);
                let (frames, version) =
                    timeout(self.first_within, snapshot).await.map_err(|_| Problem::unavailable())??;
                Some(watcher.send(frames, version))
            }
            Some(_) => {
                watcher.doubt_since(Instant::now());
                watcher.ask(trace.clone());
                match timeout(self.first_within, watcher.answered()).await {
                    // Nobody is there to ask, or many are before us. To a browser that comes back after an
                    // outage a 503 would be final.
                    Err(_) => None,
                    Ok(Err(problem)) if problem.is_ours() => None,
                    Ok(first) => first?,
                }
            }
        };
        Ok((watcher, first))
    }

    /// The stream as a response; it ends when the edge stops.
    fn respond(&self, opening: Vec<u8>, frames: impl Stream<Item = Bytes> + Send + 'static) -> Response {
        let frames =
            stream::iter([opening.into()]).chain(frames).take_until(self.stop.clone().cancelled_owned());
        let headers = [
            (header::CONTENT_TYPE, "text/event-stream"),
            (header::CACHE_CONTROL, "no-cache"),
            // Of nginx, which would keep events back to send them together.
            (HeaderName::from_static("x-accel-buffering"), "no"),
        ];
        (headers, Body::from_stream(frames.map(Ok::<Bytes, Infallible>))).into_response()
    }

    /// The feed of an item; it is heard when this returns.
    async fn join(&self, item: ItemId) -> Result<Arc<Feed>, Problem> {
        let feed = {
            let mut feeds = lock(&self.feeds);
            let found = feeds.get(&item).and_then(Weak::upgrade);
            found.unwrap_or_else(|| {
                let feed = Arc::new(Feed {
                    item,
                    bus: self.bus.clone(),
                    questions: Arc::clone(&self.questions),
                    runs: broadcast::Sender::new(BEHIND),
                    hearing: OnceCell::new(),
                    recent: AsyncMutex::default(),
                    whole: AsyncMutex::default(),
                    feeds: Arc::clone(&self.feeds),
                });
                feeds.insert(item, Arc::downgrade(&feed));
                feed
            })
        };
        let hear = async || {
            let heard = self.bus.live(item.0).await?;
            Ok(AbortOnDropHandle::new(tokio::spawn(hear(heard, feed.runs.clone()))))
        };
        feed.hearing.get_or_try_init(hear).await.map_err(|error: platform::Error| {
            tracing::warn!(%error, "no live view");
            Problem::unavailable()
        })?;
        Ok(feed)
    }
}

/// What an open stream takes.
struct Place {
    _room: OwnedSemaphorePermit,
    _client: Active,
}

/// One item, as one stream watches it.
struct Watcher {
    feed: Arc<Feed>,
    heard: broadcast::Receiver<Arc<Run>>,
    connections: watch::Receiver<u64>,
    /// Who looks on. A stream outlives a token: then it goes on as anybody's.
    caller: Option<Verified>,
    /// The version that was sent last.
    sent: i64,
    /// Since when something may be missing.
    doubt: Option<Instant>,
    ask_at: Instant,
    asking: Option<Asking>,
    heartbeat: Duration,
    beat_at: Instant,
    /// What was sent last was the end of the item.
    gone: bool,
    /// Heartbeats since something was sent.
    beats: u32,
}

/// A question to the log that runs beside the stream, and goes on while the client does not read: others wait
/// for the same answer, and for its place in the line.
struct Asking {
    /// The version that had been sent when it was asked.
    after: i64,
    /// As of when the answer was needed.
    since: Instant,
    answer: AbortOnDropHandle<Result<Found, Problem>>,
}

/// What the log said; the whole item when it could not tell change by change.
struct Found {
    page: Arc<Page>,
    whole: Option<Whole>,
}

impl Watcher {
    /// What is to be sent next, as soon as there is something; `None` when there is no such item.
    async fn next(&mut self) -> Option<Bytes> {
        while !self.gone {
            tokio::select! {
                heard = self.heard.recv() => match heard.ok().and_then(|run| run.after(self.sent).zip(Some(run.deletes))) {
                    Some(((frames, last), deletes)) if last > self.sent => {
                        self.gone = deletes;
                        return Some(self.send(frames, last));
                    }
                    Some(_) => {}
                    // A gap, or too much was said while the client did not read.
                    None => self.doubt_since(Instant::now()),
                },
                Ok(()) = self.connections.changed() => {
                    self.doubt_since(Instant::now());
                    self.ask_at = Instant::now();
                }
                () = sleep_until(self.ask_at), if self.doubt.is_some() && self.asking.is_none() => {
                    self.ask(Trace::start());
                }
                found = found(&mut self.asking), if self.asking.is_some() => match self.take(found) {
                    Ok(Some(frames)) => return Some(frames),
                    Err(problem) if !problem.is_ours() => return None,
                    Ok(None) | Err(_) => {}
                },
                () = sleep_until(self.beat_at) => {
                    self.beat_at = Instant::now() + self.heartbeat;
                    self.beats += 1;
                    if self.beats.is_multiple_of(SILENT_BEATS) {
                        // What another watcher of the item learned since the last beat is new enough.
                        self.doubt_since(Instant::now() - self.heartbeat);
                    }
                    return Some(Bytes::from_static(ALIVE));
                }
            }
        }
        None
    }

    fn caller(&self) -> Option<Caller> {
        self.caller.as_ref().and_then(Verified::caller)
    }

    fn doubt_since(&mut self, instant: Instant) {
        if self.doubt.is_none() {
            self.ask_at = Instant::now();
        }
        self.doubt = self.doubt.max(Some(instant));
    }

    fn send(&mut self, frames: Bytes, last: i64) -> Bytes {
        self.sent = last;
        self.beats = 0;
        self.beat_at = Instant::now() + self.heartbeat;
        frames
    }

    /// Begins to ask the log for what comes after what was sent.
    fn ask(&mut self, trace: Trace) {
        let (after, since) = (self.sent, self.doubt.unwrap_or_else(Instant::now));
        let (feed, caller) = (Arc::clone(&self.feed), self.caller());
        let answer = async move {
            let page = feed.page(after, since, &trace).await?;
            // It cannot be told change by change, so the whole is told.
            let whole = if page.run.is_none() { Some(snapshot(&feed, caller, &trace).await?) } else { None };
            Ok(Found { page, whole })
        };
        let answer = AbortOnDropHandle::new(tokio::spawn(answer));
        self.asking = Some(Asking { after, since, answer });
    }

    /// The answer to the question that was begun, as [`Self::take`] reads it.
    async fn answered(&mut self) -> Result<Option<Bytes>, Problem> {
        let found = found(&mut self.asking).await;
        self.take(found)
    }

    /// Takes an answer of the log: what it has after what was sent, a page at a time; `None` when that is nothing.
    /// Unless it says that there is no more, it is asked again.
    fn take(&mut self, found: Result<Found, Problem>) -> Result<Option<Bytes>, Problem> {
        self.ask_at = Instant::now() + AGAIN;
        let Some(Asking { after, since, .. }) = self.asking.take() else { return Ok(None) };
        let Found { page, whole } = found?;
        // More may have been heard and sent meanwhile.
        let news = match (&page.run, whole) {
            (None, Some((frames, version))) if version > self.sent || after == self.sent => {
                Some((frames, version))
            }
            (Some(run), _) => run.after(self.sent).filter(|(_, last)| *last > self.sent),
            _ => None,
        };
        self.doubt = self.doubt.filter(|doubt| !page.settles(*doubt));
        // There is more to have, or there was a doubt after the question.
        if news.is_some() || page.settles(since) {
            self.ask_at = Instant::now();
        }
        Ok(news.map(|(frames, last)| self.send(frames, last)))
    }
}

/// Waits for the answer; never ends when nothing was asked.
async fn found(asking: &mut Option<Asking>) -> Result<Found, Problem> {
    match asking {
        Some(asking) => (&mut asking.answer).await.unwrap_or_else(|_| Err(Problem::internal())),
        None => std::future::pending().await,
    }
}

/// The item as the caller may see it, and its version. Those who are nobody see the same.
async fn snapshot(feed: &Feed, caller: Option<Caller>, trace: &Trace) -> Result<Whole, Problem> {
    let needed = Instant::now();
    if caller.is_some() {
        return feed.snapshot(caller, trace).await;
    }
    let mut recent = feed.whole.lock().await;
    if let Some((asked, whole)) = &*recent
        && *asked >= needed
    {
        return whole.clone();
    }
    let asked = Instant::now();
    recent.insert((asked, feed.snapshot(None, trace).await)).1.clone()
}

/// An item as a frame, and its version.
type Whole = (Bytes, i64);

/// The feeds that somebody watches.
type Feeds = Mutex<HashMap<ItemId, Weak<Feed>>>;

/// What happens to one item, for all who watch it; ends when the last of them leaves.
struct Feed {
    item: ItemId,
    bus: Bus,
    questions: Arc<Semaphore>,
    runs: broadcast::Sender<Arc<Run>>,
    hearing: OnceCell<AbortOnDropHandle<()>>,
    recent: AsyncMutex<Option<Said>>,
    /// What anybody may see of it, and when it was asked for.
    whole: AsyncMutex<Option<(Instant, Result<Whole, Problem>)>>,
    feeds: Arc<Feeds>,
}

/// What the log said last, and when it was asked.
type Said = (Instant, Result<Arc<Page>, Problem>);

impl Feed {
    /// What the log has after a version, as of `since` or later. Those who need it at the same time wait for
    /// one answer, and what the log once said it would say again.
    async fn page(&self, version: i64, since: Instant, trace: &Trace) -> Result<Arc<Page>, Problem> {
        let needed = Instant::now();
        let mut recent = self.recent.lock().await;
        match &*recent {
            Some((_, Ok(page))) if page.serves(version, since) => return Ok(Arc::clone(page)),
            Some((asked, Err(problem))) if *asked >= needed => return Err(problem.clone()),
            _ => {}
        }
        let asked = Instant::now();
        let changes = self.ask(&ListChanges { item_id: self.item, after: version }, None, trace).await;
        let page = changes.and_then(|answer| Page::read(&answer, version, asked)).map(Arc::new);
        recent.insert((asked, page)).1.clone()
    }

    async fn snapshot(&self, caller: Option<Caller>, trace: &Trace) -> Result<Whole, Problem> {
        #[derive(Deserialize)]
        struct Versioned {
            version: i64,
        }
        let item = self.ask(&GetItem { item_id: self.item }, caller, trace).await?;
        let Versioned { version } = serde_json::from_slice(&item.body).map_err(|_| Problem::internal())?;
        let mut frames = Vec::new();
        frame(&mut frames, "snapshot", version, &item.body);
        Ok((frames.into(), version))
    }

    /// Asks, and takes no refusal for an answer.
    async fn ask<Q: Query>(
        &self,
        query: &Q,
        caller: Option<Caller>,
        trace: &Trace,
    ) -> Result<Answer, Problem> {
        if !self.bus.is_connected() {
            // Everyone would wait in line for the same silence.
            return Err(Problem::unavailable());
        }
        let _turn = self.questions.acquire().await;
        let answer = self.bus.ask(query, caller, trace).await.map_err(|error| {
            // Not louder: in an outage each feed says so every second.
            tracing::debug!(function = Q::FUNCTION, %error, "query not answered");
            Problem::unavailable()
        })?;
        if answer.is_accepted() { Ok(answer) } else { Err(answer.into()) }
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        let mut feeds = lock(&self.feeds);
        // Not if somebody has come meanwhile and made it anew.
        if feeds.get(&self.item).is_some_and(|feed| feed.strong_count() == 0) {
            feeds.remove(&self.item);
        }
    }
}

fn lock(feeds: &Feeds) -> MutexGuard<'_, HashMap<ItemId, Weak<Feed>>> {
    feeds.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Reads what the bus says, once for all watchers.
async fn hear(heard: impl Stream<Item = (String, Box<RawValue>)>, runs: broadcast::Sender<Arc<Run>>) {
    let mut heard = pin!(heard.ready_chunks(RUN));
    while let Some(events) = heard.next().await {
        let changes = events.iter().filter_map(|(name, payload)| ItemChange::from_event(name, payload.get()));
        for run in Run::of(changes) {
            // Nobody listens when the last one is just leaving.
            let _ = runs.send(Arc::new(run));
        }
    }
}

/// What the log said when it was asked what came after a version.
struct Page {
    asked: Instant,
    after: i64,
    has_more: bool,
    /// `None` when it could not say.
    run: Option<Run>,
}

impl Page {
    fn read(answer: &Answer, after: i64, asked: Instant) -> Result<Self, Problem> {
        let Changes { changes, has_more, complete } = answer.parse().map_err(|error| {
            tracing::error!(%error, "the changes of an item cannot be read");
            Problem::internal()
        })?;
        let run = complete.then(|| {
            let mut runs = Run::of(changes.into_iter());
            runs.next().unwrap_or_else(|| Run::nothing(after))
        });
        Ok(Self { asked, after, has_more, run })
    }

    /// Whether it says what came after the version: what has happened does not change, but that nothing has
    /// happened since is only known of the time when the log was asked.
    fn serves(&self, version: i64, since: Instant) -> bool {
        match &self.run {
            Some(run) => {
                (self.after..run.last()).contains(&version) || (version == run.last() && self.settles(since))
            }
            None => version == self.after && self.asked >= since,
        }
    }

    /// Whether there was nothing more at that time.
    fn settles(&self, since: Instant) -> bool {
        !self.has_more && self.asked >= since
    }
}

/// Changes each of which is one version above the one before, ready to be sent.
struct Run {
    first: i64,
    /// Where each of them ends in the frames.
    ends: Vec<usize>,
    frames: Bytes,
    /// Nothing comes after them: the item is gone.
    deletes: bool,
}

impl Run {
    /// Changes in as few runs as their versions allow.
    fn of(changes: impl Iterator<Item = ItemChange>) -> impl Iterator<Item = Self> {
        let mut changes = changes.peekable();
        std::iter::from_fn(move || {
            let first = changes.peek()?.version();
            let (mut ends, mut frames, mut deletes) = (Vec::new(), Vec::new(), false);
            let mut next = first;
            while let Some(change) = changes.next_if(|change| change.version() == next) {
                // Plain members: there is nothing in them that has no JSON.
                frame(&mut frames, change.name(), next, change.data().unwrap_or_default().as_bytes());
                ends.push(frames.len());
                deletes = matches!(change, ItemChange::Deleted(_));
                next += 1;
            }
            Some(Self { first, ends, frames: frames.into(), deletes })
        })
    }

    /// No change after a version.
    fn nothing(after: i64) -> Self {
        Self { first: after + 1, ends: Vec::new(), frames: Bytes::new(), deletes: false }
    }

    fn last(&self) -> i64 {
        self.first - 1 + i64::try_from(self.ends.len()).unwrap_or_default()
    }

    /// What comes after a version, and its last version; `None` when something between is missing.
    fn after(&self, version: i64) -> Option<(Bytes, i64)> {
        let known = usize::try_from(version - (self.first - 1)).ok()?;
        let start = match known.checked_sub(1) {
            None => 0,
            Some(last) => self.ends.get(last).copied().unwrap_or(self.frames.len()),
        };
        Some((self.frames.slice(start..), self.last()))
    }
}

/// One event as it goes out. JSON has no line breaks of its own, so its data is one line.
fn frame(frames: &mut Vec<u8>, event: &str, version: i64, data: &[u8]) {
    frames.extend_from_slice(format!("id: {version}\nevent: {event}\ndata: ").as_bytes());
    frames.extend_from_slice(data);
    frames.extend_from_slice(b"\n\n");
}
