-- Done units of shards that have many, each with the first of its kind. Only where they leave no gap.
SELECT u.id, g.keep
FROM unit u
JOIN (
    SELECT source, shard, kind, (array_agg(id ORDER BY from_seq))[1] AS keep
    FROM unit
    WHERE merge = $1 AND state = 'done' AND NOT recheck
    GROUP BY source, shard, kind
    HAVING count(*) >= $2 AND sum(to_seq - from_seq) = max(to_seq) - min(from_seq)
) AS g USING (source, shard, kind)
WHERE u.merge = $1 AND u.state = 'done' AND NOT u.recheck
ORDER BY u.id
FOR NO KEY UPDATE OF u
