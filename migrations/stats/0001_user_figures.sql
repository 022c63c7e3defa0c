create table user_figures (
    user_id      uuid        primary key,
    total_bids   bigint      not null default 0,
    -- Sums of major units, whatever the currency.
    total_amount numeric     not null default 0,
    items_won    bigint      not null default 0,
    total_spent  numeric     not null default 0,
    items_sold   bigint      not null default 0,
    last_bid_at  timestamptz,
    updated_at   timestamptz not null
) with (fillfactor = 70);
