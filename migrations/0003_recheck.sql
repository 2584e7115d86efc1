-- A chunk in quarantine is known by its shard too: with routing of their own, two chunks of an index may have one `_id`.
ALTER TABLE quarantine ADD COLUMN shard integer;
UPDATE quarantine q SET shard = u.shard FROM unit u WHERE u.id = q.unit;
ALTER TABLE quarantine
    ALTER COLUMN shard SET NOT NULL,
    DROP CONSTRAINT quarantine_pkey,
    ADD PRIMARY KEY (merge, source, shard, chunk_id);
-- By place: a walk over a window says anew which of its chunks are in quarantine.
DROP INDEX quarantine_source;
CREATE INDEX quarantine_place ON quarantine (source, shard, seq_no);

-- A range that is compared (and so written, where it is missing) once more. It is no part of the plan, so it may
-- overlap it, and its counts count nowhere: they were counted by the plan's unit.
ALTER TABLE unit
    ADD COLUMN recheck boolean NOT NULL DEFAULT false,
    ADD CHECK (NOT recheck OR kind = 'verify');
DROP INDEX unit_range;
CREATE UNIQUE INDEX unit_range ON unit (source, shard, kind, from_seq) WHERE state <> 'closed' AND NOT recheck;
CREATE UNIQUE INDEX unit_recheck ON unit (source, shard, from_seq, to_seq) WHERE state = 'open' AND recheck;
