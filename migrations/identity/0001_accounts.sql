create table users (
    id                 uuid        primary key,
    email              text        not null,
    username           text        not null,
    name               text        not null,
    first_name         text        not null,
    last_name          text        not null,
    -- Argon2id, in the PHC string form.
    password_hash      text        not null,
    role               text        not null default 'user' constraint user_role check (role in ('user', 'admin')),
    two_factor_enabled boolean     not null default false,
    created_at         timestamptz not null,
    updated_at         timestamptz not null
);
-- Unique whatever their case.
create unique index user_email on users (lower(email));
create unique index user_username on users (lower(username));

-- One row for each login, until it ends. No token is stored: a refresh token is computed from the
-- row's id, generation and salt with a key that is not in the database.
create table sessions (
    id          uuid        primary key,
    user_id     uuid        not null references users (id) on delete cascade,
    generation  integer     not null default 1,
    salt        bytea       not null,
    created_at  timestamptz not null,
    rotated_at  timestamptz not null,
    expires_at  timestamptz not null,
    revoked_at  timestamptz
);
create index sessions_by_user on sessions (user_id);
