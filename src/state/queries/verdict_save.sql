INSERT INTO collection_verdict AS v
    (merge, collection_id, source_documents, destination_documents, compared, different, quarantined, collapsed,
     verdict, reason)
SELECT $1, t.*
FROM unnest($2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[], $8::bigint[],
            $9::boolean[], $10::text[])
     AS t (collection_id, source_documents, destination_documents, compared, different, quarantined, collapsed,
           verdict, reason)
ON CONFLICT (merge, collection_id) DO UPDATE
SET source_documents = excluded.source_documents,
    destination_documents = excluded.destination_documents,
    compared = excluded.compared,
    different = excluded.different,
    quarantined = excluded.quarantined,
    collapsed = excluded.collapsed,
    verdict = excluded.verdict,
    reason = excluded.reason,
    decided_at = now()
