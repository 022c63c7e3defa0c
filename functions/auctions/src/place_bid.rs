//! `place-bid`: take a higher offer on an open item.
//!
//! Works in batches: many offers on many items in one transaction. Emits [`BidPlaced`] for each
//! accepted offer and for the automatic answer of a leader who goes further, and directly behind it
//! [`ItemExtended`] when it moved the end: what is said of an item is in the order of its versions. Refuses as in [`BidRefused`](crate::auction::BidRefused).
//! Every decision, accepted or refused, is a row of `bids`, which is also the outcome of its command
//! and the bid's place in the item's log.

use std::collections::{BTreeSet, HashMap};

use bytes::Bytes;
use contracts::{
    BidId, ItemId,
    auctions::{Bid, BidPlaced, ItemChange, ItemExtended, ItemState, PlaceBid},
};
use platform::{
    Answer, Cx, Error, Function, Message, Recall, Recalled, Received, Refused, Result,
    metrics::{Counter, Delay},
};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::{
    auction::{Auction, BidRefused, Leading, NoItem, Placed},
    bid_rows::{self, Answered, BidRows},
    store::{self, Whole},
};

static BIDS: Counter = Counter {
    name: "bids_total",
    help: "Bids that were decided: accepted, outbid at once by the leader's maximum, raised (a maximum alone), or the \
           code of the refusal.",
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
    let changed: BTreeSet<ItemId> = decisions.iter().flatten().map(|decided| decided.bid.item_id).collect();
    store::write_bidding(cx.tx().await?, &auctions, &changed).await?;
    let mut extensions = extensions(cx, &decisions).await?.into_iter();
    for (offer, decision) in offers.iter().zip(&decisions) {
        cx.count(&BIDS, decision.as_ref().map_or_else(Refused::label, |decided| decided.label), 1)?;
        let Ok(decided) = decision else { continue };
        cx.time(&ACCEPT, offer.received_at)?;
        if let Some((_, event)) = &decided.placed {
            offer.emit(event)?;
        }
        if let Some((_, event)) = decided.answer.as_deref() {
            offer.emit(event)?;
        }
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
    /// Under which it is counted.
    label: &'static str,
    /// What it made, and what is told of it; none when only the leader's maximum grew.
    placed: Option<(Placed, BidPlaced)>,
    /// The leader's automatic answer to it.
    answer: Option<Box<(Placed, BidPlaced)>>,
    /// The item as of this bid, when the bid moved its end.
    moved: Option<Box<Auction>>,
}

/// Asks the rules, and lets the next offer of the batch see the result.
fn decide(auctions: &mut HashMap<ItemId, Auction>, offer: &Received<PlaceBid>) -> Result<Decided, Refused> {
    let PlaceBid { item_id, amount, max_amount, user_id } = &offer.message;
    let (item_id, amount, max_amount) = (*item_id, *amount, *max_amount);
    let bidder = offer.caller()?.id;
    offer.message.check()?;
    if user_id.as_ref().is_some_and(|named| named.parse() != Ok(bidder.0)) {
        return Err(BidRefused::SomebodyElse.into());
    }
    let auction = auctions.get_mut(&item_id).ok_or(NoItem)?;
    let placed_at = offer.received_at;
    let accepted = auction.bid(BidId::new, bidder, (amount, max_amount), placed_at)?;
    let label = match (accepted.placed, accepted.answer) {
        (Some(_), None) => "accepted",
        (Some(_), Some(_)) => "outbid",
        (None, _) => "raised",
    };
    let auction = &*auction;
    // Who only goes further than before is answered with the bid that leads already, as of now.
    let shown = accepted.placed.or_else(|| leading(auction)).ok_or(NoItem)?;
    let mut bid = bid_rows::answer(auction, &shown, placed_at);
    // What is used up is the bid's amount, and how far others go is their business.
    let own = auction.leading.filter(|leading| leading.bid == bid.id);
    bid.max_amount = own
        .filter(|own| max_amount.is_some() || own.maximum.minor > own.price.minor)
        .map(|own| own.maximum.into());
    let told = |placed: Placed, automatic| (placed, bid_rows::event(auction, &placed, placed_at, automatic));
    Ok(Decided {
        bid,
        label,
        placed: accepted.placed.map(|placed| told(placed, false)),
        answer: accepted.answer.map(|placed| Box::new(told(placed, true))),
        moved: accepted.extended.then(|| Box::new(auction.clone())),
    })
}

/// The bid that leads: always the newest.
fn leading(auction: &Auction) -> Option<Placed> {
    let Leading { bid, bidder, price, .. } = auction.leading?;
    Some(Placed { bid, bidder, price, seq: auction.bid_count, version: auction.version(), outbid: None })
}

/// Writes every decision, with the answer that a repetition gets.
async fn record(
    tx: &mut PgConnection,
    offers: &[Received<PlaceBid>],
    decisions: &[Result<Decided, Refused>],
) -> Result<()> {
    let mut rows = BidRows::default();
    for (offer, decision) in offers.iter().zip(decisions) {
        let (answer, decided) = match decision {
            Ok(decided) => (Answer::accepted(&decided.bid)?, Some(decided)),
            Err(refused) => (Answer::refused(refused), None),
        };
        let answered = Answered {
            command: offer.id,
            fingerprint: offer.fingerprint,
            bidder: offer.caller.map(|caller| caller.id),
            item: offer.message.item_id.0,
            at: offer.received_at,
            status: answer.status,
            answer: String::from_utf8_lossy(&answer.body).into_owned(),
        };
        let placed = decided.and_then(|decided| decided.placed.as_ref());
        // The answer is for its bidder alone when it names a maximum, or what came after the bid.
        let differs =
            decided.is_some_and(|decided| decided.bid.max_amount.is_some() || decided.answer.is_some());
        let told = placed.filter(|_| differs).map(|(_, event)| bid_rows::public(event)).transpose()?;
        rows.push(answered, placed.map(|(placed, _)| placed), told);
        if let Some((placed, event)) = decided.and_then(|decided| decided.answer.as_deref()) {
            let answered = Answered {
                command: placed.bid.0,
                fingerprint: None,
                bidder: Some(placed.bidder),
                item: offer.message.item_id.0,
                at: offer.received_at,
                status: 200,
                answer: bid_rows::public(event)?,
            };
            rows.push(answered, Some(placed), None);
        }
    }
    rows.write(tx).await
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
    store::log_changes(cx.tx().await?, &states, ItemChange::extended).await?;
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
    use testing::{Harness, code};

    use super::*;
    use crate::store::testing::{SELLER, end_at, lamp};

    const ANN: UserId = UserId(Uuid::from_u128(2));
    const BOB: UserId = UserId(Uuid::from_u128(3));

    fn offer(item_id: ItemId, amount: &str) -> PlaceBid {
        PlaceBid::open(item_id, amount.parse().unwrap())
    }

    fn offer_of(named: &str, item_id: ItemId) -> PlaceBid {
        PlaceBid { user_id: Some(named.to_owned()), ..offer(item_id, "10") }
    }

    async fn count(app: &Harness, sql: &'static str) -> i64 {
        sqlx::query_scalar(sql).fetch_one(app.pool()).await.unwrap()
    }

    #[tokio::test]
    async fn a_higher_offer_leads_and_is_announced() {
        let app = Harness::start(crate::database()).await;
        let item = lamp(&app).increment("5").offer().await;

        app.as_user(ANN).call(&function(), &offer_of(&ANN.to_string(), item.id)).await.unwrap();
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
            // S-57.
            (ANN, offer_of(&BOB.to_string(), item.id), 403, "FORBIDDEN"),
            (ANN, offer_of("ann", item.id), 403, "FORBIDDEN"),
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
        assert_eq!(count(&app, "select count(*) from bids").await, 9, "every decision is recorded");
    }

    #[tokio::test]
    async fn an_amount_that_the_currency_does_not_have_is_named_as_any_wrong_member() {
        let app = Harness::start(crate::database()).await;
        let item = lamp(&app).offer().await;
        let far = PlaceBid { max_amount: Some("20.001".parse().unwrap()), ..offer(item.id, "10") };
        for (offer, member) in [(offer(item.id, "10.001"), "amount"), (far, "max_amount")] {
            let refused = app.as_user(ANN).call(&function(), &offer).await.unwrap_err();

            let Error::Refused(refused) = refused else { panic!("{refused:?}") };
            let message = "the amount has more decimals than USD allows";
            assert_eq!((refused.status, refused.message.as_str()), (400, "Validation failed"));
            assert_eq!(refused.details.unwrap(), format!("{member}: {message}"));
            assert_eq!(refused.extras["fields"], serde_json::json!([{ "name": member, "message": message }]));
        }
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

        assert_eq!(code(&in_time.answer(&function(), &offer(item.id, "10")).await), "done");
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
        assert_eq!(codes, ["done", "BID_TOO_LOW", "done", "SELF_BID", "done"]);
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
        assert_eq!(codes, ["BID_TOO_LOW", "done"]);
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

    fn up_to(item_id: ItemId, amount: &str, maximum: &str) -> PlaceBid {
        PlaceBid { max_amount: Some(maximum.parse().unwrap()), ..offer(item_id, amount) }
    }

    #[tokio::test]
    async fn who_goes_further_leads_and_pays_no_more_than_it_takes() {
        let app = Harness::start(crate::database()).await;
        let item = lamp(&app).increment("5").offer().await;
        let (ann, bob, function) = (app.as_user(ANN), app.as_user(BOB), function());
        let max = |bid: &Bid| bid.max_amount.map(|amount| amount.to_string());

        let first = ann.call(&function, &up_to(item.id, "10", "50")).await.unwrap();
        assert_eq!((first.amount.to_string(), max(&first)), ("10.00".into(), Some("50.00".into())));
        let outbid = bob.call(&function, &up_to(item.id, "15", "30")).await.unwrap();
        let after = outbid.item.clone().unwrap();
        assert_eq!((outbid.seq, outbid.leading, outbid.amount.to_string()), (2, false, "30.00".into()));
        assert_eq!((after.current_price.to_string(), after.bid_count, after.version), ("35.00".into(), 3, 4));
        assert_eq!(max(&outbid), None, "it is used up");
        let before = app.ask(&crate::get_item::function(), &GetItem { item_id: item.id }).await.unwrap();
        let raised = ann.with_key("r").call(&function, &up_to(item.id, "10", "80")).await.unwrap();
        assert_eq!((raised.seq, raised.leading, max(&raised)), (3, true, Some("80.00".into())));
        let again = ann.with_key("r").answer(&function, &up_to(item.id, "10", "80")).await;
        assert_eq!((again.replayed, again.parse::<Bid>().unwrap()), (true, raised));
        let shown = app.ask(&crate::get_item::function(), &GetItem { item_id: item.id }).await.unwrap();
        assert_eq!(shown, before, "nobody sees that the leader goes further");
        let open = ann.call(&function, &offer(item.id, "40")).await.unwrap();
        assert_eq!((open.amount.to_string(), max(&open)), ("40.00".into(), Some("80.00".into())));

        let refused = ann.call(&function, &up_to(item.id, "45", "80")).await.unwrap_err();
        let Error::Refused(refused) = refused else { panic!("{refused:?}") };
        assert_eq!(
            (refused.code.as_ref(), &refused.extras["min_next_bid"]),
            ("BID_TOO_LOW", &"45.00".into())
        );
        let told: Vec<(i64, UserId, Option<UserId>, bool)> = app
            .emitted::<BidPlaced>()
            .await
            .iter()
            .map(|bid| (bid.seq, bid.bidder_id, bid.outbid_id, bid.automatic))
            .collect();
        assert_eq!(
            told,
            [
                (1, ANN, None, false),
                (2, BOB, Some(ANN), false),
                (3, ANN, Some(BOB), true),
                (4, ANN, Some(ANN), false)
            ]
        );
    }

    #[tokio::test]
    async fn many_maxima_on_one_item_are_one_transaction_with_one_statement_for_the_bids() {
        let app = Harness::start(crate::database()).await;
        let item = lamp(&app).increment("1").offer().await;
        let users = [ANN, BOB, UserId(Uuid::from_u128(4)), UserId(Uuid::from_u128(5))];
        let offers: Vec<_> = (0..200_usize)
            .map(|n| {
                // One goes further than everybody before, the next not quite as far.
                let maximum = if n % 2 == 0 { 1_000 + 10 * n } else { 985 + 10 * n };
                (users[n % 4], up_to(item.id, "10", &maximum.to_string()))
            })
            .collect();

        let answers = app.batch(&function(), &offers).await;

        let accepted = answers.iter().filter(|answer| answer.status == 200).count();
        let transactions = count(&app, "select count(distinct xmin::text) from bids").await;
        assert_eq!(transactions, 1);
        assert_eq!(count(&app, "select count(*) from platform.outbox where events like '%placed%'").await, 1);
        let rows = count(&app, "select count(*) from bids where command_id <> id").await;
        assert_eq!(rows, 200, "a decision for each command");
        let seqs = count(&app, "select count(seq) from bids").await;
        let dense = "select count(*) from (select seq - row_number() over (order by seq) as gap from bids where seq is not null) as n where gap = 0";
        assert_eq!(
            (count(&app, dense).await, count(&app, "select bid_count from items").await),
            (seqs, seqs)
        );
        let answered = count(&app, "select count(*) from bids where command_id = id").await;
        assert_eq!((accepted, answered), (200, 100));
        let falling = "select count(*) from bids one join bids next on next.seq = one.seq + 1
            where next.amount < one.amount or next.amount = one.amount and next.command_id <> next.id";
        assert_eq!(count(&app, falling).await, 0);
        assert_eq!(app.emitted::<BidPlaced>().await.len(), usize::try_from(seqs).unwrap());
    }

    #[tokio::test]
    async fn of_two_equal_maxima_at_once_the_first_leads_and_pays_it() {
        let app = Harness::start(crate::database()).await;
        let (ann, bob, function) = (app.as_user(ANN), app.as_user(BOB), function());
        for _ in 0..10 {
            let item = lamp(&app).offer().await;
            let offer = up_to(item.id, "10", "30");

            let (first, second) = tokio::join!(ann.call(&function, &offer), bob.call(&function, &offer));

            let (first, second) = (first.unwrap(), second.unwrap());
            let (leader, other) = if first.leading { (first, second) } else { (second, first) };
            assert_eq!((leader.seq, leader.leading, other.seq, other.leading), (1, true, 2, false));
            let shown = app.ask(&crate::get_item::function(), &GetItem { item_id: item.id }).await.unwrap();
            let expected = (Some(leader.bidder_id), "30.00".into(), 3);
            assert_eq!((shown.leader_id, shown.current_price.to_string(), shown.bid_count), expected);
        }
    }

    /// Whatever others can see, of an item whose leader goes to 7777.77: no trace of it anywhere.
    #[tokio::test]
    async fn what_the_leader_would_pay_is_nowhere_to_be_seen() {
        use contracts::auctions::{ListBids, ListChanges, SnapshotBids, SnapshotItems};
        let app = Harness::start(crate::database()).await;
        let item = lamp(&app).extension(3).buy_now("9000").offer().await;
        let (item_id, secret) =
            (item.id, ["7777.77", "777777", "6666.66", "666666", "max_amount", "leader_max"]);
        let (ann, bob, function) = (app.as_user(ANN), app.as_user(BOB), function());
        let mut others = Vec::new();
        ann.call(&function, &up_to(item_id, "10", "6666.66")).await.unwrap();
        others.push(bob.answer(&function, &offer(item_id, "20")).await.body);
        ann.call(&function, &up_to(item_id, "10", "7777.77")).await.unwrap();
        ann.call(&function, &offer(item_id, "25")).await.unwrap();
        others.push(bob.answer(&function, &up_to(item_id, "30", "40")).await.body);
        others.push(bob.answer(&function, &offer(item_id, "30")).await.body);
        // What the leader is refused may stand in a log.
        others.push(ann.answer(&function, &up_to(item_id, "50", "7000")).await.body);

        let mut seen: Vec<String> =
            others.iter().map(|body| String::from_utf8_lossy(body).into_owned()).collect();
        let page = contracts::page::PageQuery::default();
        for viewer in [&app, &bob, &app.as_user(SELLER)] {
            let shown = viewer.ask(&crate::get_item::function(), &GetItem { item_id }).await.unwrap();
            let query = ListBids { item_id, page: page.clone() };
            let bids = viewer.ask(&crate::list_bids::function(), &query).await.unwrap();
            let query = ListChanges { item_id, after: 1 };
            let changes = viewer.ask(&crate::list_changes::function(), &query).await.unwrap();
            assert!(changes.complete && bids.data.iter().any(|bid| bid.automatic));
            let items =
                viewer.ask(&crate::snapshot_items::function(), &SnapshotItems::default()).await.unwrap();
            let past = viewer.ask(&crate::snapshot_bids::function(), &SnapshotBids::default()).await.unwrap();
            seen.push(serde_json::to_string(&(shown, bids, changes, items, past)).unwrap());
        }
        let outbox = "select events from platform.outbox";
        seen.extend(sqlx::query_scalar::<_, String>(outbox).fetch_all(app.pool()).await.unwrap());
        assert!(seen.iter().any(|text| text.contains("bid.placed")) && seen.len() > 8, "{}", seen.len());
        for text in &seen {
            for secret in secret {
                assert!(!text.contains(secret), "{secret} in {text}");
            }
        }
        let own = "select count(*) from bids where answer like '%7777.77%'";
        assert_eq!(count(&app, own).await, 2, "its bidder is told: when it was said, and with the open bid");
    }

    #[tokio::test]
    async fn a_maximum_that_cannot_be_is_refused() {
        let app = Harness::start(crate::database()).await;
        let item = lamp(&app).offer().await;
        for (maximum, member) in
            [("9.99", "max_amount: must not be below amount"), ("10.001", "max_amount: ")]
        {
            let answer = app.as_user(ANN).answer(&function(), &up_to(item.id, "10", maximum)).await;
            let body = String::from_utf8_lossy(&answer.body).into_owned();
            assert_eq!(answer.status, 400, "{body}");
            assert!(body.contains(member), "{body}");
        }
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
