-- Access reviews: somebody looks from time to time at who has which role, and takes away what is not needed.

CREATE TABLE access_reviews (
    id            uuid PRIMARY KEY,
    series_id     uuid NOT NULL,
    round         integer NOT NULL CHECK (round >= 1),
    scope         text COLLATE "C" NOT NULL,
    reviewers     text[] NOT NULL CHECK (cardinality(reviewers) > 0),
    status        text NOT NULL CHECK (status IN ('open', 'completed', 'cancelled')),
    deadline      timestamptz NOT NULL,
    remind_at     timestamptz,
    next_round_at timestamptz,
    document      jsonb NOT NULL,
    UNIQUE (series_id, round)
);
CREATE INDEX access_reviews_deadline ON access_reviews (deadline) WHERE status = 'open';
CREATE INDEX access_reviews_remind ON access_reviews (remind_at) WHERE status = 'open' AND remind_at IS NOT NULL;
CREATE INDEX access_reviews_next ON access_reviews (next_round_at) WHERE next_round_at IS NOT NULL;
COMMENT ON TABLE access_reviews IS 'One per round of an access review of role assignments. remind_at is empty once reviewers were reminded, next_round_at once the next round has started or none will.';

CREATE TABLE access_review_items (
    id            uuid PRIMARY KEY,
    review_id     uuid NOT NULL REFERENCES access_reviews (id),
    assignment_id uuid NOT NULL,
    status        text NOT NULL CHECK (status IN ('open', 'kept', 'removed', 'not_removed', 'gone')),
    document      jsonb NOT NULL,
    UNIQUE (review_id, assignment_id)
);
CREATE INDEX access_review_items_of ON access_review_items (review_id, id);
COMMENT ON TABLE access_review_items IS 'A role assignment as it was when the round started, what is known of its use, and what was decided. The assignment itself may be gone since.';

-- An assignment may go by another way before anybody decides about it.
CREATE VIEW access_review_items_now AS
    SELECT i.id, i.review_id, i.document,
        CASE WHEN i.status = 'open' AND NOT EXISTS (SELECT FROM role_assignments a WHERE a.id = i.assignment_id)
            THEN 'gone' ELSE i.status END AS status
    FROM access_review_items i;
COMMENT ON VIEW access_review_items_now IS 'Items with where they stand as of now: an undecided one whose role assignment is not there any more is gone.';

DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'postern_service') THEN
        GRANT SELECT, INSERT, UPDATE ON access_reviews, access_review_items TO postern_service;
        GRANT SELECT ON access_review_items_now TO postern_service;
    END IF;
END $$;
