//! Whoever lacks only a second factor or a recent sign-in is told what to ask their issuer for (RFC 9470).

use chrono::TimeDelta;
use postern_api::{
    ErrorCode,
    access_request::{AccessRequestCreate, AccessRequestCreateQuery},
    jit_policy::{Authentication, JitPolicyWrite},
    review::BreakGlassQuery,
};
use postern_core::time::Clock as _;
use serde_json::{Value, json};

use crate::rig::{Answer, MACHINE, OWNER, Plan, Rig, ask, code, http, policy};

/// A server whose issuer is asked for `urn:mfa`, and whose guardrails are these.
async fn rig(guardrails: &'static str) -> Rig {
    Rig::with(Plan {
        change: Box::new(|config| {
            config["issuers"][0]["step_up"] =
                json!({ "acr_values": ["urn:mfa", "urn:more"], "max_age_seconds": 600 });
        }),
        guardrails,
        ..Plan::default()
    })
    .await
}

fn asking(mfa: bool, max_age_seconds: Option<i64>, approval: &str) -> JitPolicyWrite {
    JitPolicyWrite {
        authentication: Authentication { mfa, max_age_seconds },
        ..policy("ssh", "/aws", approval)
    }
}

/// Ada's token with these claims beside the usual ones.
fn token(rig: &Rig, more: &Value) -> String {
    let mut claims = rig.claims("ada");
    claims
        .as_object_mut()
        .unwrap()
        .extend(more.as_object().unwrap().clone());
    rig.key.sign(&claims)
}

async fn post(rig: &Rig, path: &str, more: &Value) -> Answer {
    let request = http()
        .post(rig.url(path))
        .bearer_auth(token(rig, more))
        .json(&ask(MACHINE));
    Answer::of(request.send().await.unwrap()).await
}

/// What ada is told who asks with these claims; nothing when she may.
async fn challenged(rig: &Rig, more: &Value) -> Option<String> {
    let answer = post(rig, "/v1/access-requests", more).await;
    if answer.status == 201 {
        return None;
    }
    assert_eq!(answer.problem().code, ErrorCode::StepUpRequired, "{answer:?}");
    Some(answer.headers["www-authenticate"].to_str().unwrap().to_owned())
}

const ERROR: &str = "Bearer error=\"insufficient_user_authentication\", error_description=";

async fn ready(rig: &Rig, document: &JitPolicyWrite) {
    rig.discover(MACHINE).await;
    rig.owner().create_jit_policy(None, document).await.unwrap();
    rig.assign("ada", "requester", "/aws").await;
    rig.pass().await;
}

#[tokio::test]
async fn a_policy_names_what_its_requester_has_not_proven() {
    let rig = rig("").await;
    ready(&rig, &asking(true, Some(300), "policy")).await;
    let now = rig.clock.now().timestamp();
    let with = |amr: &[&str], signed_in: i64| json!({ "amr": amr, "auth_time": signed_in });
    assert_eq!(
        challenged(&rig, &json!({})).await.unwrap(),
        format!(
            "{ERROR}\"a second factor and a recent sign-in is needed\", acr_values=\"urn:mfa urn:more\", max_age=\"300\""
        )
    );
    assert_eq!(
        challenged(&rig, &with(&[], now - 300)).await.unwrap(),
        format!("{ERROR}\"a second factor is needed\", acr_values=\"urn:mfa urn:more\"")
    );
    assert_eq!(
        challenged(&rig, &with(&["mfa"], now - 301)).await.unwrap(),
        format!("{ERROR}\"a recent sign-in is needed\", max_age=\"300\"")
    );
    assert_eq!(challenged(&rig, &with(&["mfa"], now - 300)).await, None);
    let denied: Vec<_> = rig.audit("access_request.create").await;
    let unproven = &denied[0].event.decision.as_ref().unwrap()["not_proven"];
    assert_eq!(*unproven, json!({ "mfa": true, "max_age_seconds": 300 }));
}

#[tokio::test]
async fn breaking_the_glass_takes_the_same_proof() {
    let rig = rig("").await;
    ready(&rig, &asking(true, None, "one")).await;
    let refused = rig
        .owner()
        .break_glass(None, &BreakGlassQuery::default(), &ask(MACHINE))
        .await;
    assert_eq!(code(refused), ErrorCode::StepUpRequired);
}

#[tokio::test]
async fn programs_are_not_asked_for_what_no_program_has() {
    let rig = rig("").await;
    ready(&rig, &asking(true, Some(60), "policy")).await;
    let assignment = postern_api::role::RoleAssignmentCreate {
        role: "requester".into(),
        principal: "workload:corp/ada".into(),
        scope: "/aws".into(),
        ..Default::default()
    };
    rig.owner()
        .create_role_assignment(None, &assignment)
        .await
        .unwrap();
    assert_eq!(challenged(&rig, &json!({ "idtyp": "app" })).await, None);
}

#[tokio::test]
async fn a_policy_that_asks_for_more_meanwhile_is_not_dodged_by_having_asked_before() {
    let rig = rig("").await;
    ready(&rig, &asking(false, None, "one")).await;
    let query = AccessRequestCreateQuery::default();
    let request = rig
        .client("ada")
        .create_access_request(None, &query, &ask(MACHINE))
        .await
        .unwrap();
    let document = rig.only_policy().await;
    rig.owner()
        .update_jit_policy(&document.id, document.version, &asking(true, None, "one"))
        .await
        .unwrap();
    let approved = rig.owner().approve_access_request(&request.id, None).await;
    assert_eq!(code(approved), ErrorCode::RequesterNotAllowed);
    assert_eq!(
        rig.client("ada")
            .access_request(&request.id)
            .await
            .unwrap()
            .status,
        "pending"
    );
}

#[tokio::test]
async fn a_policy_that_asks_for_more_meanwhile_is_not_dodged_by_having_asked_for_later() {
    let rig = rig("").await;
    ready(&rig, &asking(false, None, "policy")).await;
    let for_later = AccessRequestCreate {
        starts_at: Some(rig.clock.now() + TimeDelta::hours(1)),
        ..ask(MACHINE)
    };
    let query = AccessRequestCreateQuery::default();
    let request = rig
        .client("ada")
        .create_access_request(None, &query, &for_later)
        .await
        .unwrap();
    let document = rig.only_policy().await;
    rig.owner()
        .update_jit_policy(&document.id, document.version, &asking(true, None, "policy"))
        .await
        .unwrap();
    rig.advance(3600);
    rig.running.start_due().await;
    let ended = rig.owner().grant(&request.grants[0].id).await.unwrap();
    let cause = ended.cause.unwrap();
    assert_eq!(
        (cause.kind.as_str(), cause.reason.as_deref()),
        (
            "not_allowed",
            Some("policy `ssh` asks for a second factor, which the requester had not proven")
        )
    );
}

const FRESH: &str = r#"
@id("fresh") forbid (principal is User, action == Action::"request", resource)
unless { principal has authenticated_at && context.now.durationSince(principal.authenticated_at) <= duration("15m") };
"#;

#[tokio::test]
async fn a_guardrail_that_wants_a_recent_sign_in_is_met_by_as_old_a_one_as_is_configured() {
    let rig = rig(FRESH).await;
    ready(&rig, &asking(false, None, "policy")).await;
    let told = challenged(&rig, &json!({})).await.unwrap();
    assert_eq!(
        told,
        format!("{ERROR}\"a recent sign-in is needed\", max_age=\"600\"")
    );
    let now = rig.clock.now().timestamp();
    assert_eq!(challenged(&rig, &json!({ "auth_time": now - 600 })).await, None);
}

const FRESHER_WITH_MFA: &str = r#"
@id("both") forbid (principal is User, action == Action::"request", resource)
unless {
    principal.mfa && principal has authenticated_at
    && context.now.durationSince(principal.authenticated_at) <= duration("1m")
};
"#;

#[tokio::test]
async fn a_guardrail_that_wants_both_and_no_old_one_asks_for_both_at_this_moment() {
    let rig = rig(FRESHER_WITH_MFA).await;
    ready(&rig, &asking(false, None, "policy")).await;
    let told = challenged(&rig, &json!({})).await.unwrap();
    assert!(
        told.ends_with("acr_values=\"urn:mfa urn:more\", max_age=\"0\""),
        "{told}"
    );
    let told = challenged(&rig, &json!({ "amr": ["mfa"] })).await.unwrap();
    assert_eq!(
        told,
        format!("{ERROR}\"a recent sign-in is needed\", max_age=\"0\"")
    );
}

#[tokio::test]
async fn whoever_lacks_a_role_as_well_is_not_sent_to_prove_more() {
    let rig = rig(FRESH).await;
    ready(&rig, &asking(true, None, "policy")).await;
    let refused = http()
        .post(rig.url("/v1/access-requests"))
        .bearer_auth(rig.token("nobody"))
        .json(&ask(MACHINE))
        .send()
        .await
        .unwrap();
    let answer = Answer::of(refused).await;
    assert_eq!(answer.problem().code, ErrorCode::Forbidden);
    assert!(!answer.headers.contains_key("www-authenticate"));
}

#[tokio::test]
async fn an_age_that_nobody_could_keep_is_refused_with_its_place() {
    let rig = rig("").await;
    for seconds in [-1, 0, 59, 604_801] {
        let answer = rig
            .post_raw(
                "/v1/jit-policies",
                OWNER,
                Some("application/json"),
                &serde_json::to_string(&asking(false, Some(seconds), "policy")).unwrap(),
            )
            .await
            .problem();
        assert_eq!(
            answer.errors[0].pointer, "/authentication/max_age_seconds",
            "{seconds}"
        );
    }
}
