-- The units of a source that cannot be read now (closed, red) wait for it and hold up nobody else.
-- A range that is compared once more is work like any other, but what it does was counted before.
SELECT kind,
       count(*) AS units,
       count(*) FILTER (WHERE state = 'done') AS units_done,
       count(*) FILTER (WHERE state = 'open' AND readable) AS open,
       coalesce(sum(to_seq - from_seq) FILTER (WHERE NOT recheck), 0)::bigint AS positions_total,
       coalesce(sum(cursor_seq - from_seq) FILTER (WHERE NOT recheck), 0)::bigint AS positions_done,
       coalesce(sum(estimated_documents) FILTER (WHERE NOT recheck), 0)::bigint AS estimated_documents,
       coalesce(sum(documents) FILTER (WHERE NOT recheck), 0)::bigint AS documents,
       coalesce(sum(bytes_read) FILTER (WHERE NOT recheck), 0)::bigint AS bytes_read,
       coalesce(sum(bytes_written) FILTER (WHERE NOT recheck), 0)::bigint AS bytes_written,
       coalesce(sum(written) FILTER (WHERE NOT recheck), 0)::bigint AS written,
       coalesce(sum(already_there) FILTER (WHERE NOT recheck), 0)::bigint AS already_there,
       coalesce(sum(collapsed) FILTER (WHERE NOT recheck), 0)::bigint AS collapsed,
       coalesce(sum(quarantined) FILTER (WHERE NOT recheck), 0)::bigint AS quarantined,
       coalesce(sum(compared) FILTER (WHERE NOT recheck), 0)::bigint AS compared,
       coalesce(sum(different) FILTER (WHERE NOT recheck), 0)::bigint AS different,
       coalesce(sum(repaired) FILTER (WHERE NOT recheck), 0)::bigint AS repaired,
       count(*) FILTER (WHERE state = 'open' AND readable AND last_error IS NOT NULL) AS failing,
       (array_agg(last_error ORDER BY last_error_at DESC)
            FILTER (WHERE state = 'open' AND readable AND last_error IS NOT NULL))[1] AS last_error
FROM (
    SELECT u.*, s.state = 'active' AS readable
    FROM unit u
    JOIN source s ON s.id = u.source
    WHERE u.merge = $1 AND u.state <> 'closed'
) AS counted
GROUP BY kind
