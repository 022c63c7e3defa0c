-- Who ended an item before its time, and why it was taken back.
alter table items add column ended_by uuid;
alter table items add column end_reason text;
-- The item as which it was offered again. May be deleted: then it can be offered again once more.
alter table items add column relisted_as uuid references items (id) on delete set null;
create index item_relisted on items (relisted_as) where relisted_as is not null;

alter table item_changes drop constraint item_change_event;
alter table item_changes add constraint item_change_event
    check (event in ('extended', 'updated', 'closed', 'cancelled'));
