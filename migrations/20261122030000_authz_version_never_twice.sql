-- A restored backup has the version of then, and counting on from it comes to numbers that servers have seen before, with
-- other role assignments. A number that is the time of the change comes back for no other change.

CREATE OR REPLACE FUNCTION bump_authz_version() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE authz_version
    SET version = greatest(version + 1, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint);
    RETURN NULL;
END $$;

COMMENT ON TABLE authz_version IS 'Changes with every change to roles and role assignments, so that servers can cache them: microseconds since 1970, and always more than before.';
