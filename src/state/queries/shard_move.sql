-- The new end of the plan; a restarted shard begins anew for the other kind too, and its keys are compared.
UPDATE shard h
SET history_uuid = t.history_uuid,
    copy_planned_to = CASE WHEN $1 = 'copy' THEN t.planned_to WHEN t.restarted THEN 0 ELSE h.copy_planned_to END,
    verify_planned_to =
        CASE WHEN $1 = 'verify' THEN t.planned_to WHEN t.restarted THEN 0 ELSE h.verify_planned_to END,
    keys_checked_to = CASE WHEN NOT t.restarted THEN h.keys_checked_to END,
    copied_since = CASE WHEN $1 = 'copy' AND (t.restarted OR h.copy_planned_to = 0) THEN $7
                        WHEN NOT t.restarted THEN h.copied_since END
FROM unnest($2::bigint[], $3::integer[], $4::text[], $5::bigint[], $6::boolean[])
     AS t (source, shard, history_uuid, planned_to, restarted)
WHERE h.source = t.source AND h.shard = t.shard
