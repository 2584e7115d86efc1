UPDATE unit
SET state = 'closed', worker = NULL, epoch = epoch + 1
WHERE source = $1 AND state = 'open'
