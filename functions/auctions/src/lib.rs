//! Selling and bidding: an item is offered, takes bids until its end, and is sold to the highest.
//!
//! Promises: a bid counts if the stream stamped it before the end, however late it is decided;
//! bids on one item are decided one after the other; an item closes once, after every bid that
//! counts or when somebody buys it; how far a bidder would go is told to nobody else.

pub mod auction;
pub mod auctions_outcome;
mod bid_rows;
pub mod buy_now;
pub mod cancel_item;
pub mod close_auction;
pub mod close_item;
pub mod create_item;
pub mod delete_item;
pub mod get_item;
mod hammer;
pub mod increments;
mod life;
pub mod list_bids;
pub mod list_changes;
pub mod list_my_bids;
pub mod list_my_items;
pub mod list_watchlist;
pub mod listing;
pub mod place_bid;
pub mod proxy;
pub mod relist_item;
pub mod snapshot_bids;
pub mod snapshot_items;
mod store;
pub mod unwatch_item;
pub mod update_item;
pub mod watch_item;

use platform::{Function, database::Database};
use sqlx::migrate::Migrator;

/// The domain's one word: its database and its subjects.
pub const DOMAIN: &str = "auctions";

static MIGRATIONS: Migrator = sqlx::migrate!("../../migrations/auctions");

/// What this crate deploys, in the order a visitor meets it. One binary each.
pub fn functions() -> Vec<Function> {
    vec![
        create_item::function(),
        get_item::function(),
        place_bid::function(),
        buy_now::function(),
        list_bids::function(),
        list_changes::function(),
        snapshot_items::function(),
        snapshot_bids::function(),
        close_auction::function(),
        watch_item::function(),
        list_watchlist::function(),
        list_my_items::function(),
        unwatch_item::function(),
        list_my_bids::function(),
        update_item::function(),
        delete_item::function(),
        cancel_item::function(),
        relist_item::function(),
        close_item::function(),
        auctions_outcome::function(),
    ]
}

/// Where items and bids live: together, so that a bid locks the row on which it is decided.
pub fn database() -> Database {
    Database { domain: DOMAIN, migrations: &MIGRATIONS }
}
