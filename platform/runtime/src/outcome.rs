//! One row for each command that was decided, in the transaction of its effect.
//!
//! A repeated key or a redelivered message finds the row and gets the same answer again.

use std::{collections::HashMap, time::Duration};

use bytes::Bytes;
use sqlx::PgConnection;
use uuid::Uuid;

use crate::{Result, Timestamp, function::Spec, invoke::Recalled, wire::Answer};

/// How long an outcome is kept when the caller gave a key, by which it may ask again.
const KEPT_WITH_KEY: Duration = Duration::from_secs(48 * 3600);
/// How long an outcome is kept when only a redelivery can ask again.
const KEPT_WITHOUT_KEY: Duration = Duration::from_secs(24 * 3600);

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
        on conflict (id) do nothing
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
