//! The version that a caller has seen, and which must still be the newest.

use platform::{Kind, Refusal};

/// Refuses to change what is not the version any more that the caller has seen. Who says nothing wants it whatever the
/// version is. To be asked under the lock of what changes.
///
/// The edge reads `If-Match` of a line that is `conditional()`; its command has a member `if_match`.
pub fn check(if_match: Option<i64>, version: i64) -> Result<(), Outdated> {
    if if_match.is_none_or(|seen| seen == version) { Ok(()) } else { Err(Outdated { version }) }
}

/// It has changed since the caller saw it.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("it has changed since you saw it, its version is {version} now")]
pub struct Outdated {
    /// The newest.
    pub version: i64,
}

impl Refusal for Outdated {
    fn kind(&self) -> Kind {
        Kind::Precondition
    }

    fn code(&self) -> &'static str {
        "PRECONDITION_FAILED"
    }

    fn extras(&self) -> serde_json::Map<String, serde_json::Value> {
        serde_json::Map::from_iter([("version".to_owned(), self.version.into())])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_version_may_be_changed_and_any_by_who_does_not_say() {
        assert_eq!((check(None, 3), check(Some(3), 3)), (Ok(()), Ok(())));
        assert_eq!(check(Some(2), 3), Err(Outdated { version: 3 }));
    }
}
