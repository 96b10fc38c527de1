-- A database that was restored from a backup is behind the clouds: it knows nothing of what was granted since, and
-- takes for open what was closed since. It is told by what a restore changes and nothing else: the database's and a
-- table's object ids (a dump makes both anew), and the timeline (recovery to a point in time, or a standby that took
-- over, begins a new one).
CREATE TABLE database_identity (
    single     boolean PRIMARY KEY DEFAULT true CHECK (single),
    identity   text NOT NULL,
    noticed_at timestamptz NOT NULL
);
COMMENT ON TABLE database_identity IS 'Which copy of this database was last seen at work; see Tx::notice_restore.';

ALTER TABLE points ADD COLUMN doubted_since timestamptz;
COMMENT ON COLUMN points.doubted_since IS 'Since a restore, until the point was looked at: grants of which nothing stands there are not opened again but end.';

DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'postern_service') THEN
        GRANT SELECT, INSERT, UPDATE ON database_identity TO postern_service;
    END IF;
END $$;
