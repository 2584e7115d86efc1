UPDATE shard h
SET keys_checked_to = NULL
FROM unnest($2::bigint[], $3::integer[]) AS t (source, shard), source s
WHERE h.source = t.source AND h.shard = t.shard AND s.id = h.source AND s.merge = $1
