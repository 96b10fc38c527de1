//! Receivers that are not ours hear what happened: a webhook endpoint that verifies with the standard's own library, a
//! chat, a mail server. Also after the server was killed.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may fail by panicking"
)]

use std::{
    collections::BTreeSet,
    io::{BufRead as _, BufReader},
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc::{Receiver, channel},
    time::Duration,
};

use postern_api::grant::GrantRevoke;
use postern_tests::{Person, World, WorldOptions, python};
use serde_json::Value;

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const PATIENCE: Duration = Duration::from_secs(30);

/// The receivers, in a process of their own. They end when they are dropped.
struct Receivers {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<Value>,
    http: u64,
    smtp: u64,
}

impl Receivers {
    fn start() -> Self {
        let mut child = Command::new(python::python())
            .arg(python::workspace().join("tests/python/receivers.py"))
            .arg(SECRET)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (send, lines) = channel();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || {
            for line in stdout.lines() {
                let said: Value = serde_json::from_str(&line.unwrap()).unwrap();
                if send.send(said).is_err() {
                    return;
                }
            }
        });
        let ready = lines.recv_timeout(PATIENCE).unwrap();
        Self {
            stdin: child.stdin.take(),
            child,
            lines,
            http: ready["http"].as_u64().unwrap(),
            smtp: ready["smtp"].as_u64().unwrap(),
        }
    }

    /// What is heard until `done` says that it is enough.
    fn hear(&self, done: impl Fn(&[Value]) -> bool) -> Vec<Value> {
        let mut heard = Vec::new();
        while !done(&heard) {
            match self.lines.recv_timeout(PATIENCE) {
                Ok(line) => heard.push(line),
                Err(error) => {
                    assert_eq!(heard, Vec::<Value>::new(), "{error}: something is missing");
                }
            }
        }
        heard
    }
}

impl Drop for Receivers {
    fn drop(&mut self) {
        drop(self.stdin.take());
        let _ = self.child.wait();
    }
}

fn actions(heard: &[Value]) -> Vec<&str> {
    heard
        .iter()
        .filter(|line| line["kind"] == "webhook")
        .filter_map(|line| line["event"]["data"]["action"].as_str())
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_siem_a_chat_and_people_hear_of_a_grant_also_when_the_server_dies() {
    let receivers = tokio::task::spawn_blocking(Receivers::start).await.unwrap();
    let more = format!(
        r#"
[notify]
base_url = "https://postern.example.com"
allow_private = true
[[notify.webhooks]]
name = "siem"
url = "http://127.0.0.1:{http}/hook"
secret = "{SECRET}"
actions = ["access_request", "grant"]
[[notify.slack]]
name = "oncall"
url = "http://127.0.0.1:{http}/chat/secret"
actions = ["access_request.create"]
[[notify.mail]]
name = "people"
server = "127.0.0.1"
port = {smtp}
tls = "none"
from = "Postern <postern@example.com>"
to = ["ops@example.com", "second@example.com"]
actions = ["grant.open"]
"#,
        http = receivers.http,
        smtp = receivers.smtp,
    );
    let (world, mut server) =
        World::locked_down(WorldOptions::of(env!("CARGO_BIN_EXE_postern-under-test")).with(more)).await;
    let machine = world.fleet.app.clone();
    let request = world.request(&[&machine], 600, 30).await;
    let grant = &request.grants[0];

    let heard = receivers.hear(|heard| {
        actions(heard).contains(&"grant.open")
            && ["chat", "mail"]
                .iter()
                .all(|kind| heard.iter().any(|line| line["kind"] == *kind))
    });
    assert!(heard.iter().all(|line| line["kind"] != "refused"), "{heard:?}");
    let opened = heard
        .iter()
        .find(|line| line["event"]["data"]["action"] == "grant.open")
        .unwrap();
    assert_eq!(opened["type"], "application/cloudevents+json; charset=utf-8");
    assert_eq!(opened["id"], opened["event"]["id"]);
    assert_eq!(opened["event"]["data"]["grant"], grant.id);
    assert_eq!(opened["event"]["data"]["machine"], machine);
    let chat = heard.iter().find(|line| line["kind"] == "chat").unwrap();
    let text = chat["text"].as_str().unwrap();
    assert!(
        text.contains("asks for access") && text.contains("the disk is full"),
        "{text}"
    );
    assert!(
        text.contains(&format!(
            "https://postern.example.com/v1/access-requests/{}",
            request.id
        )),
        "{text}"
    );
    let mail = heard.iter().find(|line| line["kind"] == "mail").unwrap();
    assert_eq!(mail["sender"], "postern@example.com");
    assert_eq!(
        mail["to"],
        serde_json::json!(["ops@example.com", "second@example.com"])
    );
    assert!(
        mail["subject"].as_str().unwrap().contains("opened a port"),
        "{mail}"
    );

    // It is revoked, and the server dies before anybody can have heard all of it.
    world
        .client(Person::Ada)
        .revoke_grant(&grant.id, None, &GrantRevoke::default())
        .await
        .unwrap();
    server.kill();
    let _server = world.serve(&[]).await;
    let heard = receivers.hear(|heard| actions(heard).contains(&"grant.rule_closed"));
    let told: Vec<&str> = actions(&heard);
    let order =
        ["grant.revoke", "grant.rule_closed"].map(|action| told.iter().position(|told| *told == action));
    assert!(order[0].is_some() && order[0] < order[1], "{told:?}");
    let ids: BTreeSet<&str> = heard.iter().filter_map(|line| line["id"].as_str()).collect();
    assert!(
        told.len() <= ids.len() + 1,
        "at most the one under way is told twice: {heard:?}"
    );
}
