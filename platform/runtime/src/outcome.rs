//! One row for each command that was decided, in the transaction of its effect.
//!
//! A repeated key or a redelivered message finds the row and gets the same answer again. A command that
//! was given up leaves a row too, so that its sender learns of it; whoever sends it again starts afresh.

use std::{collections::HashMap, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sqlx::PgConnection;
use uuid::Uuid;

use crate::{
    Cx, Kind, Result, Timestamp,
    error::Refused,
    function::Spec,
    invoke::{Ask, Delivery, Host, RecallOwn, Recalled},
    wire::{Answer, ErrorBody},
};

/// How long an outcome is kept when the caller gave a key, by which it may ask again.
const KEPT_WITH_KEY: Duration = Duration::from_secs(48 * 3600);
/// How long an outcome is kept when only a redelivery can ask again.
const KEPT_WITHOUT_KEY: Duration = Duration::from_secs(24 * 3600);

/// How far the clock of who promised an outcome and the clock of the stream may be apart.
const CLOCKS: Duration = Duration::from_secs(60);

/// A command to be decided.
pub(crate) struct Claim {
    pub(crate) id: Uuid,
    pub(crate) user: Option<Uuid>,
    pub(crate) fingerprint: Option<Uuid>,
}

/// Claims commands. Returns the answers of those that were decided before.
///
/// Waits for other transactions that hold the same claim, so two never run at once.
pub(crate) async fn claim(
    tx: &mut PgConnection,
    spec: &Spec,
    claims: &[Claim],
) -> Result<HashMap<Uuid, Recalled>> {
    let now = Timestamp::now();
    let ids: Vec<Uuid> = claims.iter().map(|claim| claim.id).collect();
    let users: Vec<Option<Uuid>> = claims.iter().map(|claim| claim.user).collect();
    let prints: Vec<Option<Uuid>> = claims.iter().map(|claim| claim.fingerprint).collect();
    // Sorted, so that two batches with the same keys cannot wait for each other.
    let claimed = sqlx::query_scalar!(
        r#"
        insert into platform.outcome (id, function, user_id, fingerprint, expires_at)
        select id, $4, user_id, fingerprint, case when fingerprint is null then $5::timestamptz else $6::timestamptz end
        from unnest($1::uuid[], $2::uuid[], $3::uuid[]) as claim (id, user_id, fingerprint)
        order by id
        on conflict (id) do update
            set fingerprint = excluded.fingerprint, status = null, body = null, expires_at = excluded.expires_at
            where outcome.status >= 500
        returning id
        "#,
        &ids,
        &users as &[Option<Uuid>],
        &prints as &[Option<Uuid>],
        spec.name,
        now + KEPT_WITHOUT_KEY,
        now + KEPT_WITH_KEY,
    )
    .fetch_all(&mut *tx)
    .await?;
    if claimed.len() == ids.len() {
        return Ok(HashMap::new());
    }
    let rest: Vec<Uuid> = ids.into_iter().filter(|id| !claimed.contains(id)).collect();
    recall(tx, &rest).await
}

/// The answers given to these commands.
pub(crate) async fn recall(tx: &mut PgConnection, ids: &[Uuid]) -> Result<HashMap<Uuid, Recalled>> {
    let rows = sqlx::query!(
        r#"
        select id, fingerprint, status as "status!", body as "body!"
        from platform.outcome where id = any($1) and status is not null
        "#,
        ids,
    )
    .fetch_all(tx)
    .await?;
    let recalled = rows.into_iter().map(|row| {
        let answer = Answer {
            status: u16::try_from(row.status).unwrap_or(500),
            body: Bytes::from(row.body),
            replayed: true,
        };
        (row.id, Recalled { fingerprint: row.fingerprint, answer })
    });
    Ok(recalled.collect())
}

/// Notes that a command was given up, unless it has been decided.
pub(crate) async fn fail(
    connection: &mut PgConnection,
    spec: &Spec,
    id: Uuid,
    user: Option<Uuid>,
    answer: &Answer,
) -> Result<()> {
    sqlx::query!(
        r#"
        insert into platform.outcome (id, function, user_id, status, body, expires_at)
        values ($1, $2, $3, $4, $5, $6) on conflict (id) do nothing
        "#,
        id,
        spec.name,
        user,
        i16::try_from(answer.status).unwrap_or(i16::MAX),
        String::from_utf8_lossy(&answer.body).into_owned(),
        Timestamp::now() + KEPT_WITH_KEY,
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Writes the answers beside the claims.
pub(crate) async fn store(tx: &mut PgConnection, answers: &[(Uuid, &Answer)]) -> Result<()> {
    let mut ids = Vec::with_capacity(answers.len());
    let mut statuses = Vec::with_capacity(answers.len());
    let mut bodies = Vec::with_capacity(answers.len());
    for (id, answer) in answers {
        ids.push(*id);
        statuses.push(i16::try_from(answer.status).unwrap_or(i16::MAX));
        bodies.push(String::from_utf8_lossy(&answer.body).into_owned());
    }
    sqlx::query!(
        r#"
        update platform.outcome set status = answer.status, body = answer.body
        from unnest($1::uuid[], $2::smallint[], $3::text[]) as answer (id, status, body)
        where outcome.id = answer.id
        "#,
        &ids,
        &statuses,
        &bodies,
    )
    .execute(tx)
    .await?;
    Ok(())
}

/// What became of a command, as its sender is told later.
#[derive(Debug, Serialize, Deserialize)]
pub struct CommandOutcome {
    /// Where it stands.
    pub status: CommandStatus,
    /// The reply, when it succeeded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<Box<RawValue>>,
    /// Why not, when it was refused or failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Box<RawValue>>,
}

/// Where a command stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CommandStatus {
    /// In the stream, not decided.
    Pending,
    /// Done.
    Succeeded,
    /// A rule said no.
    Refused,
    /// Given up: it is among the dead letters.
    Failed,
}

/// Asks what became of a command of a domain's function.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct OutcomeOf {
    pub(crate) function: String,
    pub(crate) id: Uuid,
    /// When its sender was told that it is stored.
    pub(crate) issued: Timestamp,
}

/// Tells what became of a domain's commands.
pub(crate) struct Outcomes {
    /// Reads the rows of a function that keeps its outcomes itself.
    pub(crate) own: Arc<dyn RecallOwn>,
}

impl Outcomes {
    async fn find(&self, cx: &mut Cx, id: Uuid) -> Result<Option<Answer>> {
        // Its own rows first: a command that was given up may have been driven again since.
        if let Some(recalled) = self.own.recall(cx, vec![id]).await?.remove(&id) {
            return Ok(Some(recalled.answer));
        }
        Ok(recall(cx.tx().await?, &[id]).await?.remove(&id).map(|recalled| recalled.answer))
    }

    async fn tell(&self, host: &Host, request: &Delivery) -> Result<CommandOutcome> {
        let of: OutcomeOf =
            serde_json::from_slice(&request.body).map_err(|error| Refused::malformed(error.to_string()))?;
        let mut cx = host.reading(request);
        let is_kept = cx.now().since(of.issued) <= KEPT_WITH_KEY;
        // A failure is no last word yet: whoever sends the command again starts afresh.
        if let Some(answer) = self.find(&mut cx, of.id).await?.filter(|answer| is_kept && answer.status < 500)
        {
            return told(&answer);
        }
        // A decided command is stored no longer. One that is stored and came later says nothing of this one.
        let oldest = cx.bus()?.oldest(&format!("cmd.{}.{}.>", host.spec().domain, of.function)).await?;
        if oldest.is_some_and(|oldest| oldest <= of.issued + CLOCKS) {
            return Ok(CommandOutcome { status: CommandStatus::Pending, result: None, error: None });
        }
        // It does not wait, so it has been decided by now, or so long ago that it is forgotten.
        match self.find(&mut cx, of.id).await?.filter(|_| is_kept) {
            Some(answer) => told(&answer),
            None => {
                Err(Refused::new(Kind::NotFound, "NOT_FOUND", "there is no such command any more").into())
            }
        }
    }
}

fn told(answer: &Answer) -> Result<CommandOutcome> {
    if answer.is_accepted() {
        let result = Some(serde_json::from_slice(&answer.body)?);
        return Ok(CommandOutcome { status: CommandStatus::Succeeded, result, error: None });
    }
    let status = if answer.status < 500 { CommandStatus::Refused } else { CommandStatus::Failed };
    let body: ErrorBody<Box<RawValue>> = serde_json::from_slice(&answer.body)?;
    Ok(CommandOutcome { status, result: None, error: Some(body.error) })
}

impl Ask for Outcomes {
    fn ask<'a>(&'a self, host: &'a Host, request: &'a Delivery) -> BoxFuture<'a, Result<Answer>> {
        Box::pin(async move { Ok(Answer::accepted(&self.tell(host, request).await?)?) })
    }
}
