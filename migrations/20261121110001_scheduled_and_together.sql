-- Grants that begin later, and grants that are had together or not at all.

ALTER TABLE grants ADD COLUMN starts_at timestamptz;
ALTER TABLE grants ADD COLUMN together boolean NOT NULL DEFAULT false;
COMMENT ON COLUMN grants.together IS 'Whether the others of its request end, too, when it ends without ever having been open.';
ALTER TABLE grants DROP CONSTRAINT grants_state;
ALTER TABLE grants ADD CONSTRAINT grants_state CHECK (
    CASE status
        WHEN 'scheduled' THEN num_nonnulls(starts_at, deadline) = 2 AND num_nonnulls(opened_at, ends_at, ended_at, closed_at, cause) = 0
        WHEN 'opening' THEN deadline IS NOT NULL AND num_nonnulls(starts_at, opened_at, ends_at, ended_at, closed_at, cause) = 0
        WHEN 'open' THEN num_nonnulls(opened_at, ends_at) = 2 AND num_nonnulls(starts_at, deadline, ended_at, closed_at, cause) = 0
        WHEN 'closing' THEN num_nonnulls(ended_at, cause) = 2 AND num_nonnulls(starts_at, deadline, ends_at, closed_at) = 0
        WHEN 'closed' THEN num_nonnulls(ended_at, cause, closed_at) = 3 AND num_nonnulls(starts_at, deadline, ends_at) = 0
        ELSE false
    END);

-- What begins next, and what is late with it.
CREATE INDEX grants_starts ON grants (starts_at) WHERE status = 'scheduled';
-- Those that may have to end because another one of their request did; few at any time.
CREATE INDEX grants_together ON grants (request_id) WHERE together AND status IN ('scheduled', 'opening', 'open');
