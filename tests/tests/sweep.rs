//! The day on which the server and its database are gone: what is past the end in its own mark is closed with nothing
//! but cloud credentials.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may fail by panicking"
)]

use std::{path::Path, process::Command, time::Duration};

use postern::demo::fleet::{ACCESS_KEY_ID, SECRET_ACCESS_KEY};
use postern_tests::{World, WorldOptions, world::CLIENT};
use serde_json::Value;

const BINARY: &str = env!("CARGO_BIN_EXE_postern-under-test");

/// Runs `postern sweep --json` and gives the marks that it shows.
async fn sweep(config: &Path, apply: bool) -> Vec<Value> {
    let mut command = Command::new(BINARY);
    command
        .args(["sweep", "--json", "--config"])
        .arg(config)
        .args(apply.then_some("--apply"));
    command
        .env("AWS_ACCESS_KEY_ID", ACCESS_KEY_ID)
        .env("AWS_SECRET_ACCESS_KEY", SECRET_ACCESS_KEY);
    let output = tokio::task::spawn_blocking(move || command.output())
        .await
        .unwrap()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    report["marks"].as_array().unwrap().clone()
}

fn with_status<'a>(found: &'a [Value], status: &str) -> Vec<&'a Value> {
    found.iter().filter(|one| one["status"] == status).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn overdue_rules_are_closed_without_a_server_and_without_a_database() {
    let options = WorldOptions::of(BINARY);
    let world = World::new(options).await;
    let mut server = world.serve(&[("POSTERN__LIMITS__OPEN_SECONDS", "5")]).await;
    world.lock_down().await;
    let machines = world.machines().map(str::to_owned);
    let machines: Vec<&str> = machines.iter().map(String::as_str).collect();
    let request = world.request(&machines, 10, 30).await;
    assert!(
        request.grants.iter().all(|grant| grant.status == "open"),
        "{request:?}"
    );
    let end = request.grants.iter().map(|grant| grant.not_after).max().unwrap();
    server.kill();
    // No database either: the configuration that the sweeper reads names one that does not exist.
    let config = std::fs::read_to_string(&world.config).unwrap();
    let config: String = config
        .lines()
        .map(|line| {
            if line.starts_with("url = ") {
                "url = \"postgres://nobody@127.0.0.1:1/none\"\n".to_owned()
            } else {
                format!("{line}\n")
            }
        })
        .collect();
    std::fs::write(&world.config, config).unwrap();

    // Before the end nothing is overdue, and even a sweep that applies closes nothing.
    let found = sweep(&world.config, true).await;
    assert!(
        with_status(&found, "overdue").is_empty() && with_status(&found, "removed").is_empty(),
        "{found:?}"
    );
    assert!(
        machines
            .iter()
            .all(|machine| world.reachable(machine, CLIENT, 22))
    );

    let wait = (end - world.now()).to_std().unwrap_or_default() + Duration::from_secs(2);
    tokio::time::sleep(wait).await;
    let found = sweep(&world.config, false).await;
    assert!(!with_status(&found, "overdue").is_empty(), "{found:?}");
    assert!(
        machines
            .iter()
            .all(|machine| world.reachable(machine, CLIENT, 22)),
        "a dry run closes nothing"
    );

    let found = sweep(&world.config, true).await;
    assert!(with_status(&found, "overdue").is_empty(), "{found:?}");
    for machine in &machines {
        assert!(!world.reachable(machine, CLIENT, 22), "{machine} is closed");
        assert!(
            !world.reachable(machine, [192, 0, 2, 1], 22),
            "{machine} is still locked down"
        );
    }
}
