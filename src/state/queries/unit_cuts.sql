UPDATE unit u
SET cuts = c.cuts
FROM unnest($1::bigint[], $2::jsonb[]) AS c (unit, cuts)
WHERE u.id = c.unit
