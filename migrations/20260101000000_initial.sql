-- The whole state of Postern. Text that is compared or paged by is in the "C" collation, so that its order is
-- that of its bytes in every database.

CREATE TABLE installation (
    singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    name      text NOT NULL
);
COMMENT ON TABLE installation IS 'Whose database this is; its name stands in the mark of every rule in a cloud.';

-- Policies --------------------------------------------------------------------------------------------------

CREATE TABLE jit_policies (
    id         uuid PRIMARY KEY,
    name       text COLLATE "C" NOT NULL UNIQUE,
    scope      text COLLATE "C" NOT NULL,
    document   jsonb NOT NULL,
    version    bigint NOT NULL CHECK (version > 0),
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL
);
CREATE INDEX jit_policies_scope ON jit_policies (scope);
COMMENT ON TABLE jit_policies IS 'JIT policies as they are; the document is the whole policy, the other columns repeat parts of it.';

CREATE TABLE jit_policy_versions (
    policy_id  uuid NOT NULL,
    version    bigint NOT NULL,
    document   jsonb NOT NULL,
    changed_at timestamptz NOT NULL,
    PRIMARY KEY (policy_id, version)
);
COMMENT ON TABLE jit_policy_versions IS 'Every version of every JIT policy, those of removed ones too.';

-- Inventory -------------------------------------------------------------------------------------------------

CREATE TABLE machines (
    id             text COLLATE "C" PRIMARY KEY,
    cloud          text NOT NULL CHECK (cloud IN ('azure', 'aws')),
    account        text COLLATE "C" NOT NULL,
    scope          text COLLATE "C" NOT NULL,
    name           text NOT NULL,
    tags           jsonb NOT NULL,
    power          text NOT NULL CHECK (power IN ('running', 'changing', 'stopped', 'unknown')),
    document       jsonb NOT NULL,
    policy_id      uuid REFERENCES jit_policies (id) DEFERRABLE INITIALLY DEFERRED,
    posture        text NOT NULL CHECK (posture IN ('configured', 'recommended', 'healthy', 'not_applicable')),
    posture_detail jsonb NOT NULL,
    first_seen_at  timestamptz NOT NULL,
    seen_at        timestamptz NOT NULL,
    gone_at        timestamptz
);
CREATE INDEX machines_account ON machines (account, seen_at) WHERE gone_at IS NULL;
CREATE INDEX machines_scope ON machines (scope);
CREATE INDEX machines_policy ON machines (policy_id) WHERE policy_id IS NOT NULL;
CREATE INDEX machines_tags ON machines USING gin (tags jsonb_path_ops);
COMMENT ON TABLE machines IS 'Machines as last discovered. Rows are kept when the machine is gone. policy_id is the most specific policy that covers the machine, materialised; the reference is checked at the end of a transaction, so that none can remove a policy and forget what it covered.';

CREATE TABLE points (
    id          uuid PRIMARY KEY,
    ref         text COLLATE "C" NOT NULL UNIQUE,
    cloud       text NOT NULL CHECK (cloud IN ('azure', 'aws')),
    account     text COLLATE "C" NOT NULL,
    kind        text NOT NULL CHECK (kind IN ('azure_nsg', 'aws_instance', 'aws_security_group')),
    due_at      timestamptz,
    urgency     smallint NOT NULL DEFAULT 2 CHECK (urgency BETWEEN 0 AND 2),
    wanted      bigint NOT NULL DEFAULT 0,
    lease_owner text,
    lease_until timestamptz,
    generation  bigint NOT NULL DEFAULT 0,
    attempts    integer NOT NULL DEFAULT 0 CHECK (attempts >= 0),
    last_error  text,
    CHECK ((lease_owner IS NULL) = (lease_until IS NULL))
);
-- By time and not by urgency: what is due now is few, what is due later is many.
CREATE INDEX points_due ON points (due_at) WHERE due_at IS NOT NULL;
CREATE INDEX points_next ON points (due_at) WHERE due_at IS NOT NULL AND lease_until IS NULL;
CREATE INDEX points_leased ON points (lease_until) WHERE lease_until IS NOT NULL;
COMMENT ON TABLE points IS 'Enforcement points, which are the due queue too. urgency: 0 closing, 1 opening, 2 look. wanted counts the marks; lease_until is in the database''s own time, everything else in the servers'' clock.';

CREATE TABLE point_reports (
    point_id uuid PRIMARY KEY REFERENCES points (id),
    report   jsonb NOT NULL
);
COMMENT ON TABLE point_reports IS 'The findings and obstacles of the last look at a point, so that only news is reported. Apart from points, whose rows are locked in the order of their ids.';

CREATE TABLE discoveries (
    account    text COLLATE "C" PRIMARY KEY,
    started_at timestamptz NOT NULL
);
COMMENT ON TABLE discoveries IS 'When the last complete discovery of each account began.';

CREATE TABLE machine_points (
    machine_id text COLLATE "C" NOT NULL REFERENCES machines (id),
    point_id   uuid NOT NULL REFERENCES points (id),
    opens      boolean NOT NULL,
    locks      boolean NOT NULL,
    addresses  inet[] NOT NULL,
    interfaces text[] NOT NULL,
    PRIMARY KEY (machine_id, point_id)
);
CREATE INDEX machine_points_point ON machine_points (point_id);
COMMENT ON TABLE machine_points IS 'Which machine stands behind which point: opens, a grant on it writes there; locks, a lockdown of it does.';

-- Requests and grants ---------------------------------------------------------------------------------------

CREATE TABLE access_requests (
    id         uuid PRIMARY KEY,
    requester  text COLLATE "C" NOT NULL,
    machines   text[] NOT NULL,
    scopes     text[] NOT NULL,
    document   jsonb NOT NULL,
    status     text NOT NULL CHECK (status IN ('pending', 'approved', 'denied', 'withdrawn', 'lapsed')),
    created_at timestamptz NOT NULL,
    lapses_at  timestamptz,
    decided_at timestamptz,
    CHECK ((status = 'pending') = (lapses_at IS NOT NULL)),
    CHECK ((status = 'pending') = (decided_at IS NULL))
);
CREATE INDEX access_requests_requester ON access_requests (requester, id);
CREATE INDEX access_requests_status ON access_requests (status, id);
CREATE INDEX access_requests_lapse ON access_requests (lapses_at) WHERE status = 'pending';
CREATE INDEX access_requests_machines ON access_requests USING gin (machines);
COMMENT ON TABLE access_requests IS 'Who asked for what, and how it was decided. Decided once.';

CREATE TABLE grants (
    id               uuid PRIMARY KEY,
    request_id       uuid NOT NULL REFERENCES access_requests (id),
    policy_id        uuid NOT NULL,
    requester        text COLLATE "C" NOT NULL,
    machine_id       text COLLATE "C" NOT NULL REFERENCES machines (id),
    scope            text COLLATE "C" NOT NULL,
    ports            text[] NOT NULL CHECK (cardinality(ports) > 0),
    sources          cidr[] NOT NULL CHECK (cardinality(sources) > 0),
    duration_seconds bigint NOT NULL CHECK (duration_seconds > 0),
    created_at       timestamptz NOT NULL,
    not_after        timestamptz NOT NULL,
    status           text NOT NULL,
    deadline         timestamptz,
    opened_at        timestamptz,
    ends_at          timestamptz,
    ended_at         timestamptz,
    closed_at        timestamptz,
    cause            jsonb,
    CONSTRAINT grants_state CHECK (
        CASE status
            WHEN 'opening' THEN deadline IS NOT NULL AND num_nonnulls(opened_at, ends_at, ended_at, closed_at, cause) = 0
            WHEN 'open' THEN num_nonnulls(opened_at, ends_at) = 2 AND num_nonnulls(deadline, ended_at, closed_at, cause) = 0
            WHEN 'closing' THEN num_nonnulls(ended_at, cause) = 2 AND num_nonnulls(deadline, ends_at, closed_at) = 0
            WHEN 'closed' THEN num_nonnulls(ended_at, cause, closed_at) = 3 AND num_nonnulls(deadline, ends_at) = 0
            ELSE false
        END),
    CONSTRAINT grants_never_outlive_their_marks CHECK (ends_at <= not_after)
);
CREATE INDEX grants_request ON grants (request_id);
CREATE INDEX grants_policy ON grants (policy_id) WHERE status <> 'closed';
CREATE INDEX grants_requester ON grants (requester, id);
CREATE INDEX grants_machine ON grants (machine_id, id);
CREATE INDEX grants_unfinished ON grants (status, id) WHERE status <> 'closed';
CREATE INDEX grants_scope ON grants (scope, id);
COMMENT ON TABLE grants IS 'One machine''s share of an approved request. Each status has exactly its columns. policy_id may name a removed policy.';

CREATE TABLE grant_hops (
    grant_id   uuid NOT NULL REFERENCES grants (id),
    point_id   uuid NOT NULL REFERENCES points (id),
    state      text NOT NULL CHECK (state IN ('absent', 'unknown', 'present')),
    rules      jsonb,
    blocked_by text,
    obstacle   text,
    read_at    timestamptz,
    PRIMARY KEY (grant_id, point_id)
);
CREATE INDEX grant_hops_point ON grant_hops (point_id, grant_id);
COMMENT ON TABLE grant_hops IS 'What each hop of a grant was last seen to do for it. "unknown" is written before the cloud is called.';

-- Journal ---------------------------------------------------------------------------------------------------

CREATE TABLE displaced (
    id         uuid PRIMARY KEY,
    point_id   uuid NOT NULL REFERENCES points (id),
    rule       jsonb NOT NULL,
    residuals  jsonb NOT NULL,
    saved_at   timestamptz NOT NULL,
    settled_at timestamptz
);
CREATE INDEX displaced_unsettled ON displaced (point_id, saved_at, id) WHERE settled_at IS NULL;
COMMENT ON TABLE displaced IS 'Foreign rules that a lockdown took out of the way; unsettled while they wait to be put back.';

CREATE TABLE passes (
    id         uuid PRIMARY KEY,
    point_id   uuid NOT NULL REFERENCES points (id),
    generation bigint NOT NULL,
    started_at timestamptz NOT NULL,
    snapshot   jsonb NOT NULL
);
CREATE INDEX passes_point ON passes (point_id, id);
COMMENT ON TABLE passes IS 'One pass over one point that meant to write, with the state that it found.';

CREATE TABLE journal (
    id          uuid PRIMARY KEY,
    pass_id     uuid NOT NULL REFERENCES passes (id),
    point_id    uuid NOT NULL REFERENCES points (id),
    generation  bigint NOT NULL,
    seq         integer NOT NULL,
    verb        text NOT NULL CHECK (verb IN ('open', 'close', 'lock_down', 'restore', 'repair')),
    target      text NOT NULL,
    summary     text NOT NULL,
    grants      uuid[] NOT NULL,
    policies    uuid[] NOT NULL,
    before      jsonb,
    after       jsonb,
    operation   jsonb NOT NULL,
    intended_at timestamptz NOT NULL,
    outcome     text CHECK (outcome IN ('succeeded', 'failed', 'unknown')),
    detail      jsonb,
    settled_at  timestamptz,
    UNIQUE (pass_id, seq),
    CHECK ((outcome IS NULL) = (settled_at IS NULL))
);
CREATE INDEX journal_unsettled ON journal (point_id, id) WHERE outcome IS NULL;
COMMENT ON TABLE journal IS 'Every write to a cloud: committed as an intent before the call, settled with its outcome after.';

-- Audit -----------------------------------------------------------------------------------------------------

CREATE TABLE audit_events (
    seq          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id           uuid NOT NULL UNIQUE,
    at           timestamptz NOT NULL,
    action       text COLLATE "C" NOT NULL,
    outcome      text NOT NULL CHECK (outcome IN ('intended', 'succeeded', 'failed', 'unknown', 'denied')),
    actor        jsonb NOT NULL,
    actor_ref    text COLLATE "C" NOT NULL,
    scope        text COLLATE "C" NOT NULL,
    reason       text,
    decision     jsonb,
    details      jsonb NOT NULL,
    request_id   uuid,
    grant_id     uuid,
    policy_id    uuid,
    machine_id   text COLLATE "C",
    point        text COLLATE "C",
    pass_id      uuid,
    change_id    uuid,
    http_request text
);
CREATE INDEX audit_events_at ON audit_events (at, seq);
CREATE INDEX audit_events_action ON audit_events (action, seq);
CREATE INDEX audit_events_actor ON audit_events (actor_ref, seq);
CREATE INDEX audit_events_scope ON audit_events (scope, seq);
CREATE INDEX audit_events_request ON audit_events (request_id, seq) WHERE request_id IS NOT NULL;
CREATE INDEX audit_events_grant ON audit_events (grant_id, seq) WHERE grant_id IS NOT NULL;
CREATE INDEX audit_events_policy ON audit_events (policy_id, seq) WHERE policy_id IS NOT NULL;
CREATE INDEX audit_events_machine ON audit_events (machine_id, seq) WHERE machine_id IS NOT NULL;
CREATE INDEX audit_events_point ON audit_events (point, seq) WHERE point IS NOT NULL;
COMMENT ON TABLE audit_events IS 'Append-only. Written in the transaction that each event describes. seq is in the order of writing, not of committing.';

CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% is append-only: % is refused', TG_TABLE_NAME, TG_OP
        USING ERRCODE = 'restrict_violation';
END $$;
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_events
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
-- Also where session_replication_role would skip ordinary triggers.
ALTER TABLE audit_events ENABLE ALWAYS TRIGGER append_only;

-- Roles -----------------------------------------------------------------------------------------------------

CREATE TABLE roles (
    name    text COLLATE "C" PRIMARY KEY,
    actions text[] NOT NULL
);
COMMENT ON TABLE roles IS 'Custom roles; the built-in ones are in the code.';

CREATE TABLE role_assignments (
    id         uuid PRIMARY KEY,
    role       text COLLATE "C" NOT NULL,
    principal  text COLLATE "C" NOT NULL,
    scope      text COLLATE "C" NOT NULL,
    created_by text NOT NULL,
    created_at timestamptz NOT NULL,
    UNIQUE (role, principal, scope)
);
CREATE INDEX role_assignments_principal ON role_assignments (principal);
COMMENT ON TABLE role_assignments IS 'Who has which role where. role names a custom role or a built-in one.';

CREATE TABLE authz_version (
    singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    version   bigint NOT NULL
);
INSERT INTO authz_version (version) VALUES (1);
COMMENT ON TABLE authz_version IS 'Counts the changes to roles and role assignments, so that servers can cache them.';

CREATE FUNCTION bump_authz_version() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE authz_version SET version = version + 1;
    RETURN NULL;
END $$;
CREATE TRIGGER bump AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON roles
    FOR EACH STATEMENT EXECUTE FUNCTION bump_authz_version();
CREATE TRIGGER bump AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON role_assignments
    FOR EACH STATEMENT EXECUTE FUNCTION bump_authz_version();

-- Idempotency -----------------------------------------------------------------------------------------------

CREATE TABLE idempotency_keys (
    principal   text COLLATE "C" NOT NULL,
    key         text COLLATE "C" NOT NULL,
    fingerprint bytea NOT NULL,
    status      integer CHECK (status BETWEEN 100 AND 599),
    body        jsonb,
    created_at  timestamptz NOT NULL,
    PRIMARY KEY (principal, key),
    CHECK (body IS NULL OR status IS NOT NULL)
);
CREATE INDEX idempotency_keys_age ON idempotency_keys (created_at);
COMMENT ON TABLE idempotency_keys IS 'Answers to requests that carried an Idempotency-Key.';

-- The service's rights --------------------------------------------------------------------------------------

-- A server that connects as a member of postern_service, and not as the owner of these tables, can neither change
-- the audit log nor take its trigger away. Where the migrating role may not create roles, an administrator does
-- both: CREATE ROLE postern_service NOLOGIN, and the grants below.
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'postern_service') THEN
        CREATE ROLE postern_service NOLOGIN;
    END IF;
EXCEPTION
    WHEN insufficient_privilege THEN
        RAISE NOTICE 'role postern_service was not created: not allowed to create roles';
    WHEN duplicate_object OR unique_violation THEN
        NULL; -- another database of the cluster was migrated at the same time
END $$;
DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'postern_service') THEN
        GRANT USAGE ON SCHEMA public TO postern_service;
        GRANT SELECT, INSERT ON audit_events TO postern_service;
        GRANT SELECT, INSERT ON jit_policy_versions TO postern_service;
        IF to_regclass('_sqlx_migrations') IS NOT NULL THEN
            GRANT SELECT ON _sqlx_migrations TO postern_service;
        END IF;
        GRANT SELECT, INSERT, UPDATE, DELETE ON installation, jit_policies, machines, points, machine_points,
            point_reports, discoveries,
            access_requests, grants, grant_hops, displaced, passes, journal, roles, role_assignments,
            authz_version, idempotency_keys TO postern_service;
    END IF;
END $$;
