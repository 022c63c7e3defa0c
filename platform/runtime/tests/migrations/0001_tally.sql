-- What the runner's tests count: one row for each effect.
create table tally (
    id     bigserial primary key,
    name   text      not null
);
