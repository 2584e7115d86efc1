-- Up to where (exclusive) the deletions of a shard's log are known to be gone from the destination too.
-- NULL: the destination may hold keys of a history before this one, so they have to be compared once.
ALTER TABLE shard ADD COLUMN keys_checked_to bigint CHECK (keys_checked_to >= 0);
