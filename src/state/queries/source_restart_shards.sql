UPDATE shard
SET copy_planned_to = 0, verify_planned_to = 0, keys_checked_to = NULL, copied_since = NULL
WHERE source = ANY($1)
