-- Firewalls and their policies are points too.
ALTER TABLE points DROP CONSTRAINT points_kind_check;
ALTER TABLE points ADD CONSTRAINT points_kind_check CHECK (
    kind IN ('azure_nsg', 'azure_firewall', 'azure_firewall_policy', 'aws_instance', 'aws_security_group')
);

ALTER TABLE machine_points ADD COLUMN approach jsonb;
COMMENT ON COLUMN machine_points.approach IS 'How packets get to the machine, where a firewall stands before it; what the point sees of a source follows from it.';
