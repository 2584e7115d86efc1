-- Moves cursors and adds counts, only where the lease is still the worker's and the cursor where it left it.
-- Progress ends a row of failures.
UPDATE unit u
SET cursor_seq = a.to_seq,
    state = CASE WHEN a.to_seq = u.to_seq THEN 'done' ELSE 'open' END,
    worker = CASE WHEN a.to_seq = u.to_seq THEN NULL ELSE u.worker END,
    attempts = 0,
    last_error = NULL,
    last_error_at = NULL,
    documents = u.documents + a.documents,
    bytes_read = u.bytes_read + a.bytes_read,
    bytes_written = u.bytes_written + a.bytes_written,
    written = u.written + a.written,
    already_there = u.already_there + a.already_there,
    collapsed = u.collapsed + a.collapsed,
    quarantined = u.quarantined + a.quarantined,
    compared = u.compared + a.compared,
    different = u.different + a.different,
    repaired = u.repaired + a.repaired
FROM unnest($2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[], $8::bigint[],
            $9::bigint[], $10::bigint[], $11::bigint[], $12::bigint[], $13::bigint[], $14::bigint[], $15::bigint[])
     AS a (unit, epoch, from_seq, to_seq, documents, bytes_read, bytes_written, written, already_there,
           collapsed, quarantined, compared, different, repaired)
WHERE u.id = a.unit
  AND u.merge = $1
  AND u.state = 'open'
  AND u.worker IS NOT NULL
  AND u.epoch = a.epoch
  AND u.cursor_seq = a.from_seq
  AND a.from_seq < a.to_seq
  AND a.to_seq <= u.to_seq
RETURNING u.id
