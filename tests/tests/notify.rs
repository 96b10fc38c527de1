//! Receivers that are not ours hear what happened: a webhook endpoint that verifies with the standard's own library, a
//! chat, mail servers with TLS and without. Also after the server was killed, and of what nobody does anything about.
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

use postern_api::{
    access_request::AccessRequestCreateQuery,
    delivery::{Delivery, DeliveryQuery},
    grant::GrantRevoke,
    jit_policy::Approval,
    review::BreakGlassQuery,
};
use postern_tests::{
    Person, World, WorldOptions, python,
    world::{a_policy, a_request},
};
use secrecy::SecretString;
use serde_json::{Value, json};
use tempfile::TempDir;

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const PATIENCE: Duration = Duration::from_secs(30);
/// In seconds.
const DAY: i64 = 24 * 60 * 60;

/// Receivers, in a process of their own. They end when they are dropped.
struct Receivers {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<Value>,
    /// What they said when they were ready: where they listen.
    ready: Value,
}

impl Receivers {
    /// A webhook endpoint and a chat (`http`), and a mail server without TLS (`smtp`).
    async fn start() -> Self {
        Self::run("receivers.py", &[SECRET]).await
    }

    async fn run(script: &'static str, arguments: &[&str]) -> Self {
        let arguments: Vec<String> = arguments.iter().map(|&one| one.to_owned()).collect();
        tokio::task::spawn_blocking(move || Self::begin(script, &arguments))
            .await
            .unwrap()
    }

    fn begin(script: &str, arguments: &[String]) -> Self {
        let mut child = Command::new(python::python())
            .arg(python::workspace().join("tests/python").join(script))
            .args(arguments)
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
            ready,
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
    let receivers = Receivers::start().await;
    let more = format!(
        r#"
[notify]
base_url = "https://postern.example.com"
request_url = "https://portal.example.com/access/{{request}}?from=postern"
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
        http = receivers.ready["http"],
        smtp = receivers.ready["smtp"],
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
    // Programs are led to the API, and people to the portal.
    let portal = format!("https://portal.example.com/access/{}?from=postern", request.id);
    assert_eq!(opened["event"]["data"]["request_url"], portal);
    assert_eq!(
        opened["event"]["data"]["link"],
        format!("https://postern.example.com/v1/grants/{}", grant.id)
    );
    let chat = heard.iter().find(|line| line["kind"] == "chat").unwrap();
    let text = chat["text"].as_str().unwrap();
    assert!(
        text.contains("asks for access") && text.contains("the disk is full"),
        "{text}"
    );
    assert!(
        text.contains(&format!("<{portal}|Open in the portal>")) && !text.contains("/v1/"),
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
    let text = mail["text"].as_str().unwrap();
    assert!(text.contains(&portal) && !text.contains("/v1/"), "{text}");

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

const PASSWORD: &str = "correct-horse-battery";
/// The password, the wrong one, and both as they are sent: `AUTH PLAIN` (RFC 4616) in Base64.
const SECRETS: [&str; 4] = [
    PASSWORD,
    "wrong-horse-battery",
    "AHBvc3Rlcm4AY29ycmVjdC1ob3JzZS1iYXR0ZXJ5",
    "AHBvc3Rlcm4Ad3JvbmctaG9yc2UtYmF0dGVyeQ==",
];

/// A subscriber who hears of policies by mail, as `server` of the mail servers takes it.
fn by_mail(name: &str, server: &str, password: &str, ready: &Value) -> String {
    let tls = if server.ends_with("implicit") {
        r#"tls = "implicit""#
    } else {
        ""
    };
    format!(
        r#"
[[notify.mail]]
name = "{name}"
server = "localhost"
port = {port}
{tls}
user = "postern"
password = "{password}"
from = "Postern <postern@example.com>"
to = ["{name}@example.com"]
actions = ["jit_policy.create"]
"#,
        port = ready["ports"][server],
    )
}

/// The only delivery to the subscriber, once it is as it should be.
async fn delivery(world: &World, subscriber: &str, done: impl Fn(&Delivery) -> bool) -> Delivery {
    let olga = world.client(Person::Olga);
    let query = DeliveryQuery {
        subscriber: Some(subscriber.to_owned()),
        ..DeliveryQuery::default()
    };
    let what = format!("the delivery to {subscriber}");
    world
        .eventually(&what, PATIENCE, async || {
            let mut found = olga.deliveries(&query).await.ok()?.items;
            assert!(found.len() <= 1, "{found:?}");
            found.pop().filter(&done)
        })
        .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mail_and_its_password_go_only_over_tls_and_to_a_server_that_proves_its_name() {
    let certificates = TempDir::with_prefix("postern-certificates-").unwrap();
    let directory = certificates.path().to_str().unwrap();
    let servers = Receivers::run("mail_servers.py", &[directory, PASSWORD]).await;
    let ready = &servers.ready;
    // Each is refused before it hears the password.
    let refused = [
        ("wrong-name-starttls", "certificate not valid for name"),
        ("wrong-name-implicit", "certificate not valid for name"),
        ("unknown-starttls", "UnknownIssuer"),
        ("unknown-implicit", "UnknownIssuer"),
        ("plain", "STARTTLS is not supported on this server"),
    ];
    let mut more = "[notify]\nallow_private = true\n".to_owned();
    for name in ["starttls", "implicit"]
        .into_iter()
        .chain(refused.map(|(name, _)| name))
    {
        more.push_str(&by_mail(name, name, PASSWORD, ready));
    }
    more.push_str(&by_mail("wrong-password", "starttls", SECRETS[1], ready));
    let options = WorldOptions::of(env!("CARGO_BIN_EXE_postern-under-test")).with(more);
    let world = World::new(options).await;
    let known = ready["known"].as_str().unwrap();
    let mut server = world.serve(&[("SSL_CERT_FILE", known)]).await;
    world
        .client(Person::Olga)
        .create_jit_policy(None, &a_policy("everything", "/"))
        .await
        .unwrap();

    let mut all = Vec::new();
    for name in ["starttls", "implicit"] {
        all.push(delivery(&world, name, |one| one.status == "delivered").await);
    }
    // A wrong password may be mended; meanwhile nothing is lost.
    let signed_in_wrongly = [("wrong-password", "535")];
    for (name, error) in refused.into_iter().chain(signed_in_wrongly) {
        let waiting = delivery(&world, name, |one| one.attempts > 0).await;
        assert_eq!(waiting.status, "waiting", "{waiting:?}");
        assert!(waiting.due_at.is_some(), "{waiting:?}");
        assert!(
            waiting.last_error.as_ref().unwrap().contains(error),
            "{waiting:?}"
        );
        all.push(waiting);
    }
    let mails = |heard: &[Value]| heard.iter().filter(|line| line["kind"] == "mail").count();
    let heard = servers.hear(|heard| mails(heard) == 2);
    for line in &heard {
        let server = line["server"].as_str().unwrap();
        assert!(["starttls", "implicit"].contains(&server), "{line}");
        if line["kind"] == "mail" {
            assert_eq!(line["to"], json!([format!("{server}@example.com")]));
            assert_eq!(
                (&line["tls"], &line["signed_in"]),
                (&json!("TLSv1.3"), &json!(true))
            );
        }
    }
    // Whoever reads what went wrong learns no password.
    let log = std::fs::read_to_string(world.directory().join("server.log")).unwrap();
    for (name, _) in refused {
        assert!(
            log.lines()
                .any(|line| line.contains("not delivered") && line.contains(name)),
            "{name} is not in the log"
        );
    }
    let told = serde_json::to_string(&all).unwrap();
    for secret in SECRETS {
        assert!(
            !log.contains(secret) && !told.contains(secret),
            "{secret} is told"
        );
    }

    // What waited arrives once the other authority is trusted, too.
    server.kill();
    let both = certificates.path().join("both.pem");
    let read = |path: &Value| std::fs::read_to_string(path.as_str().unwrap()).unwrap();
    std::fs::write(&both, read(&ready["known"]) + &read(&ready["unknown"])).unwrap();
    let _server = world.serve(&[("SSL_CERT_FILE", both.to_str().unwrap())]).await;
    for name in ["unknown-starttls", "unknown-implicit"] {
        delivery(&world, name, |one| one.status == "delivered").await;
    }
    let heard = servers.hear(|heard| mails(heard) == 2);
    assert!(
        heard
            .iter()
            .filter(|line| line["kind"] == "mail")
            .all(|line| line["server"]
                .as_str()
                .is_some_and(|server| server.starts_with("unknown"))),
        "{heard:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_decides_and_who_closes_a_review_hear_of_it_again_and_then_others_do() {
    let receivers = Receivers::start().await;
    let more = format!(
        r#"
[notify]
allow_private = true
[[notify.webhooks]]
name = "all"
url = "http://127.0.0.1:{http}/hook"
secret = "{SECRET}"
actions = ["access_request", "break_glass", "review"]
[[notify.slack]]
name = "oncall"
url = "http://127.0.0.1:{http}/chat/secret"
actions = ["access_request.remind", "review.remind"]
[[notify.mail]]
name = "managers"
server = "127.0.0.1"
port = {smtp}
tls = "none"
from = "Postern <postern@example.com>"
to = ["managers@example.com"]
actions = ["access_request.escalate", "review.escalate"]
"#,
        http = receivers.ready["http"],
        smtp = receivers.ready["smtp"],
    );
    let options = WorldOptions::of(env!("CARGO_BIN_EXE_postern-under-test")).with(more);
    let world = World::new(options).await;
    let _server = world.serve(&[]).await;
    let policy = world.lock_down().await;
    let olga = world.client(Person::Olga);
    let mut asks = a_policy("everything", "/");
    asks.approval = Approval::One;
    // Three quarters of it are the three days that a review has.
    asks.pending_for_seconds = Some(4 * DAY);
    olga.update_jit_policy(&policy.id, policy.version, &asks)
        .await
        .unwrap();
    let asked = a_request(&[&world.fleet.app], 600);
    let request = world
        .client(Person::Ada)
        .create_access_request(None, &AccessRequestCreateQuery::default(), &asked)
        .await
        .unwrap();
    assert_eq!(request.status, "pending");
    let broken = olga
        .break_glass(None, &BreakGlassQuery::default(), &asked)
        .await
        .unwrap();

    // Everything that is told again, with the request that it is about.
    let again = |heard: &[Value]| -> Vec<(String, String)> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let data = heard
            .iter()
            .filter(|line| line["kind"] == "webhook")
            .map(|line| &line["event"]["data"]);
        let mut again: Vec<_> = data
            .map(|data| (text(&data["action"]), text(&data["request"])))
            .filter(|(action, _)| action.ends_with(".remind") || action.ends_with(".escalate"))
            .collect();
        again.sort();
        again
    };
    let both = |action: &str| {
        [(&request, "access_request"), (&broken, "review")]
            .map(|(request, what)| (format!("{what}.{action}"), request.id.clone()))
    };
    let texts = |heard: &[Value], kind: &str, field: &str| -> Vec<String> {
        let of_kind = heard.iter().filter(|line| line["kind"] == kind);
        of_kind
            .filter_map(|line| Some(line[field].as_str()?.to_owned()))
            .collect()
    };
    let has = |texts: &[String], what: &str| texts.iter().any(|text| text.contains(what));

    let database = SecretString::from(world.database_url());
    postern_store::testing::let_wait(&database, 2 * DAY).await;
    let heard = receivers.hear(|heard| again(heard).len() == 2 && texts(heard, "chat", "text").len() == 2);
    assert_eq!(again(&heard), both("remind"));
    let chats = texts(&heard, "chat", "text");
    assert!(
        has(&chats, "reminds of a request that waits for a decision"),
        "{chats:?}"
    );
    assert!(
        has(&chats, "reminds of a broken glass that nobody has looked at"),
        "{chats:?}"
    );

    postern_store::testing::let_wait(&database, DAY).await;
    let heard = receivers.hear(|heard| again(heard).len() == 2 && texts(heard, "mail", "subject").len() == 2);
    assert_eq!(again(&heard), both("escalate"));
    let mails = texts(&heard, "mail", "subject");
    assert!(
        has(&mails, "escalates a request that nobody has decided on"),
        "{mails:?}"
    );
    assert!(
        has(&mails, "escalates a broken glass that nobody has looked at"),
        "{mails:?}"
    );
}
