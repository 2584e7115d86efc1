UPDATE unit
SET worker = NULL,
    attempts = attempts + 1,
    last_error = $3,
    last_error_at = now(),
    available_at = now() + make_interval(secs => $4)
WHERE id = $1 AND epoch = $2 AND state = 'open' AND worker IS NOT NULL
