//! `snapshot-users`: tell every account, for projections that are made anew.
//!
//! As [`UserCreated`], in the order of their ids, with the names that they have now: a deleted one under its pseudonym.

use contracts::identity::{SnapshotUsers, UserCreated};
use platform::{Cx, Function, Refused, Result, Timestamp, UserId, replay::SnapshotPage};
use uuid::Uuid;

/// Queries of [`SnapshotUsers`].
pub fn function() -> Function {
    Function::query(snapshot_users)
}

async fn snapshot_users(cx: &mut Cx, SnapshotUsers { after }: SnapshotUsers) -> Result<SnapshotPage> {
    let after =
        after.map_or(Ok(Uuid::nil()), |after| after.parse().map_err(|_| Refused::unknown_place("after")))?;
    let users = sqlx::query_as!(
        Account,
        r#"select id as "id: UserId", email, username, name, created_at from users where id > $1 order by id limit 1000"#,
        after,
    )
    .fetch_all(cx.tx().await?)
    .await?;
    let mut page = SnapshotPage::default();
    for Account { id, email, username, name, created_at } in users {
        if page.is_full() {
            break;
        }
        page.tell(&UserCreated { user_id: id, email, username, name, created_at })?;
        page.after = Some(id.to_string());
    }
    Ok(page)
}

struct Account {
    id: UserId,
    email: String,
    username: String,
    name: String,
    created_at: Timestamp,
}

#[cfg(test)]
mod tests {
    use contracts::identity::DeleteUser;

    use super::*;
    use crate::{
        delete_user,
        fixtures::{App, app, jane, john, person},
    };

    async fn tell(app: &App) -> Vec<UserCreated> {
        let (mut told, mut after) = (Vec::new(), None);
        loop {
            let page = app.ask(&function(), &SnapshotUsers { after }).await.unwrap();
            told.extend(page.events.iter().map(|told| {
                assert_eq!(told.event, "user.created.v1");
                serde_json::from_str::<UserCreated>(told.payload.get()).unwrap()
            }));
            after = page.after;
            if after.is_none() {
                return told;
            }
        }
    }

    #[tokio::test]
    async fn everybody_is_told_once_and_who_was_deleted_under_a_pseudonym() {
        let app = app().await;
        let (john, jane) = (person(&app, john()).await, person(&app, jane()).await);
        let then = app.emitted::<UserCreated>().await;
        assert_eq!(tell(&app).await, then);

        app.as_user(jane.id).call(&delete_user::function(), &DeleteUser { user_id: jane.id }).await.unwrap();

        let now = tell(&app).await;
        assert_eq!((now.len(), &now[0], now[0].user_id), (2, &then[0], john.id));
        assert_eq!(
            (now[1].user_id, now[1].name.as_str(), now[1].created_at),
            (jane.id, "Deleted user", jane.created_at)
        );
        assert!(!now[1].email.contains("jane"), "{:?}", now[1]);
    }

    #[tokio::test]
    async fn pages_end_before_a_message_is_too_large_and_lose_nobody() {
        let app = app().await;
        sqlx::query(
            "insert into users (id, email, username, name, first_name, last_name, password_hash, created_at, updated_at)
             select gen_random_uuid(), n || '@test.com', 'u' || n, repeat('x', 200), '', '', '', now(), now()
             from generate_series(1, 3210) as n",
        )
        .execute(app.pool())
        .await
        .unwrap();

        let told = tell(&app).await;

        let ids: std::collections::HashSet<Uuid> = told.iter().map(|user| user.user_id.0).collect();
        assert_eq!((told.len(), ids.len()), (3210, 3210));
        let first = app.ask(&function(), &SnapshotUsers::default()).await.unwrap();
        assert!(serde_json::to_vec(&first).unwrap().len() < 900_000);
        let wrong = app.ask(&function(), &SnapshotUsers { after: Some("x".into()) }).await;
        assert!(matches!(wrong, Err(platform::Error::Refused(refused)) if refused.status == 400));
    }
}
