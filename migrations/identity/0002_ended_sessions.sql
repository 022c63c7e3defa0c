-- Sessions that were ended before their time, for an edge that begins.
create index session_ended on sessions (revoked_at) where revoked_at is not null;
