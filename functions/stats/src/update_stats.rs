//! `update-stats`: keep each user's figures in step with what happens.
//!
//! Reacts to [`UserCreated`], [`BidPlaced`] and [`BidWon`]. Plain additions are safe: the runner counts each event
//! once, in the same transaction.

use std::collections::BTreeMap;

use contracts::{
    Timestamp, UserId,
    auctions::{BidPlaced, BidWon, SnapshotBids},
    identity::{SnapshotUsers, UserCreated},
};
use platform::{Cx, Function, Received, Result};

use uuid::Uuid;

use crate::DOMAIN;

/// How many leaders can be asked for.
const MOST: i64 = contracts::page::MOST as i64;
/// How many more may gather before they are tidied away.
const SLACK: i64 = 100;

platform::hears! {
    /// What figures are made of.
    pub enum Heard {
        /// Begins somebody's figures, with zeros.
        UserCreated(UserCreated),
        /// Counts for its bidder.
        BidPlaced(BidPlaced),
        /// Counts for the winner and for the seller.
        BidWon(BidWon),
    }
}

/// A consumer of [`Heard`].
pub fn function() -> Function {
    Function::events(DOMAIN, "update-stats", update_stats)
        .rebuilt_from::<SnapshotBids>(&["user_figures", "leaders"])
        .and_from::<SnapshotUsers>()
}

async fn update_stats(cx: &mut Cx, events: Vec<Received<Heard>>) -> Result<()> {
    // In the order of the users, so that two batches cannot wait for each other.
    let mut users: BTreeMap<UserId, Change> = BTreeMap::new();
    for event in events {
        match event.message {
            // Whoever bid before this was heard has figures already, and they stay what they are.
            Heard::UserCreated(user) => {
                users.entry(user.user_id).or_default();
            }
            Heard::BidPlaced(bid) => {
                let change = users.entry(bid.bidder_id).or_default();
                change.bids += 1;
                change.bid.push(bid.amount.to_string());
                change.last_bid_at = change.last_bid_at.max(Some(bid.placed_at));
            }
            Heard::BidWon(bid) => {
                let change = users.entry(bid.winner_id).or_default();
                change.won += 1;
                change.spent.push(bid.amount.to_string());
                users.entry(bid.seller_id).or_default().sold += 1;
            }
        }
    }
    add(cx, users).await
}

/// What a batch adds to one user's figures. Amounts stay decimal text until Postgres adds them up
/// exactly: sums of major units know no currency, so no integer fits them all.
#[derive(Default)]
struct Change {
    bids: i64,
    bid: Vec<String>,
    won: i64,
    spent: Vec<String>,
    sold: i64,
    last_bid_at: Option<Timestamp>,
}

async fn add(cx: &mut Cx, users: BTreeMap<UserId, Change>) -> Result<()> {
    let now = cx.now();
    let (mut ids, mut bids, mut won, mut sold, mut last) = (vec![], vec![], vec![], vec![], vec![]);
    let (mut amount_of, mut amounts) = (vec![], vec![]);
    let (mut spent_of, mut spent) = (vec![], vec![]);
    for (user, change) in users {
        ids.push(user.0);
        bids.push(change.bids);
        won.push(change.won);
        sold.push(change.sold);
        last.push(change.last_bid_at);
        amount_of.extend(std::iter::repeat_n(user.0, change.bid.len()));
        amounts.extend(change.bid);
        spent_of.extend(std::iter::repeat_n(user.0, change.spent.len()));
        spent.extend(change.spent);
    }
    sqlx::query!(
        r#"
        with amount as (
            select user_id, sum(value::numeric) as total
            from unnest($6::uuid[], $7::text[]) as bid (user_id, value) group by user_id
        ), spent as (
            select user_id, sum(value::numeric) as total
            from unnest($8::uuid[], $9::text[]) as win (user_id, value) group by user_id
        )
        insert into user_figures (user_id, total_bids, total_amount, items_won, total_spent, items_sold,
            last_bid_at, updated_at)
        select change.user_id, bids, coalesce(amount.total, 0), won, coalesce(spent.total, 0), sold,
            last_bid_at, $10
        from unnest($1::uuid[], $2::bigint[], $3::bigint[], $4::bigint[], $5::timestamptz[])
            as change (user_id, bids, won, sold, last_bid_at)
            left join amount using (user_id) left join spent using (user_id)
        order by change.user_id
        on conflict (user_id) do update set
            total_bids = user_figures.total_bids + excluded.total_bids,
            total_amount = user_figures.total_amount + excluded.total_amount,
            items_won = user_figures.items_won + excluded.items_won,
            total_spent = user_figures.total_spent + excluded.total_spent,
            items_sold = user_figures.items_sold + excluded.items_sold,
            last_bid_at = greatest(user_figures.last_bid_at, excluded.last_bid_at),
            updated_at = excluded.updated_at
        "#,
        &ids,
        &bids,
        &won,
        &sold,
        &last as &[Option<Timestamp>],
        &amount_of,
        &amounts,
        &spent_of,
        &spent,
        now,
    )
    .execute(cx.tx().await?)
    .await?;
    rank(cx, &ids).await
}

/// Puts those users where they belong among the leaders.
async fn rank(cx: &mut Cx, users: &[Uuid]) -> Result<()> {
    // Whoever reaches the hundredth is noted. In the order of the keys, so that two batches cannot wait for each other.
    let came = sqlx::query_scalar!(
        r#"
        insert into leaders as leader (measure, user_id, value)
        select measure, user_id, value
        from user_figures cross join lateral (values
            ('total_bids', total_bids::numeric), ('total_amount', total_amount),
            ('items_won', items_won::numeric), ('total_spent', total_spent),
            ('items_sold', items_sold::numeric)) as figure (measure, value)
            left join lateral (
                select value as least from leaders hundredth where hundredth.measure = figure.measure
                order by hundredth.value desc, hundredth.user_id offset $2 limit 1) as hundredth on true
        where user_id = any($1) and value > 0 and value >= coalesce(least, 0)
        order by user_id, measure
        on conflict (measure, user_id) do update set value = excluded.value where leader.value <> excluded.value
        returning (xmax = 0) as "came!"
        "#,
        users,
        MOST - 1,
    )
    .fetch_all(cx.tx().await?)
    .await?;
    if !came.contains(&true) {
        return Ok(());
    }
    // What somebody else has locked is left for the next time.
    sqlx::query!(
        r#"
        delete from leaders where (measure, user_id) in (
            select measure, user_id from (values
                ('total_bids'), ('total_amount'), ('items_won'), ('total_spent'), ('items_sold')) as each (measure)
                cross join lateral (
                    select user_id from leaders where leaders.measure = each.measure
                    order by value desc, user_id offset $1 for update skip locked) as behind)
        "#,
        MOST + SLACK,
    )
    .execute(cx.tx().await?)
    .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use contracts::stats::UserStats;
    use platform::Verdict;
    use testing::Harness;

    use super::*;
    use crate::fixtures::{SELLER, placed, won};

    const ANN: UserId = UserId(Uuid::from_u128(2));
    const BOB: UserId = UserId(Uuid::from_u128(3));

    async fn figures(app: &Harness, user: UserId) -> UserStats {
        let query = contracts::stats::GetUserStats { user_id: Some(user) };
        app.ask(&crate::get_user_stats::function(), &query).await.unwrap()
    }

    #[tokio::test]
    async fn bids_and_wins_add_up() {
        let app = Harness::start(crate::database()).await;

        app.deliver(&function(), &[placed(ANN, "10.10"), placed(BOB, "20"), placed(ANN, "0.20")]).await;
        app.deliver(&function(), &[placed(ANN, "1.00")]).await;
        app.deliver(&function(), &[won(ANN, "10.10")]).await;

        let (ann, seller) = (figures(&app, ANN).await, figures(&app, SELLER).await);
        assert_eq!((ann.total_bids, ann.total_amount.to_string()), (3, "11.30".into()));
        assert_eq!((ann.items_won, ann.total_spent.to_string()), (1, "10.10".into()));
        assert!(ann.last_bid_at.is_some());
        assert_eq!((seller.items_sold, seller.total_bids, seller.last_bid_at), (1, 0, None));
    }

    #[tokio::test]
    async fn who_registers_has_zeros_and_who_was_faster_keeps_their_figures() {
        let app = Harness::start(crate::database()).await;
        let created = |user_id| {
            let user = UserCreated {
                user_id,
                email: "ann@test.com".into(),
                username: "ann".into(),
                name: "Ann".into(),
                created_at: Timestamp::now(),
            };
            (Uuid::now_v7(), user)
        };
        app.deliver(&function(), &[placed(BOB, "20")]).await;
        assert_eq!(figures(&app, ANN).await.updated_at, None);

        let again = created(ANN);
        for events in [&[again.clone(), created(BOB)][..], &[again]] {
            assert!(app.deliver(&function(), events).await.iter().all(|verdict| *verdict == Verdict::Done));
        }

        let (ann, bob) = (figures(&app, ANN).await, figures(&app, BOB).await);
        assert_eq!((ann.total_bids, ann.total_amount.to_string(), ann.last_bid_at), (0, "0.00".into(), None));
        assert!(ann.updated_at.is_some(), "there is a row");
        assert_eq!((bob.total_bids, bob.total_amount.to_string()), (1, "20.00".into()));
    }

    #[tokio::test]
    async fn an_event_delivered_twice_counts_once() {
        let app = Harness::start(crate::database()).await;
        let bid = placed(ANN, "10");

        let together = app.deliver(&function(), &[bid.clone(), bid.clone()]).await;
        let again = app.deliver(&function(), &[bid]).await;

        assert_eq!((together, again), (vec![Verdict::Done; 2], vec![Verdict::Done]));
        assert_eq!(figures(&app, ANN).await.total_bids, 1);
    }

    #[tokio::test]
    async fn what_is_not_an_event_is_given_up_alone() {
        let app = Harness::start(crate::database()).await;
        let (_, good) = placed(ANN, "10");
        let subject = "events.bid.placed.v1.x";
        let typed_by_hand = app.delivery(subject, &serde_json::json!({ "payload": good }));
        let broken = app.delivery(subject, &serde_json::json!({ "payload": { "amount": 1 } }));

        let verdicts = app.host(&function()).execute(&[broken, typed_by_hand]).await;

        assert!(matches!(&verdicts[0], Verdict::Dead(reason) if reason.starts_with("bid.placed.v1: ")));
        assert_eq!(verdicts[1], Verdict::Done);
        assert_eq!(figures(&app, ANN).await.total_bids, 1);
    }
}
