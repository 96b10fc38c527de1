//! The shell that stands between us and Postgres, so that Postgres never outlives us.
//!
//! The supervisor's standard input is a pipe whose other end only we hold. When we close it, or die in any way at
//! all, the supervisor reads end-of-file, shuts Postgres down and removes what is temporary. It is in a process
//! group of its own: Ctrl-C reaches us, and we decide when the database goes. When Postgres ends by itself, so
//! does the supervisor.

use std::{
    fs::File,
    io::{BufRead, BufReader},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ExitStatus, Stdio},
};

use crate::{LocalPostgresError, account::RunAs, cluster::clean_command};

/// How Postgres is shut down; `kill`'s word for the signal.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Shutdown {
    /// Aborts transactions, writes a checkpoint.
    Fast,
    /// Just ends; for data that is removed right after.
    Immediate,
}

/// `$1` the signal, `$2` a directory to remove at the end or nothing, then Postgres and its arguments.
///
/// A shell without job control gives background commands `/dev/null` as standard input, hence descriptor 3.
const SCRIPT: &str = r#"
trap '' HUP INT TERM
signal=$1; remove=$2; shift 2
exec 3<&0 </dev/null
"$@" 3<&- >/dev/null 2>&4 &
postgres=$!
echo "$postgres"
exec >/dev/null
{ while read -r _ <&3; do :; done; kill -s "$signal" "$postgres"; } 4>&- &
watcher=$!
wait "$postgres"; status=$?
kill -s KILL "$watcher" 2>/dev/null
[ -z "$remove" ] || rm -rf -- "$remove"
exit "$status"
"#;

/// A running supervisor.
#[derive(Debug)]
pub(crate) struct Supervisor {
    child: Child,
    lifeline: Option<ChildStdin>,
    /// The process id of Postgres itself.
    pub(crate) postgres: i32,
}

impl Supervisor {
    pub(crate) fn spawn(
        run_as: Option<RunAs>,
        shutdown: Shutdown,
        remove: Option<&Path>,
        log: &Path,
        program: &Path,
        arguments: &[String],
    ) -> Result<Self, LocalPostgresError> {
        let shell = PathBuf::from("/bin/sh");
        let failed = |source| LocalPostgresError::Run {
            program: PathBuf::from("/bin/sh"),
            source,
        };
        let log = File::options()
            .create(true)
            .append(true)
            .open(log)
            .map_err(LocalPostgresError::io(log))?;
        let mut child = clean_command(&shell, run_as)
            .args([
                "-c",
                &format!("exec 4>&2 2>/dev/null\n{SCRIPT}"),
                "postern-postgres",
            ])
            .arg(match shutdown {
                Shutdown::Fast => "INT",
                Shutdown::Immediate => "QUIT",
            })
            .arg(remove.unwrap_or_else(|| Path::new("")))
            .arg(program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .process_group(0)
            .spawn()
            .map_err(failed)?;
        let lifeline = child.stdin.take();
        let mut line = String::new();
        if let Some(stdout) = child.stdout.take() {
            BufReader::new(stdout).read_line(&mut line).map_err(failed)?;
        }
        let postgres = line
            .trim()
            .parse()
            .map_err(|_| LocalPostgresError::Start("the supervisor did not name its process".to_owned()))?;
        Ok(Self {
            child,
            lifeline,
            postgres,
        })
    }

    /// The exit status, if Postgres ended.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Shuts Postgres down and waits until it, and what was temporary, is gone.
    pub(crate) fn stop(&mut self) {
        drop(self.lifeline.take());
        if let Err(error) = self.child.wait() {
            tracing::warn!(%error, "the supervisor of Postgres could not be waited for");
        }
    }
}
