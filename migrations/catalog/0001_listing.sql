-- What the listing knows of an item, in two families that change apart from each other, each with a
-- version of its own. Two tables, because a bid changes a price and nothing else: in one row it would
-- write the item's words and their index again, at four times the cost.

create table items (
    id                       uuid        primary key,
    -- Of the `item.*` events: the newer state wins.
    item_version             bigint      not null,
    seller_id                uuid        not null,
    name                     text        not null,
    description              text        not null,
    category_id              bigint,
    image_urls               jsonb       not null,
    currency                 text        not null,
    -- Amounts are major units.
    start_price              numeric     not null,
    bid_increment            numeric     not null,
    buy_now_price            numeric,
    -- Null until the hammer has fallen. Before that the clock says whether bidding has begun.
    outcome                  text        constraint item_outcome check (outcome in ('sold', 'unsold', 'cancelled')),
    starts_at                timestamptz not null,
    ends_at                  timestamptz not null,
    extension_window_seconds integer     not null,
    extension_seconds        integer     not null,
    winner_id                uuid,
    final_price              numeric,
    closed_at                timestamptz,
    created_at               timestamptz not null,
    -- What it is found by: name and description. Not generated, because they come here in lower case:
    -- in a database with the locale C, Postgres knows no other letters than those of English.
    words                    tsvector    not null
);
-- With what says where an item stands, so that counting reads the index alone.
create index item_newest on items (created_at, id) include (outcome, starts_at);
create index item_ending on items (ends_at, id);
create index item_running on items (ends_at, id) include (starts_at) where outcome is null;
create index item_category on items (category_id, created_at, id) include (outcome, starts_at);
create index item_seller on items (seller_id, created_at, id) include (outcome, starts_at);
create index item_words on items using gin (words);

-- An item has a price from the start; a bid that came before its item waits here for it.
create table prices (
    item_id      uuid    primary key,
    -- Of the `bid.*` events: how many bids were accepted. 0 is the start price.
    seq          bigint  not null,
    leader_id    uuid,
    price        numeric not null,
    min_next_bid numeric not null,
    reserve_met  boolean not null,
    placed_at    timestamptz
) with (fillfactor = 70);
create index price_amount on prices (price, item_id);
create index price_bids on prices (seq, item_id);
