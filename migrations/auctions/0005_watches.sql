-- Who watches what. The id says in which order items were added.
create table watches (
    id      uuid not null,
    user_id uuid not null,
    item_id uuid not null references items (id) on delete cascade,
    primary key (user_id, item_id)
);
create unique index watch_place on watches (user_id, id);
-- What somebody offers, the newest last: ids sort by time.
create index item_of_seller on items (seller_id, id);
