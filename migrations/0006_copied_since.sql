-- The pass in which the log of this shard, as it is, was planned first: a document of the collection that was written in
-- that pass or later speaks of a place in this log. NULL: not known, the shard was planned by an earlier release.
ALTER TABLE shard ADD COLUMN copied_since integer;
