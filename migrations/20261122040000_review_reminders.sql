-- Whoever is to look at a use of break-glass is reminded of it, and then others are told, until it is closed.
ALTER TABLE reviews ADD COLUMN reminded bigint NOT NULL DEFAULT 0 CHECK (reminded >= 0);
COMMENT ON COLUMN reviews.reminded IS 'How many of its times to remind had come when a reminder last went out: the first at half of the time to close it, the others at its end and every so long after that.';
