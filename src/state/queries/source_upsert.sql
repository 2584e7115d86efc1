-- One row for each collection and index uuid; a known one is refreshed, and only if something changed.
INSERT INTO source AS s (merge, collection_id, index_name, index_uuid, shards, documents, bytes, generation)
SELECT $1, found.*, coalesce((SELECT max(o.generation) + 1 FROM source o
                              WHERE o.merge = $1 AND o.collection_id = found.collection_id), 0)
FROM unnest($2::bigint[], $3::text[], $4::text[], $5::integer[], $6::bigint[], $7::bigint[])
     AS found (collection_id, index_name, index_uuid, shards, documents, bytes)
ON CONFLICT (merge, collection_id, index_uuid) DO UPDATE
SET index_name = excluded.index_name,
    shards = excluded.shards,
    documents = excluded.documents,
    bytes = excluded.bytes,
    state = 'active',
    -- What comes back is not the collection's first history any more: the destination may hold chunks of one before.
    generation = CASE WHEN s.state IN ('gone', 'purged')
                      THEN (SELECT max(o.generation) + 1 FROM source o
                            WHERE o.merge = s.merge AND o.collection_id = s.collection_id)
                      ELSE s.generation END
WHERE (s.index_name, s.shards, s.documents, s.bytes, s.state)
      IS DISTINCT FROM (excluded.index_name, excluded.shards, excluded.documents, excluded.bytes, 'active')
