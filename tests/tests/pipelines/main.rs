//! Pipelines: a command runs while ports are open for it, and they close with it, in both clouds, also when the runner
//! dies; through a lease, over SSH, and with what comes for GitHub's and GitLab's pipelines.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test may fail by panicking"
)]

mod jobs;
mod leases;
mod providers;
mod ssh;

use std::{
    path::Path,
    process::{ExitStatus, Stdio},
    sync::Arc,
    time::Duration,
};

use postern_api::grant::Grant;
use postern_tests::{ServerProcess, World, WorldOptions, world::CLIENT};
use tempfile::TempDir;
use tokio::{
    io::AsyncReadExt as _,
    process::{Child, Command},
};

const PATIENCE: Duration = Duration::from_mins(1);
const BINARY: &str = env!("CARGO_BIN_EXE_postern-under-test");
const SOURCE: &str = "203.0.113.7";

async fn world() -> (Arc<World>, ServerProcess) {
    let (world, server) = World::locked_down(WorldOptions::of(BINARY)).await;
    (Arc::new(world), server)
}

/// A place for what the commands leave behind.
struct Desk(TempDir);

impl Desk {
    fn new() -> Self {
        Self(TempDir::with_prefix("postern-job-").unwrap())
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).to_str().unwrap().to_owned()
    }

    fn put(&self, name: &str) {
        std::fs::write(self.path(name), "").unwrap();
    }

    fn has(&self, name: &str) -> bool {
        Path::new(&self.path(name)).exists()
    }

    /// What a command says to be there and to go on once `go` is there.
    fn waits_for(&self, go: &str) -> String {
        format!(
            "touch {}; while [ ! -e {} ]; do sleep 0.05; done",
            self.path(&format!("{go}-waited-for")),
            self.path(go)
        )
    }
}

/// `postern` on somebody's behalf, with what it says and reads in our hands.
fn postern(world: &World, person: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(BINARY);
    command
        .args(arguments)
        .env("POSTERN_SERVER", &world.server_url)
        .env("POSTERN_TOKEN", world.issuer.token(person, 3600).unwrap())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

/// `postern lease` of SSH for Ada, heard of every second.
fn lease(world: &World, machines: &[&str], script: &str) -> Command {
    let mut arguments = vec!["lease", "--port", "22", "--source", SOURCE, "--heartbeat", "1s"];
    arguments.extend_from_slice(machines);
    arguments.extend_from_slice(&["--", "sh", "-c", script]);
    postern(world, "ada", &arguments)
}

/// How it ended, and what it said.
async fn ended(mut child: Child) -> (ExitStatus, String, String) {
    let (mut said, mut told) = (String::new(), String::new());
    let mut out = child.stdout.take().unwrap();
    let mut err = child.stderr.take().unwrap();
    let all = async {
        let (status, _, _) = tokio::join!(
            child.wait(),
            out.read_to_string(&mut said),
            err.read_to_string(&mut told)
        );
        status.unwrap()
    };
    let status = tokio::time::timeout(PATIENCE, all).await.expect("it ends");
    (status, said, told)
}

fn signal(child: &Child, name: &str) {
    let id = child.id().unwrap().to_string();
    let sent = std::process::Command::new("kill")
        .args([&format!("-{name}"), &id])
        .status()
        .unwrap();
    assert!(sent.success());
}

async fn shut(world: &World, machine: &str) {
    world
        .eventually(&format!("{machine} is shut"), PATIENCE, async || {
            (!world.reachable(machine, CLIENT, 22)).then_some(())
        })
        .await;
}

async fn there(world: &World, desk: &Desk, name: &str) {
    world
        .eventually(&format!("{name} is there"), PATIENCE, async || {
            desk.has(name).then_some(())
        })
        .await;
}

fn kind(grant: &Grant) -> Option<&str> {
    grant.cause.as_ref().map(|cause| cause.kind.as_str())
}
