//! Jobs with tokens such as GitHub and GitLab give them, at a server whose issuers are configured as the documents show.

use std::sync::Arc;

use postern::demo::{issuer::Issuer, people::AUDIENCE};
use postern_api::{
    client::{Client, ClientError},
    jit_policy::{Approval, JitPolicyWrite},
    role::RoleAssignmentCreate,
};
use postern_core::time::{Clock as _, RandomIds, SystemClock};
use postern_tests::{Person, ServerProcess, World, WorldOptions, python, world::a_policy};
use serde_json::{Value, json};

use super::BINARY;

/// Source: GitHub documentation, "`OpenID` Connect reference".
const GITHUB_SUBJECT: &str = "repo:shop/app:ref:refs/heads/main";
/// Source: GitLab documentation, "`OpenID` Connect (OIDC) Authentication Using ID Tokens".
const GITLAB_SUBJECT: &str = "project_path:shop/app:ref_type:branch:ref:main";

/// The issuers of both.
pub(super) struct Providers {
    github: Issuer,
    gitlab: Issuer,
}

impl Providers {
    async fn start() -> Self {
        let issuer = || Issuer::start(Arc::new(SystemClock), &RandomIds);
        Self {
            github: issuer().await.expect("an issuer"),
            gitlab: issuer().await.expect("an issuer"),
        }
    }

    /// A job of GitHub's, started by Ada.
    pub(super) fn github(&self, seconds: u64) -> String {
        let claims = json!({
            "sub": GITHUB_SUBJECT, "repository": "shop/app", "repository_owner": "shop", "ref": "refs/heads/main",
            "ref_type": "branch", "actor": "ada", "event_name": "push", "run_id": "9876543210", "run_attempt": "1",
            "workflow": "deploy", "runner_environment": "github-hosted",
        });
        sign(&self.github, claims, seconds)
    }

    /// A job of GitLab's, started by Ada.
    pub(super) fn gitlab(&self, seconds: u64) -> String {
        let claims = json!({
            "sub": GITLAB_SUBJECT, "project_path": "shop/app", "namespace_path": "shop", "ref": "main",
            "ref_type": "branch", "ref_protected": "true", "user_login": "ada", "user_email": "ada@example.com",
            "pipeline_source": "push", "job_id": "1123", "runner_environment": "self-hosted",
        });
        sign(&self.gitlab, claims, seconds)
    }
}

fn sign(issuer: &Issuer, mut claims: Value, seconds: u64) -> String {
    let now = SystemClock.now().timestamp();
    let common = json!({
        "iss": issuer.url(), "aud": AUDIENCE, "iat": now, "nbf": now, "exp": now + i64::try_from(seconds).expect("a lifetime"), "jti": now.to_string(),
    });
    let all = claims.as_object_mut().expect("claims");
    all.extend(common.as_object().expect("claims").clone());
    issuer.sign(&claims).expect("a token")
}

/// The section of the configuration that docs/pipelines.md shows for an issuer, with ours in its place.
fn section(name: &str, issuer: &Issuer) -> String {
    let page = std::fs::read_to_string(python::workspace().join("docs/pipelines.md")).expect("the page");
    let named = format!("name = \"{name}\"");
    let shown = page
        .split("```toml\n")
        .skip(1)
        .filter_map(|rest| rest.split("```").next())
        .find(|block| block.contains(&named))
        .expect("the page shows the issuer");
    let lines = shown.lines().map(|line| match line.split(' ').next() {
        Some("issuer") => format!("issuer = \"{}\"\nloopback_http = true", issuer.url()),
        Some("algorithms") => "algorithms = [\"EdDSA\"]".to_owned(),
        _ => line.to_owned(),
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// A world whose pipelines may ask for ports, each by the subject of its jobs.
pub(super) async fn world() -> (Arc<World>, ServerProcess, Arc<Providers>) {
    let providers = Arc::new(Providers::start().await);
    let sections = [("github", &providers.github), ("gitlab", &providers.gitlab)];
    let sections = sections.map(|(name, issuer)| section(name, issuer)).join("\n");
    let (world, server) = World::locked_down(WorldOptions::of(BINARY).with(sections)).await;
    let olga = world.client(Person::Olga);
    for principal in principals() {
        let assignment = RoleAssignmentCreate {
            role: "requester".to_owned(),
            principal,
            scope: "/".to_owned(),
            ..RoleAssignmentCreate::default()
        };
        olga.create_role_assignment(None, &assignment).await.unwrap();
    }
    (Arc::new(world), server, providers)
}

fn principals() -> [String; 2] {
    [
        format!("workload:github/{GITHUB_SUBJECT}"),
        format!("workload:gitlab/{GITLAB_SUBJECT}"),
    ]
}

/// Every request was a job's, as the program that it is, and none was a person's.
pub(super) async fn asked_as_a_program(world: &World) {
    let olga = world.client(Person::Olga);
    let grants = world.all_grants().await;
    assert!(!grants.is_empty());
    for grant in grants {
        let request = olga.access_request(&grant.request_id).await.unwrap();
        assert!(principals().contains(&request.requester), "{request:?}");
    }
}

/// The issuer says that all its tokens are programs', and a program approves nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_approves_nothing_whatever_roles_it_has() {
    let (world, _server, providers) = world().await;
    let olga = world.client(Person::Olga);
    for principal in principals() {
        let assignment = RoleAssignmentCreate {
            role: "owner".to_owned(),
            principal,
            scope: "/".to_owned(),
            ..RoleAssignmentCreate::default()
        };
        olga.create_role_assignment(None, &assignment).await.unwrap();
    }
    let policy = JitPolicyWrite {
        approval: Approval::One,
        ..a_policy("asks one", "/azure")
    };
    olga.create_jit_policy(None, &policy).await.unwrap();
    let request = world.request(&[&world.fleet.web], 600, 0).await;
    assert_eq!(request.status, "pending");
    for token in [providers.github(300), providers.gitlab(300)] {
        let job = Client::new(&world.server_url).unwrap().with_token(token);
        match job.approve_access_request(&request.id, None).await {
            Err(ClientError::Problem(problem)) => assert_eq!(problem.status, 403, "{problem:?}"),
            other => panic!("{other:?}"),
        }
    }
    let still = olga.access_request(&request.id).await.unwrap();
    assert_eq!(still.status, "pending");
}
