-- What was opened in an emergency without anybody's approval is looked at afterwards by somebody else.

CREATE TABLE reviews (
    id         uuid PRIMARY KEY,
    request_id uuid NOT NULL UNIQUE REFERENCES access_requests (id),
    requester  text COLLATE "C" NOT NULL,
    scopes     text[] NOT NULL,
    reason     text NOT NULL,
    opened_at  timestamptz NOT NULL,
    closed_by  text COLLATE "C",
    closed_at  timestamptz,
    note       text,
    CHECK (num_nonnulls(closed_by, closed_at, note) IN (0, 3))
);
CREATE INDEX reviews_open ON reviews (id) WHERE closed_at IS NULL;
COMMENT ON TABLE reviews IS 'One per use of break-glass: open until somebody else closes it with a note.';

DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'postern_service') THEN
        GRANT SELECT, INSERT, UPDATE ON reviews TO postern_service;
    END IF;
END $$;
