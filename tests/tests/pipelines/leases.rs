//! `postern lease`: a command and its ports, through signals, a lost lease and a runner that dies.

use std::time::Duration;

use postern_api::grant::{Grant, GrantRevoke};
use postern_tests::{Person, world::CLIENT};
use tokio::io::AsyncWriteExt as _;

use super::{Desk, PATIENCE, SOURCE, ended, kind, lease, postern, shut, signal, there, world};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_runs_while_its_ports_are_open_and_ends_as_it_would_alone() {
    let (world, _server) = world().await;
    let locked = world.now();
    let desk = Desk::new();
    let (azure, aws) = (world.fleet.web.clone(), world.fleet.app.clone());
    let script = format!(
        "cat; echo \"$POSTERN_HOST $POSTERN_PORT $POSTERN_LEASE\"; {}; exit 7",
        desk.waits_for("go")
    );
    let mut child = lease(&world, &[&azure, &aws], &script).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    input.write_all(b"from standard input\n").await.unwrap();
    drop(input);
    there(&world, &desk, "go-waited-for").await;
    for machine in [&azure, &aws] {
        assert!(world.reachable(machine, CLIENT, 22), "{machine} is open");
    }
    desk.put("go");
    let (status, said, told) = ended(child).await;
    assert_eq!(status.code(), Some(7), "{told}");
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines.first(), Some(&"from standard input"));
    let reach: Vec<&str> = lines.get(1).unwrap().split(' ').collect();
    assert!(
        matches!(reach.as_slice(), [host, "22", lease]
            if host.parse::<std::net::IpAddr>().is_ok() && lease.starts_with("lse_")),
        "{said}"
    );
    assert!(told.contains("released"), "{told}");
    for machine in [&azure, &aws] {
        shut(&world, machine).await;
    }
    for grant in world.all_grants().await {
        world.until(&grant.id, "closed", PATIENCE).await;
        assert_eq!(kind(&grant), Some("released"));
    }
    world.assert_sound(locked, Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_jobs_behind_one_address_the_one_that_dies_loses_its_own_ports_and_no_others() {
    let (world, _server) = world().await;
    let locked = world.now();
    let desk = Desk::new();
    let (azure, aws) = (world.fleet.web.clone(), world.fleet.app.clone());
    let machines = [azure.as_str(), aws.as_str()];
    let survivor = lease(&world, &machines, &desk.waits_for("survivor"))
        .spawn()
        .unwrap();
    there(&world, &desk, "survivor-waited-for").await;
    let victim = lease(&world, &machines, &desk.waits_for("victim"))
        .spawn()
        .unwrap();
    there(&world, &desk, "victim-waited-for").await;
    assert_eq!(world.all_grants().await.len(), 4, "each has its own");

    signal(&victim, "KILL");
    let missed = world
        .eventually("its missed heartbeat closed its grants", PATIENCE, async || {
            let grants = world.all_grants().await;
            let missed: Vec<Grant> = grants
                .into_iter()
                .filter(|grant| kind(grant) == Some("heartbeat_missed") && grant.status == "closed")
                .collect();
            (missed.len() == 2).then_some(missed)
        })
        .await;
    desk.put("victim");
    let requests: std::collections::BTreeSet<&str> =
        missed.iter().map(|grant| grant.request_id.as_str()).collect();
    assert_eq!(requests.len(), 1, "both are the dead job's");
    let open = world
        .all_grants()
        .await
        .into_iter()
        .filter(|grant| grant.status == "open")
        .count();
    assert_eq!(open, 2, "the other job goes on");
    for machine in machines {
        assert!(
            world.reachable(machine, CLIENT, 22),
            "{machine} is open for the survivor"
        );
    }
    let log = world.audit_log().await;
    let told: Vec<_> = log.iter().filter(|event| event.action == "lease.end").collect();
    assert_eq!(told.len(), 1);
    assert_eq!(told.first().unwrap().reason.as_deref(), Some("heartbeat missed"));

    desk.put("survivor");
    let (status, _, said) = ended(survivor).await;
    assert_eq!(status.code(), Some(0), "{said}");
    for machine in machines {
        shut(&world, machine).await;
        assert_eq!(
            world.open_intervals(machine, locked).len(),
            1,
            "{machine} was open for the survivor without a break, and only then"
        );
    }
    for grant in world.all_grants().await {
        world.until(&grant.id, "closed", PATIENCE).await;
    }
    world.assert_sound(locked, Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn signals_reach_the_command_and_a_lost_lease_ends_it() {
    let (world, _server) = world().await;
    let desk = Desk::new();
    let machine = world.fleet.app.clone();
    for (name, started) in [("TERM", "term"), ("INT", "int")] {
        let script = format!("trap 'exit 9' {name}; {}", desk.waits_for(started));
        let child = lease(&world, &[&machine], &script).spawn().unwrap();
        there(&world, &desk, &format!("{started}-waited-for")).await;
        signal(&child, name);
        let (status, _, told) = ended(child).await;
        assert_eq!(status.code(), Some(9), "{name}: {told}");
        shut(&world, &machine).await;
    }

    let child = lease(&world, &[&machine], &desk.waits_for("never"))
        .spawn()
        .unwrap();
    there(&world, &desk, "never-waited-for").await;
    let open = world.all_grants().await;
    let open = open.iter().find(|grant| grant.status == "open").unwrap();
    let revoke = GrantRevoke {
        reason: Some("not now".to_owned()),
    };
    let olga = world.client(Person::Olga);
    olga.revoke_grant(&open.id, None, &revoke).await.unwrap();
    let (status, _, told) = ended(child).await;
    assert_eq!(status.code(), Some(117), "{told}");
    assert!(told.contains("not now"), "{told}");
    shut(&world, &machine).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_keeps_a_command_from_running_has_an_exit_code_and_a_message_and_leaves_nothing_open() {
    let (world, _server) = world().await;
    let desk = Desk::new();
    let machine = world.fleet.app.clone();
    let run = format!("touch {}", desk.path("ran"));
    let own = ["lease", "--port", "22", "--source", SOURCE, &machine, "--"];
    let with = |changed: &[(usize, &'static str)], command: &[&str]| {
        let mut arguments: Vec<String> = own.iter().map(|part| (*part).to_owned()).collect();
        for (at, part) in changed {
            *arguments.get_mut(*at).unwrap() = (*part).to_owned();
        }
        arguments.extend(command.iter().map(|part| (*part).to_owned()));
        arguments
    };
    let touch = ["sh", "-c", &run];
    for (person, arguments, code, said) in [
        ("eve", with(&[], &touch), 113, "request"),
        (
            "ada",
            with(&[(5, "no-such-machine")], &touch),
            114,
            "no-such-machine",
        ),
        ("ada", with(&[(2, "23")], &touch), 112, "23"),
        ("ada", with(&[], &["/no/such/program"]), 127, "/no/such/program"),
    ] {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let child = postern(&world, person, &arguments).spawn().unwrap();
        let (status, _, told) = ended(child).await;
        assert_eq!(status.code(), Some(code), "{person} {arguments:?}: {told}");
        assert!(told.contains(said), "{told}");
        assert!(!desk.has("ran"));
    }
    for grant in world.all_grants().await {
        world.until(&grant.id, "closed", PATIENCE).await;
    }

    let mut json = vec!["lease", "--json"];
    json.extend_from_slice(&own[1..]);
    json.extend_from_slice(&["echo", "only this"]);
    let child = postern(&world, "ada", &json).spawn().unwrap();
    let (_, said, told) = ended(child).await;
    assert_eq!(said, "only this\n");
    let events: Vec<serde_json::Value> = told
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let names: Vec<&str> = events
        .iter()
        .filter_map(|event| event["event"].as_str())
        .collect();
    assert_eq!(names, ["requested", "open", "released"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_command_started_ends_with_it_and_one_that_heeds_no_signal_keeps_its_lease() {
    let (world, _server) = world().await;
    let desk = Desk::new();
    let machine = world.fleet.app.clone();
    let (pid, go) = (desk.path("pid"), desk.waits_for("go"));
    // The shell itself ends by the signal; what it started would go on without it.
    let script = format!("sh -c 'echo $$ > {pid}; {go}' & wait");
    let child = lease(&world, &[&machine], &script).spawn().unwrap();
    there(&world, &desk, "go-waited-for").await;
    let started = std::fs::read_to_string(&pid).unwrap();
    signal(&child, "TERM");
    let (status, _, told) = ended(child).await;
    assert_eq!(status.code(), Some(143), "{told}");
    let process = format!("/proc/{}", started.trim());
    world
        .eventually("what it started is gone", PATIENCE, async || {
            let state = std::fs::read_to_string(format!("{process}/stat")).unwrap_or_default();
            (state.is_empty() || state.contains(") Z ")).then_some(())
        })
        .await;
    shut(&world, &machine).await;

    let script = format!("trap '' TERM INT; {}; exit 3", desk.waits_for("done"));
    let child = lease(&world, &[&machine], &script).spawn().unwrap();
    there(&world, &desk, "done-waited-for").await;
    for name in ["TERM", "TERM", "INT"] {
        signal(&child, name);
    }
    let held = world.all_grants().await;
    let held = held.iter().find(|grant| grant.status == "open").unwrap();
    assert!(
        world.reachable(&machine, CLIENT, 22),
        "it is not given back under a command that runs"
    );
    desk.put("done");
    let (status, _, told) = ended(child).await;
    assert_eq!(status.code(), Some(3), "{told}");
    world.until(&held.id, "closed", PATIENCE).await;
    shut(&world, &machine).await;
}
