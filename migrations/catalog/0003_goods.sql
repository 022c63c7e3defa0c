-- Categories and products: here, other than of items, this domain is the authority. Nothing makes these rows anew.

create table categories (
    -- Never given twice: an item or a product of somebody else may still name one that is gone.
    id          bigint      generated always as identity primary key,
    owner_id    uuid        not null,
    name        text        not null,
    -- In lower case, by us and not by the locale of the database.
    plain_name  text        not null constraint category_name unique,
    description text        not null,
    -- A tree: who moves one holds off all others who do.
    parent_id   bigint      constraint category_parent references categories (id),
    version     bigint      not null default 1,
    created_at  timestamptz not null,
    updated_at  timestamptz not null
);
create index category_children on categories (parent_id);

create table products (
    id          uuid        primary key,
    owner_id    uuid        not null,
    name        text        not null,
    sku         text        constraint product_sku unique,
    description text        not null,
    currency    text        not null,
    -- Minor units, without the discount, which is percent.
    price       bigint      not null constraint product_price check (price > 0),
    discount    smallint    not null constraint product_discount check (discount between 0 and 70),
    store       text        not null,
    plain_store text        not null,
    image_urls  text[]      not null,
    category_id bigint      constraint product_category references categories (id),
    -- A number of its own: one statement takes some away, `set stock = stock - $1 where stock >= $1`.
    stock       bigint      not null constraint product_stock check (stock >= 0),
    version     bigint      not null default 1,
    created_at  timestamptz not null,
    updated_at  timestamptz not null,
    -- What it is found by, as of items.
    words       tsvector    not null
);
-- Ids grow with time, so the newest first is the order of the ids.
create index product_store on products (plain_store, id);
create index product_category_id on products (category_id, id);
create index product_words on products using gin (words);

-- How many products a category has: a projection of the `product.*` events, and as such made anew by `replay`. So nothing
-- here refers to the tables above.
create table counted_products (
    product_id  uuid   primary key,
    -- Of the newest event that was heard; 0 before the first.
    version     bigint not null,
    -- Where it is counted; nowhere when it has no category, or is gone.
    category_id bigint
);
create table product_counts (
    category_id bigint primary key,
    products    bigint not null
) with (fillfactor = 70);
