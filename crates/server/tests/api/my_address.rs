//! "My address": a request that names no source is for where it comes from, as trusted proxies tell it.

use postern_api::{
    ErrorCode, Problem,
    access_request::{AccessRequest, AccessRequestCreate},
    jit_policy::JitPolicyWrite,
    lease::Lease,
};
use serde_json::json;

use crate::rig::{Answer, MACHINE, Plan, Rig, ask, http, policy};

/// Somebody of the Internet.
const HOME: &str = "20.0.0.7";

fn sourceless() -> AccessRequestCreate {
    let mut asked = ask(MACHINE);
    asked.targets[0].sources = None;
    asked
}

/// A server behind proxies at 127.0.0.0/8 and 10.0.0.0/8, and a machine that these sources may reach.
async fn rig(header: &'static str, allowed: &[&str]) -> Rig {
    let rig = Rig::with(Plan {
        change: Box::new(move |config| {
            config["proxies"] = json!({ "trusted": ["127.0.0.0/8", "10.0.0.0/8"], "header": header });
        }),
        ..Plan::default()
    })
    .await;
    ready(&rig, allowed).await;
    rig
}

async fn ready(rig: &Rig, allowed: &[&str]) {
    rig.discover(MACHINE).await;
    let mut document: JitPolicyWrite = policy("ssh", "/aws", "policy");
    document.guards[0].allowed_sources = allowed.iter().map(|source| (*source).to_owned()).collect();
    rig.owner().create_jit_policy(None, &document).await.unwrap();
    rig.assign("ada", "requester", "/aws").await;
    rig.pass().await;
}

/// Asks without a source, with these headers.
async fn asked(rig: &Rig, headers: &[(&str, &str)]) -> Answer {
    post(rig, "/v1/access-requests", &json!(sourceless()), headers).await
}

async fn post(rig: &Rig, path: &str, body: &serde_json::Value, headers: &[(&str, &str)]) -> Answer {
    let mut request = http()
        .post(rig.url(path))
        .bearer_auth(rig.token("ada"))
        .json(body);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    Answer::of(request.send().await.unwrap()).await
}

fn sources(answer: &Answer) -> Vec<String> {
    assert_eq!(answer.status, 201, "{answer:?}");
    let request: AccessRequest = serde_json::from_str(&answer.body).unwrap();
    request.targets[0].sources.clone()
}

fn code(answer: &Answer) -> ErrorCode {
    let problem: Problem = answer.problem();
    assert_eq!(problem.errors[0].pointer, "/targets/0/sources");
    problem.code
}

#[tokio::test]
async fn the_source_is_what_the_trusted_proxy_saw_and_not_what_the_client_says() {
    let rig = rig("x-forwarded-for", &["0.0.0.0/0"]).await;
    let seen = asked(
        &rig,
        &[
            ("x-forwarded-for", "9.9.9.9"),
            ("x-forwarded-for", "8.8.8.8, 20.0.0.7, 10.0.0.2"),
            ("forwarded", "for=7.7.7.7"),
            ("x-real-ip", "6.6.6.6"),
        ],
    )
    .await;
    assert_eq!(sources(&seen), [format!("{HOME}/32")]);
    let recorded = rig.audit("access_request.create").await;
    assert_eq!(recorded[0].event.details["asked_from"], HOME);
}

#[tokio::test]
async fn only_the_header_that_the_proxies_write_is_read() {
    let rig = rig("forwarded", &["0.0.0.0/0"]).await;
    let headers = [
        ("x-forwarded-for", HOME),
        ("forwarded", "for=\"20.0.0.9:4711\";proto=https"),
    ];
    assert_eq!(sources(&asked(&rig, &headers).await), ["20.0.0.9/32"]);
    assert_eq!(
        code(&asked(&rig, &[("x-forwarded-for", HOME)]).await),
        ErrorCode::SourceUnclear
    );
}

#[tokio::test]
async fn a_proxys_own_address_is_nobodys_source() {
    let rig = rig("x-forwarded-for", &["0.0.0.0/0", "10.0.0.0/8", "127.0.0.0/8"]).await;
    for headers in [
        &[][..],
        &[("x-forwarded-for", "10.0.0.9")],
        &[("x-forwarded-for", "20.0.0.7, unknown")],
    ] {
        assert_eq!(
            code(&asked(&rig, headers).await),
            ErrorCode::SourceUnclear,
            "{headers:?}"
        );
    }
}

#[tokio::test]
async fn without_proxies_nobody_can_say_where_they_come_from() {
    let rig = Rig::start().await;
    ready(&rig, &["0.0.0.0/0"]).await;
    let forged = [("x-forwarded-for", HOME), ("forwarded", "for=20.0.0.7")];
    let refused = asked(&rig, &forged).await;
    assert_eq!(code(&refused), ErrorCode::SourceNotPublic);
    assert!(refused.body.contains("127.0.0.1/32"), "{refused:?}");
}

#[tokio::test]
async fn an_address_that_is_not_public_is_taken_where_the_policy_names_a_network_of_its_kind() {
    let vpn = [("x-forwarded-for", "192.168.4.7")];
    let everywhere = rig("x-forwarded-for", &["0.0.0.0/0"]).await;
    assert_eq!(code(&asked(&everywhere, &vpn).await), ErrorCode::SourceNotPublic);
    let named = rig("x-forwarded-for", &["0.0.0.0/0", "192.168.4.0/24"]).await;
    assert_eq!(sources(&asked(&named, &vpn).await), ["192.168.4.7/32"]);
}

#[tokio::test]
async fn the_policys_sources_hold_for_it_as_for_any_other() {
    let rig = rig("x-forwarded-for", &["20.0.1.0/24"]).await;
    let refused = asked(&rig, &[("x-forwarded-for", HOME)]).await;
    assert_eq!(code(&refused), ErrorCode::SourceNotAllowed);
}

#[tokio::test]
async fn an_empty_list_is_not_the_same_as_none() {
    let rig = rig("x-forwarded-for", &["0.0.0.0/0"]).await;
    let mut empty = sourceless();
    empty.targets[0].sources = Some(Vec::new());
    let refused = post(
        &rig,
        "/v1/access-requests",
        &json!(empty),
        &[("x-forwarded-for", HOME)],
    )
    .await;
    assert_eq!(code(&refused), ErrorCode::InvalidSource);
}

#[tokio::test]
async fn a_lease_is_found_again_from_the_same_address_only() {
    let rig = rig("x-forwarded-for", &["0.0.0.0/0"]).await;
    let wanted = json!({ "key": "job/1", "targets": sourceless().targets, "duration_seconds": 600, "reason": "deploy" });
    let from = |address| [("x-forwarded-for", address)];
    let first = post(&rig, "/v1/leases", &wanted, &from(HOME)).await;
    let again = post(&rig, "/v1/leases", &wanted, &from(HOME)).await;
    let elsewhere = post(&rig, "/v1/leases", &wanted, &from("20.0.0.8")).await;
    assert_eq!((first.status, again.status), (201, 200), "{first:?} {again:?}");
    let lease: Lease = serde_json::from_str(&again.body).unwrap();
    assert_eq!(lease.request.targets[0].sources, ["20.0.0.7/32"]);
    assert_eq!(elsewhere.problem().code, ErrorCode::LeaseKeyInUse);
}

#[tokio::test]
async fn a_failed_sign_in_is_recorded_with_the_address_behind_the_proxies() {
    let rig = rig("x-forwarded-for", &["0.0.0.0/0"]).await;
    let answer = http()
        .get(rig.url("/v1/machines"))
        .bearer_auth("nonsense")
        .header("x-forwarded-for", "9.9.9.9, 20.0.0.7")
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), 401);
    assert_eq!(
        rig.audit("authentication.fail").await[0].event.details["address"],
        HOME
    );
}
