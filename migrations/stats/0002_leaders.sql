-- Who has most of something: the first hundred of each measure, and those who were among them since it was tidied last.
-- Figures only grow, so who is behind the hundredth comes back by a change of their own and by nothing else.
create table leaders (
    measure text    not null constraint leader_measure check (measure in
        ('total_bids', 'total_amount', 'items_won', 'total_spent', 'items_sold')),
    user_id uuid    not null,
    value   numeric not null,
    primary key (measure, user_id)
);
create index leader_place on leaders (measure, value desc, user_id);
insert into leaders
select measure, user_id, value
from (
    select measure, user_id, value, row_number() over (partition by measure order by value desc, user_id) as place
    from user_figures cross join lateral (values
        ('total_bids', total_bids::numeric), ('total_amount', total_amount), ('items_won', items_won::numeric),
        ('total_spent', total_spent), ('items_sold', items_sold::numeric)) as figure (measure, value)
    where value > 0) as ranked
where place <= 100;
