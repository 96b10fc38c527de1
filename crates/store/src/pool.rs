//! Connections, transactions, the schema and whose database it is.

use std::{fmt, str::FromStr, time::Duration};

use postern_core::mark::Installation;
use secrecy::{ExposeSecret, SecretString};
use sqlx::{
    AssertSqlSafe, Connection as _, PgPool, Postgres, Transaction,
    migrate::{Migrate, Migrator},
    postgres::{PgConnectOptions, PgPoolOptions},
};

use crate::{Conflict, StoreError};

static MIGRATIONS: Migrator = sqlx::migrate!("../../migrations");

/// Connections that were idle for longer are asked whether they live before they are used. Asking all of them costs
/// every transaction a round trip.
const TRUSTED_FOR: Duration = Duration::from_secs(1);
/// More than there are statements, so that a connection never forgets one that it has prepared.
const PREPARED_STATEMENTS: usize = 500;

/// How to connect.
#[derive(Debug, Clone)]
pub struct StoreOptions {
    /// The most connections of this process, at least 2: a quarter of them, one to eight, for lists and the rest for
    /// everything else. One more is used to listen.
    pub max_connections: u32,
    /// How long to wait for a free connection, or a new one.
    pub acquire_timeout: Duration,
    /// How long a statement may run, lock waits included.
    pub statement_timeout: Duration,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self {
            max_connections: 20,
            acquire_timeout: Duration::from_secs(10),
            statement_timeout: Duration::from_secs(30),
        }
    }
}

/// The database.
#[derive(Clone)]
pub struct Store {
    pub(crate) pool: PgPool,
    /// For lists with filters. What somebody searches for must not keep closings waiting for a connection, and each
    /// search is planned for its own filters: a plan for all of them reads whole tables.
    pub(crate) lists: PgPool,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store")
            .field("connections", &(self.pool.size() + self.lists.size()))
            .finish()
    }
}

/// A transaction. Dropped without [`Tx::commit`], it never happened.
pub struct Tx {
    pub(crate) inner: Transaction<'static, Postgres>,
}

impl fmt::Debug for Tx {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tx")
    }
}

impl Store {
    /// Connects to the database that `url` names (`postgres://…`; the parameters of libpq's URIs). Fails when the
    /// database does not answer within the timeout.
    pub async fn connect(url: &SecretString, options: StoreOptions) -> Result<Self, StoreError> {
        let milliseconds = |duration: Duration| duration.as_millis().to_string();
        let connect = PgConnectOptions::from_str(url.expose_secret())?
            .application_name("postern")
            .options([
                ("statement_timeout", milliseconds(options.statement_timeout)),
                // A process that stalls in a transaction must not hold its locks for good.
                (
                    "idle_in_transaction_session_timeout",
                    milliseconds(options.statement_timeout * 2),
                ),
                ("timezone", "UTC".to_owned()),
                // Compiling a statement takes longer than any of ours runs.
                ("jit", "off".to_owned()),
            ])
            .statement_cache_capacity(PREPARED_STATEMENTS);
        let for_lists = (options.max_connections / 4).clamp(1, 8);
        let pools = PgPoolOptions::new()
            .acquire_timeout(options.acquire_timeout)
            .test_before_acquire(false)
            .before_acquire(|connection, about| {
                Box::pin(async move {
                    if about.idle_for > TRUSTED_FOR {
                        connection.ping().await?;
                    }
                    Ok(true)
                })
            });
        let lists = pools.clone().max_connections(for_lists).connect_lazy_with(
            connect
                .clone()
                .options([("plan_cache_mode", "force_custom_plan")]),
        );
        let pool = pools
            .max_connections(options.max_connections.saturating_sub(for_lists).max(1))
            .connect_with(connect)
            .await?;
        Ok(Self { pool, lists })
    }

    /// Brings the schema up to date. Any number of replicas may do it at once: one does, the others wait.
    pub async fn migrate(&self) -> Result<(), StoreError> {
        Ok(MIGRATIONS.run(&self.pool).await?)
    }

    /// Whether the schema has every migration of this build, unchanged.
    pub async fn is_migrated(&self) -> Result<bool, StoreError> {
        let exists =
            sqlx::query_scalar!(r#"SELECT to_regclass('_sqlx_migrations') IS NOT NULL AS "exists!""#)
                .fetch_one(&self.pool)
                .await?;
        if !exists {
            return Ok(false);
        }
        let mut connection = self.pool.acquire().await?;
        let applied = connection.list_applied_migrations(&MIGRATIONS.table_name).await?;
        Ok(MIGRATIONS.iter().all(|wanted| {
            applied
                .iter()
                .any(|done| done.version == wanted.version && done.checksum == wanted.checksum)
        }))
    }

    /// Whether the database answers.
    pub async fn ready(&self) -> Result<(), StoreError> {
        sqlx::query_scalar!(r#"SELECT 1 AS "one!""#)
            .fetch_one(&self.pool)
            .await?;
        Ok(())
    }

    /// Makes the database `name`'s, or finds that it is already. [`Conflict::Installation`] when it is another's.
    pub async fn claim_installation(&self, name: &Installation) -> Result<(), StoreError> {
        sqlx::query!(
            "INSERT INTO installation (name) VALUES ($1) ON CONFLICT DO NOTHING",
            name.as_str()
        )
        .execute(&self.pool)
        .await?;
        let found = sqlx::query_scalar!("SELECT name FROM installation")
            .fetch_one(&self.pool)
            .await?;
        if found == name.as_str() {
            Ok(())
        } else {
            Err(Conflict::Installation(found).into())
        }
    }

    /// Begins a transaction (read committed).
    ///
    /// Its statements find their rows by key, so one plan serves all parameters: Postgres need not plan each anew,
    /// as it does five times on every connection otherwise.
    pub async fn begin(&self) -> Result<Tx, StoreError> {
        Ok(Tx {
            inner: self
                .pool
                .begin_with("BEGIN; SET LOCAL plan_cache_mode = force_generic_plan")
                .await?,
        })
    }

    /// Begins a transaction (read committed) that waits for no lock longer than `locked_within`; see [`Store::begin`].
    pub async fn begin_impatient(&self, locked_within: Duration) -> Result<Tx, StoreError> {
        let begin = format!(
            "BEGIN; SET LOCAL plan_cache_mode = force_generic_plan; SET LOCAL lock_timeout = {}",
            locked_within.as_millis().max(1)
        );
        Ok(Tx {
            inner: self.pool.begin_with(AssertSqlSafe(begin)).await?,
        })
    }

    /// Closes every connection, after what is under way.
    pub async fn close(&self) {
        self.lists.close().await;
        self.pool.close().await;
    }
}

impl Tx {
    /// Makes it so.
    pub async fn commit(self) -> Result<(), StoreError> {
        Ok(self.inner.commit().await?)
    }

    /// Makes it not so; what dropping does too, but in the background.
    pub async fn rollback(self) -> Result<(), StoreError> {
        Ok(self.inner.rollback().await?)
    }
}

/// A transaction that only reads, and sees everything as of one moment.
pub(crate) async fn snapshot(store: &Store) -> Result<Tx, StoreError> {
    Ok(Tx {
        inner: store
            .pool
            .begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            .await?,
    })
}
