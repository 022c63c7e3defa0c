//! A function that only answers, for the ceiling: the same edge, sender, stream and runner as `place-bid`,
//! and no database behind it. It is on no menu but that of the bench's own platform.

use anyhow::Context;
use contracts::{Amount, ItemId};
use garde::Validate;
use platform::{
    Command, Cx, Function, Message, Recall, Received, Result, provision::Definitions, wire::COMMANDS,
};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::launch::Menu;

/// Say the same back. Shaped like a bid, so that it costs what a bid costs on its way.
#[derive(Debug, Clone, Serialize, Deserialize, Validate)]
pub(crate) struct Echo {
    /// Taken from the path.
    #[garde(skip)]
    pub(crate) item_id: ItemId,
    /// Taken from the body.
    #[garde(skip)]
    pub(crate) amount: Amount,
}

impl Message for Echo {
    /// Whose pool it is given; it never takes a connection from it.
    const DOMAIN: &'static str = auctions::DOMAIN;
    const FUNCTION: &'static str = "echo";
    type Reply = Self;
}

impl Command for Echo {
    fn key(&self) -> String {
        self.item_id.to_string()
    }
}

/// Everything that there is, and the echo.
pub(crate) fn menu() -> Menu {
    Menu {
        functions: || [crate::functions(), vec![function()]].concat(),
        definitions,
        lines: || vec![edge::send::<Echo>(["/api/v1/items/{item_id}/echo"]).bearer().created()],
    }
}

fn function() -> Function {
    Function::recording_command(echo, recall)
}

async fn echo(_: &mut Cx, said: Vec<Received<Echo>>) -> Result<Vec<Result<Echo>>> {
    Ok(said.into_iter().map(|said| Ok(said.message)).collect())
}

/// Nothing is recorded, so nothing is found: a repeated key is a new echo.
async fn recall(_: &mut Cx, _: Vec<Uuid>) -> Result<Recall> {
    Ok(Recall::new())
}

/// With a consumer like that of `place-bid`.
fn definitions() -> anyhow::Result<Definitions> {
    let mut definitions = crate::definitions()?;
    let like = definitions.consumers.iter().find(|(_, consumer)| consumer["name"] == "place-bid");
    let mut consumer = like.context("place-bid has no consumer under nats/")?.1.clone();
    let spec = function().spec().clone();
    let (_, subjects) = spec.consumer().context("an echo is a command")?;
    consumer["name"] = spec.name.into();
    consumer["durable_name"] = spec.name.into();
    consumer["filter_subject"] = subjects.concat().into();
    definitions.consumers.push((COMMANDS.to_owned(), consumer));
    Ok(definitions)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_consumer_allows_what_its_lanes_need() {
        let (stream, consumer) = definitions().unwrap().consumers.pop().unwrap();
        let spec = function().spec().clone();

        assert_eq!((stream.as_str(), &consumer["name"]), (COMMANDS, &"echo".into()));
        assert_eq!(consumer["filter_subject"], "cmd.auctions.echo.*");
        assert_eq!(consumer["max_ack_pending"], serde_json::json!(spec.max_ack_pending()));
    }
}
