-- Never backwards, and not where the shard began anew or was planned further meanwhile: what its next pass finds out
-- about its keys would be lost.
UPDATE shard h
SET keys_checked_to = t.checked_to
FROM unnest($2::bigint[], $3::integer[], $4::text[], $5::bigint[]) AS t (source, shard, history_uuid, checked_to),
     source s
WHERE h.source = t.source AND h.shard = t.shard AND h.history_uuid = t.history_uuid
  AND s.id = h.source AND s.merge = $1
  AND h.copy_planned_to = t.checked_to
  AND (h.keys_checked_to IS NULL OR h.keys_checked_to < t.checked_to)
