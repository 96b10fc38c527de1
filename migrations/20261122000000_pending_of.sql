-- How many requests of somebody's wait is counted for each new one: by an index of those that wait, because who asks every
-- day has thousands that do not, and a plan for unknown names must not choose to read all that wait.
CREATE INDEX access_requests_waiting ON access_requests (requester) WHERE status = 'pending';
