-- Who is asked to decide is reminded, and then others are told.
ALTER TABLE access_requests ADD COLUMN reminded smallint NOT NULL DEFAULT 0 CHECK (reminded BETWEEN 0 AND 2);
COMMENT ON COLUMN access_requests.reminded IS '1 when half of the time to decide had passed and a reminder went out, 2 when three quarters had and it was escalated.';
