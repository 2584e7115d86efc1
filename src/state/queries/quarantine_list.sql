-- A page, after the chunk whose key is given, in the order of collections.
SELECT source, shard, collection_id, chunk_id, destination_id, seq_no, class, reason,
       length(original)::bigint, (extract(epoch FROM seen_at) * 1000000)::bigint
FROM quarantine
WHERE merge = $1
  AND ($2::bigint IS NULL OR collection_id = $2)
  AND ($3::text IS NULL OR class = $3)
  AND ($4::bigint IS NULL OR (collection_id, source, shard, chunk_id) > ($4, $5::bigint, $6::integer, $7::text))
ORDER BY collection_id, source, shard, chunk_id
LIMIT $8
