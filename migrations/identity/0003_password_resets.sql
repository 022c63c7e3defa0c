-- One row for each token that was sent to somebody who forgot their password, until it is used. No token is stored: it is
-- computed from the row's id and salt with a key that is not in the database.
create table password_resets (
    id         uuid        primary key,
    user_id    uuid        not null references users (id) on delete cascade,
    salt       bytea       not null,
    expires_at timestamptz not null
);
create index password_resets_by_user on password_resets (user_id);
