//! Rows of `bids`: written by all functions that make bids, and only in one statement for many.

use contracts::{
    Timestamp, UserId,
    auctions::{Bid, BidPlaced, ItemPrice},
};
use platform::Result;
use sqlx::PgConnection;
use uuid::Uuid;

use crate::auction::{Auction, Placed};

/// Rows of `bids`, column by column.
#[derive(Default)]
pub(crate) struct BidRows {
    command_ids: Vec<Uuid>,
    fingerprints: Vec<Option<Uuid>>,
    ids: Vec<Uuid>,
    items: Vec<Uuid>,
    bidders: Vec<Option<Uuid>>,
    amounts: Vec<Option<i64>>,
    seqs: Vec<Option<i64>>,
    versions: Vec<Option<i64>>,
    times: Vec<Timestamp>,
    statuses: Vec<i16>,
    answers: Vec<String>,
    told: Vec<Option<String>>,
}

/// What a command was answered.
pub(crate) struct Answered {
    pub(crate) command: Uuid,
    pub(crate) fingerprint: Option<Uuid>,
    pub(crate) bidder: Option<UserId>,
    pub(crate) item: Uuid,
    pub(crate) at: Timestamp,
    pub(crate) status: u16,
    pub(crate) answer: String,
}

impl BidRows {
    /// A command, and the bid that it made; none when it was refused or made none. `told` is what everybody is told of
    /// the bid, when that is not the answer.
    pub(crate) fn push(&mut self, answered: Answered, placed: Option<&Placed>, told: Option<String>) {
        self.command_ids.push(answered.command);
        self.fingerprints.push(answered.fingerprint);
        self.ids.push(placed.map_or_else(Uuid::now_v7, |placed| placed.bid.0));
        self.items.push(answered.item);
        self.bidders.push(answered.bidder.map(|bidder| bidder.0));
        self.amounts.push(placed.map(|placed| placed.price.minor));
        self.seqs.push(placed.map(|placed| placed.seq));
        self.versions.push(placed.map(|placed| placed.version));
        self.times.push(answered.at);
        self.statuses.push(i16::try_from(answered.status).unwrap_or(i16::MAX));
        self.answers.push(answered.answer);
        self.told.push(told);
    }

    /// Writes them all.
    pub(crate) async fn write(&self, tx: &mut PgConnection) -> Result<()> {
        sqlx::query!(
            r#"
            insert into bids (command_id, fingerprint, id, item_id, bidder_id, amount, seq, version, placed_at,
                status, answer, told)
            select * from unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::uuid[], $5::uuid[], $6::bigint[],
                $7::bigint[], $8::bigint[], $9::timestamptz[], $10::smallint[], $11::text[], $12::text[])
            "#,
            &self.command_ids,
            &self.fingerprints as &[Option<Uuid>],
            &self.ids,
            &self.items,
            &self.bidders as &[Option<Uuid>],
            &self.amounts as &[Option<i64>],
            &self.seqs as &[Option<i64>],
            &self.versions as &[Option<i64>],
            &self.times as &[Timestamp],
            &self.statuses,
            &self.answers,
            &self.told as &[Option<String>],
        )
        .execute(tx)
        .await?;
        Ok(())
    }
}

/// What everybody is told of a bid on an item that stands as `auction` says by now.
pub(crate) fn event(auction: &Auction, placed: &Placed, placed_at: Timestamp, automatic: bool) -> BidPlaced {
    BidPlaced {
        bid_id: placed.bid,
        item_id: auction.id,
        seller_id: auction.seller,
        bidder_id: placed.bidder,
        outbid_id: placed.outbid,
        automatic,
        amount: placed.price.into(),
        currency: auction.currency,
        seq: placed.seq,
        version: placed.version,
        ends_at: Some(auction.ends_at),
        placed_at,
        current_price: placed.price.into(),
        min_next_bid: auction.increments.above(placed.price).into(),
        reserve_met: auction.sells_at(placed.price),
    }
}

/// A bid as everybody is told of it.
pub(crate) fn public(event: &BidPlaced) -> Result<String> {
    let bid = event.clone().bid().ok_or_else(|| anyhow::anyhow!("a bid without an end"))?;
    Ok(serde_json::to_string(&bid)?)
}

/// What its bidder is answered: the bid, whether it leads, and the item as it stands by now.
pub(crate) fn answer(auction: &Auction, placed: &Placed, placed_at: Timestamp) -> Bid {
    Bid {
        id: placed.bid,
        item_id: auction.id,
        bidder_id: placed.bidder,
        amount: placed.price.into(),
        seq: placed.seq,
        placed_at,
        leading: auction.leading.is_some_and(|leading| leading.bid == placed.bid),
        automatic: false,
        max_amount: None,
        item: Some(ItemPrice {
            current_price: auction.current_price().into(),
            min_next_bid: auction.minimum_bid().into(),
            bid_count: auction.bid_count,
            ends_at: auction.ends_at,
            version: auction.version(),
        }),
    }
}
