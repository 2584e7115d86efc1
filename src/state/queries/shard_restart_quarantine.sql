-- Sequence numbers of another history mean nothing; the walk from 0 finds these chunks again.
DELETE FROM quarantine q
USING unnest($1::bigint[], $2::integer[], $3::boolean[]) AS t (source, shard, restarted)
WHERE t.restarted AND q.source = t.source AND q.shard = t.shard
