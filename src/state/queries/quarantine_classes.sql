SELECT collection_id, class, count(*)
FROM quarantine
WHERE merge = $1
GROUP BY collection_id, class
ORDER BY collection_id, class
