alter table users
    add is_active  boolean     not null default true,
    -- Counts the account's changes.
    add version    bigint      not null default 1,
    -- The row of a deleted account stays, under a pseudonym: what it did names its id.
    add deleted_at timestamptz,
    -- The words of its names, in lower case, by which it is found; a deleted one has none. Filled by
    -- the functions.
    add words      tsvector    not null default '';

-- Accounts from before are found by theirs, in the letters that the database's locale knows.
update users set words = coalesce(
    (select array_to_tsvector(array_agg(word))
     from regexp_split_to_table(lower(concat_ws(' ', username, translate(username, '.-_', '   '), name)), '\s+') as word
     where word <> ''),
    '');

-- The list, the newest first, and its count.
create index user_listed on users (id) where deleted_at is null;
create index user_words on users using gin (words);
create index user_admin on users (id) where role = 'admin';
