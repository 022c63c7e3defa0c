-- What somebody bid on, how often and how much, read from the index alone. Bids that were refused are not in it.
create index bid_of_bidder on bids (bidder_id, item_id, seq) include (amount, id) where seq is not null;
