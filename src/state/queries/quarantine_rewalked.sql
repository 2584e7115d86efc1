-- What a walk over a window says about its chunks replaces what was said before.
DELETE FROM quarantine q
USING unnest($1::bigint[], $2::bigint[], $3::bigint[]) AS a (unit, from_seq, to_seq), unit u
WHERE u.id = a.unit AND q.source = u.source AND q.shard = u.shard
  AND a.from_seq <= q.seq_no AND q.seq_no < a.to_seq
