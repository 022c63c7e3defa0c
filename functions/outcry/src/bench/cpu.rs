//! Who used the processors meanwhile, as far as the system tells: where the time of a bid goes. Linux says it
//! in `/proc`; elsewhere nothing is known.

use std::{fs, time::Duration};

use serde::Serialize;

/// The unit of `/proc/<pid>/stat`: Linux shows programs a hundredth of a second, whatever it counts in.
const TICK: Duration = Duration::from_millis(10);

/// Processor time used up to now, or in between.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Used {
    /// The load's thread.
    pub(super) load: Duration,
    /// All threads of this process, the load's too, and the platform's processes.
    pub(super) process: Duration,
    pub(super) nats: Duration,
    /// With the processes that it started.
    pub(super) postgres: Duration,
}

/// Processor time of each decision, in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Cpu {
    /// Making the load.
    pub load_us: f64,
    /// The platform: edge, functions, relays.
    pub platform_us: f64,
    /// nats-server.
    pub nats_us: f64,
    /// Postgres.
    pub postgres_us: f64,
}

impl Used {
    /// By this process and those of the platform's parts, and by the services with these ids.
    pub(super) fn until_now((nats, postgres): (Option<u32>, Option<u32>), parts: &[u32]) -> Option<Self> {
        let parts = parts.iter().filter_map(|part| stat(&part.to_string()));
        let process = stat("self")?.own + parts.map(|part| part.own).sum::<Duration>();
        let nats = stat(&nats?.to_string())?.own;
        Some(Self { load: Duration::ZERO, process, nats, postgres: family(postgres?)? })
    }

    pub(super) fn since(self, before: Self) -> Self {
        Self {
            load: self.load.saturating_sub(before.load),
            process: self.process.saturating_sub(before.process),
            nats: self.nats.saturating_sub(before.nats),
            postgres: self.postgres.saturating_sub(before.postgres),
        }
    }

    pub(super) fn add(&mut self, other: Self) {
        self.load += other.load;
        self.process += other.process;
        self.nats += other.nats;
        self.postgres += other.postgres;
    }

    /// For each of so many decisions.
    pub(super) fn each(self, decisions: u64) -> Option<Cpu> {
        let each = |used: Duration| used.as_secs_f64() * 1e6 / decisions as f64;
        (decisions > 0).then(|| Cpu {
            load_us: each(self.load),
            platform_us: each(self.process.saturating_sub(self.load)),
            nats_us: each(self.nats),
            postgres_us: each(self.postgres),
        })
    }
}

/// Used by this thread.
pub(super) fn of_this_thread() -> Duration {
    stat("thread-self").map_or(Duration::ZERO, |stat| stat.own)
}

/// A line of `/proc/<pid>/stat`.
#[derive(Debug, PartialEq, Eq)]
struct Stat {
    parent: u32,
    own: Duration,
    /// Of its children that have ended.
    ended: Duration,
}

impl Stat {
    fn parse(line: &str) -> Option<Self> {
        // The name of the program may hold spaces and brackets; what follows it does not.
        let fields: Vec<&str> = line.rsplit_once(") ")?.1.split(' ').collect();
        let ticks = |place: usize| fields.get(place)?.parse::<u32>().ok();
        Some(Self {
            parent: ticks(1)?,
            own: TICK * ticks(11)?.checked_add(ticks(12)?)?,
            ended: TICK * ticks(13)?.checked_add(ticks(14)?)?,
        })
    }
}

fn stat(process: &str) -> Option<Stat> {
    Stat::parse(&fs::read_to_string(format!("/proc/{process}/stat")).ok()?)
}

/// Of a process and of those that it started.
fn family(process: u32) -> Option<Duration> {
    let head = stat(&process.to_string())?;
    let all = fs::read_dir("/proc").ok()?.flatten();
    let children =
        all.filter_map(|entry| stat(entry.file_name().to_str()?)).filter(|stat| stat.parent == process);
    Some(head.own + head.ended + children.map(|stat| stat.own + stat.ended).sum::<Duration>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read_whatever_the_program_is_called() {
        let line = "42 (a (b) c) S 7 42 42 0 -1 4194560 1 2 3 4 150 50 30 20 20 0 5 0 99";

        let stat = Stat::parse(line);

        let seconds = Duration::from_secs_f64;
        assert_eq!(stat, Some(Stat { parent: 7, own: seconds(2.0), ended: seconds(0.5) }));
        assert_eq!(Stat::parse("nonsense"), None);
    }

    #[test]
    fn the_load_is_no_part_of_the_platform() {
        let seconds = Duration::from_secs;
        let mut used = Used::default();
        used.add(Used { load: seconds(1), process: seconds(9), nats: seconds(2), postgres: seconds(4) });

        let each = used.each(1_000_000).unwrap();

        assert_eq!(each, Cpu { load_us: 1.0, platform_us: 8.0, nats_us: 2.0, postgres_us: 4.0 });
        assert_eq!(used.each(0), None);
    }
}
