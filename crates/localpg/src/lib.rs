//! A private Postgres for the demo and the tests: found, initialised, started, stopped.
//!
//! [`LocalPostgres::start`] needs nothing but the `initdb` and `postgres` binaries. The server listens on a Unix
//! socket in a directory that only its own user (and root) can enter, so it needs no port and no password. As
//! root, which Postgres refuses to run as, it drops to an unprivileged user.
//!
//! It never outlives its parent, not even one that is killed with SIGKILL (`supervisor.rs` says how).

mod account;
mod binaries;
mod cluster;
mod server;
mod supervisor;

pub use crate::{
    binaries::{BIN_ENV, INSTALL_COMMAND},
    server::{LocalPostgres, Options, test_server},
};

/// Why there is no private Postgres.
#[derive(Debug, thiserror::Error)]
pub enum LocalPostgresError {
    /// The binaries are not on this machine.
    #[error(
        "no Postgres binaries found in {looked_in}: install them with `{INSTALL_COMMAND}`, or set `{BIN_ENV}`"
    )]
    NotInstalled {
        /// Where they were looked for.
        looked_in: String,
    },
    /// Another process uses the data directory.
    #[error("`{0}` is in use by another running Postern")]
    InUse(std::path::PathBuf),
    /// Postgres does not run as root, and there is nobody else to run it as.
    #[error("running as root, and neither user `postgres` nor `nobody` exists to run Postgres as")]
    NoUnprivilegedUser,
    /// A file or directory could not be made or read.
    #[error("`{path}`")]
    Io {
        /// Which.
        path: std::path::PathBuf,
        /// What happened.
        source: std::io::Error,
    },
    /// A program could not be run at all.
    #[error("`{program}` could not be run")]
    Run {
        /// Which.
        program: std::path::PathBuf,
        /// What happened.
        source: std::io::Error,
    },
    /// `initdb` said no.
    #[error("`initdb` failed: {0}")]
    Initdb(String),
    /// Postgres did not come up; the end of its log.
    #[error("Postgres did not start: {0}")]
    Start(String),
    /// Postgres does not go away.
    #[error("Postgres (process {0}) does not stop")]
    Stop(i32),
}

impl LocalPostgresError {
    pub(crate) fn io(path: impl Into<std::path::PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { path, source }
    }
}
