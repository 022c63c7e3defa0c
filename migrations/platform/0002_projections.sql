-- What a consumer that keeps a projection knows of the stream, and of the last time it was rebuilt.

-- Everything up to this place of EVENTS is settled: heard, or given up. Noted every few seconds, so that a consumer
-- that was away for long finds out when the stream has let go of what it had not heard.
create table platform.heard (
    consumer text        primary key,
    heard_to bigint      not null,
    heard_at timestamptz not null default now()
);

-- The last rebuild of a consumer's projection. It runs while its process holds the lock; one that has neither ended nor
-- runs was broken off, and what it made beside the live tables is forgotten by the next one.
create table platform.rebuild (
    consumer   text        primary key,
    step       text        not null,
    -- How many events the authority's snapshot told, and how many of the stream were looked at.
    told       bigint      not null default 0,
    heard      bigint      not null default 0,
    started_at timestamptz not null default now(),
    ended_at   timestamptz,
    -- Null when it succeeded.
    error      text
);
