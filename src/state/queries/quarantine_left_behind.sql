-- Shards of those of the chunks which the destination may hold as they were before. What is in quarantine already for what it
-- is itself was taken out of the destination then.
SELECT DISTINCT t.source, t.shard
FROM unnest($2::bigint[], $3::integer[], $4::text[]) AS t (source, shard, chunk_id)
WHERE NOT EXISTS (
    SELECT FROM quarantine q
    WHERE q.merge = $1 AND q.source = t.source AND q.shard = t.shard AND q.chunk_id = t.chunk_id
      AND q.class NOT IN ('Different', 'Collision', 'Refused')
)
