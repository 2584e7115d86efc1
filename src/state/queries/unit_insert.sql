INSERT INTO unit (merge, kind, pass, source, shard, from_seq, to_seq, cursor_seq, estimated_documents)
SELECT $1, $2, $3, t.source, t.shard, t.from_seq, t.to_seq, t.from_seq, t.estimated_documents
FROM unnest($4::bigint[], $5::integer[], $6::bigint[], $7::bigint[], $8::bigint[])
     AS t (source, shard, from_seq, to_seq, estimated_documents)
