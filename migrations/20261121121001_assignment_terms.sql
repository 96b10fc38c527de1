-- Role assignments that end by themselves, and that are only for machines with certain tags.
ALTER TABLE role_assignments
    ADD COLUMN tags jsonb NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(tags) = 'object'),
    ADD COLUMN ends_at timestamptz,
    DROP CONSTRAINT role_assignments_role_principal_scope_key,
    ADD CONSTRAINT role_assignments_role_principal_scope_tags_key UNIQUE (role, principal, scope, tags);
CREATE INDEX role_assignments_ends_at ON role_assignments (ends_at) WHERE ends_at IS NOT NULL;
COMMENT ON COLUMN role_assignments.tags IS 'Only for machines that carry all of these; for everything at the scope when empty.';
COMMENT ON COLUMN role_assignments.ends_at IS 'From then on it counts for nothing. The loop removes it and says so in the audit log.';
