-- The merge of an owner: the one that holds its destination, else the last that did.
SELECT id, owner, destination_cluster, destination_index, identity, phase, pass, memo, retry_token,
    (extract(epoch FROM started_at) * 1000000)::bigint AS started_at,
    (extract(epoch FROM completed_at) * 1000000)::bigint AS completed_at,
    (extract(epoch FROM phase_since) * 1000000)::bigint AS phase_since,
    (extract(epoch FROM released_at) * 1000000)::bigint AS released_at
FROM merge
WHERE owner = $1 AND identity = $2
ORDER BY released_at IS NULL DESC, started_at DESC
LIMIT 1
