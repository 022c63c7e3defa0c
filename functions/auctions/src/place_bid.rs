//! `place-bid`: take a higher offer on an open item.
//!
//! Works in batches: many offers on many items in one transaction. Emits [`BidPlaced`] for each
//! accepted offer and, directly behind it, [`ItemExtended`] when it moved the end: what is said of an
//! item is in the order of its versions. Refuses as in [`BidRefused`](crate::auction::BidRefused).
//! Every decision, accepted or refused, is a row of `bids`, which is also the outcome of its command
//! and the bid's place in the item's log.

use std::collections::{BTreeSet, HashMap};

use bytes::Bytes;
use contracts::{
    BidId, ItemId,
    auctions::{Bid, BidPlaced, ItemChange, ItemExtended, ItemPrice, ItemState, PlaceBid},
};
use platform::{
    Answer, Cx, Error, Function, Message, Recall, Recalled, Received, Refused, Result,
    metrics::{Counter, Delay},
};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::{
    auction::{Auction, NoItem},
    store::{self, Whole},
};

static BIDS: Counter = Counter {
    name: "bids_total",
    help: "Bids that were decided: accepted, or the code of the refusal.",
    label: "result",
};
static ACCEPT: Delay = Delay {
    name: "bid_accept_seconds",
    help: "From the stream's stamp of an accepted bid to the commit of its decision.",
};

/// Commands of [`PlaceBid`].
pub fn function() -> Function {
    Function::recording_command(place_bid, recall)
        .emits::<BidPlaced>()
        .emits::<ItemExtended>()
        .counts(&BIDS)
        .times(&ACCEPT)
}

async fn place_bid(cx: &mut Cx, offers: Vec<Received<PlaceBid>>) -> Result<Vec<Result<Bid>>> {
    let ids: BTreeSet<Uuid> = offers.iter().map(|offer| offer.message.item_id.0).collect();
    let ids: Vec<Uuid> = ids.into_iter().collect();
    // The row locks put bids on one item in a queue; batches with different items never wait.
    let mut auctions = store::lock_auctions(cx.tx().await?, &ids).await?;
    let decisions: Vec<Result<Decided, Refused>> =
        offers.iter().map(|offer| decide(&mut auctions, offer)).collect();
    record(cx.tx().await?, &offers, &decisions).await?;
    update(cx.tx().await?, &auctions, &decisions).await?;
    let mut extensions = extensions(cx, &decisions).await?.into_iter();
    for (offer, decision) in offers.iter().zip(&decisions) {
        cx.count(&BIDS, decision.as_ref().map_or_else(Refused::label, |_| "accepted"), 1)?;
        let Ok(decided) = decision else { continue };
        cx.time(&ACCEPT, offer.received_at)?;
        offer.emit(&decided.event)?;
        if decided.moved.is_some()
            && let Some(extended) = extensions.next()
        {
            offer.emit(&ItemExtended(extended))?;
        }
    }
    Ok(decisions.into_iter().map(|decision| decision.map(|d| d.bid).map_err(Error::from)).collect())
}

/// An accepted offer: the answer, and what is told to others.
struct Decided {
    bid: Bid,
    minor: i64,
    event: BidPlaced,
    /// The item as of this bid, when the bid moved its end.
    moved: Option<Box<Auction>>,
}

/// Asks the rules, and lets the next offer of the batch see the result.
fn decide(auctions: &mut HashMap<ItemId, Auction>, offer: &Received<PlaceBid>) -> Result<Decided, Refused> {
    let PlaceBid { item_id, amount } = offer.message;
    let bidder = offer.caller()?.id;
    offer.message.check()?;
    let auction = auctions.get_mut(&item_id).ok_or(NoItem)?;
    let (id, placed_at) = (BidId::new(), offer.received_at);
    let accepted = auction.bid(id, bidder, amount, placed_at)?;
    let price = auction.current_price();
    let item = ItemPrice {
        current_price: price.into(),
        min_next_bid: auction.minimum_bid().into(),
        bid_count: auction.bid_count,
        ends_at: auction.ends_at,
        version: auction.version(),
    };
    let event = BidPlaced {
        bid_id: id,
        item_id,
        seller_id: auction.seller,
        bidder_id: bidder,
        outbid_id: accepted.outbid,
        amount: price.into(),
        currency: auction.currency,
        seq: accepted.seq,
        // An end that moved is a change of its own.
        version: item.version - i64::from(accepted.extended),
        ends_at: Some(item.ends_at),
        placed_at,
        current_price: item.current_price,
        min_next_bid: item.min_next_bid,
        reserve_met: auction.reserve_met(),
    };
    let bid = Bid {
        id,
        item_id,
        bidder_id: bidder,
        amount: price.into(),
        seq: accepted.seq,
        placed_at,
        leading: true,
        item: Some(item),
    };
    let moved = accepted.extended.then(|| Box::new(auction.clone()));
    Ok(Decided { bid, minor: price.minor, event, moved })
}

/// Writes every decision, with the answer that a repetition gets.
async fn record(
    tx: &mut PgConnection,
    offers: &[Received<PlaceBid>],
    decisions: &[Result<Decided, Refused>],
) -> Result<()> {
    let mut rows = Rows::default();
    for (offer, decision) in offers.iter().zip(decisions) {
        let (answer, decided) = match decision {
            Ok(decided) => (Answer::accepted(&decided.bid)?, Some(decided)),
            Err(refused) => (Answer::refused(refused), None),
        };
        rows.command_ids.push(offer.id);
        rows.fingerprints.push(offer.fingerprint);
        rows.ids.push(decided.map_or_else(Uuid::now_v7, |decided| decided.bid.id.0));
        rows.items.push(offer.message.item_id.0);
        rows.bidders.push(offer.caller.map(|caller| caller.id.0));
        rows.amounts.push(decided.map(|decided| decided.minor));
        rows.seqs.push(decided.map(|decided| decided.event.seq));
        rows.versions.push(decided.map(|decided| decided.event.version));
        rows.times.push(offer.received_at);
        rows.statuses.push(i16::try_from(answer.status).unwrap_or(i16::MAX));
        rows.answers.push(String::from_utf8_lossy(&answer.body).into_owned());
    }
    sqlx::query!(
        r#"
        insert into bids (command_id, fingerprint, id, item_id, bidder_id, amount, seq, version, placed_at,
            status, answer)
        select * from unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::uuid[], $5::uuid[], $6::bigint[],
            $7::bigint[], $8::bigint[], $9::timestamptz[], $10::smallint[], $11::text[])
        "#,
        &rows.command_ids,
        &rows.fingerprints as &[Option<Uuid>],
        &rows.ids,
        &rows.items,
        &rows.bidders as &[Option<Uuid>],
        &rows.amounts as &[Option<i64>],
        &rows.seqs as &[Option<i64>],
        &rows.versions as &[Option<i64>],
        &rows.times as &[platform::Timestamp],
        &rows.statuses,
        &rows.answers,
    )
    .execute(tx)
    .await?;
    Ok(())
}

/// Rows of `bids`, column by column.
#[derive(Default)]
struct Rows {
    command_ids: Vec<Uuid>,
    fingerprints: Vec<Option<Uuid>>,
    ids: Vec<Uuid>,
    items: Vec<Uuid>,
    bidders: Vec<Option<Uuid>>,
    amounts: Vec<Option<i64>>,
    seqs: Vec<Option<i64>>,
    versions: Vec<Option<i64>>,
    times: Vec<platform::Timestamp>,
    statuses: Vec<i16>,
    answers: Vec<String>,
}

/// Writes the new price of each item that got a bid, once.
async fn update(
    tx: &mut PgConnection,
    auctions: &HashMap<ItemId, Auction>,
    decisions: &[Result<Decided, Refused>],
) -> Result<()> {
    let changed: BTreeSet<ItemId> = decisions.iter().flatten().map(|decided| decided.bid.item_id).collect();
    let mut columns = (Vec::new(), Vec::new(), Vec::new(), Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for auction in changed.iter().filter_map(|id| auctions.get(id)) {
        let Some(leading) = auction.leading else { continue };
        columns.0.push(auction.id.0);
        columns.1.push(leading.price.minor);
        columns.2.push(leading.bidder.0);
        columns.3.push(leading.bid.0);
        columns.4.push(auction.bid_count);
        columns.5.push(auction.ends_at);
        columns.6.push(auction.revision);
    }
    if columns.0.is_empty() {
        return Ok(());
    }
    sqlx::query!(
        r#"
        update items set price = bid.price, leader_id = bid.leader_id, leading_bid_id = bid.bid_id,
            bid_count = bid.bid_count, ends_at = bid.ends_at, revision = bid.revision, updated_at = now()
        from unnest($1::uuid[], $2::bigint[], $3::uuid[], $4::uuid[], $5::bigint[], $6::timestamptz[], $7::bigint[])
            as bid (item_id, price, leader_id, bid_id, bid_count, ends_at, revision)
        where items.id = bid.item_id
        "#,
        &columns.0,
        &columns.1,
        &columns.2,
        &columns.3,
        &columns.4,
        &columns.5 as &[platform::Timestamp],
        &columns.6,
    )
    .execute(tx)
    .await?;
    Ok(())
}

/// The items whose ends were moved, each as of the bid that moved it, in the order of the bids. Rare, so
/// what else people see of an item is only read now; nothing is asked of the database when none moved.
async fn extensions(cx: &mut Cx, decisions: &[Result<Decided, Refused>]) -> Result<Vec<ItemState>> {
    let moved =
        || decisions.iter().flatten().filter_map(|decided| Some((decided, decided.moved.as_deref()?)));
    let ids: BTreeSet<Uuid> = moved().map(|(_, auction)| auction.id.0).collect();
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let ids: Vec<Uuid> = ids.into_iter().collect();
    let loaded = store::load(cx.tx().await?, &ids).await?;
    let mut items: HashMap<ItemId, Whole> = loaded.into_iter().map(|item| (item.auction.id, item)).collect();
    let mut states = Vec::new();
    for (decided, auction) in moved() {
        let item = items.get_mut(&auction.id).ok_or(NoItem)?;
        item.auction = auction.clone();
        states.push(item.state(decided.bid.placed_at));
    }
    store::log_changes(cx.tx().await?, &states, ItemChange::Extended).await?;
    Ok(states)
}

/// The answers given to commands that come again.
pub(crate) async fn recall(cx: &mut Cx, ids: Vec<Uuid>) -> Result<Recall> {
    let rows = sqlx::query!(
        "select command_id, fingerprint, status, answer from bids where command_id = any($1)",
        &ids,
    )
    .fetch_all(cx.tx().await?)
    .await?;
    let recalled = rows.into_iter().map(|row| {
        let status = u16::try_from(row.status).unwrap_or(500);
        let answer = Answer { status, body: Bytes::from(row.answer), replayed: true };
        (row.command_id, Recalled { fingerprint: row.fingerprint, answer })
    });
    Ok(recalled.collect())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use contracts::{Timestamp, UserId, auctions::GetItem};
    use testing::Harness;

    use super::*;
    use crate::store::testing::{SELLER, end_at, lamp};

    const ANN: UserId = UserId(Uuid::from_u128(2));
    const BOB: UserId = UserId(Uuid::from_u128(3));

    fn offer(item_id: ItemId, amount: &str) -> PlaceBid {
        PlaceBid { item_id, amount: amount.parse().unwrap() }
    }

    fn code(answer: &Answer) -> String {
        match answer.parse::<Bid>() {
            Ok(_) => "accepted".into(),
            Err(Error::Refused(refused)) => refused.code.into_owned(),
            Err(error) => panic!("{error:?}"),
        }
    }

    async fn count(app: &Harness, sql: &'static str) -> i64 {
        sqlx::query_scalar(sql).fetch_one(app.pool()).await.unwrap()
    }

    #[tokio::test]
    async fn a_higher_offer_leads_and_is_announced() {
        let app = Harness::start(crate::database()).await;
        let item = lamp(&app).increment("5").offer().await;

        app.as_user(ANN).call(&function(), &offer(item.id, "10")).await.unwrap();
        let bid = app.as_user(BOB).call(&function(), &offer(item.id, "15")).await.unwrap();

        let after = bid.item.unwrap();
        assert_eq!((bid.seq, bid.leading, after.bid_count, after.version), (2, true, 2, 3));
        assert_eq!(
            (after.current_price.to_string(), after.min_next_bid.to_string()),
            ("15.00".into(), "20.00".into())
        );
        let told = app.emitted::<BidPlaced>().await;
        assert_eq!(told.len(), 2);
        assert_eq!((told[1].bidder_id, told[1].outbid_id, told[1].seq), (BOB, Some(ANN), 2));
    }

    #[tokio::test]
    async fn every_refusal_has_its_code_and_leaves_no_event() {
        let app = Harness::start(crate::database()).await;
        let item = lamp(&app).offer().await;
        let ended = lamp(&app).offer().await;
        end_at(&app, ended.id, Timestamp::now() - Duration::from_secs(1)).await;
        for (user, offer, status, expected) in [
            (ANN, offer(ItemId::new(), "10"), 404, "NOT_FOUND"),
            (ANN, offer(ended.id, "10"), 409, "AUCTION_CLOSED"),
            (SELLER, offer(item.id, "10"), 403, "SELF_BID"),
            (ANN, offer(item.id, "-1"), 400, "INVALID_INPUT"),
            (ANN, offer(item.id, "10.001"), 400, "INVALID_INPUT"),
            (ANN, offer(item.id, "9.99"), 409, "BID_TOO_LOW"),
        ] {
            let answer = app.as_user(user).answer(&function(), &offer).await;
            assert_eq!((answer.status, code(&answer)), (status, expected.to_owned()));
        }
        let anonymous = app.answer(&function(), &offer(item.id, "10")).await;
        assert_eq!(anonymous.status, 401);

        assert!(app.emitted::<BidPlaced>().await.is_empty());
        assert_eq!(count(&app, "select count(*) from bids where seq is not null").await, 0);
        assert_eq!(count(&app, "select count(*) from bids").await, 7, "every decision is recorded");
    }

    #[tokio::test]
    async fn too_low_says_how_much_it_takes() {
        let app = Harness::start(crate::database()).await;
        let item = lamp(&app).increment("2.50").offer().await;
        app.as_user(ANN).call(&function(), &offer(item.id, "10")).await.unwrap();

        let refused = app.as_user(BOB).call(&function(), &offer(item.id, "12.49")).await.unwrap_err();

        let Error::Refused(refused) = refused else { panic!("{refused:?}") };
        assert_eq!(refused.extras["min_next_bid"], "12.50");
    }

    #[tokio::test]
    async fn a_bid_counts_if_it_was_stamped_in_time_however_late_it_is_decided() {
        let app = Harness::start(crate::database()).await;
        let item = lamp(&app).offer().await;
        let end = Timestamp::now() - Duration::from_secs(5);
        end_at(&app, item.id, end).await;
        sqlx::query("update items set starts_at = $1")
            .bind(end - Duration::from_secs(60))
            .execute(app.pool())
            .await
            .unwrap();

        let in_time = app.at(end - Duration::from_millis(1)).as_user(ANN);
        let too_late = app.at(end).as_user(BOB);

        assert_eq!(code(&in_time.answer(&function(), &offer(item.id, "10")).await), "accepted");
        assert_eq!(code(&too_late.answer(&function(), &offer(item.id, "20")).await), "AUCTION_CLOSED");
    }

    #[tokio::test]
    async fn of_equal_offers_in_one_batch_the_first_wins() {
        let app = Harness::start(crate::database()).await;
        let (item, other) = (lamp(&app).offer().await, lamp(&app).offer().await);

        let answers = app
            .batch(
                &function(),
                &[
                    (ANN, offer(item.id, "10")),
                    (BOB, offer(item.id, "10")),
                    (BOB, offer(other.id, "10")),
                    (SELLER, offer(other.id, "99")),
                    (ANN, offer(item.id, "11")),
                ],
            )
            .await;

        let codes: Vec<String> = answers.iter().map(code).collect();
        assert_eq!(codes, ["accepted", "BID_TOO_LOW", "accepted", "SELF_BID", "accepted"]);
        assert_eq!(app.emitted::<BidPlaced>().await.len(), 3);
    }

    #[tokio::test]
    async fn of_two_equal_offers_at_once_one_wins() {
        let app = Harness::start(crate::database()).await;
        let item = lamp(&app).offer().await;
        let (ann, bob, offer) = (app.as_user(ANN), app.as_user(BOB), offer(item.id, "10"));
        let function = function();

        let (first, second) = tokio::join!(ann.answer(&function, &offer), bob.answer(&function, &offer));

        let mut codes = [code(&first), code(&second)];
        codes.sort();
        assert_eq!(codes, ["BID_TOO_LOW", "accepted"]);
    }

    #[tokio::test]
    async fn a_key_is_one_bid_also_twenty_times_at_once() {
        let app = Harness::start(crate::database()).await;
        let item = lamp(&app).offer().await;
        let ann = app.as_user(ANN).with_key("one");
        let (function, offer_it) = (function(), offer(item.id, "10"));

        let all = (0..20).map(|_| ann.answer(&function, &offer_it));
        let answers = futures_util::future::join_all(all).await;

        assert_eq!(answers.iter().filter(|answer| !answer.replayed).count(), 1);
        assert!(answers.iter().all(|answer| answer.body == answers[0].body));
        assert_eq!(app.emitted::<BidPlaced>().await.len(), 1);
        assert_eq!(ann.answer(&function, &offer(item.id, "11")).await.status, 422);
    }

    #[tokio::test]
    async fn a_refused_key_stays_refused_even_when_the_rule_no_longer_holds() {
        let app = Harness::start(crate::database()).await;
        let item = lamp(&app).offer().await;
        let ann = app.as_user(ANN).with_key("low");

        let refused = ann.answer(&function(), &offer(item.id, "9")).await;
        sqlx::query("update items set start_price = 100").execute(app.pool()).await.unwrap();
        let again = ann.answer(&function(), &offer(item.id, "9")).await;

        assert_eq!((again.status, again.replayed, again.body), (409, true, refused.body));
    }

    #[tokio::test]
    async fn a_refused_bid_behind_it_does_not_silence_an_extension() {
        let app = Harness::start(crate::database()).await;
        let item = lamp(&app).extension(120).offer().await;

        app.batch(&function(), &[(ANN, offer(item.id, "20")), (BOB, offer(item.id, "20"))]).await;

        assert_eq!(app.emitted::<ItemExtended>().await.len(), 1);
    }

    #[tokio::test]
    async fn each_change_of_a_batch_has_its_own_version_and_is_told_in_their_order() {
        let app = Harness::start(crate::database()).await;
        let item = lamp(&app).extension(120).offer().await;
        let (function, now) = (function(), Timestamp::now());
        // One batch as the stream would deliver it: each message with a stamp of its own.
        let deliveries: Vec<_> =
            [(ANN, "10", 0), (BOB, "10", 1), (BOB, "11", 2), (ANN, "12", 2), (BOB, "13", 3)]
                .into_iter()
                .map(|(user, amount, millis)| {
                    let offer = offer(item.id, amount);
                    let app = app.at(now + Duration::from_millis(millis)).as_user(user);
                    app.delivery(&platform::wire::command_subject(&offer), &serde_json::json!(offer))
                })
                .collect();

        app.host(&function).execute(&deliveries).await;

        let rows: Vec<String> =
            sqlx::query_scalar("select events from platform.outbox where events like '%placed%'")
                .fetch_all(app.pool())
                .await
                .unwrap();
        let events: Vec<platform::wire::Outgoing> = serde_json::from_str(&rows[0]).unwrap();
        let told: Vec<(String, i64, i64)> = events
            .iter()
            .map(|event| {
                let body: serde_json::Value = serde_json::from_str(event.body.get()).unwrap();
                let ends_at = Timestamp::parse(body["payload"]["ends_at"].as_str().unwrap()).unwrap();
                let millis = ends_at.since(now + Duration::from_secs(120)).as_millis();
                let version = body["payload"]["version"].as_i64().unwrap();
                (body["event"].as_str().unwrap().to_owned(), version, i64::try_from(millis).unwrap())
            })
            .collect();
        let expected = [
            ("bid.placed", 2, 0),
            ("item.extended", 3, 0),
            ("bid.placed", 4, 2),
            ("item.extended", 5, 2),
            ("bid.placed", 6, 2),
            ("bid.placed", 7, 3),
            ("item.extended", 8, 3),
        ]
        .map(|(name, version, millis)| (name.to_owned(), version, millis));
        assert_eq!((rows.len(), told), (1, expected.to_vec()));
        let revisions: Vec<i64> =
            app.emitted::<ItemExtended>().await.iter().map(|told| told.0.item_version).collect();
        assert_eq!(revisions, [2, 3, 4]);
        let shown = app.ask(&crate::get_item::function(), &GetItem { item_id: item.id }).await.unwrap();
        assert_eq!(shown.version, 8);
    }

    #[tokio::test]
    async fn a_late_bid_moves_the_end_and_says_so() {
        let app = Harness::start(crate::database()).await;
        let item = lamp(&app).extension(120).offer().await;

        let bid = app.as_user(ANN).call(&function(), &offer(item.id, "10")).await.unwrap();

        let end = bid.item.unwrap().ends_at;
        assert_eq!(end, bid.placed_at + Duration::from_secs(120));
        let told = app.emitted::<ItemExtended>().await;
        assert_eq!((told.len(), told[0].0.ends_at, told[0].0.item_version), (1, end, 2));
        let shown = app.ask(&crate::get_item::function(), &GetItem { item_id: item.id }).await.unwrap();
        assert_eq!((shown.ends_at, shown.version), (end, 3));
    }
}
