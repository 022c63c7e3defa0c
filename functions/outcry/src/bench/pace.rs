//! When requests are due: each when the one before is answered, or at fixed times whatever the platform does.

use std::time::Duration;

/// How requests follow each other.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Pace {
    /// On each connection the next one when the one before is answered.
    Closed,
    /// This many a second over all connections, at fixed times.
    Open(f64),
}

/// The times at which requests are due, counted from the beginning.
#[derive(Debug)]
pub(crate) struct Schedule {
    pace: Pace,
    span: Duration,
    given: u32,
}

impl Schedule {
    pub(crate) fn new(pace: Pace, span: Duration) -> Self {
        Self { pace, span, given: 0 }
    }

    /// When the next request is due: maybe in the past. None when the time is over.
    pub(crate) fn next(&mut self, now: Duration) -> Option<Duration> {
        if now >= self.span {
            return None;
        }
        let due = self.due(self.given, now).filter(|due| *due < self.span)?;
        self.given += 1;
        Some(due)
    }

    /// When those were due that nobody asked for: every connection was waiting for an answer.
    pub(crate) fn left(&self) -> impl Iterator<Item = Duration> {
        let fixed = |number| match self.pace {
            Pace::Closed => None,
            Pace::Open(_) => self.due(number, Duration::ZERO),
        };
        (self.given..).map_while(fixed).take_while(|due| *due < self.span)
    }

    fn due(&self, number: u32, now: Duration) -> Option<Duration> {
        match self.pace {
            Pace::Closed => Some(now),
            Pace::Open(rate) => Duration::try_from_secs_f64(f64::from(number) / rate).ok(),
        }
    }
}

/// How long somebody waited whose request was due at `due`. The time that it waited for a free connection
/// counts too, or a platform that stands still would be asked less and look better. One that left a little
/// early, because timers are coarse, is counted from when it left.
pub(crate) fn waited(due: Duration, sent: Duration, answered: Duration) -> Duration {
    answered.saturating_sub(due.min(sent))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn an_open_schedule_does_not_move_when_answers_are_late() {
        let mut schedule = Schedule::new(Pace::Open(100.0), millis(50));

        let late = [0, 1, 2, 45, 46].map(|now| schedule.next(millis(now)));

        assert_eq!(late, [0, 10, 20, 30, 40].map(|due| Some(millis(due))));
        assert_eq!(schedule.next(millis(47)), None, "the time is over");
    }

    #[test]
    fn a_closed_schedule_asks_at_once_until_the_time_is_over() {
        let mut schedule = Schedule::new(Pace::Closed, millis(50));

        assert_eq!(schedule.next(millis(49)), Some(millis(49)));
        assert_eq!(schedule.next(millis(50)), None);
        assert_eq!(schedule.left().count(), 0);
    }

    #[test]
    fn what_was_due_and_never_asked_for_is_known() {
        let mut schedule = Schedule::new(Pace::Open(100.0), millis(50));
        schedule.next(millis(0));
        schedule.next(millis(10));

        assert_eq!(schedule.next(millis(60)), None, "every connection waited until the end");
        assert_eq!(schedule.left().collect::<Vec<_>>(), [20, 30, 40].map(millis));
    }

    #[test]
    fn who_waits_for_a_free_connection_waits() {
        assert_eq!(waited(millis(100), millis(900), millis(1_000)), millis(900));
        assert_eq!(waited(millis(100), millis(99), millis(120)), millis(21));
    }

    #[test]
    fn a_platform_that_stands_still_shows_in_an_open_loop() {
        // One connection, a request each 10 ms, answered within 1 ms; only the third one takes 100 ms.
        let mut schedule = Schedule::new(Pace::Open(100.0), millis(200));
        let (mut now, mut waits) = (Duration::ZERO, Vec::new());
        while let Some(due) = schedule.next(now) {
            let sent = now.max(due);
            now = sent + millis(if waits.len() == 2 { 100 } else { 1 });
            waits.push(waited(due, sent, now));
        }

        assert_eq!(waits.len(), 20);
        assert_eq!(waits[..5], [1, 1, 100, 91, 82].map(millis), "those behind it waited too");
    }
}
