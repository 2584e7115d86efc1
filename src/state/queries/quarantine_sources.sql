SELECT source, class, count(*)
FROM quarantine
WHERE merge = $1
GROUP BY source, class
ORDER BY source, class
