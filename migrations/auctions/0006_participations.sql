-- Who bid on what: a row for each bidder of an item, written with the bids themselves under the lock of the item's row.
create table participations (
    -- No reference: it is written by who holds the lock of the item's row, and an item with bids stays.
    item_id   uuid   not null,
    bidder_id uuid   not null,
    -- The first bid of the bidder on the item. Ids sort by time, so it says in which order somebody joined biddings.
    place     uuid   not null,
    -- How many were accepted, and the highest of them in minor units.
    bids      bigint not null,
    amount    bigint not null,
    primary key (item_id, bidder_id)
    -- No index names what a further bid changes, so with room on its page the new row needs no entries in them.
) with (fillfactor = 70);
create unique index participation_place on participations (bidder_id, place);

insert into participations (item_id, bidder_id, place, bids, amount)
select item_id, bidder_id, (array_agg(id order by seq))[1], count(*), max(amount) from bids
where seq is not null and bidder_id is not null group by item_id, bidder_id;
