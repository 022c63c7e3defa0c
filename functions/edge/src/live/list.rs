//! The live view of several items over one stream: each of them as if it were watched alone.
//!
//! The id of an event is not the version of one item: it says of every item of the list which version was sent last, so
//! that who comes back with it goes on with each of them where it was.

use std::collections::BTreeSet;

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use futures_util::{future::join_all, stream::SelectAll};
use platform::Refused;
use sha2::{Digest, Sha256};

use super::*;

/// The most items of a list.
const MOST: usize = 100;
/// The most items of all lists of this process. One stream may watch as many as a hundred: bounded apart from the streams.
pub(super) const MOST_LISTED: usize = 100_000;
/// How many bytes name a list in the ids of its events.
const NAME: usize = 8;

/// The items that a query string names, `ids=a,b`. Each once.
pub(crate) fn items(query: &str) -> Result<BTreeSet<ItemId>, Problem> {
    let invalid = |message: String| Problem::from(Refused::invalid_member("ids", message));
    let given = url::form_urlencoded::parse(query.as_bytes()).filter(|(name, _)| name == "ids");
    let mut items = BTreeSet::new();
    for (_, ids) in given {
        for id in ids.split(',').map(str::trim).filter(|id| !id.is_empty()) {
            let id = id.parse().map_err(|_| invalid("expected ids of items, separated by commas".into()))?;
            items.insert(ItemId(id));
            if items.len() > MOST {
                return Err(invalid(format!("expected at most {MOST} items")));
            }
        }
    }
    if items.is_empty() {
        return Err(invalid(format!("expected 1 to {MOST} ids of items, separated by commas")));
    }
    Ok(items)
}

impl Live {
    /// Begins a stream of several items: of each what happened after what `seen` says, else the item as it is now.
    /// Items that do not exist are left out; when none does, there is no stream.
    pub(crate) async fn watch_all(
        &self,
        items: BTreeSet<ItemId>,
        seen: Option<&str>,
        caller: Option<Verified>,
        trace: &Trace,
    ) -> Result<Response, Problem> {
        let place = self.place()?;
        let count = u32::try_from(items.len()).unwrap_or(u32::MAX);
        let listed = Arc::clone(&self.listed).try_acquire_many_owned(count).map_err(|_| self.full())?;
        let mut position = Position::of(&items, seen);
        let begun = items.iter().zip(&position.versions).map(|(item, version)| {
            self.begin(*item, Some(*version).filter(|version| *version > 0), caller.clone(), trace)
        });
        let begun = join_all(begun.collect::<Vec<_>>()).await;
        let (mut opening, mut watched, mut missing) = (RETRY.to_vec(), SelectAll::new(), None);
        for (place, begun) in begun.into_iter().enumerate() {
            match begun {
                Ok((watcher, first)) => {
                    if let Some(frames) = first {
                        position.number(place, &frames, watcher.sent, &mut opening);
                    }
                    watched.push(Box::pin(told(place, watcher)));
                }
                Err(problem) if problem.is_ours() => return Err(problem),
                Err(problem) => missing = Some(problem),
            }
        }
        if let Some(problem) = missing.filter(|_| watched.is_empty()) {
            return Err(problem);
        }
        if opening.len() == RETRY.len() {
            opening.extend_from_slice(ALIVE);
        }
        let beat_at = Instant::now() + self.heartbeat;
        let list = List { watched, position, heartbeat: self.heartbeat, beat_at };
        let frames = stream::unfold((list, place, listed), async |(mut list, place, listed)| {
            Some((list.next().await?, (list, place, listed)))
        });
        Ok(self.respond(opening, frames))
    }
}

/// What one of the items says: its place in the list, frames, and the version of the last of them.
type Told = (usize, Bytes, i64);

fn told(place: usize, watcher: Watcher) -> impl Stream<Item = Told> + Send {
    stream::unfold((place, watcher), async |(place, mut watcher)| {
        let frames = watcher.next().await?;
        Some(((place, frames, watcher.sent), (place, watcher)))
    })
}

/// One open stream of several items.
struct List<S> {
    watched: SelectAll<S>,
    position: Position,
    heartbeat: Duration,
    beat_at: Instant,
}

impl<S: Stream<Item = Told> + Unpin> List<S> {
    /// What is to be sent next, as soon as there is something; `None` when none of the items is there any more.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            tokio::select! {
                told = self.watched.next() => {
                    let (place, frames, last) = told?;
                    // Each item is silent for itself; the list says once that it is alive.
                    if frames == ALIVE {
                        continue;
                    }
                    self.beat_at = Instant::now() + self.heartbeat;
                    let mut numbered = Vec::with_capacity(frames.len() * 2);
                    self.position.number(place, &frames, last, &mut numbered);
                    return Some(numbered.into());
                }
                () = sleep_until(self.beat_at) => {
                    self.beat_at = Instant::now() + self.heartbeat;
                    return Some(Bytes::from_static(ALIVE));
                }
            }
        }
    }
}

/// Where a stream of a list stands: the version of each item that was sent last, in the order of their ids; 0 of one
/// that was not sent yet.
///
/// As the id of an event it is base64url (without padding) of eight bytes that name the list and a variable-length
/// number for each item: about three characters for each, and never more than 1,211.
pub(super) struct Position {
    name: [u8; NAME],
    pub(super) versions: Vec<i64>,
}

impl Position {
    /// Where somebody stands who has seen an event with this id. An id of another list, or no id at all, says nothing.
    pub(super) fn of(items: &BTreeSet<ItemId>, seen: Option<&str>) -> Self {
        let mut hash = Sha256::new();
        for item in items {
            hash.update(item.0.as_bytes());
        }
        let mut name = [0; NAME];
        name.copy_from_slice(&hash.finalize()[..NAME]);
        let versions = seen.and_then(|seen| read(seen, name, items.len()));
        Self { name, versions: versions.unwrap_or_else(|| vec![0; items.len()]) }
    }

    pub(super) fn id(&self) -> String {
        let mut bytes = self.name.to_vec();
        for version in &self.versions {
            let mut rest = version.unsigned_abs();
            while rest > 0x7f {
                bytes.push((rest & 0x7f) as u8 | 0x80);
                rest >>= 7;
            }
            bytes.push(rest as u8);
        }
        BASE64_URL_SAFE_NO_PAD.encode(bytes)
    }

    /// Writes frames of one item with the ids of this list. Their versions are dense and end with `last`.
    fn number(&mut self, place: usize, frames: &[u8], last: i64, numbered: &mut Vec<u8>) {
        let bodies = bodies(frames);
        let mut version = last - i64::try_from(bodies.len()).unwrap_or_default();
        for body in bodies {
            version += 1;
            if let Some(sent) = self.versions.get_mut(place) {
                *sent = version;
            }
            numbered.extend_from_slice(b"id: ");
            numbered.extend_from_slice(self.id().as_bytes());
            numbered.extend_from_slice(body);
        }
    }
}

/// Frames without the lines of their ids: from the end of that line on. A blank line ends a frame, and there is none in it.
fn bodies(frames: &[u8]) -> Vec<&[u8]> {
    let (mut bodies, mut rest) = (Vec::new(), frames);
    while let Some(end) = rest.windows(2).position(|two| two == b"\n\n") {
        let (frame, others) = rest.split_at(end + 2);
        let line = frame.iter().position(|byte| *byte == b'\n').unwrap_or_default();
        bodies.push(&frame[line..]);
        rest = others;
    }
    bodies
}

/// The versions in an id of the list of this name.
fn read(id: &str, name: [u8; NAME], count: usize) -> Option<Vec<i64>> {
    let bytes = BASE64_URL_SAFE_NO_PAD.decode(id.trim()).ok()?;
    let mut rest = bytes.strip_prefix(&name)?.iter();
    let mut versions = Vec::with_capacity(count);
    for _ in 0..count {
        let (mut version, mut shift) = (0_i64, 0_u32);
        loop {
            let byte = *rest.next()?;
            if shift > 56 {
                return None;
            }
            version |= i64::from(byte & 0x7f) << shift;
            shift += 7;
            if byte & 0x80 == 0 {
                break;
            }
        }
        versions.push(version);
    }
    rest.next().is_none().then_some(versions)
}
