-- A destination that was set back may hold again what was deleted from it.
UPDATE shard h SET verify_planned_to = 0, keys_checked_to = NULL
FROM source s
WHERE s.id = h.source AND s.merge = $1
