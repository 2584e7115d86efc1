-- The originals of chunks in quarantine are stored for some of each source; the others are in its index only.
ALTER TABLE quarantine ALTER COLUMN original DROP NOT NULL;
-- How many of a source are stored: never more than a few pages of it.
CREATE INDEX quarantine_original ON quarantine (source) WHERE original IS NOT NULL;
