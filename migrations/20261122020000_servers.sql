-- The clouds count the calls of all servers together, so the servers share what may be called; for that each has to
-- know how many there are.
CREATE TABLE servers (
    owner  text PRIMARY KEY,
    clouds jsonb NOT NULL,
    until  timestamptz NOT NULL
);
COMMENT ON TABLE servers IS 'The servers at work, and the clouds that each calls, with the part of its budgets that it had left, 0 to 1. until is in the database''s own time; what is past died without a word.';

DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'postern_service') THEN
        GRANT SELECT, INSERT, UPDATE, DELETE ON servers TO postern_service;
    END IF;
END $$;
