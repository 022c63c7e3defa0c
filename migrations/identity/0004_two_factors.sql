-- One row for each account that has begun to enrol an authenticator. Rows stay locked while a code is tried.
create table second_factors (
    user_id       uuid        primary key references users (id) on delete cascade,
    -- XChaCha20-Poly1305 of the seed, its nonce in front, bound to the account; the key is not in the database.
    seed          bytea,
    -- The one that is being enrolled, and since when.
    pending       bytea,
    pending_since timestamptz,
    -- The latest step (30 s since 1970) whose code was taken: none counts twice, and none before it.
    last_step     bigint      not null default 0,
    -- Wrong tries of whatever kind, in the hour that began with the first of them.
    wrong         integer     not null default 0,
    wrong_since   timestamptz
);

-- What stands in for the authenticator. Each has 120 random bits, so a plain SHA-256 gives nothing away.
create table recovery_codes (
    user_id uuid        not null references users (id) on delete cascade,
    hash    bytea       not null,
    used_at timestamptz,
    primary key (user_id, hash)
);

-- Logins that wait for their second factor. The challenge itself is a signed token and not stored.
create table challenges (
    id         uuid        primary key,
    user_id    uuid        not null references users (id) on delete cascade,
    tries      integer     not null default 0,
    expires_at timestamptz not null
);
create index challenges_by_user on challenges (user_id);

-- Whether a session was opened with a second factor.
alter table sessions add column two_factors boolean not null default false;
