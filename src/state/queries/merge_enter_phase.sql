-- Compare and set. completed_at tells whether the merge is completed, so leaving the phase clears it.
UPDATE merge
SET phase = $3,
    phase_since = now(),
    completed_at = CASE WHEN $3 = 'Completed' THEN now() END
WHERE id = $1 AND phase = $2
