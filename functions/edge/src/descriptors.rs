//! How many connections fit: each is an open file, and the system sets how many of those a process may have.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Open files that are kept for everything else: services, pools of connections to Postgres, the log.
const OTHERS: u64 = 256;
/// The most connections, however many files may be open.
pub(crate) const MOST: usize = 10_000;

/// Raises the process's limit of open files as far as the process itself may, and returns how many connections
/// fit: at least one, at most 10,000.
pub(crate) fn connections() -> usize {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, ..limit };
    // Some systems take less than the limit that they name; then it stays as it was.
    let limit = if setrlimit(Resource::Nofile, raised).is_ok() { limit.maximum } else { limit.current };
    fit(limit)
}

/// How many connections fit under a limit of open files; there may be none.
fn fit(limit: Option<u64>) -> usize {
    let room = limit.map_or(u64::MAX, |limit| limit.saturating_sub(OTHERS));
    usize::try_from(room).unwrap_or(MOST).clamp(1, MOST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_room_for_everything_else() {
        for (limit, room) in
            [(None, 10_000), (Some(1_000_000), 10_000), (Some(1024), 768), (Some(256), 1), (Some(0), 1)]
        {
            assert_eq!(fit(limit), room, "{limit:?}");
        }
    }

    #[test]
    fn the_limit_is_raised_as_far_as_it_may() {
        let hard = getrlimit(Resource::Nofile).maximum;
        let low = hard.map_or(900, |hard| hard.min(900));
        setrlimit(Resource::Nofile, Rlimit { current: Some(low), maximum: hard }).unwrap();

        assert_eq!(connections(), fit(hard));

        assert_eq!(getrlimit(Resource::Nofile).current, hard);
    }
}
