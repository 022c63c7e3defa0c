//! What is said about products: what a shop sells at a price of its own, without an auction.

use garde::Validate;
use platform::{Command, Event, Message, Query, Refused, Timestamp, UserId, replay::SnapshotPage};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::categories::{said, storable, words};
use crate::{
    Amount, Currency, Page, ProductId,
    auctions::{image_url, positive},
    page::PageQuery,
};

/// The most percent that a discount may take.
const MOST_DISCOUNT: u8 = 70;
/// The most that may be in stock.
const MOST_STOCK: i64 = 1_000_000_000;

/// Put a product up for sale.
#[derive(Debug, Clone, Serialize, Deserialize, Validate)]
pub struct CreateProduct {
    /// What it is.
    #[garde(length(chars, max = 200), custom(words))]
    pub name: String,
    /// What its shop calls it; no other product is called so.
    #[serde(default)]
    #[garde(inner(custom(shop_word)))]
    pub sku: Option<String>,
    /// More about it.
    #[serde(default)]
    #[garde(length(chars, max = 10_000), custom(storable))]
    pub description: String,
    /// What it costs without the discount.
    #[garde(custom(positive))]
    pub price: Amount,
    /// What it is sold in.
    #[serde(default, alias = "currencyCode")]
    #[garde(skip)]
    pub currency: Currency,
    /// How many percent are taken off the price.
    #[serde(default)]
    #[garde(range(max = MOST_DISCOUNT))]
    pub discount: u8,
    /// Which shop sells it.
    #[garde(length(chars, max = 200), custom(words))]
    pub store: String,
    /// Pictures, at most ten.
    #[serde(default, alias = "imageUrls")]
    #[garde(length(max = 10), inner(custom(image_url)))]
    pub image_urls: Vec<String>,
    /// Its category.
    #[serde(default, alias = "categoryId")]
    #[garde(skip)]
    pub category_id: Option<i64>,
    /// How many there are.
    #[serde(default)]
    #[garde(range(min = 0, max = MOST_STOCK))]
    pub stock: i64,
}

impl Message for CreateProduct {
    const DOMAIN: &'static str = "catalog";
    const FUNCTION: &'static str = "create-product";
    type Reply = Product;
}

impl Command for CreateProduct {}

/// Show a product as it is now.
#[derive(Debug, Clone, Serialize, Deserialize, Validate)]
pub struct GetProduct {
    /// Which: its id, or its sku, which is never a UUID.
    #[serde(alias = "productId")]
    #[garde(skip)]
    pub product_id: String,
}

impl Message for GetProduct {
    const DOMAIN: &'static str = "catalog";
    const FUNCTION: &'static str = "get-product";
    type Reply = Product;
}

impl Query for GetProduct {}

/// Find products, the newest first.
#[derive(Debug, Clone, Default, Serialize, Deserialize, Validate)]
pub struct ListProducts {
    /// Words of the name or the description: all of them, `"a phrase"`, `this or that`, `-not this`.
    #[serde(default)]
    #[garde(length(chars, max = 200))]
    pub q: Option<String>,
    /// Of this shop, in whatever case.
    #[serde(default)]
    #[garde(length(chars, max = 200), inner(custom(storable)))]
    pub store: Option<String>,
    /// Of this category, without its parts.
    #[serde(default, alias = "categoryId")]
    #[garde(skip)]
    pub category_id: Option<i64>,
    /// Which part of the list.
    #[serde(flatten)]
    #[garde(skip)]
    pub page: PageQuery,
}

impl Message for ListProducts {
    const DOMAIN: &'static str = "catalog";
    const FUNCTION: &'static str = "list-products";
    type Reply = Page<Product>;

    /// Under the names that callers use: they see no `page` around its members.
    fn check(&self) -> Result<(), Refused> {
        platform::wire::check(self)?;
        platform::wire::check(&self.page)
    }
}

impl Query for ListProducts {}

/// Change a product. What is not said stays as it is.
#[derive(Debug, Clone, Serialize, Deserialize, Validate)]
pub struct UpdateProduct {
    /// Which.
    #[garde(skip)]
    pub product_id: ProductId,
    /// What it is.
    #[serde(default)]
    #[garde(inner(length(chars, max = 200)), inner(custom(words)))]
    pub name: Option<String>,
    /// What its shop calls it; null for nothing.
    #[serde(default, deserialize_with = "said", skip_serializing_if = "Option::is_none")]
    #[garde(inner(inner(custom(shop_word))))]
    pub sku: Option<Option<String>>,
    /// More about it.
    #[serde(default)]
    #[garde(inner(length(chars, max = 10_000)), inner(custom(storable)))]
    pub description: Option<String>,
    /// What it costs without the discount.
    #[serde(default)]
    #[garde(inner(custom(positive)))]
    pub price: Option<Amount>,
    /// What it is sold in.
    #[serde(default, alias = "currencyCode")]
    #[garde(skip)]
    pub currency: Option<Currency>,
    /// How many percent are taken off the price.
    #[serde(default)]
    #[garde(inner(range(max = MOST_DISCOUNT)))]
    pub discount: Option<u8>,
    /// Which shop sells it.
    #[serde(default)]
    #[garde(inner(length(chars, max = 200)), inner(custom(words)))]
    pub store: Option<String>,
    /// Pictures, at most ten, in the place of those that are there.
    #[serde(default, alias = "imageUrls")]
    #[garde(inner(length(max = 10)), inner(inner(custom(image_url))))]
    pub image_urls: Option<Vec<String>>,
    /// Its category; null for none.
    #[serde(
        default,
        alias = "categoryId",
        deserialize_with = "said",
        skip_serializing_if = "Option::is_none"
    )]
    #[garde(skip)]
    pub category_id: Option<Option<i64>>,
    /// How many there are.
    #[serde(default)]
    #[garde(inner(range(min = 0, max = MOST_STOCK)))]
    pub stock: Option<i64>,
    /// Only if this is still its version.
    #[serde(default)]
    #[garde(skip)]
    pub if_match: Option<i64>,
}

impl Message for UpdateProduct {
    const DOMAIN: &'static str = "catalog";
    const FUNCTION: &'static str = "update-product";
    type Reply = Product;
}

impl Command for UpdateProduct {
    fn key(&self) -> String {
        self.product_id.to_string()
    }
}

/// Take a product out of the catalogue.
#[derive(Debug, Clone, Serialize, Deserialize, Validate)]
pub struct DeleteProduct {
    /// Which.
    #[garde(skip)]
    pub product_id: ProductId,
    /// Only if this is still its version.
    #[serde(default)]
    #[garde(skip)]
    pub if_match: Option<i64>,
}

impl Message for DeleteProduct {
    const DOMAIN: &'static str = "catalog";
    const FUNCTION: &'static str = "delete-product";
    type Reply = ();
}

impl Command for DeleteProduct {
    fn key(&self) -> String {
        self.product_id.to_string()
    }
}

/// Tell every product as it is now, page by page: for projections that are made anew.
#[derive(Debug, Clone, Default, Serialize, Deserialize, Validate)]
pub struct SnapshotProducts {
    /// Where the page before ended.
    #[serde(default)]
    #[garde(skip)]
    pub after: Option<String>,
}

impl Message for SnapshotProducts {
    const DOMAIN: &'static str = "catalog";
    const FUNCTION: &'static str = "snapshot-products";
    type Reply = SnapshotPage;
}

impl Query for SnapshotProducts {}

/// A product.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Product {
    /// Which.
    pub id: ProductId,
    /// Who put it up for sale.
    pub owner_id: UserId,
    /// What it is.
    pub name: String,
    /// What its shop calls it.
    pub sku: Option<String>,
    /// More about it.
    pub description: String,
    /// Of all amounts.
    pub currency: Currency,
    /// What it costs without the discount.
    pub price: Amount,
    /// How many percent are taken off the price.
    pub discount: u8,
    /// What it costs: the price without the discount, to the nearest minor unit; half of one is rounded up.
    pub final_price: Amount,
    /// Which shop sells it.
    pub store: String,
    /// Pictures.
    pub image_urls: Vec<String>,
    /// Its category.
    pub category_id: Option<i64>,
    /// How many there are.
    pub stock: i64,
    /// Grows with every change.
    pub version: i64,
    /// When it was put up for sale.
    pub created_at: Timestamp,
    /// When it changed last.
    pub updated_at: Timestamp,
}

/// The whole state of a product, as the `product.*` events carry it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ProductState {
    /// Which.
    pub product_id: ProductId,
    /// Grows with every `product.*` event of the product: the newer state wins.
    pub version: i64,
    /// Who put it up for sale.
    pub owner_id: UserId,
    /// What it is.
    pub name: String,
    /// What its shop calls it.
    pub sku: Option<String>,
    /// More about it.
    pub description: String,
    /// Of all amounts.
    pub currency: Currency,
    /// What it costs without the discount.
    pub price: Amount,
    /// How many percent are taken off the price.
    pub discount: u8,
    /// What it costs.
    pub final_price: Amount,
    /// Which shop sells it.
    pub store: String,
    /// Pictures.
    pub image_urls: Vec<String>,
    /// Its category.
    pub category_id: Option<i64>,
    /// How many there are.
    pub stock: i64,
    /// When it was put up for sale.
    pub created_at: Timestamp,
    /// When this happened.
    pub occurred_at: Timestamp,
}

/// There is a new product.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ProductCreated(pub ProductState);

/// A product has changed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ProductUpdated(pub ProductState);

/// A product is gone; this is what it was.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ProductDeleted(pub ProductState);

impl Event for ProductCreated {
    const NAME: &'static str = "product.created.v1";

    fn key(&self) -> Uuid {
        self.0.product_id.0
    }

    fn ordinal(&self) -> i64 {
        self.0.version
    }
}

impl Event for ProductUpdated {
    const NAME: &'static str = "product.updated.v1";

    fn key(&self) -> Uuid {
        self.0.product_id.0
    }

    fn ordinal(&self) -> i64 {
        self.0.version
    }
}

impl Event for ProductDeleted {
    const NAME: &'static str = "product.deleted.v1";

    fn key(&self) -> Uuid {
        self.0.product_id.0
    }

    fn ordinal(&self) -> i64 {
        self.0.version
    }
}

/// Stands in addresses and on labels, and beside ids: so it is short, plain and no UUID.
fn shop_word(text: &str, (): &()) -> garde::Result {
    let is_plain = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
    if !(1..=64).contains(&text.len()) || !is_plain {
        return Err(garde::Error::new("expected 1 to 64 letters, digits, `-`, `_` or `.`"));
    }
    // A path takes these for itself.
    if text.bytes().all(|byte| byte == b'.') {
        return Err(garde::Error::new("must not be dots alone"));
    }
    if Uuid::try_parse(text).is_ok() { Err(garde::Error::new("must not be a UUID")) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// What is wrong with a product that differs so from a good one, in a new one and in a change.
    fn wrong(change: &serde_json::Value) -> (String, String) {
        let mut new = json!({"name": "Lamp", "price": 10, "store": "ABC"});
        new.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        let mut update = change.clone();
        update["product_id"] = json!(ProductId::new());
        let new: CreateProduct = serde_json::from_value(new).unwrap();
        let update: UpdateProduct = serde_json::from_value(update).unwrap();
        let details = |checked: Result<(), Refused>| checked.unwrap_err().details.unwrap();
        (details(new.check()), details(update.check()))
    }

    #[test]
    fn what_cannot_be_is_named_in_a_new_product_and_in_a_change() {
        for (change, details) in [
            (json!({"name": ""}), "name: must not be blank"),
            (json!({"price": 0}), "price: must be above 0"),
            (json!({"price": "-1"}), "price: must be above 0"),
            (json!({"discount": 71}), "discount: greater than 70"),
            (json!({"store": " "}), "store: must not be blank"),
            (json!({"stock": -1}), "stock: lower than 0"),
            (json!({"sku": ""}), "sku: expected 1 to 64 letters"),
            (json!({"sku": "a/b"}), "sku: expected 1 to 64 letters"),
            (json!({"sku": ".."}), "sku: must not be dots alone"),
            (json!({"sku": Uuid::nil()}), "sku: must not be a UUID"),
            (json!({"description": "\0"}), "description: must not contain a NUL"),
            (
                json!({"image_urls": vec!["https://example.com/1"; 11]}),
                "image_urls: length is greater than 10",
            ),
            (
                json!({"imageUrls": ["gopher://example.com"]}),
                "image_urls[0]: expected an http or https address",
            ),
            (
                json!({"image_urls": ["http://u:p@127.0.0.1/"]}),
                "image_urls[0]: expected an http or https address",
            ),
        ] {
            let (of_new, of_change) = wrong(&change);

            assert!(of_new.starts_with(details), "{change}: {of_new}");
            assert!(of_change.starts_with(details), "{change}: {of_change}");
        }
    }

    #[test]
    fn the_seeds_product_is_read() {
        let product: CreateProduct = serde_json::from_str(
            r#"{"name":"AirFryer","price":1000,"description":"Digital air fryer","discount":10,"store":"ABC TECH","category_id":1}"#,
        )
        .unwrap();

        product.check().unwrap();
        assert_eq!((product.category_id, product.stock, product.currency), (Some(1), 0, Currency::USD));
    }

    #[test]
    fn a_change_goes_through_the_stream_as_it_was_said() {
        let id = ProductId::new();
        for body in [json!({}), json!({"sku": null}), json!({"category_id": null, "sku": "a"})] {
            let mut command = body.clone();
            command["product_id"] = json!(id);
            let read: UpdateProduct = serde_json::from_value(command).unwrap();
            let again: UpdateProduct = serde_json::from_value(json!(read)).unwrap();

            assert_eq!((&again.sku, again.category_id), (&read.sku, read.category_id), "{body}");
            assert_eq!(read.sku.is_some(), body.get("sku").is_some(), "{body}");
        }
    }
}
