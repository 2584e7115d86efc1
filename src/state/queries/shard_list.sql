SELECT h.source, h.shard, h.history_uuid, h.copy_planned_to, h.verify_planned_to, h.keys_checked_to, h.copied_since
FROM shard h
JOIN source s ON s.id = h.source
WHERE s.merge = $1
ORDER BY h.source, h.shard
