-- A discovery that finds a machine as it was writes only `seen_at`. No index has that column any more, and each page has
-- room for its rows once more: then a row is replaced on its page, and no index takes notice. What was written earlier
-- gets that room as its rows are replaced.
SET LOCAL lock_timeout = '5s';
DROP INDEX machines_account;
CREATE INDEX machines_account ON machines (account) WHERE gone_at IS NULL;
ALTER TABLE machines SET (fillfactor = 50);

-- Points at which something may have been done are in use; those without an outcome and those with a success have an index.
-- The journal is read once for this one, and nobody writes it meanwhile.
CREATE INDEX journal_unknown ON journal (point_id) WHERE outcome = 'unknown';
