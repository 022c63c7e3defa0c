//! The words on the bus: commands and queries with their replies, events, ids and money.
//!
//! One module for each domain. Nothing here does anything: no database, no clock, no network.

pub mod auctions;
pub mod catalog;
pub mod cursor;
pub mod events;
mod id;
pub mod identity;
pub mod if_match;
pub mod money;
pub mod page;
pub mod stats;

pub use id::{BidId, ItemId, ProductId, SessionId};
pub use money::{Amount, Currency, Money};
pub use page::Page;
pub use platform::{Role, Timestamp, UserId};
