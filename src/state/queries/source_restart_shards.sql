UPDATE shard SET copy_planned_to = 0, verify_planned_to = 0 WHERE source = ANY($1)
