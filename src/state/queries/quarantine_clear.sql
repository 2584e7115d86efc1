DELETE FROM quarantine q
USING unnest($2::bigint[], $3::integer[], $4::text[], $5::bigint[]) AS t (source, shard, chunk_id, seq_no)
WHERE q.merge = $1 AND q.source = t.source AND q.shard = t.shard AND q.chunk_id = t.chunk_id
  AND q.seq_no <= t.seq_no
