-- Until when a call that gave no clear answer may still take effect, in the database's time, which all servers share.
-- Set when a look finds the change without an outcome; what is tried at the point afterwards may be what is seen there.
ALTER TABLE journal ADD COLUMN doubted_until timestamptz;
