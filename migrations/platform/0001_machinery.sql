-- What every domain's database has, whatever it is about: the tables of the runner.
-- Applied by the domain's owner before the domain's own migrations.

-- One row for each command that was decided, written in the transaction of its effect.
create table platform.outcome (
    -- Derived from (user, function, Idempotency-Key), else the message's id.
    id          uuid        primary key,
    function    text        not null,
    user_id     uuid,
    -- Of the decoded command; only with a key.
    fingerprint uuid,
    -- Null while undecided, which no other transaction ever sees.
    status      smallint,
    -- The answer's JSON, as it went out.
    body        text,
    created_at  timestamptz not null default now(),
    expires_at  timestamptz not null
) with (fillfactor = 80);
alter table platform.outcome alter column body set storage external;
create index outcome_expires_at on platform.outcome (expires_at);

-- The ids of the events that a consumer has counted.
create table platform.inbox (
    consumer text        not null,
    event_id uuid        not null,
    seen_at  timestamptz not null default now(),
    primary key (consumer, event_id)
);
create index inbox_seen_at on platform.inbox (seen_at);

-- One row for each transaction that said something, with all its events. Rows are selected by flag
-- and leave by the partition, never by delete.
create sequence platform.outbox_id;
create table platform.outbox (
    id           bigint      not null default nextval('platform.outbox_id'),
    day          date        not null default (now() at time zone 'utc')::date,
    created_at   timestamptz not null default now(),
    published    boolean     not null default false,
    -- How many events the row holds, and where in the stream the first and the last were stored.
    events_count integer     not null,
    first_seq    bigint,
    last_seq     bigint,
    -- A JSON array of {subject, id, traceparent, correlation_id, service, body}.
    events       text        not null,
    primary key (id, day)
) partition by range (day);
-- Read once, at once: compressing it costs more than it saves.
alter table platform.outbox alter column events set storage external;
create index outbox_unpublished on platform.outbox (id) where not published;
create index outbox_place on platform.outbox (last_seq) where published;
-- Takes what arrives when no partition for its day was made in time.
create table platform.outbox_default partition of platform.outbox default;

-- How often a message that came back was tried. Failures of the infrastructure are not counted.
create table platform.attempt (
    function   text        not null,
    -- <stream>:<sequence>
    message    text        not null,
    count      integer     not null,
    last_error text        not null default '',
    updated_at timestamptz not null default now(),
    primary key (function, message)
);
