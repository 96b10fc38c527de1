-- A request that lasts as long as its holder is heard of. heard_at and deadline are in the database's own time, like
-- the leases of points: servers whose clocks differ agree on who is late.
CREATE TABLE access_leases (
    id                uuid PRIMARY KEY,
    request_id        uuid NOT NULL UNIQUE REFERENCES access_requests (id),
    holder            text COLLATE "C" NOT NULL,
    key               text COLLATE "C" NOT NULL,
    fingerprint       bytea NOT NULL,
    heartbeat_seconds bigint NOT NULL CHECK (heartbeat_seconds > 0),
    created_at        timestamptz NOT NULL,
    heard_at          timestamptz NOT NULL,
    deadline          timestamptz NOT NULL,
    ended_at          timestamptz,
    cause             text CHECK (cause IN ('released', 'heartbeat_missed', 'over')),
    CHECK ((ended_at IS NULL) = (cause IS NULL))
);
CREATE UNIQUE INDEX access_leases_key ON access_leases (holder, key) WHERE ended_at IS NULL;
CREATE INDEX access_leases_deadline ON access_leases (deadline) WHERE ended_at IS NULL;
COMMENT ON TABLE access_leases IS 'Who holds which request by heartbeats. A holder has one live lease per key; fingerprint is of what was asked under it. Past the deadline the request''s grants are ended.';

DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'postern_service') THEN
        GRANT SELECT, INSERT, UPDATE ON access_leases TO postern_service;
    END IF;
END $$;
