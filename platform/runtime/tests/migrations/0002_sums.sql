-- What an authority knows, and a projection of it.
create table added (
    key    uuid   not null,
    seq    bigint not null,
    number bigint not null,
    primary key (key, seq)
);
create table sums (
    key   uuid   primary key,
    count bigint not null,
    total bigint not null
);
