-- How many live grants a requester has on a machine is asked with every request.
CREATE INDEX grants_live ON grants (machine_id, requester) WHERE status <> 'closed';

-- Whoever waits for a request hears when it is decided or one of its grants moves: its id, or '*' when one statement
-- moves many. In triggers, so that no statement forgets it and none costs a round trip more.
CREATE FUNCTION notify_progress_of_grants() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF (SELECT count(DISTINCT request_id) FROM moved) > 100 THEN
        PERFORM pg_notify('postern_progress', '*');
    ELSE
        PERFORM pg_notify('postern_progress', request_id::text) FROM (SELECT DISTINCT request_id FROM moved) AS m;
    END IF;
    RETURN NULL;
END
$$;

CREATE FUNCTION notify_progress_of_request() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('postern_progress', NEW.id::text);
    RETURN NULL;
END
$$;

CREATE TRIGGER grants_progress AFTER UPDATE ON grants
    REFERENCING NEW TABLE AS moved FOR EACH STATEMENT EXECUTE FUNCTION notify_progress_of_grants();
CREATE TRIGGER access_requests_progress AFTER UPDATE ON access_requests
    FOR EACH ROW EXECUTE FUNCTION notify_progress_of_request();
