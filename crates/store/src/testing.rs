//! Fresh databases for tests: each a copy of one that was migrated once.

use std::sync::atomic::{AtomicU32, Ordering};

use postern_localpg::test_server;
use secrecy::{ExposeSecret as _, SecretString};
use sqlx::{Connection, Executor, PgConnection};
use tokio::sync::OnceCell;

use crate::{Store, StoreOptions, Tx};

/// The URL of a new, migrated and empty database on this process's test server.
///
/// # Panics
/// If Postgres is missing or fails, with the command that installs it.
#[expect(clippy::expect_used, reason = "for tests, which fail by panicking")]
pub async fn fresh_database() -> SecretString {
    static TEMPLATE: OnceCell<()> = OnceCell::const_new();
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let server = test_server();
    TEMPLATE
        .get_or_init(|| async {
            create("CREATE DATABASE template_postern".to_owned()).await;
            let url = SecretString::from(server.database_url("template_postern"));
            let store = Store::connect(&url, StoreOptions::default())
                .await
                .expect("the template database");
            store.migrate().await.expect("the migrations");
            // A database with connections cannot be copied.
            store.close().await;
        })
        .await;
    let name = format!("test_{}", COUNT.fetch_add(1, Ordering::Relaxed));
    create(format!("CREATE DATABASE {name} TEMPLATE template_postern")).await;
    SecretString::from(server.database_url(&name))
}

/// A store over [`fresh_database`].
///
/// # Panics
/// If Postgres is missing or fails, with the command that installs it.
#[expect(clippy::expect_used, reason = "for tests, which fail by panicking")]
pub async fn fresh_store() -> Store {
    let options = StoreOptions {
        max_connections: 8,
        ..StoreOptions::default()
    };
    Store::connect(&fresh_database().await, options)
        .await
        .expect("a fresh database")
}

#[expect(clippy::expect_used, reason = "for tests, which fail by panicking")]
async fn create(statement: String) {
    let mut connection = PgConnection::connect(&test_server().url())
        .await
        .expect("the test server");
    connection
        .execute(sqlx::AssertSqlSafe(statement))
        .await
        .expect("a new database");
    connection.close().await.expect("the test server");
}

/// Has the next `times` audit events of this action fail as the loser of a deadlock does.
///
/// # Panics
/// If the database fails.
#[expect(clippy::expect_used, reason = "for tests, which fail by panicking")]
pub async fn contend(store: &Store, action: &str, times: u32) {
    // A sequence keeps its number when the transaction is taken back.
    let statement = format!(
        "CREATE SEQUENCE lost_deadlocks;
         CREATE FUNCTION lose_a_deadlock() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN
             IF NEW.action = '{action}' AND nextval('lost_deadlocks') <= {times} THEN
                 RAISE EXCEPTION 'deadlock detected' USING ERRCODE = '40P01';
             END IF;
             RETURN NEW;
         END $$;
         CREATE TRIGGER contention BEFORE INSERT ON audit_events
             FOR EACH ROW EXECUTE FUNCTION lose_a_deadlock();"
    );
    sqlx::raw_sql(sqlx::AssertSqlSafe(statement))
        .execute(&store.pool)
        .await
        .expect("a trigger");
}

/// How many changes of the journal have no outcome.
///
/// # Panics
/// If the database fails.
#[expect(clippy::expect_used, reason = "for tests, which fail by panicking")]
pub async fn unsettled_changes(store: &Store) -> i64 {
    sqlx::query_scalar("SELECT count(*) FROM journal WHERE outcome IS NULL")
        .fetch_one(&store.pool)
        .await
        .expect("the journal")
}

/// Whether a change with this operation stands in the journal without an outcome, as every write must while it is
/// under way.
///
/// # Panics
/// If the database fails.
#[expect(clippy::expect_used, reason = "for tests, which fail by panicking")]
pub async fn is_intended(store: &Store, operation: &serde_json::Value) -> bool {
    sqlx::query_scalar("SELECT EXISTS (SELECT FROM journal WHERE operation = $1 AND outcome IS NULL)")
        .bind(operation)
        .fetch_one(&store.pool)
        .await
        .expect("the journal")
}

/// In how many transactions the access requests were made.
///
/// # Panics
/// If the database fails.
#[expect(clippy::expect_used, reason = "for tests, which fail by panicking")]
pub async fn transactions_of_requests(store: &Store) -> i64 {
    sqlx::query_scalar("SELECT count(DISTINCT xmin::text) FROM access_requests")
        .fetch_one(&store.pool)
        .await
        .expect("the requests")
}

/// Nobody learns which role assignments there are until this transaction ends: every decision waits for it.
///
/// # Panics
/// If the database fails.
#[expect(clippy::expect_used, reason = "for tests, which fail by panicking")]
pub async fn hold_decisions(store: &Store) -> Tx {
    let mut tx = store.begin().await.expect("a transaction");
    sqlx::query("LOCK TABLE authz_version IN ACCESS EXCLUSIVE MODE")
        .execute(&mut *tx.inner)
        .await
        .expect("the lock");
    tx
}

/// Whether a transaction waits for another one's lock.
///
/// # Panics
/// If the database fails.
#[expect(clippy::expect_used, reason = "for tests, which fail by panicking")]
pub async fn somebody_waits(store: &Store) -> bool {
    sqlx::query_scalar(
        "SELECT EXISTS (SELECT FROM pg_stat_activity
                        WHERE datname = current_database() AND wait_event_type = 'Lock')",
    )
    .fetch_one(&store.pool)
    .await
    .expect("the locks")
}

/// Gives the role `requester` to so many people, `user:corp/<number>`, each at an account of AWS's of their own.
///
/// # Panics
/// If the database fails.
#[expect(clippy::expect_used, reason = "for tests, which fail by panicking")]
pub async fn assign_many(store: &Store, how_many: i32) {
    sqlx::query(
        "INSERT INTO role_assignments (id, role, principal, scope, created_by, created_at)
         SELECT gen_random_uuid(), 'requester', 'user:corp/' || n, '/aws/' || (100000000000 + n), 'user:corp/root',
             '2026-01-01T00:00:00Z'
         FROM generate_series(1, $1) AS n",
    )
    .bind(how_many)
    .execute(&store.pool)
    .await
    .expect("the role assignments");
}

/// Leaves out so many numbers of audit events: as if as many had been written that tell of nothing.
///
/// # Panics
/// If the database fails.
#[expect(clippy::expect_used, reason = "for tests, which fail by panicking")]
pub async fn skip_audit_numbers(store: &Store, how_many: i64) {
    sqlx::query(
        "SELECT setval(pg_get_serial_sequence('audit_events', 'seq'), max(seq) + $1) FROM audit_events",
    )
    .bind(how_many)
    .execute(&store.pool)
    .await
    .expect("the numbers of audit events");
}

/// Keeps the roles and role assignments as they are now, with their version, for [`restore_roles`].
///
/// # Panics
/// If the database fails.
#[expect(clippy::expect_used, reason = "for tests, which fail by panicking")]
pub async fn back_up_roles(store: &Store) {
    sqlx::raw_sql(
        "CREATE SCHEMA backup;
         CREATE TABLE backup.roles AS TABLE roles;
         CREATE TABLE backup.role_assignments AS TABLE role_assignments;
         CREATE TABLE backup.authz_version AS TABLE authz_version",
    )
    .execute(&store.pool)
    .await
    .expect("a backup");
}

/// Puts back what [`back_up_roles`] kept, to the row, as a restore of the database does: the version goes back, too.
///
/// # Panics
/// If the database fails.
#[expect(clippy::expect_used, reason = "for tests, which fail by panicking")]
pub async fn restore_roles(store: &Store) {
    // No trigger fires, as none does for rows that a restore loads.
    sqlx::raw_sql(
        "BEGIN;
         SET LOCAL session_replication_role = replica;
         DELETE FROM role_assignments; DELETE FROM roles; DELETE FROM authz_version;
         INSERT INTO roles SELECT * FROM backup.roles;
         INSERT INTO role_assignments SELECT * FROM backup.role_assignments;
         INSERT INTO authz_version SELECT * FROM backup.authz_version;
         COMMIT",
    )
    .execute(&store.pool)
    .await
    .expect("a restore");
}

/// Has every lease of a point run out, long ago: as if its owner had died and time had passed.
///
/// # Panics
/// If the database fails.
#[expect(clippy::expect_used, reason = "for tests, which fail by panicking")]
pub async fn let_leases_run_out(store: &Store) {
    sqlx::query(
        "UPDATE points SET lease_until = clock_timestamp() - interval '1 hour' WHERE lease_until IS NOT NULL",
    )
    .execute(&store.pool)
    .await
    .expect("the leases");
}

/// Has everything that waits for a decision, or for somebody to look at it, wait for so many seconds more already.
///
/// # Panics
/// If the database fails.
#[expect(clippy::expect_used, reason = "for tests, which fail by panicking")]
pub async fn let_wait(url: &SecretString, seconds: i64) {
    let mut connection = PgConnection::connect(url.expose_secret())
        .await
        .expect("the database");
    let statements = [
        "UPDATE access_requests SET created_at = created_at - make_interval(secs => $1),
             lapses_at = lapses_at - make_interval(secs => $1) WHERE status = 'pending'",
        "UPDATE reviews SET opened_at = opened_at - make_interval(secs => $1) WHERE closed_at IS NULL",
    ];
    for statement in statements {
        sqlx::query(statement)
            .bind(seconds)
            .execute(&mut connection)
            .await
            .expect("what waits");
    }
    connection.close().await.expect("the database");
}

/// Whether no pass is under way and none is due in the database at `url`.
///
/// # Panics
/// If the database fails.
#[expect(clippy::expect_used, reason = "for tests, which fail by panicking")]
pub async fn is_quiet(url: &SecretString) -> bool {
    let mut connection = PgConnection::connect(url.expose_secret())
        .await
        .expect("the database");
    let quiet =
        "SELECT NOT EXISTS (SELECT FROM points WHERE lease_owner IS NOT NULL OR due_at <= clock_timestamp())";
    let quiet = sqlx::query_scalar(quiet)
        .fetch_one(&mut connection)
        .await
        .expect("the due queue");
    connection.close().await.expect("the database");
    quiet
}

/// From now on no server of the database that this URL names hears of another: each believes that it is alone.
///
/// # Panics
/// If the database fails.
#[expect(clippy::expect_used, reason = "for tests, which fail by panicking")]
pub async fn hide_servers(url: &SecretString) {
    let mut connection = PgConnection::connect(url.expose_secret())
        .await
        .expect("the database");
    let statements = [
        "CREATE FUNCTION say_nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'",
        "CREATE TRIGGER servers_say_nothing BEFORE INSERT OR UPDATE ON servers
         FOR EACH ROW EXECUTE FUNCTION say_nothing()",
        "DELETE FROM servers",
    ];
    for statement in statements {
        sqlx::query(statement)
            .execute(&mut connection)
            .await
            .expect("the servers are hidden");
    }
    connection.close().await.expect("the database");
}
