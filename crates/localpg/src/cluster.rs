//! A data directory on disk: made with `initdb`, and what its `postmaster.pid` says.

use std::{
    fs,
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process, test_kill_process};

use crate::{LocalPostgresError, account::RunAs};

/// Makes a directory, if it is not there, that only the user Postgres runs as can enter.
pub(crate) fn private_dir(path: &Path, run_as: Option<RunAs>) -> Result<(), LocalPostgresError> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(0o700)))
        .and_then(|()| RunAs::own(run_as, path))
        .map_err(LocalPostgresError::io(path))
}

/// A command that knows nothing of the caller's own Postgres settings.
pub(crate) fn clean_command(program: &Path, run_as: Option<RunAs>) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        if name
            .to_str()
            .is_some_and(|name| name.starts_with("PG") || name.starts_with("LC_"))
        {
            command.env_remove(name);
        }
    }
    command.env("LC_ALL", "C").env("TZ", "UTC").current_dir("/");
    RunAs::apply(run_as, &mut command);
    command
}

/// Runs `initdb` unless `cluster` has been through it: superuser `postgres`, locale C, UTF-8. Connections are
/// trusted, because only the socket's directory decides who can make one.
pub(crate) fn initialise(
    bin: &Path,
    cluster: &Path,
    run_as: Option<RunAs>,
    sync: bool,
) -> Result<(), LocalPostgresError> {
    if cluster.join("PG_VERSION").exists() {
        return Ok(());
    }
    // A run that was cut short leaves a directory without PG_VERSION, which initdb would refuse.
    if cluster.exists() {
        fs::remove_dir_all(cluster).map_err(LocalPostgresError::io(cluster))?;
    }
    private_dir(cluster, run_as)?;
    let program = bin.join("initdb");
    let mut command = clean_command(&program, run_as);
    command
        .args([
            "--username=postgres",
            "--auth=trust",
            "--encoding=UTF8",
            "--locale=C",
            "--pgdata",
        ])
        .arg(cluster)
        .stdin(Stdio::null());
    if !sync {
        command.arg("--no-sync");
    }
    let output = command
        .output()
        .map_err(|source| LocalPostgresError::Run { program, source })?;
    if output.status.success() {
        Ok(())
    } else {
        Err(LocalPostgresError::Initdb(tail(&output.stderr)))
    }
}

/// What `postmaster.pid` says; its lines are fixed by Postgres' `pidfile.h`: the process id is the first, the
/// status (`starting`, `ready`, …) the eighth.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct PidFile {
    pub(crate) pid: i32,
    pub(crate) ready: bool,
}

impl PidFile {
    pub(crate) fn read(cluster: &Path) -> Option<Self> {
        Self::parse(&fs::read_to_string(cluster.join("postmaster.pid")).ok()?)
    }

    fn parse(text: &str) -> Option<Self> {
        let mut lines = text.lines();
        let pid = lines.next()?.trim().parse().ok()?;
        Some(Self {
            pid,
            ready: lines.nth(6).is_some_and(|status| status.trim() == "ready"),
        })
    }

    /// Whether the process exists and is a Postgres of this cluster. A process id that was given to somebody
    /// else since does not count.
    pub(crate) fn is_live(&self, cluster: &Path) -> bool {
        let Some(pid) = Pid::from_raw(self.pid) else {
            return false;
        };
        if test_kill_process(pid).is_err() {
            return false;
        }
        match fs::read_link(format!("/proc/{}/cwd", self.pid)) {
            // Postgres changes into its data directory.
            Ok(cwd) => cluster.canonicalize().is_ok_and(|cluster| cwd == cluster),
            Err(error) => error.kind() != std::io::ErrorKind::NotFound,
        }
    }
}

/// Waits for a left-over server of this cluster to go; if it does not go by itself within `patience`, shuts it
/// down. The caller holds the directory's lock, so nobody uses that server any more.
pub(crate) fn stop_left_over(cluster: &Path, patience: Duration) -> Result<(), LocalPostgresError> {
    let start = Instant::now();
    let mut told = false;
    loop {
        let Some(left_over) = PidFile::read(cluster).filter(|file| file.is_live(cluster)) else {
            return Ok(());
        };
        if start.elapsed() > patience && !told {
            tracing::info!(pid = left_over.pid, "stopping a left-over Postgres");
            if let Some(pid) = Pid::from_raw(left_over.pid) {
                // SIGINT is Postgres' fast shutdown. That it just went by itself is no error.
                let _ = kill_process(pid, Signal::INT);
            }
            told = true;
        }
        if start.elapsed() > patience + Duration::from_secs(30) {
            return Err(LocalPostgresError::Stop(left_over.pid));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The last few lines, for an error.
pub(crate) fn tail(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    lines
        .iter()
        .skip(lines.len().saturating_sub(8))
        .copied()
        .collect::<Vec<_>>()
        .join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_ready_when_its_pid_file_says_so_and_not_before() {
        let file = |status: &str| {
            PidFile::parse(&format!(
                "4711\n/data\n1700000000\n5432\n/sock\n\n  1 2\n{status}\n"
            ))
        };
        assert_eq!(
            file("ready   "),
            Some(PidFile {
                pid: 4711,
                ready: true
            })
        );
        assert_eq!(
            file("starting"),
            Some(PidFile {
                pid: 4711,
                ready: false
            })
        );
        assert_eq!(
            PidFile::parse("4711\n/data\n"),
            Some(PidFile {
                pid: 4711,
                ready: false
            })
        );
        assert_eq!(PidFile::parse(""), None);
    }

    #[test]
    fn a_process_that_is_no_server_of_the_cluster_is_not_its_left_over() {
        let own = PidFile {
            pid: i32::try_from(std::process::id()).unwrap(),
            ready: true,
        };
        assert!(!own.is_live(Path::new("/")));
    }
}
