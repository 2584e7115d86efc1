-- Shards seen for the first time. A source of another merge gives no row, which the caller notices.
INSERT INTO shard (source, shard, history_uuid)
SELECT t.source, t.shard, t.history_uuid
FROM unnest($2::bigint[], $3::integer[], $4::text[]) AS t (source, shard, history_uuid)
JOIN source s ON s.id = t.source AND s.merge = $1
ORDER BY t.source, t.shard
ON CONFLICT DO NOTHING
