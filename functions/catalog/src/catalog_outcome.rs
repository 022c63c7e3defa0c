//! `catalog-outcome`: what became of a command of this domain.
//!
//! For callers who were told 202: pending, succeeded with the reply, refused with the reason, or failed.

use platform::{Cx, Function, Recall, Result};
use uuid::Uuid;

use crate::DOMAIN;

/// Answers about all commands of the domain.
pub fn function() -> Function {
    Function::outcomes(DOMAIN, "catalog-outcome", recall)
}

/// No function of this domain keeps its answers in rows of its own.
async fn recall(_cx: &mut Cx, _commands: Vec<Uuid>) -> Result<Recall> {
    Ok(Recall::new())
}
