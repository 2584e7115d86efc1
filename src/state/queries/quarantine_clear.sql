DELETE FROM quarantine q
USING unnest($2::bigint[], $3::text[], $4::bigint[]) AS t (source, chunk_id, seq_no)
WHERE q.merge = $1 AND q.source = t.source AND q.chunk_id = t.chunk_id AND q.seq_no <= t.seq_no
