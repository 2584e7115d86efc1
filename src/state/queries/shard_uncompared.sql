-- What was copied and not yet planned to be compared, of the sources that can be read.
SELECT h.source, h.shard, h.history_uuid, h.copy_planned_to,
       least(h.copy_planned_to - h.verify_planned_to, greatest(s.documents, 1))
FROM shard h
JOIN source s ON s.id = h.source
WHERE s.merge = $1 AND s.state = 'active' AND h.verify_planned_to < h.copy_planned_to
ORDER BY h.source, h.shard
