DELETE FROM quarantine WHERE source = ANY($1)
