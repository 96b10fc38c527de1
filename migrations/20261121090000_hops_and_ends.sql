-- A pass asks for the unfinished grants at its point, however many finished ones there were.
ALTER TABLE grant_hops ADD COLUMN done boolean NOT NULL DEFAULT false;
COMMENT ON COLUMN grant_hops.done IS 'Whether the grant is closed: the hop is only kept for the record.';
UPDATE grant_hops h SET done = true FROM grants g WHERE g.id = h.grant_id AND g.status = 'closed';
DROP INDEX grant_hops_point;
CREATE INDEX grant_hops_point ON grant_hops (point_id, grant_id) WHERE NOT done;

-- What is late is asked every few seconds, however many grants are open.
CREATE INDEX grants_ends ON grants (ends_at) WHERE status = 'open';
CREATE INDEX grants_deadline ON grants (deadline) WHERE status = 'opening';
CREATE INDEX grants_ended ON grants (ended_at) WHERE status = 'closing';
