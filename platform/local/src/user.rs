//! The user that Postgres runs as, since it refuses to run as root.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

/// The first of these that exists is taken; `_postgres` is the name on macOS.
const CANDIDATES: [&str; 3] = ["postgres", "_postgres", "nobody"];

/// An unprivileged user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Account {
    pub(crate) name: String,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

impl Account {
    /// Whom to run as over `data`: nobody else when we are not root; the owner of data that is there; else a user made for it.
    pub(crate) fn for_data(data: &Path) -> Result<Option<Account>> {
        if !rustix::process::geteuid().is_root() {
            return Ok(None);
        }
        let users = fs::read_to_string("/etc/passwd").context("read /etc/passwd")?;
        if let Ok(made) = fs::metadata(data)
            && made.uid() != 0
        {
            let name = name_of(&users, made.uid()).unwrap_or_else(|| made.uid().to_string());
            return Ok(Some(Account { name, uid: made.uid(), gid: made.gid() }));
        }
        Self::unprivileged(&users)
            .map(Some)
            .context("postgres refuses to run as root and there is no other user for it: add a user `postgres`, or do not run as root")
    }

    fn unprivileged(users: &str) -> Option<Account> {
        CANDIDATES
            .iter()
            .find_map(|name| users.lines().filter_map(parse).find(|user| user.name == *name && user.uid != 0))
    }

    /// Makes `command` run as this user. Root's supplementary groups are dropped too.
    pub(crate) fn applied_to(&self, command: &mut Command) {
        command.uid(self.uid).gid(self.gid);
    }

    /// Whether every folder above `path` lets this user through, as far as they are made.
    pub(crate) fn reaches(&self, path: &Path) -> bool {
        path.ancestors().skip(1).all(|folder| {
            fs::metadata(folder).map_or(true, |found| self.passes(found.mode(), found.uid(), found.gid()))
        })
    }

    fn passes(&self, mode: u32, owner: u32, group: u32) -> bool {
        let x = if owner == self.uid {
            0o100
        } else if group == self.gid {
            0o010
        } else {
            0o001
        };
        mode & x != 0
    }
}

fn name_of(users: &str, uid: u32) -> Option<String> {
    users.lines().filter_map(parse).find(|user| user.uid == uid).map(|user| user.name)
}

/// One line of /etc/passwd.
fn parse(line: &str) -> Option<Account> {
    let mut fields = line.split(':');
    let name = fields.next()?.to_owned();
    let uid = id(fields.nth(1)?)?;
    let gid = id(fields.next()?)?;
    Some(Account { name, uid, gid })
}

/// macOS writes nobody's ids as -2.
fn id(text: &str) -> Option<u32> {
    text.parse().ok().or_else(|| text.parse::<i32>().ok().map(i32::cast_unsigned))
}

#[cfg(test)]
mod tests {
    use super::{Account, name_of};

    const USERS: &str = "root:x:0:0:root:/root:/bin/sh\n# comment\nnobody:*:-2:-2::/var/empty:/usr/bin/false\nann:x:1000:1001::/home/ann:/bin/sh\n";

    #[test]
    fn postgres_is_preferred_and_nobody_is_enough() {
        let nobody = Account::unprivileged(USERS).unwrap();
        assert_eq!((nobody.uid, nobody.gid), (4_294_967_294, 4_294_967_294));
        let with_postgres = format!("{USERS}postgres:x:101:104::/:/bin/sh\n");
        assert_eq!(Account::unprivileged(&with_postgres).unwrap().uid, 101);
        assert_eq!(Account::unprivileged("root:x:0:0::/:/bin/sh\n"), None);
        assert_eq!(name_of(USERS, 1000).as_deref(), Some("ann"));
    }

    #[test]
    fn the_bits_that_count_are_the_ones_of_the_class() {
        let ann = Account { name: "ann".into(), uid: 1000, gid: 1001 };
        assert!(ann.passes(0o700, 1000, 0));
        assert!(!ann.passes(0o077, 1000, 0), "the owner's bits come first");
        assert!(ann.passes(0o710, 0, 1001));
        assert!(!ann.passes(0o701, 0, 1001), "then the group's");
        assert!(ann.passes(0o711, 0, 0));
        assert!(!ann.passes(0o700, 0, 0));
    }
}
