//! `auctions-outcome`: what became of a command of this domain.
//!
//! For callers who were told 202: pending, succeeded with the reply, refused with the reason, or failed.

use platform::Function;

use crate::{DOMAIN, place_bid};

/// Answers about all commands of the domain; those of `place-bid` are found in its own rows.
pub fn function() -> Function {
    Function::outcomes(DOMAIN, "auctions-outcome", place_bid::recall)
}
