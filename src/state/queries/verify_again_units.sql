-- What was compared counts no more. The epoch tells workers so.
UPDATE unit
SET state = 'closed', worker = NULL, epoch = epoch + 1
WHERE merge = $1 AND kind = 'verify' AND state <> 'closed'
