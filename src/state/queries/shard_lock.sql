SELECT h.source, h.shard, h.history_uuid, h.copy_planned_to, h.verify_planned_to
FROM shard h
JOIN source s ON s.id = h.source AND s.merge = $1
JOIN unnest($2::bigint[], $3::integer[]) AS t (source, shard) ON t.source = h.source AND t.shard = h.shard
ORDER BY h.source, h.shard
FOR UPDATE OF h
