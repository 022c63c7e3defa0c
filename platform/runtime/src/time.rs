//! One kind of time for everything: UTC, to the microsecond.

use std::{fmt, ops, time::Duration};

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use time::{OffsetDateTime, UtcOffset, format_description::well_known::Rfc3339};

/// An instant in UTC, cut to microseconds, because that is what Postgres keeps: a value that was
/// written and read back compares equal.
///
/// JSON form: RFC 3339, for example `2026-11-21T02:21:44.776Z`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, sqlx::Type)]
#[sqlx(transparent)]
pub struct Timestamp(OffsetDateTime);

impl Timestamp {
    /// The wall clock. Handlers take [`Cx::now`](crate::Cx::now) instead, so that one invocation
    /// sees one instant.
    pub fn now() -> Self {
        Self::from(OffsetDateTime::now_utc())
    }

    /// Nanoseconds since 1970, as JetStream stamps its messages. `None` when out of range.
    pub fn from_unix_nanos(nanos: i128) -> Option<Self> {
        OffsetDateTime::from_unix_timestamp_nanos(nanos).ok().map(Self::from)
    }

    /// Whole seconds since 1970, as tokens count time.
    pub fn unix_seconds(self) -> i64 {
        self.0.unix_timestamp()
    }

    /// Reads the JSON form.
    pub fn parse(text: &str) -> Result<Self, time::error::Parse> {
        OffsetDateTime::parse(text, &Rfc3339).map(Self::from)
    }

    /// How long after `earlier` this is; zero when it is not after it.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::try_from(self.0 - earlier.0).unwrap_or_default()
    }
}

impl From<OffsetDateTime> for Timestamp {
    fn from(value: OffsetDateTime) -> Self {
        let value = value.to_offset(UtcOffset::UTC);
        let micros = value.nanosecond() - value.nanosecond() % 1_000;
        Self(value.replace_nanosecond(micros).unwrap_or(value))
    }
}

impl ops::Add<Duration> for Timestamp {
    type Output = Self;

    /// Stops at the end of the calendar (year 9999) rather than overflow.
    fn add(self, span: Duration) -> Self {
        let span = time::Duration::try_from(span).unwrap_or(time::Duration::MAX);
        Self::from(self.0.saturating_add(span))
    }
}

impl ops::Sub<Duration> for Timestamp {
    type Output = Self;

    fn sub(self, span: Duration) -> Self {
        let span = time::Duration::try_from(span).unwrap_or(time::Duration::MAX);
        Self::from(self.0.saturating_sub(span))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.format(&Rfc3339).map_err(|_| fmt::Error)?)
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        Self::parse(&text)
            .map_err(|_| serde::de::Error::custom("expected an RFC 3339 time such as 2026-11-21T02:21:44Z"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_printed_in_utc_whatever_the_offset() {
        let time = Timestamp::parse("2026-11-21T04:21:44.7761234+02:00").unwrap();

        assert_eq!(time.to_string(), "2026-11-21T02:21:44.776123Z");
    }

    #[test]
    fn since_never_goes_below_zero() {
        let time = Timestamp::now();

        assert_eq!(time.since(time + Duration::from_secs(1)), Duration::ZERO);
        assert_eq!((time + Duration::from_secs(1)).since(time).as_secs(), 1);
    }
}
