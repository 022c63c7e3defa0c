alter table items add column increment_policy text not null default 'flat'
    constraint item_increment_policy check (increment_policy in ('flat', 'trademe', 'ebay'));
