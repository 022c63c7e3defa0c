//! What is said about the catalogue: categories, products, and the searchable listing of items.

mod categories;
mod products;

pub use categories::{
    Category, CategoryCreated, CategoryDeleted, CategoryState, CategoryUpdated, CreateCategory,
    DeleteCategory, GetCategory, ListCategories, UpdateCategory,
};
pub use products::{
    CreateProduct, DeleteProduct, GetProduct, ListProducts, Product, ProductCreated, ProductDeleted,
    ProductState, ProductUpdated, SnapshotProducts, UpdateProduct,
};

use garde::Validate;
use platform::{Message, Query, Refused, Timestamp, UserId};
use serde::{Deserialize, Serialize};

use crate::{Amount, auctions::ItemStatus, page::PageQuery};

mod facets;

pub use facets::{CategoryCount, Facets, Listing, StatusCount};

/// Find items. The listing follows what happens by a moment.
#[derive(Debug, Clone, Default, Serialize, Deserialize, Validate)]
pub struct ListItems {
    /// Words of the name or the description: all of them, `"a phrase"`, `this or that`, `-not this`.
    #[serde(default)]
    #[garde(length(chars, max = 200))]
    pub q: Option<String>,
    /// Of this category.
    #[serde(default, alias = "categoryId")]
    #[garde(skip)]
    pub category_id: Option<i64>,
    /// Of this seller.
    #[serde(default, alias = "sellerId")]
    #[garde(skip)]
    pub seller_id: Option<UserId>,
    /// That stand so.
    #[serde(default)]
    #[garde(skip)]
    pub status: Option<ItemStatus>,
    /// Whose price is not below this, in major units whatever the currency.
    #[serde(default, alias = "minPrice")]
    #[garde(inner(custom(not_negative)))]
    pub min_price: Option<Amount>,
    /// Whose price is not above this, in major units whatever the currency.
    #[serde(default, alias = "maxPrice")]
    #[garde(inner(custom(not_negative)), custom(not_below(&self.min_price)))]
    pub max_price: Option<Amount>,
    /// That end before this.
    #[serde(default, alias = "endingBefore")]
    #[garde(skip)]
    pub ending_before: Option<Timestamp>,
    /// In this order.
    #[serde(default)]
    #[garde(skip)]
    pub sort: ItemSort,
    /// Whether items are counted by category and by status, too.
    #[serde(default, deserialize_with = "facets::yes_or_no")]
    #[garde(skip)]
    pub facets: bool,
    /// Which part of the list.
    #[serde(flatten)]
    #[garde(skip)]
    pub page: PageQuery,
}

impl Message for ListItems {
    const DOMAIN: &'static str = "catalog";
    const FUNCTION: &'static str = "list-items";
    type Reply = Listing;

    /// Under the names that callers use: they see no `page` around its members.
    fn check(&self) -> Result<(), Refused> {
        platform::wire::check(self)?;
        platform::wire::check(&self.page)
    }
}

impl Query for ListItems {}

/// An order of items; equals stand in the order of their ids.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ItemSort {
    /// The next to end first. Without a status: only those that have not ended.
    EndingSoon,
    /// The last to be offered first.
    #[default]
    Newest,
    /// The cheapest first.
    PriceAsc,
    /// The dearest first.
    PriceDesc,
    /// The one with the most bids first.
    MostBids,
}

fn not_negative(amount: &Amount, (): &()) -> garde::Result {
    if amount.is_negative() { Err(garde::Error::new("must not be below 0")) } else { Ok(()) }
}

fn not_below(min: &Option<Amount>) -> impl FnOnce(&Option<Amount>, &()) -> garde::Result {
    let min = *min;
    move |max, ()| match (min, max) {
        (Some(min), Some(max)) if min.is_above(*max) => Err(garde::Error::new("must not be below min_price")),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(json: serde_json::Value) -> serde_json::Result<ListItems> {
        serde_json::from_value(json)
    }

    #[test]
    fn both_spellings_are_read() {
        for body in [
            json!({"category_id": 3, "min_price": "1.50", "ending_before": "2026-12-01T00:00:00Z", "limit": 5}),
            json!({"categoryId": 3, "minPrice": 1.5, "endingBefore": "2026-12-01T00:00:00Z", "limit": "5"}),
        ] {
            let query = read(body).unwrap();

            query.check().unwrap();
            assert_eq!((query.category_id, query.page.limit, query.sort), (Some(3), 5, ItemSort::Newest));
            assert!(query.ending_before.is_some() && query.min_price.is_some());
        }
    }

    #[test]
    fn what_cannot_be_is_named() {
        for (body, details) in [
            (json!({"min_price": "-0.01"}), "min_price: must not be below 0"),
            (json!({"min_price": "2.00", "max_price": "1.99"}), "max_price: must not be below min_price"),
            (json!({"limit": 101}), "limit: greater than 100"),
            (json!({"q": "x".repeat(201)}), "q: length is greater than 200"),
        ] {
            assert_eq!(read(body).unwrap().check().unwrap_err().details.unwrap(), details);
        }
        assert!(read(json!({"min_price": "2.0", "max_price": "2.00"})).unwrap().check().is_ok());
    }

    #[test]
    fn facets_are_counted_when_asked_for() {
        for (body, expected) in [
            (json!({}), false),
            (json!({"facets": true}), true),
            (json!({"facets": "true"}), true),
            (json!({"facets": "false"}), false),
        ] {
            assert_eq!(read(body).unwrap().facets, expected);
        }
        for facets in ["", "yes"] {
            let error = read(json!({"facets": facets})).unwrap_err().to_string();
            assert_eq!(error, "facets: expected true or false");
        }
    }

    #[test]
    fn a_word_that_is_not_known_is_answered_with_those_that_are() {
        let sort = read(json!({"sort": "cheap"})).unwrap_err().to_string();
        let status = read(json!({"status": "closed"})).unwrap_err().to_string();

        assert!(sort.contains("`ending_soon`, `newest`, `price_asc`, `price_desc`, `most_bids`"), "{sort}");
        assert!(status.contains("`scheduled`, `open`, `sold`, `unsold`, `cancelled`"), "{status}");
    }
}
