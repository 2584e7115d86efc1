-- Cuts are kept with the units that made them, so that a closed unit's no longer count.
SELECT s.id, s.collection_id, s.index_name, s.index_uuid, s.shards, s.generation, s.documents, s.bytes, s.state,
       s.attention, s.blocked_by_us, s.deletion, s.kept_because, coalesce(c.cuts, '{}') AS cuts
FROM source s
LEFT JOIN (
    SELECT source, jsonb_object_agg(reason, total) AS cuts
    FROM (
        SELECT u.source, cut.key AS reason, sum(cut.value::bigint)::bigint AS total
        FROM unit u, jsonb_each_text(u.cuts) AS cut
        WHERE u.merge = $1 AND u.cuts IS NOT NULL AND u.kind = 'copy' AND u.state <> 'closed'
        GROUP BY u.source, cut.key
    ) AS sums
    GROUP BY source
) AS c ON c.source = s.id
WHERE s.merge = $1
ORDER BY s.id
