-- A page of places, after the given one, in the order of the logs.
SELECT q.source, q.shard, q.seq_no
FROM quarantine q
WHERE q.merge = $1
  AND ($2::bigint IS NULL OR q.collection_id = $2)
  AND ($3::text IS NULL OR q.class = $3)
  AND (q.source, q.shard, q.seq_no) > ($4::bigint, $5::integer, $6::bigint)
ORDER BY q.source, q.shard, q.seq_no
LIMIT $7
