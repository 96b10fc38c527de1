//! Guardrails that are replaced while the server serves, and what explanations say.

use postern_api::{ErrorCode, access_check::AccessCheckQuery};
use postern_authz::GuardrailSet;
use serde_json::json;

use crate::rig::{Plan, Rig, ask, asks, code, http, now};

const MFA: &str = r#"@id("mfa") @message("Two factors.")
    forbid (principal, action == Action::"request", resource) unless { principal.mfa };"#;
const NIGHT: &str = r#"@id("night") forbid (principal, action == Action::"request", resource)
    when { context.hour < 6 };"#;

fn set(text: &str) -> GuardrailSet {
    GuardrailSet::parse("test", text).unwrap()
}

async fn metric(rig: &Rig, name: &str) -> String {
    let text = http()
        .get(rig.url("/metrics"))
        .send()
        .await
        .unwrap()
        .text()
        .await
        .unwrap();
    text.lines()
        .find_map(|line| line.strip_prefix(&format!("postern_http_{name} ")))
        .unwrap()
        .to_owned()
}

#[tokio::test]
async fn a_new_set_decides_from_then_on_and_the_log_says_what_changed() {
    let rig = Rig::with(Plan {
        guardrails: MFA,
        ..Plan::default()
    })
    .await;
    let machine = rig.ready_for_requests("policy").await;
    let ada = rig.client("ada");
    let try_it = async || ada.create_access_request(None, &now(), &ask(&machine)).await;
    assert_eq!(code(try_it().await), ErrorCode::StepUpRequired);
    assert_eq!(metric(&rig, "guardrails").await, "1");

    let guardrails = rig.running.guardrails();
    guardrails.replace(set(NIGHT), "files").await.unwrap();
    assert_eq!(code(try_it().await), ErrorCode::Forbidden, "it is midnight");
    rig.advance(7 * 3600);
    assert_eq!(metric(&rig, "guardrails_replaced_total").await, "1");
    let renewed = rig.client("ada");
    asks(&renewed, &machine).await;
    let events = rig.audit("guardrails.").await;
    assert_eq!(events.len(), 1);
    assert_eq!(events[0].event.action, "guardrails.replace");
    assert_eq!(
        events[0].event.details["difference"],
        json!({ "added": ["night"], "removed": ["mfa"], "changed": [], "networks": [] })
    );

    guardrails.replace(set(NIGHT), "files").await.unwrap();
    assert_eq!(
        rig.audit("guardrails.").await.len(),
        1,
        "the same again is no change"
    );
}

#[tokio::test]
async fn a_refused_set_changes_nothing_but_is_seen() {
    let rig = Rig::with(Plan {
        guardrails: MFA,
        ..Plan::default()
    })
    .await;
    let machine = rig.ready_for_requests("policy").await;
    let guardrails = rig.running.guardrails();
    let error = GuardrailSet::parse("new.cedar", "permit (principal, action, resource);").unwrap_err();
    guardrails.refuse("files", &error.to_string()).await.unwrap();
    let answer = rig
        .client("ada")
        .create_access_request(None, &now(), &ask(&machine))
        .await;
    assert_eq!(code(answer), ErrorCode::StepUpRequired, "the old one stays");
    assert_eq!(metric(&rig, "guardrails_refused").await, "1");
    let events = rig.audit("guardrails.refuse").await;
    assert_eq!(events.len(), 1);
    assert_eq!(events[0].event.outcome.as_str(), "failed");
    assert!(
        events[0].event.reason.as_deref().unwrap().contains("new.cedar"),
        "{events:?}"
    );

    guardrails.replace(set(MFA), "files").await.unwrap();
    assert_eq!(metric(&rig, "guardrails_refused").await, "0", "mended");
}

#[tokio::test]
async fn an_access_check_says_what_would_allow_it() {
    let rig = Rig::with(Plan {
        guardrails: r#"
            @id("mfa") forbid (principal, action == Action::"request", resource) unless { principal.mfa };
            @id("short") forbid (principal, action == Action::"request", resource)
            when { context has duration_seconds && context.duration_seconds > 1800 };
            @id("no-http") forbid (principal, action == Action::"request", resource)
            when { context has port && context.port.first == 80 };
        "#,
        ..Plan::default()
    })
    .await;
    let query = |duration: u64, port: &str, remedies: bool| AccessCheckQuery {
        action: Some("request".into()),
        scope: Some("/aws".into()),
        port: Some(port.into()),
        source: Some("203.0.113.7".into()),
        duration_seconds: Some(duration),
        reason: Some(true),
        remedies: Some(remedies),
        ..AccessCheckQuery::default()
    };
    let check = async |query| rig.client("ada").access_check(&query).await.unwrap();
    let all = check(query(3600, "22", true)).await;
    assert!(!all.allowed);
    assert_eq!(
        all.remedies,
        [
            "assign one of the roles `requester`, `owner` at /aws to user:corp/ada",
            "sign in with a second factor and ask for 1800 seconds at most",
        ]
    );
    rig.assign("ada", "requester", "/aws").await;
    let never = check(query(60, "80", true)).await;
    assert_eq!(
        never.remedies,
        ["no change to the request that was tried would pass the guardrails"]
    );
    assert_eq!(
        check(query(3600, "22", false)).await.remedies,
        Vec::<String>::new()
    );
    for (port, source, expected) in [
        ("0", "203.0.113.7", ErrorCode::InvalidPorts),
        ("22", "203.0.113.0/33", ErrorCode::InvalidSource),
    ] {
        let wrong = AccessCheckQuery {
            source: Some(source.into()),
            ..query(60, port, true)
        };
        assert_eq!(code(rig.client("ada").access_check(&wrong).await), expected);
    }
}

#[tokio::test]
async fn a_guardrail_forbids_what_a_role_allows_and_a_second_factor_may_be_asked_for() {
    let rig = Rig::with(Plan {
        guardrails: r#"
            @id("mfa-for-requests")
            @message("requests need a second factor")
            forbid (principal is User, action == Action::"request", resource) unless { principal.mfa };
        "#,
        ..Plan::default()
    })
    .await;
    let machine = rig.ready_for_requests("policy").await;
    let error = rig
        .client("ada")
        .create_access_request(None, &now(), &ask(&machine))
        .await
        .unwrap_err();
    let problem = error.problem().unwrap();
    assert_eq!((problem.code, problem.status), (ErrorCode::StepUpRequired, 401));
    assert!(problem.detail.contains("mfa-for-requests"), "{}", problem.detail);
    let mut claims = rig.claims("ada");
    claims["amr"] = json!(["pwd", "mfa"]);
    let strong = rig.client("ada").with_token(rig.key.sign(&claims));
    asks(&strong, &machine).await;
}
