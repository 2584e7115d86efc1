SELECT kind,
       count(*) AS units,
       count(*) FILTER (WHERE state = 'done') AS units_done,
       sum(to_seq - from_seq)::bigint AS positions_total,
       sum(cursor_seq - from_seq)::bigint AS positions_done,
       sum(estimated_documents)::bigint AS estimated_documents,
       sum(documents)::bigint AS documents,
       sum(bytes_read)::bigint AS bytes_read,
       sum(bytes_written)::bigint AS bytes_written,
       sum(written)::bigint AS written,
       sum(already_there)::bigint AS already_there,
       sum(collapsed)::bigint AS collapsed,
       sum(quarantined)::bigint AS quarantined,
       sum(compared)::bigint AS compared,
       sum(different)::bigint AS different,
       sum(repaired)::bigint AS repaired,
       count(*) FILTER (WHERE state = 'open' AND last_error IS NOT NULL) AS failing,
       (array_agg(last_error ORDER BY last_error_at DESC)
            FILTER (WHERE state = 'open' AND last_error IS NOT NULL))[1] AS last_error
FROM unit
WHERE merge = $1 AND state <> 'closed'
GROUP BY kind
