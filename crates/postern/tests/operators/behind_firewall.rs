//! The demo's machine behind a firewall as the command line tells of it: what it waits for, and where to connect to.

use std::{os::unix::fs::PermissionsExt as _, time::Duration};

use serde_json::Value;
use tokio::process::Command;

use crate::{demo::Demo, rig::said};

const POLICY: &str = r#"{
    "name": "vault", "scope": "/azure",
    "guards": [{ "ports": "22", "allowed_sources": ["203.0.113.0/24"], "max_duration_seconds": 3600 }]
}"#;

const ASK: [&str; 11] = [
    "request",
    "vault-1",
    "--port",
    "22",
    "--source",
    "203.0.113.7",
    "--for",
    "5m",
    "--reason",
    "rotate keys",
    "--wait",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_requester_is_told_the_firewalls_address_and_mapped_port_and_ssh_is_sent_there() {
    let demo = Demo::start().await;
    let state: Value =
        serde_json::from_slice(&std::fs::read(demo.data().join("demo.json")).unwrap()).unwrap();
    let olga = demo.person("olga").await;
    let ada = demo.person("ada").await;
    let found = async || ada.json(&["machines", "--text", "vault-1"]).await;
    let patience = tokio::time::Instant::now() + Duration::from_mins(1);
    while found().await[0].is_null() {
        assert!(
            tokio::time::Instant::now() < patience,
            "vault-1 is not discovered"
        );
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let file = demo.directory().join("policy.json");
    std::fs::write(&file, POLICY).unwrap();
    olga.told(&["policies", "create", "--file", file.to_str().unwrap()])
        .await;

    let asked = ada.told(&ASK).await;
    let grants = ada.json(&["grants", "--status", "open"]).await;
    let entrance = &grants[0]["entrances"][0];
    let (host, port) = (entrance["host"].as_str().unwrap(), &entrance["port"]);
    let told = format!("{host}:{port}");
    assert!(asked.contains("CONNECT TO") && asked.contains(&told), "{asked}");
    let listed = ada.told(&["grants"]).await;
    assert!(
        listed.contains("CONNECT TO") && listed.contains(&told),
        "{listed}"
    );
    let id = grants[0]["id"].as_str().unwrap();
    let shown = ada.told(&["grants", "get", id]).await;
    assert!(shown.contains("Connect to") && shown.contains(&told), "{shown}");

    // The simulator says where packets get to.
    let lands = async |source: &str| {
        let query = format!("source={source}&address={host}&port={port}");
        let url = format!("{}/_sim/lands?{query}", state["arm"].as_str().unwrap());
        let output = Command::new("curl").args(["-sS", &url]).output().await.unwrap();
        serde_json::from_slice::<Value>(&output.stdout).unwrap()
    };
    assert_eq!(lands("203.0.113.7").await["port"], 22);
    assert_eq!(lands("198.51.100.1").await, Value::Null);

    // An ssh that says what it was called with.
    let bin = demo.directory().join("bin");
    std::fs::create_dir(&bin).unwrap();
    let ssh = bin.join("ssh");
    std::fs::write(&ssh, "#!/bin/sh\necho \"$@\"\n").unwrap();
    std::fs::set_permissions(&ssh, std::fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    let arguments = ["ssh", "root@vault-1", "--source", "203.0.113.7"];
    let output = ada.command(&arguments).env("PATH", path).output().await.unwrap();
    let (called, told) = said(&output);
    assert!(output.status.success(), "{told}");
    assert!(called.starts_with(&format!("-p {port} ")), "{called}");
    assert!(
        called.trim_end().ends_with(&format!("-l root {host}")),
        "{called}"
    );
    assert!(told.contains(&format!("at {host}:{port}")), "{told}");

    let closed = ada.told(&["revoke", id, "--wait"]).await;
    assert!(closed.contains("rule closed"), "{closed}");
    demo.interrupted().await;
}
