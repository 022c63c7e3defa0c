create table items (
    id                       uuid        primary key,
    seller_id                uuid        not null,
    name                     text        not null,
    description              text        not null,
    category_id              bigint,
    image_urls               text[]      not null,
    currency                 text        not null,
    -- Amounts are minor units of the currency.
    start_price              bigint      not null,
    bid_increment            bigint      not null,
    reserve_price            bigint,
    buy_now_price            bigint,
    extension_window_seconds integer     not null,
    extension_seconds        integer     not null,
    -- Null until the hammer has fallen. Before that the clock says whether bidding has begun.
    outcome                  text        constraint item_outcome check (outcome in ('sold', 'unsold', 'cancelled')),
    starts_at                timestamptz not null,
    ends_at                  timestamptz not null,
    -- Where the end stood before any extension.
    planned_end              timestamptz not null,
    -- The price: the highest accepted bid, whose it is, and how many there were.
    price                    bigint,
    leader_id                uuid,
    leading_bid_id           uuid,
    bid_count                bigint      not null default 0,
    -- The version of everything but the price. The item's version is the sum of the two.
    revision                 bigint      not null default 1,
    closed_at                timestamptz,
    created_at               timestamptz not null,
    updated_at               timestamptz not null
) with (fillfactor = 70);
-- What the hammer falls on next.
create index item_due on items (ends_at) where outcome is null;

-- Every decision on a bid, accepted or refused: it is also the outcome of its command.
create table bids (
    -- The id of the command, and what a repetition of its key must equal.
    command_id  uuid        primary key,
    fingerprint uuid,
    id          uuid        not null,
    -- No reference: a bid on an item that does not exist is refused, and recorded.
    item_id     uuid        not null,
    bidder_id   uuid,
    amount      bigint,
    -- The how-many-eth accepted bid of the item; null when refused.
    seq         bigint,
    placed_at   timestamptz not null,
    -- The answer that was given: its status, and its body as JSON.
    status      smallint    not null,
    answer      text        not null
);
create unique index bid_place on bids (item_id, seq) where seq is not null;
