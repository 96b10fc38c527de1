//! What can go wrong between us and the database.

/// Why the store did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// There is no such thing.
    #[error("{what} does not exist")]
    NotFound {
        /// What, with its id.
        what: String,
    },
    /// It would contradict what is there.
    #[error(transparent)]
    Conflict(#[from] Conflict),
    /// The point was leased to somebody else, or the lease ran out: nothing was written, and nothing may be.
    #[error("the lease of `{point}` is lost")]
    LeaseLost {
        /// Of which point.
        point: String,
    },
    /// A row that cannot be: written by something else than this code, or by another version of it.
    #[error("a row of `{table}` has a `{column}` that cannot be read")]
    Corrupt {
        /// Where.
        table: &'static str,
        /// Which column.
        column: &'static str,
        /// Why it cannot be read.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A value that does not fit into JSON.
    #[error("a value could not be encoded")]
    Encode(#[source] serde_json::Error),
    /// The schema could not be brought up to date.
    #[error("the schema could not be migrated")]
    Migrate(#[from] sqlx::migrate::MigrateError),
    /// The database failed or is not there.
    #[error("the database failed")]
    Database(#[from] sqlx::Error),
}

/// What an operation would contradict.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Conflict {
    /// The database belongs to another installation.
    #[error("the database belongs to installation `{0}`")]
    Installation(String),
    /// Policies have unique names.
    #[error("there is already a JIT policy named `{0}`")]
    PolicyName(String),
    /// The document was changed since it was read.
    #[error("{what} is at version {found}, not {expected}")]
    Version {
        /// Which.
        what: String,
        /// The version that the change was made from.
        expected: i64,
        /// The version that is there.
        found: i64,
    },
    /// A request is decided once.
    #[error("the access request was decided meanwhile")]
    Decided,
    /// The grant is not in the state that the change starts from.
    #[error("a grant changed its state meanwhile")]
    GrantState,
    /// The journal has an outcome for the change already, or no such change.
    #[error("a change of the journal was settled before")]
    Settled,
    /// There is nothing on the way to the machine that could be opened.
    #[error("nothing filters the way to machine `{0}`")]
    NoHop(String),
    /// Roles have unique names.
    #[error("there is already a role named `{0}`")]
    RoleName(String),
    /// Somebody has the role.
    #[error("role `{0}` is assigned to somebody: remove those role assignments first")]
    RoleInUse(String),
    /// A stage of a JIT policy asks for people who have the role.
    #[error("a stage of JIT policy `{policy}` asks for role `{role}`")]
    RoleAwaited {
        /// The role.
        role: String,
        /// One of the policies.
        policy: String,
    },
    /// The same principal has the same role at the same scope.
    #[error("the same role assignment is there already")]
    Assignment,
    /// A freeze is in force there, for this reason.
    #[error("the scope is frozen: {0}")]
    Frozen(String),
    /// An answer was stored for the key before.
    #[error("the idempotency key has an answer already")]
    Answered,
    /// A lease ends once.
    #[error("the lease has ended")]
    LeaseEnded,
}

impl StoreError {
    /// Whether the lease of a point was lost.
    pub const fn is_lease_lost(&self) -> bool {
        matches!(self, Self::LeaseLost { .. })
    }

    /// Whether there is no such thing.
    pub const fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound { .. })
    }

    /// Whether it met another one's locks or writes: the database took all of it back, so that it can be tried again.
    pub fn is_contention(&self) -> bool {
        // Source: PostgreSQL, appendix A: 40001 serialization_failure, 40P01 deadlock_detected,
        // 55P03 lock_not_available.
        matches!(self.code().as_deref(), Some("40001" | "40P01" | "55P03"))
    }

    /// Whether the same thing, tried again as a whole, may go through: it met another one's locks or writes, or the
    /// database went away meanwhile. Whether a commit whose answer was lost took effect is not known.
    pub fn is_transient(&self) -> bool {
        self.is_contention() || self.is_unavailable()
    }

    /// Whether the database cannot be reached, or takes no more connections.
    pub fn is_unavailable(&self) -> bool {
        let Self::Database(error) = self else { return false };
        match error {
            sqlx::Error::Io(_)
            | sqlx::Error::Tls(_)
            | sqlx::Error::PoolTimedOut
            | sqlx::Error::PoolClosed
            | sqlx::Error::WorkerCrashed => true,
            // Source: PostgreSQL, appendix A: class 08 connection exceptions, 53300 too_many_connections,
            // 57P01 admin_shutdown, 57P02 crash_shutdown, 57P03 cannot_connect_now, 57P05 idle_session_timeout,
            // 25P03 idle_in_transaction_session_timeout.
            sqlx::Error::Database(_) => self.code().is_some_and(|code| {
                code.starts_with("08")
                    || matches!(
                        code.as_ref(),
                        "53300" | "57P01" | "57P02" | "57P03" | "57P05" | "25P03"
                    )
            }),
            _ => false,
        }
    }

    /// What Postgres calls it.
    fn code(&self) -> Option<std::borrow::Cow<'_, str>> {
        match self {
            Self::Database(sqlx::Error::Database(error)) => error.code(),
            _ => None,
        }
    }

    pub(crate) fn not_found(what: &str, id: impl std::fmt::Display) -> Self {
        Self::NotFound {
            what: format!("{what} `{id}`"),
        }
    }
}

/// `error`, or [`Conflict::Frozen`] where it is a trigger's refusal (PF001, see the migration of freezes).
pub(crate) fn frozen(error: sqlx::Error) -> StoreError {
    match &error {
        sqlx::Error::Database(inner) if inner.code().as_deref() == Some("PF001") => {
            Conflict::Frozen(inner.message().to_owned()).into()
        }
        _ => error.into(),
    }
}

/// `error`, or `conflict` where it is the violation of a unique constraint.
pub(crate) fn unique(error: sqlx::Error, conflict: impl FnOnce() -> Conflict) -> StoreError {
    match error {
        sqlx::Error::Database(inner) if inner.is_unique_violation() => conflict().into(),
        other => other.into(),
    }
}
