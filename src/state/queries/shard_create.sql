-- Shards seen for the first time. A source of another merge gives no row, which the caller notices.
-- Of a collection that the destination cannot hold yet, nothing before the end of its first plan can be left behind:
-- what is deleted before it is read is never copied, and what is deleted later has its place in the log later.
INSERT INTO shard (source, shard, history_uuid, keys_checked_to)
SELECT t.source, t.shard, t.history_uuid, CASE WHEN t.is_new THEN t.planned_to END
FROM unnest($2::bigint[], $3::integer[], $4::text[], $5::bigint[], $6::boolean[])
     AS t (source, shard, history_uuid, planned_to, is_new)
JOIN source s ON s.id = t.source AND s.merge = $1
ORDER BY t.source, t.shard
ON CONFLICT DO NOTHING
