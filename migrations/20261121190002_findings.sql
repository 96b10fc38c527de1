-- What was noticed about rules in others' hands, per point: kept while it stands, and for a while after it was put right.
CREATE TABLE findings (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    point_id    uuid NOT NULL REFERENCES points (id),
    finding     jsonb NOT NULL,
    digest      text NOT NULL,
    drift       boolean NOT NULL,
    machines    text[] COLLATE "C" NOT NULL,
    grants      uuid[] NOT NULL,
    found_at    timestamptz NOT NULL,
    resolved_at timestamptz
);
-- The same thing stands once.
CREATE UNIQUE INDEX findings_standing ON findings (point_id, digest) WHERE resolved_at IS NULL;
CREATE INDEX findings_by_machine ON findings USING gin (machines);
CREATE INDEX findings_by_grant ON findings USING gin (grants);
CREATE INDEX findings_resolved ON findings (resolved_at) WHERE resolved_at IS NOT NULL;
COMMENT ON TABLE findings IS 'finding has the code, the message, before and after. drift: somebody changed what was as Postern wanted it, as against what never was. machines: those that it concerns.';

DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'postern_service') THEN
        GRANT SELECT, INSERT, UPDATE, DELETE ON findings TO postern_service;
    END IF;
END $$;
