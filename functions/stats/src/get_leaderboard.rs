//! `get-leaderboard`: who has most of something?

use contracts::{
    UserId, page,
    stats::{GetLeaderboard, Leader, Leaderboard, Measure},
};
use platform::{Cx, Function, Result};
use uuid::Uuid;

use crate::figures;

/// Queries of [`GetLeaderboard`].
pub fn function() -> Function {
    Function::query(get_leaderboard).caches()
}

async fn get_leaderboard(cx: &mut Cx, GetLeaderboard { by, limit }: GetLeaderboard) -> Result<Leaderboard> {
    // A measure's whole board is one entry, however many are asked for: all change with each batch of events.
    let leaders = cx.cached(Uuid::from_u128(by as u128))?.or_load(load(cx, by)).await?;
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    Ok(Leaderboard { by, data: leaders.iter().take(limit).cloned().collect() })
}

/// The first hundred.
async fn load(cx: &mut Cx, by: Measure) -> Result<Vec<Leader>> {
    // Nobody who has more is not among the leaders, so the ranks among them are the ranks among all.
    let leaders = sqlx::query!(
        r#"
        select user_id as "user_id: UserId", rank() over (order by value desc) as "rank!"
        from leaders where measure = $1 order by value desc, user_id limit $2
        "#,
        by.as_str(),
        i64::from(page::MOST),
    )
    .fetch_all(cx.tx().await?)
    .await?;
    let ids: Vec<_> = leaders.iter().map(|leader| leader.user_id.0).collect();
    let mut known = figures::of(cx.tx().await?, &ids).await?;
    let data = leaders.into_iter().filter_map(|leader| {
        let figures = known.remove(&leader.user_id)?;
        Some(Leader { rank: u64::try_from(leader.rank).unwrap_or_default(), figures })
    });
    Ok(data.collect())
}

#[cfg(test)]
mod tests {
    use testing::Harness;

    use super::*;
    use crate::{
        fixtures::{placed, won},
        update_stats,
    };

    fn user(number: u128) -> UserId {
        UserId(Uuid::from_u128(number))
    }

    async fn leaders(app: &Harness, by: Measure, limit: u32) -> Vec<(u64, UserId)> {
        let board = app.ask(&function(), &GetLeaderboard { by, limit }).await.unwrap();
        assert_eq!(board.by, by);
        board.data.iter().map(|leader| (leader.rank, leader.figures.user_id)).collect()
    }

    #[tokio::test]
    async fn each_measure_has_its_own_order_and_equals_share_a_rank() {
        let app = Harness::start(crate::database()).await;
        let bids = [(3, "10"), (3, "10"), (2, "5"), (2, "5"), (4, "90")];
        app.deliver(&update_stats::function(), &bids.map(|(who, amount)| placed(user(who), amount))).await;
        app.deliver(&update_stats::function(), &[won(user(4), "90"), won(user(2), "95")]).await;

        assert_eq!(leaders(&app, Measure::TotalBids, 20).await, [(1, user(2)), (1, user(3)), (3, user(4))]);
        assert_eq!(leaders(&app, Measure::TotalAmount, 2).await, [(1, user(4)), (2, user(3))]);
        assert_eq!(leaders(&app, Measure::ItemsWon, 20).await, [(1, user(2)), (1, user(4))]);
        assert_eq!(leaders(&app, Measure::TotalSpent, 1).await, [(1, user(2))]);
        // The seller of both.
        assert_eq!(leaders(&app, Measure::ItemsSold, 20).await, [(1, user(1))]);
    }

    /// Many users in batches, against an order made of all figures.
    #[tokio::test]
    async fn the_leaders_are_those_of_all_figures_however_they_came() {
        let app = Harness::start(crate::database()).await;
        // Everybody bids as often as a fixed but wild rule says, some rise late from far behind.
        let mut turns: Vec<u128> =
            (0..3_000_u128).map(|n| 1_000 + ((n * 2_654_435_761 % 4_294_967_296) >> 8) % 450).collect();
        turns.extend((0..400_u128).map(|n| 1_000 + (n * 31) % 40));
        for batch in turns.chunks(150) {
            let bids: Vec<_> = batch.iter().map(|who| placed(user(*who), "1")).collect();
            app.deliver(&update_stats::function(), &bids).await;
        }

        let mut counts = std::collections::BTreeMap::new();
        turns.iter().for_each(|who| *counts.entry(user(*who)).or_insert(0_u64) += 1);
        let mut all: Vec<_> =
            counts.into_iter().map(|(who, count)| (std::cmp::Reverse(count), who)).collect();
        all.sort_unstable();
        let expected: Vec<_> = all.iter().take(100).map(|(_, who)| *who).collect();
        for by in [Measure::TotalBids, Measure::TotalAmount] {
            let seen: Vec<_> = leaders(&app, by, 100).await.into_iter().map(|(_, who)| who).collect();
            assert_eq!(seen, expected);
        }
        assert!(all.len() > 300, "{} users", all.len());
        let kept =
            sqlx::query_scalar!(r#"select count(*) as "count!" from leaders where measure = 'total_bids'"#);
        assert!(kept.fetch_one(app.pool()).await.unwrap() <= 350, "the others are tidied away");
    }

    #[tokio::test]
    async fn the_same_users_in_two_batches_at_once_wait_and_do_not_block() {
        let app = Harness::start(crate::database()).await;
        let batch = |salt: u128| -> Vec<_> {
            (0..300_u128).map(|n| placed(user(1 + (n * salt) % 250), "1")).collect()
        };
        let (first, second, third) = (batch(7), batch(11), batch(13));
        let function = update_stats::function();

        for _ in 0..3 {
            let done = tokio::join!(
                app.deliver(&function, &first),
                app.deliver(&function, &second),
                app.deliver(&function, &third)
            );
            for verdicts in [done.0, done.1, done.2] {
                assert!(verdicts.iter().all(|verdict| *verdict == platform::Verdict::Done), "{verdicts:?}");
            }
        }
        let board = app.ask(&self::function(), &GetLeaderboard { by: Measure::TotalBids, limit: 100 }).await;
        let ids: Vec<_> = board.unwrap().data.iter().map(|leader| leader.figures.user_id.0).collect();
        let expected = sqlx::query_scalar!(
            "select user_id from user_figures order by total_bids desc, user_id limit 100"
        );
        assert_eq!(ids, expected.fetch_all(app.pool()).await.unwrap());
    }

    #[tokio::test]
    async fn what_is_kept_is_let_go_of_with_each_batch() {
        let (_nats, bus) = testing::bus().await;
        let app = Harness::start(crate::database()).await.with_bus(bus);
        app.deliver(&update_stats::function(), &[placed(user(2), "10")]).await;
        app.serve(&function()).await;
        let most = |limit| GetLeaderboard { by: Measure::TotalBids, limit };
        assert_eq!(app.kept(&most(1)).await.data.len(), 1);

        for bids in 1..=30 {
            app.deliver(&update_stats::function(), &[placed(user(3), "1")]).await;
            let board = app.served(&most(100)).await.data;
            let three = board.iter().find(|leader| leader.figures.user_id == user(3)).unwrap();
            assert_eq!((three.figures.total_bids, board.len()), (bids, 2));
        }

        let first = app.kept(&most(1)).await.data;
        app.pool().close().await;
        assert_eq!(app.served(&most(1)).await.data, first);
        let all = app.served(&most(100)).await.data;
        assert_eq!((all.len(), all[0].figures.user_id), (2, user(3)), "one entry for all limits");
    }
}
