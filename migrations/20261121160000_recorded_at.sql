-- When an outcome was recorded, by the database's clock: what a cloud may not show yet is told to whoever looks next,
-- and the replicas' own clocks may be apart.
ALTER TABLE journal ADD COLUMN recorded_at timestamptz;
CREATE INDEX journal_recorded ON journal (point_id, recorded_at) WHERE outcome = 'succeeded';
