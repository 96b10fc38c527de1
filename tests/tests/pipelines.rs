//! Pipelines: commands that run while ports are open for them, on both simulators, with runners that die.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test may fail by panicking"
)]

use std::{
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use postern_api::grant::{Grant, GrantRevoke};
use postern_tests::{Person, World, WorldOptions, github::TokenService, python, world::CLIENT};
use serde_json::json;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    process::{Child, Command},
};

const PATIENCE: Duration = Duration::from_mins(1);
const BINARY: &str = env!("CARGO_BIN_EXE_postern-under-test");
const SOURCE: &str = "203.0.113.7";

async fn world() -> World {
    World::new(WorldOptions {
        binary: PathBuf::from(BINARY),
        more: String::new(),
        fsync: false,
    })
    .await
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_runs_while_its_ports_are_open_and_ends_as_it_would_alone() {
    let world = world().await;
    let _server = world.serve(&[]).await;
    world.lock_down().await;
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
    let world = world().await;
    let _server = world.serve(&[]).await;
    world.lock_down().await;
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
    let world = world().await;
    let _server = world.serve(&[]).await;
    world.lock_down().await;
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
    let world = world().await;
    let _server = world.serve(&[]).await;
    world.lock_down().await;
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
async fn a_job_of_githubs_gets_a_new_token_before_the_old_one_ends() {
    let world = std::sync::Arc::new(world().await);
    let _server = world.serve(&[]).await;
    world.lock_down().await;
    let desk = Desk::new();
    let minting = std::sync::Arc::clone(&world);
    // Shorter than the job: the last heartbeats and the release need others.
    let service = TokenService::start(move || minting.issuer.token("ada", 3).unwrap()).await;
    let machine = world.fleet.app.clone();
    let mut command = lease(&world, &[&machine], &desk.waits_for("go"));
    command.env_remove("POSTERN_TOKEN").envs(service.environment());
    let child = command.spawn().unwrap();
    there(&world, &desk, "go-waited-for").await;
    world
        .eventually("it asked again, twice", PATIENCE, async || {
            (service.given() >= 3).then_some(())
        })
        .await;
    desk.put("go");
    let (status, _, told) = ended(child).await;
    assert_eq!(status.code(), Some(0), "{told}");
    assert!(!told.contains("not taken") && told.contains("released"), "{told}");
    let grant = world.all_grants().await.remove(0);
    assert_eq!(kind(&grant), Some("released"));
}

/// A runner of pipelines, with our program.
fn runner(arguments: &[&str]) -> Command {
    let mut command = Command::new(python::python());
    command
        .arg(python::workspace().join("tests/python/pipeline_runner.py"))
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

fn integration(path: &str) -> String {
    let path = python::workspace().join("integrations").join(path);
    path.to_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_github_action_runs_its_commands_with_the_ports_open() {
    let world = std::sync::Arc::new(world().await);
    let _server = world.serve(&[]).await;
    world.lock_down().await;
    let desk = Desk::new();
    let minting = std::sync::Arc::clone(&world);
    let service = TokenService::start(move || minting.issuer.token("ada", 300).unwrap()).await;
    let (azure, aws) = (world.fleet.web.clone(), world.fleet.app.clone());
    let evil = desk.path("evil");
    let inputs = json!({
        "server": world.server_url,
        "binary": BINARY,
        "machines": format!("{azure}\n{aws}"),
        "sources": format!("{SOURCE} 203.0.113.8"),
        "reason": format!("\"; touch {evil}; $(touch {evil}) `touch {evil}` *"),
        "heartbeat": "1s",
        "run": format!("for host in $POSTERN_HOSTS; do echo \"to $host\"; done\n{}\nfalse | true\necho not here", desk.waits_for("go")),
    });
    let child = runner(&["github", &integration("github/action.yml"), &inputs.to_string()])
        .envs(service.environment())
        .spawn()
        .unwrap();
    there(&world, &desk, "go-waited-for").await;
    for machine in [&azure, &aws] {
        assert!(world.reachable(machine, CLIENT, 22));
        assert!(world.reachable(machine, [203, 0, 113, 8], 22));
    }
    desk.put("go");
    let (status, said, told) = ended(child).await;
    assert_eq!(status.code(), Some(1), "as `pipefail` has it: {told}");
    assert_eq!(
        said.lines().filter(|line| line.starts_with("to ")).count(),
        2,
        "{said}"
    );
    assert!(!said.contains("not here"));
    assert!(!desk.has("evil"), "an input is never code");
    for machine in [&azure, &aws] {
        shut(&world, machine).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_input_of_a_pipeline_is_taken_for_an_option() {
    let desk = Desk::new();
    // It would show what it is called with.
    let spy = desk.path("spy");
    let called = desk.path("called");
    std::fs::write(&spy, format!("#!/bin/sh\nprintf '%s\\n' \"$@\" > {called}\n")).unwrap();
    let executable = <std::fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o755);
    std::fs::set_permissions(&spy, executable).unwrap();
    let inputs = |machines: &str| {
        json!({
            "server": "http://127.0.0.1:1", "binary": spy, "machines": machines, "sources": "--server=http://evil.example",
            "ports": "--token-file=/etc/passwd", "key": "--json", "run": "true",
        })
    };
    let action = async |machines: &str| {
        let child = runner(&[
            "github",
            &integration("github/action.yml"),
            &inputs(machines).to_string(),
        ]);
        ended({ child }.spawn().unwrap()).await
    };
    let job = |machines: &str| {
        let variables = json!({
            "POSTERN_SERVER": "http://127.0.0.1:1", "LEASE_BINARY": spy, "LEASE_MACHINES": machines,
            "LEASE_SOURCES": "--server=http://evil.example", "LEASE_PORTS": "--token-file=/etc/passwd",
            "LEASE_KEY": "--json", "LEASE_RUN": "true",
        });
        let path = desk.path("job.yml");
        let text = json!({ "deploy": { "extends": ".postern", "variables": variables } }).to_string();
        std::fs::write(&path, text).unwrap();
        path
    };
    let template = async |machines: &str| {
        let child = runner(&[
            "gitlab",
            &integration("gitlab/postern.yml"),
            &job(machines),
            "token",
        ]);
        ended({ child }.spawn().unwrap()).await
    };
    for bad in ["--server=http://evil.example web-1", "web-1 -h"] {
        for (status, said, told) in [action(bad).await, template(bad).await] {
            assert_eq!(status.code(), Some(2), "{said}{told}");
            assert!(
                format!("{said}{told}").contains("begins with a hyphen"),
                "{said}{told}"
            );
            assert!(!desk.has("called"));
        }
    }
    let expected = [
        "--port=--token-file=/etc/passwd",
        "--source=--server=http://evil.example",
        "--key=--json",
        "web-1",
        "--",
    ];
    for (status, said, told) in [action("web-1").await, template("web-1").await] {
        assert!(status.success(), "{said}{told}");
    }
    let seen = std::fs::read_to_string(&called).unwrap();
    let seen: Vec<&str> = seen.lines().collect();
    assert!(
        seen.windows(expected.len()).any(|part| part == expected),
        "{seen:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_command_started_ends_with_it_and_one_that_heeds_no_signal_keeps_its_lease() {
    let world = world().await;
    let _server = world.serve(&[]).await;
    world.lock_down().await;
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_gitlab_template_runs_its_commands_with_the_ports_open() {
    let world = world().await;
    let _server = world.serve(&[]).await;
    world.lock_down().await;
    let desk = Desk::new();
    let machine = world.fleet.app.clone();
    let job = json!({ "deploy": {
        "extends": ".postern",
        "variables": {
            "POSTERN_SERVER": world.server_url,
            "LEASE_BINARY": BINARY,
            "LEASE_MACHINES": machine,
            "LEASE_SOURCES": SOURCE,
            "LEASE_HEARTBEAT": "1s",
            "LEASE_RUN": format!("{}; exit 5", desk.waits_for("go")),
        },
    } });
    // JSON is YAML.
    let path = desk.path("job.yml");
    std::fs::write(&path, job.to_string()).unwrap();
    let token = world.issuer.token("ada", 3600).unwrap();
    let child = runner(&["gitlab", &integration("gitlab/postern.yml"), &path, &token])
        .spawn()
        .unwrap();
    there(&world, &desk, "go-waited-for").await;
    assert!(world.reachable(&machine, CLIENT, 22));
    desk.put("go");
    let (status, _, told) = ended(child).await;
    assert_eq!(status.code(), Some(5), "{told}");
    shut(&world, &machine).await;
    let request = world.all_grants().await.remove(0).request_id;
    let request = world.client(Person::Olga).access_request(&request).await.unwrap();
    assert!(request.reason.starts_with("GitLab CI: "), "{}", request.reason);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connect_passes_bytes_both_ways_and_closes_when_the_other_side_does() {
    let world = world().await;
    let _server = world.serve(&[]).await;
    world.lock_down().await;
    let machine = world.fleet.app.clone();
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let host = format!("127.0.0.1:{}", listener.local_addr().unwrap().port());
    let arguments = [
        "connect",
        &machine,
        "--source",
        SOURCE,
        "--heartbeat",
        "1s",
        "--host",
        &host,
    ];
    let mut child = postern(&world, "ada", &arguments).spawn().unwrap();
    let (mut stream, _) = tokio::time::timeout(PATIENCE, listener.accept())
        .await
        .unwrap()
        .unwrap();
    assert!(world.reachable(&machine, CLIENT, 22));
    let mut input = child.stdin.take().unwrap();
    input.write_all(b"ping").await.unwrap();
    let mut heard = [0; 4];
    stream.read_exact(&mut heard).await.unwrap();
    assert_eq!(&heard, b"ping");
    // What comes after the end of standard input still arrives.
    drop(input);
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await.unwrap();
    assert!(rest.is_empty());
    stream.write_all(b"pong").await.unwrap();
    drop(stream);
    let (status, said, told) = ended(child).await;
    assert_eq!((status.code(), said.as_str()), (Some(0), "pong"), "{told}");
    assert_eq!(told, "", "nothing but trouble is told on ssh's terminal");
    shut(&world, &machine).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ssh_is_run_with_the_right_host_and_its_lease_ends_with_it() {
    let world = world().await;
    let _server = world.serve(&[]).await;
    world.lock_down().await;
    let desk = Desk::new();
    let machine = world.fleet.app.clone();
    // Stands where ssh would, and says how it was called.
    let ssh = desk.path("ssh");
    std::fs::write(&ssh, "#!/bin/sh\nprintf '%s\\n' \"$@\"\nexit 255\n").unwrap();
    let executable = std::process::Command::new("chmod")
        .args(["+x", &ssh])
        .status()
        .unwrap();
    assert!(executable.success());
    let path = format!("{}:{}", desk.path(""), std::env::var("PATH").unwrap());
    let named = format!("ubuntu@{machine}");
    let arguments = ["ssh", &named, "--source", SOURCE, "--", "-v", "uptime"];
    let child = postern(&world, "ada", &arguments)
        .env("PATH", path)
        .spawn()
        .unwrap();
    let (status, said, told) = ended(child).await;
    assert_eq!(status.code(), Some(255), "{told}");
    let words: Vec<&str> = said.lines().collect();
    let address = words.get(6).unwrap();
    assert!(address.parse::<std::net::IpAddr>().is_ok(), "{said}");
    let alias = words.get(3).unwrap();
    assert!(alias.starts_with("HostKeyAlias=aws/"), "{said}");
    assert_eq!(words.first(), Some(&"-p"));
    assert_eq!(&words[4..6], ["-l", "ubuntu"]);
    assert_eq!(&words[7..], ["-v", "uptime"]);
    shut(&world, &machine).await;

    let arguments = ["ssh-config", &machine, "--source", SOURCE];
    let child = postern(&world, "ada", &arguments).spawn().unwrap();
    let (_, said, _) = ended(child).await;
    let server = &world.server_url;
    assert!(
        said.contains(&format!(
            "ProxyCommand postern connect {machine} --port %p --source {SOURCE} --server {server}"
        )),
        "{said}"
    );
}
