-- The units of both kinds of shards whose history began anew. The epoch tells workers so.
UPDATE unit u
SET state = 'closed', worker = NULL, epoch = u.epoch + 1
FROM unnest($1::bigint[], $2::integer[], $3::boolean[]) AS t (source, shard, restarted)
WHERE t.restarted AND u.source = t.source AND u.shard = t.shard AND u.state <> 'closed'
