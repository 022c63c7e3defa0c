//! The catalogue: categories, products, and the searchable listing of items.
//!
//! Of categories and products this domain is the authority. Promises: categories are a tree, whoever moves them at once;
//! what a product or a category refers to is there.
//!
//! The listing is what the events tell of items. Promises: whatever the order and however often events arrive, it
//! ends up with the newest of each; pages neither repeat nor skip items because others changed; any text may be
//! searched for. It follows the auctions by a moment, as the number of products in a category follows the products.

pub mod catalog_outcome;
pub mod count_products;
pub mod create_category;
pub mod create_product;
pub mod delete_category;
pub mod delete_product;
mod facets;
#[cfg(test)]
mod fixtures;
pub mod get_category;
pub mod get_product;
mod goods;
pub mod list_categories;
pub mod list_items;
pub mod list_products;
#[cfg(test)]
mod scale;
pub mod snapshot_products;
mod store;
pub mod update_catalog;
pub mod update_category;
pub mod update_product;
mod words;

use platform::{Function, database::Database};
use sqlx::migrate::Migrator;

/// The domain's one word: its database and its subjects.
pub const DOMAIN: &str = "catalog";

static MIGRATIONS: Migrator = sqlx::migrate!("../../migrations/catalog");

/// What this crate deploys, in the order a visitor meets it. One binary each.
pub fn functions() -> Vec<Function> {
    vec![
        update_catalog::function(),
        list_items::function(),
        create_category::function(),
        list_categories::function(),
        get_category::function(),
        update_category::function(),
        delete_category::function(),
        create_product::function(),
        list_products::function(),
        get_product::function(),
        update_product::function(),
        delete_product::function(),
        count_products::function(),
        snapshot_products::function(),
        catalog_outcome::function(),
    ]
}

/// Where categories, products and the listing live.
pub fn database() -> Database {
    Database { domain: DOMAIN, migrations: &MIGRATIONS }
}
