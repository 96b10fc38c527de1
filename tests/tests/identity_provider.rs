//! A real `OpenID` provider that is not ours: people sign in there, and Postern believes what it signs, through its
//! rotations and outages.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test may fail by panicking")]

use std::{
    net::TcpListener,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use postern_api::{
    Client, ErrorCode,
    access_check::{AccessCheck, AccessCheckQuery},
    client::ClientError,
    role::RoleAssignmentCreate,
};
use postern_tests::{Person, World, WorldOptions, python};

/// The provider, and which port it has whenever it runs.
struct Provider {
    port: u16,
    running: Child,
}

impl Drop for Provider {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Provider {
    fn start(port: u16) -> Self {
        let ada = r#"{"sub": "ada", "name": "Ada", "groups": ["sre"], "amr": ["pwd", "mfa"], "risk": "low"}"#;
        let eve = r#"{"sub": "eve", "groups": ["guests"], "amr": ["pwd"], "risk": "high"}"#;
        let running = Command::new(python::python_for_api())
            .args(["-m", "oidc_provider_mock", "--port", &port.to_string()])
            .args(["--user-claims", ada, "--user-claims", eve])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let provider = Self { port, running };
        let deadline = Instant::now() + Duration::from_mins(1);
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(Instant::now() < deadline, "the provider does not answer");
            std::thread::sleep(Duration::from_millis(50));
        }
        provider
    }

    fn stop(&mut self) {
        self.running.kill().unwrap();
        self.running.wait().unwrap();
    }

    /// Starts it anew at its place. It makes its keys when it starts, so that these are others.
    fn rotate(self) -> Self {
        let port = self.port;
        drop(self);
        Self::start(port)
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    async fn sign_in(&self, client: &'static str, subject: &'static str) -> String {
        let url = self.url();
        let printed = tokio::task::spawn_blocking(move || {
            python::run_with(&python::python_for_api(), "sign_in.py", &[&url, client, subject])
        });
        printed.await.unwrap().trim().to_owned()
    }
}

fn free_port() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    listener.local_addr().unwrap().port()
}

/// Whether somebody may ask for access, as their token says they are.
async fn may_ask(world: &World, token: &str) -> Result<AccessCheck, ClientError> {
    let query = AccessCheckQuery {
        action: Some("request".to_owned()),
        scope: Some("/aws".to_owned()),
        ..AccessCheckQuery::default()
    };
    let client = Client::new(&world.server_url).unwrap().with_token(token);
    client.access_check(&query).await
}

fn code(answer: Result<AccessCheck, ClientError>) -> ErrorCode {
    match answer {
        Err(ClientError::Problem(problem)) => problem.code,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn people_who_sign_in_at_a_real_provider_are_believed_through_its_rotations_and_outages() {
    let provider = Provider::start(free_port());
    let rules = tempfile::tempdir().unwrap();
    let rule = "@id(\"risk\") forbid (principal is User, action, resource)\n\
                when { principal.issuer == \"provider\" }\n\
                unless { principal.mfa && principal.hasTag(\"risk\") && principal.getTag(\"risk\") == \"low\" };";
    std::fs::write(rules.path().join("risk.cedar"), rule).unwrap();
    let world = World::new(WorldOptions::of(env!("CARGO_BIN_EXE_postern-under-test")).with(format!(
            "[[issuers]]\nname = \"provider\"\nissuer = \"{}\"\nloopback_http = true\naudiences = [\"postern\"]\n\
             algorithms = [\"RS256\"]\nfetch_pause_seconds = 1\nrefresh_seconds = 2\nkeep_seconds = 4\n\
             [issuers.claims]\nextra = [\"risk\"]\n[guardrails]\npath = \"{}\"\n",
            provider.url(),
            rules.path().display()
        )))
    .await;
    let _server = world.serve(&[]).await;
    world
        .client(Person::Olga)
        .create_role_assignment(
            None,
            &RoleAssignmentCreate {
                role: "requester".to_owned(),
                principal: "group:provider/sre".to_owned(),
                scope: "/aws".to_owned(),
                ..RoleAssignmentCreate::default()
            },
        )
        .await
        .unwrap();

    // Discovery, keys, groups, second factor and a further claim, all of the provider's own making.
    let ada = provider.sign_in("postern", "ada").await;
    let checked = may_ask(&world, &ada).await.unwrap();
    assert!(checked.allowed, "{}", checked.explanation);
    assert_eq!(checked.principal, "user:provider/ada");
    let eve = may_ask(&world, &provider.sign_in("postern", "eve").await)
        .await
        .unwrap();
    assert!(!eve.allowed);
    assert!(
        eve.explanation.contains("guardrail `risk` forbids it"),
        "{}",
        eve.explanation
    );

    // A token of the same provider for another client is not for us.
    let other = provider.sign_in("wiki", "ada").await;
    assert_eq!(code(may_ask(&world, &other).await), ErrorCode::TokenInvalid);

    // New keys are found by themselves, and what the old ones signed is worth nothing from then on.
    let mut provider = provider.rotate();
    let renewed = provider.sign_in("postern", "ada").await;
    world
        .eventually("the new key is known", Duration::from_secs(30), async || {
            may_ask(&world, &renewed).await.ok()
        })
        .await;
    assert_eq!(code(may_ask(&world, &ada).await), ErrorCode::TokenInvalid);

    // While the provider is away, the keys that are known serve, and not for ever.
    provider.stop();
    assert!(may_ask(&world, &renewed).await.unwrap().allowed);
    world
        .eventually("the keys are too old", Duration::from_secs(30), async || {
            let answer = may_ask(&world, &renewed).await;
            answer
                .is_err()
                .then(|| assert_eq!(code(answer), ErrorCode::Unavailable))
        })
        .await;
}
