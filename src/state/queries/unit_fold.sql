-- The first unit covers and counts what all of them did.
WITH cut AS (
    SELECT f.keep, c.key, sum(c.value::bigint)::bigint AS total
    FROM unnest($1::bigint[], $2::bigint[]) AS f (keep, id)
    JOIN unit u USING (id), jsonb_each_text(u.cuts) AS c
    GROUP BY f.keep, c.key
), cuts AS (
    SELECT keep, jsonb_object_agg(key, total) AS cuts FROM cut GROUP BY keep
), folded AS (
    SELECT f.keep, max(u.to_seq) AS to_seq, max(u.pass) AS pass,
           sum(u.estimated_documents)::bigint AS estimated_documents, sum(u.documents)::bigint AS documents,
           sum(u.bytes_read)::bigint AS bytes_read, sum(u.bytes_written)::bigint AS bytes_written,
           sum(u.written)::bigint AS written, sum(u.already_there)::bigint AS already_there,
           sum(u.collapsed)::bigint AS collapsed, sum(u.quarantined)::bigint AS quarantined,
           sum(u.compared)::bigint AS compared, sum(u.different)::bigint AS different,
           sum(u.repaired)::bigint AS repaired
    FROM unnest($1::bigint[], $2::bigint[]) AS f (keep, id)
    JOIN unit u USING (id)
    GROUP BY f.keep
)
UPDATE unit u
SET to_seq = f.to_seq, cursor_seq = f.to_seq, pass = f.pass, estimated_documents = f.estimated_documents,
    documents = f.documents, bytes_read = f.bytes_read, bytes_written = f.bytes_written, written = f.written,
    already_there = f.already_there, collapsed = f.collapsed, quarantined = f.quarantined,
    compared = f.compared, different = f.different, repaired = f.repaired, cuts = c.cuts
FROM folded f
LEFT JOIN cuts c USING (keep)
WHERE u.id = f.keep
