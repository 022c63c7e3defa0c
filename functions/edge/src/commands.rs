//! What became of a command whose answer came too late: `/api/v1/commands/{id}`, for its owner alone.

use axum::{
    extract::Request,
    response::{IntoResponse, Response},
};
use platform::{CommandOutcome, CommandStatus};
use serde::Serialize;
use serde_json::value::RawValue;

use crate::{App, exchange, problem::Problem};

/// As it is shown.
#[derive(Serialize)]
struct Shown<'a> {
    id: &'a str,
    status: CommandStatus,
    #[serde(skip_serializing_if = "Option::is_none")]
    result: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<Box<RawValue>>,
}

/// Asks the domain that the command's name names. A name that this platform did not give, and one that
/// belongs to somebody else, name nothing.
pub(crate) async fn show(app: &App, request: Request) -> Result<Response, Problem> {
    let (mut parts, _) = request.into_parts();
    let caller = app.auth.caller(&parts.headers, true).await?.map(|caller| caller.id);
    let path = exchange::path(&mut parts).await?;
    let token = path.iter().next().map(|(_, token)| token).unwrap_or_default();
    let named = app.commands.read(token).filter(|named| named.owner.is_none() || named.owner == caller);
    let named = named.ok_or_else(Problem::not_found)?;
    let trace = exchange::trace(&mut parts);
    let asked =
        app.sender.bus().outcome(&named.domain, &named.function, named.id, named.issued, &trace).await;
    let answer = asked.map_err(|error| {
        tracing::warn!(function = named.function, %error, "outcome not answered");
        Problem::unavailable()
    })?;
    if !answer.is_accepted() {
        return Err(answer.into());
    }
    let CommandOutcome { status, result, error } =
        serde_json::from_slice(&answer.body).map_err(|_| Problem::internal())?;
    Ok(axum::Json(Shown { id: token, status, result, error }).into_response())
}
