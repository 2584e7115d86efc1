-- Only units that wait after a failure; leased ones have a worker.
UPDATE unit
SET available_at = '-infinity', attempts = 0
WHERE merge = $1 AND state = 'open' AND worker IS NULL AND last_error IS NOT NULL
