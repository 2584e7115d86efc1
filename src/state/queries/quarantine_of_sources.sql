-- A page of some sources, after the chunk whose key is given: a part of the primary key's index.
SELECT source, shard, seq_no, chunk_id, class
FROM quarantine
WHERE merge = $1
  AND (source, shard, chunk_id) > ($2::bigint, $3::integer, $4::text)
  AND source <= $5::bigint
ORDER BY source, shard, chunk_id
LIMIT $6
