-- What somebody was refused, or failed at, is found in the index by who did it. Before, every event of theirs was read
-- until a page had that outcome: all of them, where there is none. One index takes the other's place, so that an event
-- costs as many entries as before.
--
-- Nobody reads or writes the audit log meanwhile: a lock that is taken at once on both cannot end in a deadlock. A million
-- events take 2.5 s. Where that is too long, build it before the upgrade, while all runs, and see that it is valid:
-- CREATE INDEX CONCURRENTLY audit_events_actor_outcome ON audit_events (actor_ref, seq, outcome).
-- A backup that is being made keeps this lock from being taken, and whoever waits for it keeps everybody else waiting: then
-- the server gives up, having changed nothing, and has to be started again.
SET LOCAL lock_timeout = '5s';
SET LOCAL statement_timeout = 0;
DROP INDEX audit_events_actor;
CREATE INDEX IF NOT EXISTS audit_events_actor_outcome ON audit_events (actor_ref, seq, outcome);
