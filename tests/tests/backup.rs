//! A database restored from a backup that is behind the clouds: rules that it does not know are closed, grants that it
//! takes for open and that ended since are not opened again, and all of it is said in the audit log.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may fail by panicking"
)]

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use postern_api::{access_request::AccessRequestCreateQuery, audit_event::AuditEvent, grant::GrantRevoke};
use postern_tests::{
    Person, World, WorldOptions,
    world::{CLIENT, a_request},
};
use serde_json::Value;

const BINARY: &str = env!("CARGO_BIN_EXE_postern-under-test");
const PATIENCE: Duration = Duration::from_mins(1);
/// Whose grants end after the backup.
const LEFT: [u8; 4] = [203, 0, 113, 50];
/// Whose grant is made after the backup.
const LATE: [u8; 4] = [203, 0, 113, 99];
const LAG: Duration = Duration::from_secs(10);

async fn world() -> World {
    World::new(WorldOptions::of(BINARY).with("discovery_interval_seconds = 1")).await
}

/// Runs one of Postgres's programs on the world's database.
fn run(program: &str, arguments: &[&str], world: &World) {
    let output = Command::new(postern_localpg::test_server().bin_dir().join(program))
        .arg("--dbname")
        .arg(world.database_url())
        .args(arguments)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{program}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

fn dump(world: &World) -> PathBuf {
    let file = world.directory().join("backup");
    let to = format!("--file={}", file.display());
    run("pg_dump", &["--format=custom", &to], world);
    file
}

/// Puts the backup in the place of the database, as docs/operating.md says. No server is running.
fn restore(world: &World, backup: &Path) {
    let how = [
        "--clean",
        "--if-exists",
        "--exit-on-error",
        "--single-transaction",
    ];
    let from = backup.to_str().unwrap();
    run("pg_restore", &[how.as_slice(), &[from]].concat(), world);
}

fn machines(world: &World) -> [String; 2] {
    [world.fleet.web.clone(), world.fleet.app.clone()]
}

/// SSH of an hour from an address on these machines, open.
async fn open_from(world: &World, source: [u8; 4], machines: &[&str]) -> Vec<String> {
    let mut request = a_request(machines, 3600);
    for target in &mut request.targets {
        target.sources = Some(vec![format!("{}/32", std::net::Ipv4Addr::from(source))]);
    }
    let ada = world.client(Person::Ada);
    let query = AccessRequestCreateQuery {
        wait: Some(30),
        ..AccessRequestCreateQuery::default()
    };
    let request = ada.create_access_request(None, &query, &request).await.unwrap();
    let mut ids = Vec::new();
    for grant in request.grants {
        world.until(&grant.id, "open", PATIENCE).await;
        ids.push(grant.id);
    }
    for machine in machines {
        assert!(world.reachable(machine, source, 22), "{machine} is open");
    }
    ids
}

/// The same from [`CLIENT`] on a machine of each cloud.
async fn open(world: &World) -> Vec<String> {
    let machines = machines(world);
    let machines: Vec<&str> = machines.iter().map(String::as_str).collect();
    open_from(world, CLIENT, &machines).await
}

async fn revoke(world: &World, grant: &str) {
    let olga = world.client(Person::Olga);
    olga.revoke_grant(grant, None, &GrantRevoke::default())
        .await
        .unwrap();
    world.until(grant, "closed", PATIENCE).await;
}

async fn until_shut(world: &World, machine: &str) {
    world
        .eventually(&format!("{machine} is shut"), PATIENCE, async || {
            (!world.reachable(machine, CLIENT, 22)).then_some(())
        })
        .await;
}

fn of<'a>(log: &'a [AuditEvent], action: &str) -> Vec<&'a AuditEvent> {
    log.iter().filter(|event| event.action == action).collect()
}

/// The ids that settled points name under a key.
fn named(log: &[AuditEvent], key: &str) -> Vec<String> {
    of(log, "point.settle_after_restore")
        .iter()
        .flat_map(|event| event.details[key].as_array().unwrap().clone())
        .map(|id| id.as_str().unwrap().to_owned())
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn grants_that_a_restored_database_does_not_know_are_closed() {
    let world = world().await;
    let mut server = world.serve(&[]).await;
    world.lock_down().await;
    let backup = dump(&world);
    let grants = open(&world).await;
    server.kill();
    restore(&world, &backup);

    let restored = world.now();
    let _server = world.serve(&[]).await;
    for machine in machines(&world) {
        until_shut(&world, &machine).await;
        assert!(
            !world.reachable(&machine, [192, 0, 2, 1], 22),
            "{machine} is still locked down"
        );
    }
    world.quiet().await;
    assert!(world.all_grants().await.is_empty(), "nobody knows of them");
    for machine in machines(&world) {
        let late = world.open_intervals(&machine, restored).into_iter().any(|open| {
            open.to
                .is_none_or(|to| to > restored + chrono::TimeDelta::from_std(LAG).unwrap())
        });
        assert!(!late, "{machine} was shut soon");
    }
    let log = world.audit_log().await;
    assert_eq!(of(&log, "database.restore").len(), 1);
    let closed = named(&log, "grants_not_wanted_to_close");
    for grant in &grants {
        assert!(closed.contains(grant), "{grant} is told: {closed:?}");
        let told = of(&log, "change.apply").into_iter().any(|event| {
            let of_grant = event.details["grants"]
                .as_array()
                .is_some_and(|ids| ids.contains(&Value::from(grant.as_str())));
            event.outcome == "succeeded" && event.details["verb"] == "close" && of_grant
        });
        assert!(told, "the closing of {grant} is told");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn grants_that_ended_since_the_backup_are_not_opened_again_and_those_that_stand_stay() {
    let world = world().await;
    let mut server = world.serve(&[]).await;
    let policy = world.lock_down().await;
    let standing = open(&world).await;
    let web = world.fleet.web.clone();
    let both = machines(&world);
    let both: Vec<&str> = both.iter().map(String::as_str).collect();
    let ended = open_from(&world, LEFT, &both).await;
    world.quiet().await;
    let backup = dump(&world);
    for grant in &ended {
        revoke(&world, grant).await;
    }
    // One more that the backup does not have.
    let late = open_from(&world, LATE, &[&web]).await;
    world.quiet().await;
    server.kill();
    restore(&world, &backup);
    let restored = world.now();

    let mut server = world.serve(&[]).await;
    for grant in &ended {
        let closed = world.until(grant, "closed", PATIENCE).await;
        assert_eq!(closed.cause.unwrap().kind, "database_restored");
    }
    world
        .eventually("the forgotten grant is closed", PATIENCE, async || {
            (!world.reachable(&web, LATE, 22)).then_some(())
        })
        .await;
    world.quiet().await;
    for (grant, machine) in standing.iter().zip(machines(&world)) {
        world.until(grant, "open", PATIENCE).await;
        let open = world.open_intervals(&machine, restored);
        assert!(
            open.len() == 1 && open[0].to.is_none(),
            "{machine} was open without a break: {open:?}"
        );
    }
    for machine in &both {
        assert!(
            !world.reachable(machine, LEFT, 22),
            "{machine} is shut to who left"
        );
    }
    let log = world.audit_log().await;
    assert_eq!(of(&log, "database.restore").len(), 1);
    let said = named(&log, "grants_ended");
    assert!(ended.iter().all(|grant| said.contains(grant)), "{said:?}");
    let said = named(&log, "grants_still_open");
    assert!(standing.iter().all(|grant| said.contains(grant)), "{said:?}");
    assert!(named(&log, "grants_not_wanted_to_close").contains(&late[0]));

    // A restart is no restore: what somebody deletes by hand now comes back.
    server.kill();
    let _server = world.serve(&[]).await;
    world.quiet().await;
    assert_eq!(of(&world.audit_log().await, "database.restore").len(), 1);
    for grant in &standing {
        revoke(&world, grant).await;
    }
    let olga = world.client(Person::Olga);
    olga.delete_jit_policy(&policy.id, policy.version).await.unwrap();
    world
        .eventually("nothing of ours is left", PATIENCE, async || {
            world.marks().is_empty().then_some(())
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restore_that_does_not_show_is_believed_when_somebody_says_so() {
    let world = world().await;
    let mut server = world.serve(&[]).await;
    world.lock_down().await;
    let grants = open(&world).await;
    world.quiet().await;
    let backup = dump(&world);
    for grant in &grants {
        revoke(&world, grant).await;
    }
    server.kill();
    restore(&world, &backup);
    // As with files that are put back: nothing tells this copy from the one that was at work before.
    run(
        "psql",
        &["--quiet", "--command", "DELETE FROM database_identity"],
        &world,
    );
    let output = Command::new(BINARY)
        .args(["migrate", "--restored", "--config"])
        .arg(&world.config)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let restored = world.now();
    let _server = world.serve(&[]).await;
    for grant in &grants {
        let closed = world.until(grant, "closed", PATIENCE).await;
        assert_eq!(closed.cause.unwrap().kind, "database_restored");
    }
    for machine in machines(&world) {
        let open = world.open_intervals(&machine, restored);
        assert!(open.is_empty(), "{machine} was not opened again: {open:?}");
    }
    let log = world.audit_log().await;
    let said = of(&log, "database.restore");
    assert_eq!((said.len(), said[0].details["before"].clone()), (1, Value::Null));
}
