-- Claims a destination that nobody has; no row if somebody has it.
INSERT INTO merge (id, owner, destination_cluster, destination_index, identity)
VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (destination_cluster, destination_index) WHERE released_at IS NULL DO NOTHING
RETURNING id, owner, destination_cluster, destination_index, identity, phase, pass, memo, retry_token,
    (extract(epoch FROM started_at) * 1000000)::bigint AS started_at,
    (extract(epoch FROM completed_at) * 1000000)::bigint AS completed_at,
    (extract(epoch FROM phase_since) * 1000000)::bigint AS phase_since,
    (extract(epoch FROM released_at) * 1000000)::bigint AS released_at
