-- Of one chunk the newest state stays. The join makes sure that unit, source and merge belong together.
-- Of each source at most $11 originals are kept, those that were there first; a few more where several workers write at once.
WITH given AS (
    SELECT t.*, u.shard, row_number() OVER (PARTITION BY t.source ORDER BY u.shard, t.chunk_id) AS nth
    FROM unnest($2::bigint[], $3::text[], $4::bigint[], $5::bigint[], $6::text[], $7::bigint[], $8::text[], $9::text[],
                $10::bytea[])
         AS t (source, chunk_id, unit, collection_id, destination_id, seq_no, class, reason, original)
    JOIN unit u ON u.id = t.unit AND u.merge = $1 AND u.source = t.source
), held AS (
    SELECT s.source,
           (SELECT count(*)
            FROM (SELECT FROM quarantine o WHERE o.source = s.source AND o.original IS NOT NULL LIMIT $11::bigint) AS kept
           ) AS originals
    FROM (SELECT DISTINCT source FROM given) AS s
)
INSERT INTO quarantine AS q
    (merge, source, shard, chunk_id, unit, collection_id, destination_id, seq_no, class, reason, original)
SELECT $1, g.source, g.shard, g.chunk_id, g.unit, g.collection_id, g.destination_id, g.seq_no, g.class, g.reason,
       CASE WHEN h.originals + g.nth <= $11::bigint THEN g.original END
FROM given g
JOIN held h ON h.source = g.source
ORDER BY g.source, g.shard, g.chunk_id
ON CONFLICT (merge, source, shard, chunk_id) DO UPDATE
SET unit = excluded.unit,
    collection_id = excluded.collection_id,
    destination_id = excluded.destination_id,
    seq_no = excluded.seq_no,
    class = excluded.class,
    reason = excluded.reason,
    original = CASE WHEN excluded.seq_no = q.seq_no THEN coalesce(excluded.original, q.original) ELSE excluded.original END,
    seen_at = now()
WHERE excluded.seq_no >= q.seq_no
