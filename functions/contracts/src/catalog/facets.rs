//! Counts beside the listing: how many items there would be under each choice.

use serde::{Deserialize, Deserializer, Serialize, de::Error};

use crate::{
    auctions::{Item, ItemStatus},
    page::PageInfo,
};

/// A page of the listing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Listing {
    /// The items.
    pub data: Vec<Item>,
    /// Where they stand.
    pub page_info: PageInfo,
    /// Counts, when they were asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub facets: Option<Facets>,
}

/// How many items would be found with another category, or with another status, and all else as asked. What no item
/// has is left out.
///
/// Exact, and equal to the list's own total with that choice, unless the facet is capped: then two thousand items at most
/// are counted and each count is a lower bound: there are at least so many.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facets {
    /// The hundred categories with the most items, those with the most first.
    pub category: Vec<CategoryCount>,
    /// There are more items than were counted by category.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub category_is_capped: bool,
    /// Where items stand, what most do first.
    pub status: Vec<StatusCount>,
    /// There are more items than were counted by status.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub status_is_capped: bool,
}

/// How many items of a category.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CategoryCount {
    /// The category.
    pub id: i64,
    /// How many.
    pub count: u64,
}

/// How many items that stand so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusCount {
    /// Where they stand.
    pub status: ItemStatus,
    /// How many.
    pub count: u64,
}

/// Yes or no, also when it was read from a query string.
pub(super) fn yes_or_no<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Either {
        Bool(bool),
        Text(String),
    }
    match Either::deserialize(deserializer) {
        Ok(Either::Bool(yes)) => Ok(yes),
        Ok(Either::Text(text)) if text == "true" => Ok(true),
        Ok(Either::Text(text)) if text == "false" => Ok(false),
        _ => Err(D::Error::custom("facets: expected true or false")),
    }
}
