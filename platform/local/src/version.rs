//! Versions as programs print them.

use std::fmt;

/// The two leading numbers of a version; nothing here depends on more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Version {
    pub(crate) major: u32,
    pub(crate) minor: u32,
}

impl Version {
    /// The first word of `text` that starts like a version: `v2.12.0-RC.1`, `15.18`, `19beta1`.
    pub(crate) fn parse(text: &str) -> Option<Version> {
        text.split_whitespace().find_map(Self::parse_word)
    }

    fn parse_word(word: &str) -> Option<Version> {
        let mut parts = word.trim_start_matches('v').splitn(3, '.');
        let major = leading_number(parts.next()?)?;
        let minor = parts.next().and_then(leading_number).unwrap_or(0);
        Some(Version { major, minor })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

fn leading_number(text: &str) -> Option<u32> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    text.get(..end)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::Version;

    #[test]
    fn versions_are_read_as_the_programs_print_them() {
        let cases = [
            ("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n", Some((15, 18))),
            ("postgres (PostgreSQL) 18.6\n", Some((18, 6))),
            ("postgres (PostgreSQL) 19beta1\n", Some((19, 0))),
            ("postgres (PostgreSQL) 9.6.24\n", Some((9, 6))),
            ("nats-server: v2.15.1\n", Some((2, 15))),
            ("nats-server: v2.12.0-RC.1\n", Some((2, 12))),
            ("nats-server: version 1.4.1\n", Some((1, 4))),
            ("command not found\n", None),
            ("", None),
        ];
        for (text, wanted) in cases {
            let read = Version::parse(text).map(|v| (v.major, v.minor));
            assert_eq!(read, wanted, "{text:?}");
        }
    }
}
