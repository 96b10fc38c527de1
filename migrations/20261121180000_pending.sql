-- How many requests of one requester wait is counted with every request that has to.
CREATE INDEX access_requests_pending ON access_requests (requester) WHERE status = 'pending';
