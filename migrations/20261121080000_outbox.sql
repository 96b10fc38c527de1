-- Whom Postern tells of what. An event's deliveries are written with the event, by a trigger, so that no event that
-- somebody waits for can be forgotten, whatever wrote it.

CREATE TABLE subscribers (
    name        text COLLATE "C" PRIMARY KEY,
    actions     text[] NOT NULL CHECK (cardinality(actions) > 0),
    outcomes    text[] NOT NULL CHECK (cardinality(outcomes) > 0),
    scope       text COLLATE "C" NOT NULL,
    active      boolean NOT NULL,
    lease_owner text,
    lease_until timestamptz,
    CHECK ((lease_owner IS NULL) = (lease_until IS NULL))
);
COMMENT ON TABLE subscribers IS 'Whom the configuration says to tell: of events whose action is one of actions or begins with one and a dot, with one of the outcomes, at or below the scope. One server at a time delivers to each, so that it hears in order; leases are in the database''s own time. Inactive ones are no longer configured.';

CREATE TABLE deliveries (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    subscriber  text COLLATE "C" NOT NULL REFERENCES subscribers (name),
    event_id    uuid NOT NULL REFERENCES audit_events (id),
    status      text NOT NULL DEFAULT 'waiting' CHECK (status IN ('waiting', 'delivered', 'dead')),
    attempts    integer NOT NULL DEFAULT 0 CHECK (attempts >= 0),
    created_at  timestamptz NOT NULL,
    due_at      timestamptz NOT NULL,
    settled_at  timestamptz,
    last_error  text,
    UNIQUE (subscriber, event_id),
    CHECK ((status = 'waiting') = (settled_at IS NULL))
);
CREATE INDEX deliveries_waiting ON deliveries (subscriber, id) WHERE status = 'waiting';
CREATE INDEX deliveries_settled ON deliveries (settled_at) WHERE status = 'delivered';
CREATE INDEX deliveries_event ON deliveries (event_id);
COMMENT ON TABLE deliveries IS 'One event for one subscriber. Delivered in the order of id: whatever waited for a lock of the transaction that wrote an event has a later number.';

CREATE FUNCTION write_deliveries() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO deliveries (subscriber, event_id, created_at, due_at)
    SELECT s.name, e.id, e.at, e.at
    FROM written e
    JOIN subscribers s ON s.active
        AND e.outcome = ANY (s.outcomes)
        AND (s.scope = '/' OR e.scope = s.scope OR starts_with(e.scope, s.scope || '/'))
        AND EXISTS (SELECT FROM unnest(s.actions) AS a (action)
                    WHERE e.action = a.action OR starts_with(e.action, a.action || '.'))
    ORDER BY e.seq, s.name;
    IF FOUND THEN
        PERFORM pg_notify('postern_outbox', '');
    END IF;
    RETURN NULL;
END
$$;
CREATE TRIGGER deliveries AFTER INSERT ON audit_events
    REFERENCING NEW TABLE AS written FOR EACH STATEMENT EXECUTE FUNCTION write_deliveries();

DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'postern_service') THEN
        GRANT SELECT, INSERT, UPDATE, DELETE ON subscribers, deliveries TO postern_service;
    END IF;
END $$;
