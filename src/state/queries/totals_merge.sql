SELECT (SELECT count(*) FROM quarantine WHERE merge = $1),
       (SELECT count(DISTINCT worker)
        FROM unit
        WHERE merge = $1 AND state = 'open' AND worker IS NOT NULL AND available_at > now())
