//! Postgres: every SQL statement, the audit log, the journal, the due queue.
