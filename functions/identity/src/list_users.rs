//! `list-users`: find accounts, the newest first. Administrators see them whole, others what is public of them.

use contracts::{
    Page, cursor,
    identity::{ListUsers, Profile},
    page::{PageInfo, PageQuery},
};
use platform::{Cx, Function, Result, UserId};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::{
    account,
    store::{Account, Row},
    words,
};

/// How far members are counted: an exact number of many is worth less than it costs.
const MOST_COUNTED: i64 = 10_000;
/// The one order there is, as cursors name it. Ids are made in the order of time.
const ORDER: &str = "newest";

/// Queries of [`ListUsers`].
pub fn function() -> Function {
    Function::query(list_users)
}

async fn list_users(cx: &mut Cx, ListUsers { q, page }: ListUsers) -> Result<Page<Profile>> {
    let caller = cx.caller()?;
    let place = Place::of(&page)?;
    let tx = cx.tx().await?;
    let (counted, mut rows) = match q.as_deref().and_then(words::search) {
        None => (count_all(tx).await?, all(tx, &place).await?),
        Some(words) => (count_found(tx, &words).await?, found(tx, &words, &place).await?),
    };
    let limit = usize::try_from(page.limit).unwrap_or(usize::MAX);
    let has_more = rows.len() > limit;
    rows.truncate(limit);
    let next_cursor = match rows.last() {
        Some(last) if has_more => Some(cursor::encode(ORDER, &(), last.id.0)?),
        _ => None,
    };
    let page_info = PageInfo {
        total: u64::try_from(counted.min(MOST_COUNTED)).unwrap_or_default(),
        total_is_capped: counted > MOST_COUNTED,
        limit: page.limit,
        offset: page.offset,
        has_more,
        next_cursor,
    };
    let data = rows.into_iter().map(|row| account::seen_by(caller, Account::from(row).user)).collect();
    Ok(Page { data, page_info })
}

/// Where a page begins, and how long it is: with one more, which tells whether there are more.
struct Place {
    before: Uuid,
    rows: i64,
    offset: i64,
}

impl Place {
    fn of(page: &PageQuery) -> Result<Self> {
        let rows = i64::from(page.limit) + 1;
        let Some(cursor) = &page.cursor else {
            return Ok(Self { before: Uuid::max(), rows, offset: page.offset.into() });
        };
        let ((), before) = cursor::decode(ORDER.to_owned(), cursor)?;
        // A cursor says where to go on: nothing is passed over again.
        Ok(Self { before, rows, offset: 0 })
    }
}

async fn all(tx: &mut PgConnection, place: &Place) -> Result<Vec<Row>> {
    let rows = sqlx::query_as!(
        Row,
        r#"select id as "id: UserId", email, username, name, first_name, last_name, role, is_active, two_factor_enabled,
               version, created_at, updated_at, '' as "password_hash!", false as "is_deleted!"
           from users where deleted_at is null and id < $1 order by id desc limit $2 offset $3"#,
        place.before,
        place.rows,
        place.offset,
    );
    Ok(rows.fetch_all(tx).await?)
}

async fn count_all(tx: &mut PgConnection) -> Result<i64> {
    let counted = sqlx::query_scalar!(
        r#"select count(*) as "counted!" from (select from users where deleted_at is null limit $1) as listed"#,
        MOST_COUNTED + 1,
    );
    Ok(counted.fetch_one(tx).await?)
}

async fn found(tx: &mut PgConnection, words: &str, place: &Place) -> Result<Vec<Row>> {
    // Found first and then put in order: the other way round, a rare word would be a walk through all accounts. One that
    // was deleted has no words.
    let rows = sqlx::query_as!(
        Row,
        r#"with found as materialized (
               select id from users where words @@ $4::text::tsquery
           ), page as materialized (
               select id from found where id < $1 order by id desc limit $2 offset $3
           )
           select id as "id: UserId", email, username, name, first_name, last_name, role, is_active, two_factor_enabled,
               version, created_at, updated_at, '' as "password_hash!", false as "is_deleted!"
           from page join users using (id) order by id desc"#,
        place.before,
        place.rows,
        place.offset,
        words,
    );
    Ok(rows.fetch_all(tx).await?)
}

async fn count_found(tx: &mut PgConnection, words: &str) -> Result<i64> {
    let counted = sqlx::query_scalar!(
        r#"select count(*) as "counted!"
           from (select from users where words @@ $1::text::tsquery limit $2) as found"#,
        words,
        MOST_COUNTED + 1,
    );
    Ok(counted.fetch_one(tx).await?)
}

#[cfg(test)]
mod tests {
    use contracts::identity::Register;
    use platform::Error;
    use serde_json::{Value, json};

    use super::*;
    use crate::fixtures::{App, admin, app, jane, john, person};

    async fn page(app: &testing::Harness, query: Value) -> Page<Profile> {
        let query: ListUsers = serde_json::from_value(query).unwrap();
        app.ask(&function(), &query).await.unwrap()
    }

    fn name(profile: &Profile) -> &str {
        match profile {
            Profile::Whole(user) => &user.username,
            Profile::Public(user) => &user.username,
        }
    }

    /// As they are found by Jane.
    async fn names(app: &App, q: &str) -> Vec<String> {
        let jane = app.as_user(UserId(Uuid::from_u128(7)));
        page(&jane, json!({ "q": q })).await.data.iter().map(|profile| name(profile).to_owned()).collect()
    }

    /// More accounts than somebody could register: named `u<n>`, made one after the other.
    async fn many(app: &App, count: i32) {
        sqlx::query(
            "insert into users (id, email, username, name, first_name, last_name, password_hash, created_at, updated_at, words)
             select ('00000000-0000-7000-8000-' || lpad(to_hex(n), 12, '0'))::uuid, 'u' || n || '@test.com', 'u' || n,
                 'U ' || n, '', '', '', now(), now(), array_to_tsvector(array['u' || n, 'u', n::text])
             from generate_series(1, $1) as n",
        )
        .bind(count)
        .execute(app.pool())
        .await
        .unwrap();
    }

    #[tokio::test]
    async fn each_sees_what_they_may_the_newest_first() {
        let app = app().await;
        let (john, jane, admin) = (person(&app, john()).await, person(&app, jane()).await, admin(&app).await);

        let own = page(&app.as_user(john.id), json!({})).await;
        let admins = page(&app.as_admin(admin.id), json!({})).await;
        let nobody = app.ask(&function(), &ListUsers::default()).await;

        assert_eq!(admins.data, [admin, jane, john.clone()].map(Profile::Whole));
        assert_eq!(own.data[2], Profile::Whole(john));
        let shown = json!(own.data[..2]).to_string();
        assert!(shown.contains("jane") && !shown.contains('@') && !shown.contains("role"), "{shown}");
        assert_eq!((own.page_info.total, own.page_info.has_more), (3, false));
        assert!(matches!(nobody, Err(Error::Refused(refused)) if refused.status == 401));
    }

    #[tokio::test]
    async fn pages_follow_each_other_by_cursor_and_by_offset() {
        let app = app().await;
        many(&app, 45).await;
        let jane = app.as_user(UserId(Uuid::from_u128(7)));
        for q in [None, Some("u")] {
            let whole = page(&jane, json!({ "limit": 100, "q": q })).await;
            assert_eq!((whole.data.len(), whole.page_info.total), (45, 45));
            assert_eq!((name(&whole.data[0]), name(&whole.data[44])), ("u45", "u1"));
            let (mut walked, mut cursor) = (Vec::new(), None);
            loop {
                let next = page(&jane, json!({ "limit": 10, "q": q, "cursor": cursor })).await;
                walked.extend(next.data);
                cursor = next.page_info.next_cursor;
                assert_eq!(cursor.is_some(), next.page_info.has_more);
                if cursor.is_none() {
                    break;
                }
            }
            assert_eq!(walked, whole.data, "{q:?}");
            let skipped = page(&jane, json!({ "limit": 10, "offset": 40, "q": q })).await;
            assert_eq!(skipped.data, whole.data[40..], "{q:?}");
        }
        for wrong in [
            json!({ "cursor": "x" }),
            json!({ "limit": 0 }),
            json!({ "limit": 101 }),
            json!({ "q": "x".repeat(201) }),
        ] {
            let query: ListUsers = serde_json::from_value(wrong.clone()).unwrap();
            let refused = jane.ask(&function(), &query).await;
            assert!(
                matches!(refused, Err(Error::Refused(refused)) if refused.code == "INVALID_INPUT"),
                "{wrong}"
            );
        }
    }

    #[tokio::test]
    async fn people_are_found_by_the_beginnings_of_their_names() {
        let app = app().await;
        person(&app, john()).await;
        let lukasz = Register {
            email: "l@test.com".into(),
            username: Some("Lu.Kasz-7".into()),
            name: Some("ŁUKASZ O'Neil \\ Ω".into()),
            first_name: None,
            last_name: None,
            ..john()
        };
        person(&app, lukasz).await;

        for (q, expected) in [
            ("jo", &["john"][..]),
            ("DOE", &["john"]),
            ("doe jo", &["john"]),
            ("doe lu", &[]),
            ("ohn", &[]),
            ("łuk", &["Lu.Kasz-7"]),
            ("kasz", &["Lu.Kasz-7"]),
            ("lu.kasz", &["Lu.Kasz-7"]),
            ("o'n", &["Lu.Kasz-7"]),
            ("\\", &["Lu.Kasz-7"]),
            ("test.com", &[]),
            ("", &["Lu.Kasz-7", "john"]),
            (" \0 ", &["Lu.Kasz-7", "john"]),
        ] {
            assert_eq!(names(&app, q).await, expected, "{q:?}");
        }
        for odd in
            ["'", "''", "' | 'john", "john:*", "!john", "john & doe", "()", "a\\", "\\'", "💥", "\u{1}"]
        {
            names(&app, odd).await;
        }
        assert_eq!(names(&app, "' | 'john").await, Vec::<String>::new(), "no character means anything");
    }

    #[tokio::test]
    async fn many_are_counted_to_ten_thousand() {
        let app = app().await;
        many(&app, 10_001).await;
        let jane = app.as_user(UserId(Uuid::from_u128(7)));

        let capped = page(&jane, json!({})).await.page_info;
        let one = page(&jane, json!({ "q": "u10001" })).await.page_info;

        assert_eq!((capped.total, capped.total_is_capped, capped.has_more), (10_000, true, true));
        assert_eq!((one.total, one.total_is_capped, one.has_more), (1, false, false));
    }

    /// Each statement is planned once, perhaps when there was nobody yet.
    #[tokio::test]
    async fn indexes_serve_it() {
        let app = app().await;
        let mut tx = app.pool().acquire().await.unwrap();
        let place = Place { before: Uuid::max(), rows: 21, offset: 0 };
        all(&mut tx, &place).await.unwrap();
        count_all(&mut tx).await.unwrap();
        found(&mut tx, "'jo':*", &place).await.unwrap();
        count_found(&mut tx, "'jo':*").await.unwrap();
        crate::store::lock_beside_admins(&mut tx, UserId(Uuid::nil())).await.unwrap();

        let statements = sqlx::query!(
            r#"select name as "name!", statement as "statement!", cardinality(parameter_types) as "parameters!"
               from pg_prepared_statements where statement like '%from users%' and statement not like '%pg_prepared%'"#
        );
        let statements = statements.fetch_all(&mut *tx).await.unwrap();
        assert_eq!(statements.len(), 5);
        for prepared in statements {
            let nulls = vec!["null"; usize::try_from(prepared.parameters).unwrap()].join(", ");
            let explain = sqlx::AssertSqlSafe(format!("explain execute {} ({nulls})", prepared.name));
            let plan: Vec<String> = sqlx::query_scalar(explain).fetch_all(&mut *tx).await.unwrap();
            let plan = plan.join("\n");
            let index = match prepared.statement.as_str() {
                words if words.contains("tsquery") => "user_words",
                admins if admins.contains("'admin'") => "user_admin",
                _ => "user_listed",
            };
            assert!(plan.contains(index) && !plan.contains("Seq Scan"), "{}\n{plan}", prepared.statement);
            let others =
                ["user_words", "user_admin", "user_listed"].into_iter().filter(|other| *other != index);
            assert!(others.into_iter().all(|other| !plan.contains(other)), "{}\n{plan}", prepared.statement);
        }
    }
}
