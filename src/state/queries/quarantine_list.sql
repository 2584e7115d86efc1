SELECT source, collection_id, chunk_id, destination_id, seq_no, class, reason,
       length(original)::bigint, (extract(epoch FROM seen_at) * 1000000)::bigint
FROM quarantine
WHERE merge = $1 AND ($2::bigint IS NULL OR collection_id = $2)
ORDER BY collection_id, source, chunk_id
LIMIT $3
