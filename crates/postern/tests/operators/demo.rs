//! `postern demo` as somebody starts it: what it says when it cannot, and what it leaves behind.

use std::{net::TcpListener, path::Path, process::Stdio, time::Duration};

use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader, Lines},
    process::{Child, ChildStdout, Command},
};

use crate::rig::said;

pub(crate) fn demo(directory: &Path, port: u16) -> Command {
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
async fn started(directory: &Path) -> (Child, Lines<BufReader<ChildStdout>>) {
    let mut child = demo(directory, 0).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let first = tokio::time::timeout(Duration::from_mins(1), lines.next_line()).await;
    let first = first.unwrap().unwrap().unwrap_or_default();
    assert!(first.contains("serves at http://127.0.0.1:"), "{first}");
    (child, lines)
}

pub(crate) async fn interrupted(child: &mut Child) -> Option<i32> {
    let id = Pid::from_raw(i32::try_from(child.id().unwrap()).unwrap()).unwrap();
    kill_process(id, Signal::INT).unwrap();
    let ended = tokio::time::timeout(Duration::from_secs(30), child.wait()).await;
    ended.unwrap().unwrap().code()
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

/// A directory that Postgres' own user may enter.
pub(crate) fn directory() -> tempfile::TempDir {
    use std::os::unix::fs::PermissionsExt as _;
    let directory = tempfile::tempdir().unwrap();
    std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    directory
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_interrupted_demo_leaves_nothing_behind_and_starts_again() {
    let directory = directory();
    let data = directory.path().join("demo");
    for _ in 0..2 {
        let (mut child, _lines) = started(&data).await;
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
    let (mut child, _lines) = started(&data).await;
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
