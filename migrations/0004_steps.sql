-- Who decides for the merge right now, until when: several processes may work for one merge, one at a time decides.
ALTER TABLE merge ADD COLUMN stepper text, ADD COLUMN stepper_until timestamptz NOT NULL DEFAULT '-infinity';
