-- The columns of the two tables, as the user's search_path resolves them, whether the user may read them, and whether a policy
-- would keep rows from the user.
-- Domains (a varchar with a check, say) count as what they are made of.
SELECT wanted.name::text AS table_name,
       a.attname::text AS column_name,
       coalesce(base.typname, t.typname)::text AS type_name,
       has_column_privilege(a.attrelid, a.attnum, 'SELECT') AS readable,
       row_security_active(a.attrelid) AS filtered
FROM unnest(ARRAY['collection', 'document']) AS wanted (name)
JOIN pg_catalog.pg_attribute a ON a.attrelid = to_regclass(wanted.name)
JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
LEFT JOIN pg_catalog.pg_type base ON base.oid = t.typbasetype AND t.typtype = 'd'
WHERE a.attnum > 0 AND NOT a.attisdropped
