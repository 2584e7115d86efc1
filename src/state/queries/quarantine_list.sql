-- A page, after the chunk whose key is given, in the order of collections.
SELECT q.source, s.index_name, q.shard, q.collection_id, q.chunk_id, q.destination_id, q.seq_no, q.class, q.reason,
       length(q.original)::bigint, (extract(epoch FROM q.seen_at) * 1000000)::bigint
FROM quarantine q
JOIN source s ON s.id = q.source
WHERE q.merge = $1
  AND ($2::bigint IS NULL OR q.collection_id = $2)
  AND ($3::text IS NULL OR q.class = $3)
  AND ($4::bigint IS NULL
       OR (q.collection_id, q.source, q.shard, q.chunk_id) > ($4, $5::bigint, $6::integer, $7::text))
ORDER BY q.collection_id, q.source, q.shard, q.chunk_id
LIMIT $8
