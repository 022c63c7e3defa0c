//! What is said about categories.

use garde::Validate;
use platform::{Command, Event, Message, Query, Refused, Timestamp, UserId};
use serde::{Deserialize, Deserializer, Serialize};
use uuid::Uuid;

use crate::{Page, page::PageQuery};

/// Make a category.
#[derive(Debug, Clone, Serialize, Deserialize, Validate)]
pub struct CreateCategory {
    /// What it is called; no other category is called so, in whatever case.
    #[garde(length(chars, max = 100), custom(words))]
    pub name: String,
    /// More about it.
    #[serde(default)]
    #[garde(length(chars, max = 2_000), custom(storable))]
    pub description: String,
    /// The category that it is a part of.
    #[serde(default, alias = "parentId")]
    #[garde(skip)]
    pub parent_id: Option<i64>,
}

impl Message for CreateCategory {
    const DOMAIN: &'static str = "catalog";
    const FUNCTION: &'static str = "create-category";
    type Reply = Category;
}

impl Command for CreateCategory {}

/// Show a category as it is now.
#[derive(Debug, Clone, Serialize, Deserialize, Validate)]
pub struct GetCategory {
    /// Which.
    #[garde(skip)]
    pub category_id: i64,
}

impl Message for GetCategory {
    const DOMAIN: &'static str = "catalog";
    const FUNCTION: &'static str = "get-category";
    type Reply = Category;
}

impl Query for GetCategory {}

/// List the categories, the first that was made first.
#[derive(Debug, Clone, Default, Serialize, Deserialize, Validate)]
pub struct ListCategories {
    /// Which part of the list.
    #[serde(flatten)]
    #[garde(skip)]
    pub page: PageQuery,
}

impl Message for ListCategories {
    const DOMAIN: &'static str = "catalog";
    const FUNCTION: &'static str = "list-categories";
    type Reply = Page<Category>;

    /// Under the names that callers use: they see no `page` around its members.
    fn check(&self) -> Result<(), Refused> {
        platform::wire::check(&self.page)
    }
}

impl Query for ListCategories {}

/// Change a category. What is not said stays as it is.
#[derive(Debug, Clone, Default, Serialize, Deserialize, Validate)]
pub struct UpdateCategory {
    /// Which.
    #[garde(skip)]
    pub category_id: i64,
    /// What it is called from now on.
    #[serde(default)]
    #[garde(inner(length(chars, max = 100)), inner(custom(words)))]
    pub name: Option<String>,
    /// More about it.
    #[serde(default)]
    #[garde(inner(length(chars, max = 2_000)), inner(custom(storable)))]
    pub description: Option<String>,
    /// The category that it becomes a part of; null for none.
    #[serde(default, alias = "parentId", deserialize_with = "said", skip_serializing_if = "Option::is_none")]
    #[garde(skip)]
    pub parent_id: Option<Option<i64>>,
    /// Only if this is still its version.
    #[serde(default)]
    #[garde(skip)]
    pub if_match: Option<i64>,
}

impl Message for UpdateCategory {
    const DOMAIN: &'static str = "catalog";
    const FUNCTION: &'static str = "update-category";
    type Reply = Category;
}

impl Command for UpdateCategory {
    fn key(&self) -> String {
        self.category_id.to_string()
    }
}

/// Remove a category that has neither parts nor products nor items.
#[derive(Debug, Clone, Default, Serialize, Deserialize, Validate)]
pub struct DeleteCategory {
    /// Which.
    #[garde(skip)]
    pub category_id: i64,
    /// Only if this is still its version.
    #[serde(default)]
    #[garde(skip)]
    pub if_match: Option<i64>,
}

impl Message for DeleteCategory {
    const DOMAIN: &'static str = "catalog";
    const FUNCTION: &'static str = "delete-category";
    type Reply = ();
}

impl Command for DeleteCategory {
    fn key(&self) -> String {
        self.category_id.to_string()
    }
}

/// A category.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Category {
    /// Which: 1, 2, and so on, with gaps; never given to another one.
    pub id: i64,
    /// Who made it.
    pub owner_id: UserId,
    /// What it is called.
    pub name: String,
    /// More about it.
    pub description: String,
    /// The category that it is a part of.
    pub parent_id: Option<i64>,
    /// How many products are in it, without those in its parts. Follows what happens by a moment.
    pub product_count: i64,
    /// Grows with every change of the category, and not with that of a product.
    pub version: i64,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it changed last.
    pub updated_at: Timestamp,
}

/// The whole state of a category, as the `category.*` events carry it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CategoryState {
    /// Which.
    pub category_id: i64,
    /// Grows with every `category.*` event of the category: the newer state wins.
    pub version: i64,
    /// Who made it.
    pub owner_id: UserId,
    /// What it is called.
    pub name: String,
    /// More about it.
    pub description: String,
    /// The category that it is a part of.
    pub parent_id: Option<i64>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When this happened.
    pub occurred_at: Timestamp,
}

impl CategoryState {
    /// Keys are UUIDs: this one ends with the number.
    fn key(&self) -> Uuid {
        Uuid::from_u128(u128::from(self.category_id.unsigned_abs()))
    }
}

/// There is a new category.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CategoryCreated(pub CategoryState);

/// A category has changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CategoryUpdated(pub CategoryState);

/// A category is gone; this is what it was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CategoryDeleted(pub CategoryState);

impl Event for CategoryCreated {
    const NAME: &'static str = "category.created.v1";

    fn key(&self) -> Uuid {
        self.0.key()
    }

    fn ordinal(&self) -> i64 {
        self.0.version
    }
}

impl Event for CategoryUpdated {
    const NAME: &'static str = "category.updated.v1";

    fn key(&self) -> Uuid {
        self.0.key()
    }

    fn ordinal(&self) -> i64 {
        self.0.version
    }
}

impl Event for CategoryDeleted {
    const NAME: &'static str = "category.deleted.v1";

    fn key(&self) -> Uuid {
        self.0.key()
    }

    fn ordinal(&self) -> i64 {
        self.0.version
    }
}

/// A member that was sent, even as null; one that was not is `None` by default.
pub(super) fn said<'de, T, D>(deserializer: D) -> Result<Option<T>, D::Error>
where
    T: Deserialize<'de>,
    D: Deserializer<'de>,
{
    T::deserialize(deserializer).map(Some)
}

/// A text that says something, on one line.
pub(super) fn words(text: &str, (): &()) -> garde::Result {
    if text.trim().is_empty() {
        return Err(garde::Error::new("must not be blank"));
    }
    if text.chars().any(char::is_control) {
        return Err(garde::Error::new("must not contain control characters"));
    }
    Ok(())
}

/// There is no NUL in any text that Postgres keeps.
pub(super) fn storable(text: &str, (): &()) -> garde::Result {
    if text.contains('\0') { Err(garde::Error::new("must not contain a NUL")) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_not_said_stays_and_null_takes_away() {
        for (body, parent) in [
            (json!({}), None),
            (json!({"parent_id": null}), Some(None)),
            (json!({"parentId": 3}), Some(Some(3))),
        ] {
            let mut command = body.clone();
            command["category_id"] = json!(1);
            let read: UpdateCategory = serde_json::from_value(command).unwrap();
            // As it goes through the stream.
            let again: UpdateCategory = serde_json::from_value(json!(read)).unwrap();

            assert_eq!((read.parent_id, again.parent_id), (parent, parent), "{body}");
        }
    }

    #[test]
    fn a_name_is_a_line_that_says_something() {
        for (name, message) in [
            (" \t", "name: must not be blank"),
            ("a\nb", "name: must not contain control characters"),
            ("a\0", "name: must not contain control characters"),
            (&"x".repeat(101), "name: length is greater than 100"),
        ] {
            let new = CreateCategory { name: name.into(), description: String::new(), parent_id: None };
            let change = UpdateCategory { name: Some(name.into()), ..UpdateCategory::default() };

            assert_eq!(new.check().unwrap_err().details.unwrap(), message);
            assert_eq!(change.check().unwrap_err().details.unwrap(), message);
        }
        let nul = CreateCategory { name: "A".into(), description: "\0".into(), parent_id: None };
        assert_eq!(nul.check().unwrap_err().details.unwrap(), "description: must not contain a NUL");
    }
}
