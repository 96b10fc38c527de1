-- Of the servers over one database, one discovers at a time: reading every machine of every account is most of what a
-- cloud is asked, and twice as often for each further server.
CREATE TABLE discovery_turn (
    single  boolean PRIMARY KEY DEFAULT true CHECK (single),
    owner   text NOT NULL,
    until   timestamptz NOT NULL,
    done_at timestamptz
);
COMMENT ON TABLE discovery_turn IS 'Who discovers. until is in the database''s own time, and past when nobody does; done_at is when the last complete turn began, in the servers'' clock.';

DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'postern_service') THEN
        GRANT SELECT, INSERT, UPDATE ON discovery_turn TO postern_service;
    END IF;
END $$;
