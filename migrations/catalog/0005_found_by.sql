-- What an item is filtered by stands beside its price, too: one index then serves an order or a range of prices together
-- with the filters. A bid changes none of it. Null while only a bid of the item has been heard.
alter table prices add column outcome text, add column starts_at timestamptz, add column ends_at timestamptz,
    add column category_id bigint, add column seller_id uuid;
update prices set outcome = items.outcome, starts_at = items.starts_at, ends_at = items.ends_at,
    category_id = items.category_id, seller_id = items.seller_id
from items where id = item_id;

drop index price_amount, price_bids;
create index price_amount on prices (price, item_id)
    include (outcome, starts_at, ends_at, category_id, seller_id);
create index price_bids on prices (seq, item_id)
    include (price, outcome, starts_at, ends_at, category_id, seller_id);

-- The same of items: all filters but words and price are judged in the index, without a look at the row.
drop index item_newest, item_ending, item_running, item_category, item_seller;
create index item_newest on items (created_at, id) include (outcome, starts_at, ends_at, category_id);
create index item_ending on items (ends_at, id) include (outcome, starts_at, category_id);
create index item_running on items (ends_at, id) include (outcome, starts_at, category_id) where outcome is null;
create index item_category on items (category_id, created_at, id) include (outcome, starts_at, ends_at);
create index item_seller on items (seller_id, created_at, id) include (outcome, starts_at, ends_at, category_id);
