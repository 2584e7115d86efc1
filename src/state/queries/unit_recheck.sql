-- Their pass is a new one: what they write must be above what was deleted in the last one.
-- Ranges to compare once more: only what the copy plan covers, only of sources that take part; one that waits
-- already is not made twice.
WITH m AS (
    UPDATE merge SET pass = pass + 1 WHERE id = $1 RETURNING pass
)
INSERT INTO unit (merge, kind, pass, source, shard, from_seq, to_seq, cursor_seq, estimated_documents, recheck)
SELECT $1, 'verify', m.pass, t.source, t.shard, t.from_seq, t.to_seq, t.from_seq, t.estimated_documents, true
FROM unnest($2::bigint[], $3::integer[], $4::bigint[], $5::bigint[], $6::bigint[])
     AS t (source, shard, from_seq, to_seq, estimated_documents)
CROSS JOIN m
JOIN source s ON s.id = t.source AND s.merge = $1 AND s.state = 'active'
JOIN shard h ON h.source = t.source AND h.shard = t.shard AND t.to_seq <= h.copy_planned_to
ORDER BY t.source, t.shard, t.from_seq
ON CONFLICT (source, shard, from_seq, to_seq) WHERE state = 'open' AND recheck DO NOTHING
