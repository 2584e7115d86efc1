-- Of one chunk the newest state stays. The join makes sure that unit, source and merge belong together.
INSERT INTO quarantine AS q
    (merge, source, shard, chunk_id, unit, collection_id, destination_id, seq_no, class, reason, original)
SELECT $1, t.source, u.shard, t.chunk_id, t.unit, t.collection_id, t.destination_id, t.seq_no, t.class, t.reason,
       t.original
FROM unnest($2::bigint[], $3::text[], $4::bigint[], $5::bigint[], $6::text[], $7::bigint[], $8::text[], $9::text[],
            $10::bytea[])
     AS t (source, chunk_id, unit, collection_id, destination_id, seq_no, class, reason, original)
JOIN unit u ON u.id = t.unit AND u.merge = $1 AND u.source = t.source
ORDER BY t.source, u.shard, t.chunk_id
ON CONFLICT (merge, source, shard, chunk_id) DO UPDATE
SET unit = excluded.unit,
    collection_id = excluded.collection_id,
    destination_id = excluded.destination_id,
    seq_no = excluded.seq_no,
    class = excluded.class,
    reason = excluded.reason,
    original = excluded.original,
    seen_at = now()
WHERE excluded.seq_no >= q.seq_no
