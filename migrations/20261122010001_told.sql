-- Whether the audit log tells of the change. What is tried again because the cloud refused it is told once, and again
-- only when it goes otherwise.
ALTER TABLE journal ADD COLUMN told boolean NOT NULL DEFAULT true;
