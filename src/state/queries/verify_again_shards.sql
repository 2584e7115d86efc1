UPDATE shard h SET verify_planned_to = 0
FROM source s
WHERE s.id = h.source AND s.merge = $1 AND h.verify_planned_to <> 0
