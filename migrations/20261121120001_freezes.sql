-- Freezes: while one is in force nothing is asked for, approved or opened at its scope and below. Whoever freezes holds
-- the lock alone, and whoever makes requests or grants shares it, so that a grant either is there when the freeze ends
-- grants or is made when the freeze is there to be seen.

CREATE TABLE freezes (
    id          uuid PRIMARY KEY,
    scope       text COLLATE "C" NOT NULL,
    reason      text NOT NULL,
    created_by  text COLLATE "C" NOT NULL,
    created_at  timestamptz NOT NULL,
    lifted_by   text COLLATE "C",
    lifted_at   timestamptz,
    lift_reason text,
    CHECK (num_nonnulls(lifted_by, lifted_at, lift_reason) IN (0, 3))
);
CREATE INDEX freezes_in_force ON freezes (id) WHERE lifted_at IS NULL;
COMMENT ON TABLE freezes IS 'Scopes at which an emergency closed everything. In force until lifted; rows are kept.';

-- In plpgsql, where each statement has a snapshot of its own: the one that reads begins when the lock is held.
CREATE FUNCTION freezes_in_force() RETURNS SETOF freezes LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock_shared(8101821198434990714);
    RETURN QUERY SELECT * FROM freezes WHERE lifted_at IS NULL ORDER BY id;
END
$$;
COMMENT ON FUNCTION freezes_in_force IS 'The freezes in force; none comes into force until the transaction ends.';

-- In triggers, so that nothing that makes grants or requests can forget it. PF001 is ours.
CREATE FUNCTION refuse_frozen_grants() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    why text;
BEGIN
    SELECT f.reason INTO why FROM freezes_in_force() f JOIN made m
        ON f.scope = '/' OR m.scope = f.scope OR starts_with(m.scope, f.scope || '/')
        WHERE m.status IN ('opening', 'open') LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION '%', why USING ERRCODE = 'PF001';
    END IF;
    RETURN NULL;
END
$$;
CREATE TRIGGER grants_frozen AFTER INSERT ON grants
    REFERENCING NEW TABLE AS made FOR EACH STATEMENT EXECUTE FUNCTION refuse_frozen_grants();

CREATE FUNCTION refuse_frozen_requests() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    why text;
BEGIN
    SELECT f.reason INTO why FROM freezes_in_force() f, unnest(NEW.scopes) AS t (scope)
        WHERE f.scope = '/' OR t.scope = f.scope OR starts_with(t.scope, f.scope || '/') LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION '%', why USING ERRCODE = 'PF001';
    END IF;
    RETURN NULL;
END
$$;
CREATE TRIGGER access_requests_frozen AFTER INSERT ON access_requests
    FOR EACH ROW WHEN (NEW.status IN ('pending', 'approved')) EXECUTE FUNCTION refuse_frozen_requests();

-- What a freeze closes outruns other closings.
ALTER TABLE points DROP CONSTRAINT points_urgency_check;
ALTER TABLE points ADD CONSTRAINT points_urgency_check CHECK (urgency BETWEEN -1 AND 2);
COMMENT ON TABLE points IS 'Enforcement points, which are the due queue too. urgency: -1 closing after a freeze, 0 closing, 1 opening, 2 look. wanted counts the marks; lease_until is in the database''s own time, everything else in the servers'' clock.';

DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'postern_service') THEN
        GRANT SELECT, INSERT, UPDATE ON freezes TO postern_service;
    END IF;
END $$;
