//! Collections.

use garde::Validate;
use serde::{Deserialize, Serialize};

/// The most members of one page.
pub const MOST: u32 = 100;

/// Which part of a collection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Validate)]
pub struct PageQuery {
    /// How many members (20; 1 to 100).
    #[serde(default = "default_limit", deserialize_with = "limit")]
    #[garde(range(min = 1, max = MOST))]
    pub limit: u32,
    /// How many members are passed over.
    #[serde(default, deserialize_with = "offset")]
    #[garde(skip)]
    pub offset: u32,
    /// Where the page before ended; opaque.
    #[serde(default)]
    #[garde(length(max = 200))]
    pub cursor: Option<String>,
}

impl Default for PageQuery {
    fn default() -> Self {
        Self { limit: default_limit(), offset: 0, cursor: None }
    }
}

pub(crate) fn default_limit() -> u32 {
    20
}

pub(crate) fn limit<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    number("limit", deserializer)
}

fn offset<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    number("offset", deserializer)
}

/// A number, also when it was read from a query string. The error says which member it is about,
/// because a reader of a flattened part does not know any more.
fn number<'de, D: serde::Deserializer<'de>>(member: &str, deserializer: D) -> Result<u32, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Either {
        Number(u32),
        Text(String),
    }
    let number = match Either::deserialize(deserializer) {
        Ok(Either::Number(number)) => Some(number),
        Ok(Either::Text(text)) => text.parse().ok(),
        Err(_) => None,
    };
    number.ok_or_else(|| serde::de::Error::custom(format_args!("{member}: expected a whole number")))
}

/// A page of a collection.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Page<T> {
    /// The members.
    pub data: Vec<T>,
    /// Where they stand.
    pub page_info: PageInfo,
}

/// Where a page stands in its collection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PageInfo {
    /// How many members there are in all.
    pub total: u64,
    /// There may be more than `total`: they were not counted any further.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub total_is_capped: bool,
    /// As asked.
    pub limit: u32,
    /// As asked.
    pub offset: u32,
    /// Whether there are members after these.
    pub has_more: bool,
    /// What to send as `cursor` for the page after this one.
    pub next_cursor: Option<String>,
}
