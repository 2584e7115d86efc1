-- What became of a source index after the merge was complete, where its deletion was asked for, and why it is kept.
-- intended: stored before the index is deleted, so that whoever finds it gone knows by whom.
ALTER TABLE source
    ADD COLUMN deletion text CHECK (deletion IN ('intended', 'deleted', 'kept', 'missing')),
    ADD COLUMN kept_because text,
    ADD CHECK ((kept_because IS NOT NULL) <= (deletion = 'kept'));
