WITH mine AS (
    SELECT u.id
    FROM unit u
    JOIN unnest($1::bigint[], $2::bigint[]) AS l (unit, epoch) ON u.id = l.unit AND u.epoch = l.epoch
    WHERE u.state = 'open' AND u.worker IS NOT NULL
    ORDER BY u.id
    FOR NO KEY UPDATE OF u
)
UPDATE unit u
SET worker = NULL, available_at = '-infinity'
FROM mine
WHERE u.id = mine.id
