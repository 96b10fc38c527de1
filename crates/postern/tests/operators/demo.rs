//! `postern demo` as somebody starts it: what it says when it cannot, and what it leaves behind.

use std::{
    net::TcpListener,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader, Lines},
    process::{Child, ChildStdout, Command},
};

use crate::{people::As, rig::said};

fn demo(directory: &Path, port: u16) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_postern"));
    command
        .args(["demo", "--port", &port.to_string(), "--data-dir"])
        .arg(directory)
        .kill_on_drop(true)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// Starts a demo and reads what it prints up to its address.
async fn started(mut demo: Command) -> (Child, Lines<BufReader<ChildStdout>>, String) {
    let mut child = demo.spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let first = tokio::time::timeout(Duration::from_mins(1), lines.next_line()).await;
    let first = first.unwrap().unwrap().unwrap_or_default();
    assert!(first.contains("serves at http://127.0.0.1:"), "{first}");
    let address = first.split_whitespace().find(|word| word.starts_with("http://"));
    (child, lines, address.unwrap().to_owned())
}

async fn interrupted(child: &mut Child) -> Option<i32> {
    let id = Pid::from_raw(i32::try_from(child.id().unwrap()).unwrap()).unwrap();
    kill_process(id, Signal::INT).unwrap();
    let ended = tokio::time::timeout(Duration::from_secs(30), child.wait()).await;
    ended.unwrap().unwrap().code()
}

/// A directory that Postgres' own user may enter.
fn directory() -> TempDir {
    use std::os::unix::fs::PermissionsExt as _;
    let directory = tempfile::tempdir().unwrap();
    std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    directory
}

/// A demo that runs, in a directory of its own.
pub(crate) struct Demo {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    server: String,
    directory: TempDir,
}

impl Demo {
    pub(crate) async fn start() -> Self {
        Self::with(&[]).await
    }

    /// With more arguments.
    pub(crate) async fn with(more: &[&str]) -> Self {
        let directory = directory();
        let mut command = demo(&directory.path().join("demo"), 0);
        command.args(more);
        let (child, lines, server) = started(command).await;
        Self {
            child,
            lines,
            server,
            directory,
        }
    }

    /// A directory that goes with it.
    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Where it keeps its data.
    pub(crate) fn data(&self) -> PathBuf {
        self.directory.path().join("demo")
    }

    /// What it prints next.
    pub(crate) async fn line(&mut self) -> String {
        let line = tokio::time::timeout(Duration::from_mins(1), self.lines.next_line()).await;
        line.unwrap().unwrap().unwrap()
    }

    /// The command line of one of its people.
    pub(crate) async fn person(&self, name: &str) -> As<'_> {
        As::of(name, &self.server, &self.data()).await
    }

    /// Ends it as Ctrl-C does; its exit code.
    pub(crate) async fn interrupted(mut self) -> Option<i32> {
        interrupted(&mut self.child).await
    }
}

/// The processes that have the directory in their command line.
fn processes_in(directory: &Path) -> Vec<String> {
    let name = directory.to_str().unwrap();
    let entries = std::fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    entries
        .filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok())
        .map(|line| String::from_utf8_lossy(&line).replace('\0', " "))
        .filter(|line| line.contains(name))
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_interrupted_demo_leaves_nothing_behind_and_starts_again() {
    let directory = directory();
    let data = directory.path().join("demo");
    for _ in 0..2 {
        let (mut child, _lines, _) = started(demo(&data, 0)).await;
        assert!(data.join("demo.json").exists());
        assert_eq!(interrupted(&mut child).await, Some(0));
        assert!(!data.exists(), "the data is removed");
        assert_eq!(processes_in(&data), [""; 0], "no process is left");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_demo_in_the_same_directory_is_refused_and_harms_nothing() {
    let directory = directory();
    let data = directory.path().join("demo");
    let (mut child, _lines, _) = started(demo(&data, 0)).await;
    let second = demo(&data, 0).output().await.unwrap();
    let (_, told) = said(&second);
    assert_eq!(second.status.code(), Some(1), "{told}");
    assert!(
        told.contains("another demo runs") && told.contains("--data-dir"),
        "{told}"
    );
    assert!(data.join("demo.json").exists(), "the first one's state is kept");
    assert_eq!(interrupted(&mut child).await, Some(0));
}

#[tokio::test]
async fn a_port_that_is_taken_is_said_before_anything_is_started() {
    let directory = directory();
    let data = directory.path().join("demo");
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let output = demo(&data, port).output().await.unwrap();
    let (_, told) = said(&output);
    assert_eq!(output.status.code(), Some(5), "{told}");
    assert!(
        told.contains(&port.to_string()) && told.contains("--port"),
        "{told}"
    );
    assert_eq!(told.lines().count(), 1, "{told}");
    assert!(!data.exists(), "nothing was made");
}
