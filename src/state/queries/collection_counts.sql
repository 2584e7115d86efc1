-- Of an index that is gone, because it was deleted or another one was made in its place, nothing counts.
SELECT s.collection_id,
       coalesce(sum(u.documents) FILTER (WHERE u.kind = 'copy'), 0)::bigint AS documents,
       coalesce(sum(u.bytes_read) FILTER (WHERE u.kind = 'copy'), 0)::bigint AS bytes_read,
       coalesce(sum(u.bytes_written) FILTER (WHERE u.kind = 'copy'), 0)::bigint AS bytes_written,
       coalesce(sum(u.written) FILTER (WHERE u.kind = 'copy'), 0)::bigint AS written,
       coalesce(sum(u.already_there) FILTER (WHERE u.kind = 'copy'), 0)::bigint AS already_there,
       coalesce(sum(u.collapsed) FILTER (WHERE u.kind = 'verify'), 0)::bigint AS collapsed,
       coalesce(sum(u.quarantined), 0)::bigint AS quarantined,
       coalesce(sum(u.compared) FILTER (WHERE u.kind = 'verify'), 0)::bigint AS compared,
       coalesce(sum(u.different) FILTER (WHERE u.kind = 'verify'), 0)::bigint AS different,
       coalesce(sum(u.repaired) FILTER (WHERE u.kind = 'verify'), 0)::bigint AS repaired
FROM unit u
JOIN source s ON s.id = u.source
WHERE u.merge = $1 AND u.state <> 'closed' AND NOT u.recheck AND s.state IN ('active', 'waiting')
GROUP BY s.collection_id
ORDER BY s.collection_id
