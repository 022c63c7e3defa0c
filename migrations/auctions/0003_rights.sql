-- A decision on a bid is kept as it was made: functions add rows, and neither change nor remove them.
revoke update, delete on bids from auctions;
