-- A hop that is as it was is not written again at every look: when it was last read is the point's to say. One row per
-- point, instead of one per grant, and no column of points: those are locked in the order of their ids, and this is
-- written before that.
CREATE TABLE point_readings (
    point_id uuid PRIMARY KEY REFERENCES points (id),
    read_at  timestamptz NOT NULL
) WITH (fillfactor = 50);
COMMENT ON TABLE point_readings IS 'When the present hops at the point were last read, all of them.';

DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'postern_service') THEN
        GRANT SELECT, INSERT, UPDATE, DELETE ON point_readings TO postern_service;
    END IF;
END $$;
