-- Which of the found sources were given up before; locked, so that nothing is planned on them meanwhile.
SELECT s.id
FROM source s
JOIN unnest($2::bigint[], $3::text[]) AS found (collection_id, index_uuid) USING (collection_id, index_uuid)
WHERE s.merge = $1 AND s.state IN ('gone', 'purged')
ORDER BY s.id
FOR NO KEY UPDATE OF s
