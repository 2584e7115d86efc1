-- What was done on a source that was given up counts no more. The epoch tells workers so.
UPDATE unit
SET state = 'closed', worker = NULL, epoch = epoch + 1
WHERE source = ANY($1) AND state <> 'closed'
