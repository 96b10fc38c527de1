-- Points that are due in the same instant take turns by lot. In the order in which they lie in the table, those of one
-- account come after each other, and the calls that the other accounts would answer meanwhile go unused.
-- The last digits of an id are random (RFC 9562, section 5.7).
ALTER TABLE points ADD COLUMN lot integer NOT NULL
    GENERATED ALWAYS AS (('x' || right(id::text, 8))::bit(32)::integer) STORED;
COMMENT ON COLUMN points.lot IS 'Whose turn it is among points of the same urgency that are due in the same instant.';
DROP INDEX points_turn;
CREATE INDEX points_turn ON points (urgency, due_at, lot) WHERE due_at IS NOT NULL;
