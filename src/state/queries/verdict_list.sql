SELECT collection_id, source_documents, destination_documents, compared, different, quarantined, collapsed,
       verdict, reason
FROM collection_verdict
WHERE merge = $1
ORDER BY collection_id
