//! How a command ends: exit codes, and the errors that lead to them.

use std::fmt;

use postern_api::client::ClientError;

/// Why a command did not succeed, as scripts see it. Success is 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Something went wrong.
    Failure = 1,
    /// The command line, the configuration or what was asked for is wrong, and stays wrong when repeated.
    Usage = 2,
    /// Not signed in, not allowed, or turned down.
    Denied = 3,
    /// No such thing, or none that one may see.
    NotFound = 4,
    /// Decided before, ended before, changed meanwhile, or the name is taken.
    Conflict = 5,
    /// What was waited for did not happen in time. It may still.
    TimedOut = 6,
}

/// The exit codes, for `postern --help`.
pub const EXIT_CODES: &str = "\
Exit codes:
  0  success
  1  failure
  2  wrong usage, or a request that is wrong in itself (bad port, outside the policy, …)
  3  denied: not signed in, not allowed, or turned down
  4  not found
  5  conflict: already decided, already ended, changed meanwhile
  6  timed out waiting; what was waited for may still happen";

/// An error with its exit code.
#[derive(Debug)]
pub struct Failure {
    exit: Exit,
    error: anyhow::Error,
}

impl Failure {
    /// A failure with its message.
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self {
            exit,
            error: anyhow::Error::msg(message.into()),
        }
    }

    /// The server's problem, if that is what it is.
    pub fn problem(&self) -> Option<&postern_api::Problem> {
        self.cause::<ClientError>()?.problem()
    }

    /// The error of this type that it comes from, if it does.
    pub fn cause<E: std::error::Error + Send + Sync + 'static>(&self) -> Option<&E> {
        self.error.downcast_ref()
    }

    /// Whether nobody reads the output any more.
    pub fn is_broken_pipe(&self) -> bool {
        self.cause::<std::io::Error>()
            .is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
    }

    /// The exit code.
    pub fn exit(&self) -> Exit {
        self.exit
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The alternate form is the whole chain, each cause after a colon.
        write!(f, "{:#}", self.error)
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        let exit = match error.downcast_ref::<ClientError>() {
            Some(client) => of_client(client),
            None if error.is::<crate::config::Invalid>() || error.is::<crate::config::NoSecret>() => {
                Exit::Usage
            }
            None => Exit::Failure,
        };
        Self { exit, error }
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        Self {
            exit: of_client(&error),
            error: error.into(),
        }
    }
}

impl From<crate::config::Invalid> for Failure {
    fn from(error: crate::config::Invalid) -> Self {
        Self {
            exit: Exit::Usage,
            error: error.into(),
        }
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self {
            exit: Exit::Failure,
            error: error.into(),
        }
    }
}

fn of_client(error: &ClientError) -> Exit {
    match error {
        ClientError::Address(_) => Exit::Usage,
        ClientError::Problem(problem) => match problem.status {
            401 | 403 => Exit::Denied,
            404 => Exit::NotFound,
            409 | 412 | 428 => Exit::Conflict,
            400 | 413 | 415 | 422 => Exit::Usage,
            _ => Exit::Failure,
        },
        ClientError::Transport(_) | ClientError::Unexpected { .. } => Exit::Failure,
    }
}

#[cfg(test)]
mod tests {
    use postern_api::problem::{ErrorCode, Problem};

    use super::*;

    #[test]
    fn the_exit_code_follows_from_the_problem() {
        for (code, exit) in [
            (ErrorCode::TokenExpired, Exit::Denied),
            (ErrorCode::Forbidden, Exit::Denied),
            (ErrorCode::MachineNotFound, Exit::NotFound),
            (ErrorCode::AlreadyDecided, Exit::Conflict),
            (ErrorCode::VersionMismatch, Exit::Conflict),
            (ErrorCode::PortNotGuarded, Exit::Usage),
            (ErrorCode::Internal, Exit::Failure),
        ] {
            let error = ClientError::Problem(Box::new(Problem::new(code, "why", "1")));
            assert_eq!(Failure::from(anyhow::Error::from(error)).exit(), exit, "{code}");
        }
    }

    #[test]
    fn a_failure_tells_its_causes() {
        let error = anyhow::Error::msg("the disk is full").context("cannot write the state");
        assert_eq!(
            Failure::from(error).to_string(),
            "cannot write the state: the disk is full"
        );
    }

    #[test]
    fn a_secret_that_is_missing_is_wrong_configuration_whichever_command_finds_it() {
        let database = crate::config::Database {
            url: None,
            url_file: Some("/nowhere/url".into()),
            max_connections: 2,
        };
        let failure = Failure::from(database.url().unwrap_err());
        assert_eq!(failure.exit(), Exit::Usage);
        assert!(
            failure.to_string().starts_with("/nowhere/url cannot be read: "),
            "{failure}"
        );
    }
}
