-- The largest available units (a late start of a large one would make the tail long), as many as fit.
-- A lease or a wait that ends later than any can (20 s, 64 s) is void: the clock was set back since.
-- Rows locked by a checkpoint or a renewal are leased anyway, so they are skipped.
WITH candidate AS (
    SELECT u.id, u.estimated_documents
    FROM unit u
    WHERE u.merge = $1
      AND u.kind = $2
      AND u.state = 'open'
      AND (u.available_at <= now() OR u.available_at > now() + interval '5 minutes')
      AND (SELECT s.state FROM source s WHERE s.id = u.source) = 'active'
      AND EXISTS (SELECT FROM merge m WHERE m.id = $1 AND m.released_at IS NULL)
    ORDER BY u.estimated_documents DESC, u.id
    LIMIT $5
    FOR NO KEY UPDATE OF u SKIP LOCKED
), summed AS (
    SELECT id,
           row_number() OVER (ORDER BY estimated_documents DESC, id) AS place,
           sum(estimated_documents) OVER (ORDER BY estimated_documents DESC, id) AS running
    FROM candidate
)
UPDATE unit u
SET worker = $3,
    epoch = u.epoch + 1,
    available_at = now() + make_interval(secs => $4)
FROM summed c, source s
WHERE u.id = c.id AND (c.place = 1 OR c.running <= $6) AND s.id = u.source
RETURNING u.id, u.epoch, u.kind, u.pass, u.source, s.collection_id, s.index_name, s.index_uuid, u.shard,
          u.from_seq, u.to_seq, u.cursor_seq, u.attempts, u.estimated_documents,
          s.shards, s.bytes / greatest(s.documents, 1) AS bytes_per_document,
          coalesce((SELECT h.keys_checked_to <= u.from_seq FROM shard h WHERE h.source = u.source AND h.shard = u.shard),
                   false) AS is_follow_up
