alter table items add column increment_policy text not null default 'flat'
    constraint item_increment_policy check (increment_policy in ('flat', 'trademe', 'ebay'));
-- How far the leader goes, in minor units. Nobody else may learn it. Null in rows of the time before this column:
-- then the leader goes as far as the price.
alter table items add column leader_maximum bigint;

-- What everybody was told of an accepted bid, when its bidder was answered something else: because the answer
-- names a maximum, or because the bid was outbid at once. Null when it is the answer.
-- A bid that no command asked for, the automatic answer of a leader, has its own id as `command_id`.
alter table bids add column told text;
