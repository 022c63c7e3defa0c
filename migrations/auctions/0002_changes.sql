-- What happened to an item, in order. Each change has the item's version right after it, and each version
-- is one above the one before: 1 is the item as it was offered.

-- The version that an accepted bid made, before what the bid may have caused. Null when refused, and in
-- rows of the time before this column.
alter table bids add column version bigint;

-- The changes that are no bids.
create table item_changes (
    -- No reference: it is written by who holds the lock of the item's row.
    item_id  uuid   not null,
    version  bigint not null,
    -- The part of the version that is not bids: how many bids were accepted is the difference.
    revision bigint not null,
    event    text   not null constraint item_change_event check (event in ('extended', 'closed')),
    -- Where the item stood then, as JSON.
    change   text   not null,
    primary key (item_id, version)
);
