-- Of an item that is gone a row stays behind, without its words: an older event that comes late must not bring it back.
alter table items drop constraint item_outcome;
alter table items add constraint item_outcome check (outcome in ('sold', 'unsold', 'cancelled', 'deleted'));
