//! What comes with Postern for GitHub's and GitLab's pipelines, run as they would run it.

use std::{process::Stdio, sync::Arc};

use postern_tests::{Person, github::TokenService, python, world::CLIENT};
use serde_json::json;
use tokio::process::Command;

use super::{BINARY, Desk, PATIENCE, SOURCE, ended, jobs, kind, lease, shut, there, world};

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
async fn a_job_of_githubs_gets_a_new_token_before_the_old_one_ends() {
    let (world, _server) = world().await;
    let desk = Desk::new();
    let minting = Arc::clone(&world);
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_github_action_runs_its_commands_with_the_ports_open() {
    let (world, _server, providers) = jobs::world().await;
    let desk = Desk::new();
    let service = TokenService::start(move || providers.github(300)).await;
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
    jobs::asked_as_a_program(&world).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_gitlab_template_runs_its_commands_with_the_ports_open() {
    let (world, _server, providers) = jobs::world().await;
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
    let token = providers.gitlab(3600);
    let child = runner(&["gitlab", &integration("gitlab/postern.yml"), &path, &token])
        .spawn()
        .unwrap();
    there(&world, &desk, "go-waited-for").await;
    assert!(world.reachable(&machine, CLIENT, 22));
    desk.put("go");
    let (status, _, told) = ended(child).await;
    assert_eq!(status.code(), Some(5), "{told}");
    shut(&world, &machine).await;
    jobs::asked_as_a_program(&world).await;
    let request = world.all_grants().await.remove(0).request_id;
    let request = world.client(Person::Olga).access_request(&request).await.unwrap();
    assert!(request.reason.starts_with("GitLab CI: "), "{}", request.reason);
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
