-- The units of a checkpoint, locked in the order of ids.
SELECT id, from_seq, to_seq, cursor_seq, epoch, state = 'open', worker IS NOT NULL, kind = 'verify', cuts
FROM unit
WHERE merge = $1 AND id = ANY($2)
ORDER BY id
FOR NO KEY UPDATE
