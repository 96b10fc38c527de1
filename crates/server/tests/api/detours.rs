//! Ways round what is refused straight on: another name, another place, many at once; and what a refusal gives away.

use chrono::TimeDelta;
use postern_api::{
    ErrorCode,
    access_request::{AccessRequestApprove, AccessRequestCreate, AccessRequestDeny, Mode},
    access_review::{
        AccessReviewCreate, AccessReviewItemDecide, AccessReviewItemQuery, AccessReviewQuery, ItemVerdict,
        Undecided,
    },
    grant::GrantRevoke,
    role::RoleAssignmentQuery,
};
use postern_core::{audit::Outcome, time::Clock as _};
use serde_json::json;

use crate::{
    issuer::{Issuer, TestKey},
    rig::{Plan, Rig, ask, asks, code, now, policy},
};

/// A rig with the issuer `corp`, whose subjects are opaque, and the issuer `partner`, whose subjects are what it calls `upn`.
async fn two_issuers() -> (Rig, Issuer) {
    let key = TestKey::ed25519("two", 2);
    let partner = Issuer::start(&[&key]).await;
    let at = partner.url();
    let rig = Rig::with(Plan {
        change: Box::new(move |config| {
            config["issuers"][0]["claims"]["extra"] = json!(["email", "user_email"]);
            let second = json!({
                "name": "partner",
                "issuer": at,
                "audiences": ["postern"],
                "algorithms": ["EdDSA"],
                "loopback_http": true,
                "claims": { "subject": "upn" },
            });
            config["issuers"].as_array_mut().unwrap().push(second);
        }),
        ..Plan::default()
    })
    .await;
    (rig, partner)
}

fn of_partner(rig: &Rig, partner: &Issuer, upn: &str) -> postern_api::Client {
    let mut claims = rig.claims("whatever");
    claims["iss"] = json!(partner.url());
    claims["upn"] = json!(upn);
    rig.client("x")
        .with_token(TestKey::ed25519("two", 2).sign(&claims))
}

#[tokio::test]
async fn nobody_approves_their_own_request_as_whom_another_issuer_names_by_their_mail_address() {
    let (rig, partner) = two_issuers().await;
    let machine = rig.ready_for_requests("one").await;
    for name in ["ADA@example.com ", "bob@example.com"] {
        rig.assign_to(&format!("user:partner/{name}"), "approver", "/aws")
            .await;
    }
    let mut claims = rig.claims("ada");
    claims["email"] = json!("ada@example.com");
    let ada = rig.client("ada").with_token(rig.key.sign(&claims));
    let request = asks(&ada, &machine).await;
    let herself = of_partner(&rig, &partner, "ADA@example.com ");
    assert_eq!(
        code(herself.approve_access_request(&request.id, None).await),
        ErrorCode::OwnRequest
    );
    let bob = of_partner(&rig, &partner, "bob@example.com");
    bob.approve_access_request(&request.id, None).await.unwrap();
}

#[tokio::test]
async fn nobody_approves_what_a_pipeline_asks_that_they_started() {
    let (rig, partner) = two_issuers().await;
    let machine = rig.ready_for_requests("one").await;
    rig.assign_to("workload:corp/project_path:app", "requester", "/aws")
        .await;
    rig.assign_to("user:partner/ada@example.com", "approver", "/aws")
        .await;
    let mut claims = rig.claims("project_path:app");
    claims["idtyp"] = json!("app");
    // As GitLab's ID tokens name who started the pipeline.
    claims["user_email"] = json!("ada@example.com");
    let job = rig.client("job").with_token(rig.key.sign(&claims));
    let request = asks(&job, &machine).await;
    let ada = of_partner(&rig, &partner, "ada@example.com");
    assert_eq!(
        code(ada.approve_access_request(&request.id, None).await),
        ErrorCode::OwnRequest
    );
}

#[tokio::test]
async fn nobody_reviews_a_role_assignment_of_their_own_as_whom_another_issuer_names_by_their_mail_address() {
    let (rig, _partner) = two_issuers().await;
    rig.assign_to("user:partner/ada@example.com", "requester", "/aws")
        .await;
    rig.owner()
        .create_access_review(
            None,
            &AccessReviewCreate {
                name: "yearly".into(),
                scope: "/aws".into(),
                reviewers: vec!["user:corp/ada".into()],
                deadline: rig.clock.now() + TimeDelta::days(7),
                undecided: Undecided::Remove,
                unused_after_days: 90,
                recurrence: None,
            },
        )
        .await
        .unwrap();
    let mut claims = rig.claims("ada");
    claims["email"] = json!("Ada@example.com");
    let ada = rig.client("ada").with_token(rig.key.sign(&claims));
    let review = ada
        .access_reviews(&AccessReviewQuery::default())
        .await
        .unwrap()
        .items
        .remove(0);
    let item = ada
        .access_review_items(&review.id, &AccessReviewItemQuery::default())
        .await
        .unwrap()
        .items
        .remove(0);
    let keep = AccessReviewItemDecide {
        decision: ItemVerdict::Keep,
        reason: "I need it".into(),
    };
    let kept = ada.decide_access_review_item(&item.id, None, &keep).await;
    assert_eq!(code(kept), ErrorCode::OwnAssignment);
}

#[tokio::test]
async fn a_request_for_later_is_approved_by_what_holds_when_it_begins() {
    let rig = Rig::with(Plan {
        // It is midnight.
        guardrails: r#"@id("not-at-midnight") forbid (principal, action == Action::"request", resource)
                       when { context.hour == 0 };"#,
        ..Plan::default()
    })
    .await;
    let machine = rig.ready_for_requests("one").await;
    rig.assign_to("user:corp/bob", "approver", "/aws").await;
    let in_two_hours = AccessRequestCreate {
        starts_at: Some(rig.clock.now() + TimeDelta::hours(2)),
        ..ask(&machine)
    };
    let request = rig
        .client("ada")
        .create_access_request(None, &now(), &in_two_hours)
        .await
        .unwrap();
    let approved = rig
        .client("bob")
        .approve_access_request(&request.id, None)
        .await
        .unwrap();
    assert_eq!(approved.grants[0].status, "scheduled");
}

#[tokio::test]
async fn a_request_for_later_that_is_approved_after_its_start_is_approved_by_what_holds_then() {
    let rig = Rig::with(Plan {
        guardrails: r#"@id("not-at-two") forbid (principal, action == Action::"request", resource)
                       when { context.hour == 2 };"#,
        ..Plan::default()
    })
    .await;
    let machine = rig.ready_for_requests("one").await;
    rig.assign_to("user:corp/bob", "approver", "/aws").await;
    let in_an_hour = AccessRequestCreate {
        starts_at: Some(rig.clock.now() + TimeDelta::hours(1)),
        ..ask(&machine)
    };
    let request = rig
        .client("ada")
        .create_access_request(None, &now(), &in_an_hour)
        .await
        .unwrap();
    rig.advance(2 * 3600);
    let approved = rig.client("bob").approve_access_request(&request.id, None).await;
    assert_eq!(code(approved), ErrorCode::RequesterNotAllowed);
}

/// Asks two dozen times at once for a machine under a policy with that approval, where a limit lets through three; the
/// others are refused with the code.
async fn only_three_get_past(limit: &'static str, approval: &str, refusal: ErrorCode) {
    let rig = Rig::with(Plan {
        change: Box::new(move |config| config["limits"] = json!({ limit: 3 })),
        ..Plan::default()
    })
    .await;
    let machine = rig.ready_for_requests(approval).await;
    let ada = rig.client("ada");
    let mut all = tokio::task::JoinSet::new();
    for _ in 0..24 {
        let (ada, body) = (ada.clone(), ask(&machine));
        all.spawn(async move { ada.create_access_request(None, &now(), &body).await });
    }
    let made = all.join_all().await;
    assert_eq!(made.iter().filter(|one| one.is_ok()).count(), 3);
    for refused in made.into_iter().filter(Result::is_err) {
        assert_eq!(code(refused), refusal);
    }
}

#[tokio::test]
async fn many_requests_at_once_do_not_get_past_the_most_that_wait() {
    only_three_get_past("pending_requests", "one", ErrorCode::TooManyPending).await;
}

#[tokio::test]
async fn many_requests_at_once_do_not_get_past_the_most_live_grants_on_a_machine() {
    only_three_get_past("grants_per_machine", "policy", ErrorCode::TooManyGrants).await;
}

#[tokio::test]
async fn one_principal_cannot_fill_the_places_of_all() {
    let rig = Rig::with(Plan {
        change: Box::new(|config| {
            config["limits"] = json!({ "concurrency": 4, "concurrency_per_principal": 2 });
        }),
        ..Plan::default()
    })
    .await;
    // Requests whose bodies do not come hold their places.
    let mut slow = Vec::new();
    for _ in 0..2 {
        use tokio::io::AsyncWriteExt as _;
        let mut stream = tokio::net::TcpStream::connect(rig.address).await.unwrap();
        let head = format!(
            "POST /v1/access-requests HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\n\
             content-type: application/json\r\ncontent-length: 100\r\n\r\n{{",
            rig.token("mallory")
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        slow.push(stream);
    }
    let refused = loop {
        let answer = rig.get("/v1/machines", &rig.token("mallory")).await;
        if answer.status != 200 {
            break answer;
        }
        tokio::task::yield_now().await;
    };
    assert_eq!(
        (refused.status, refused.problem().code),
        (429, ErrorCode::RateLimited)
    );
    assert_eq!(refused.headers["retry-after"], "1");
    assert_eq!(rig.get("/v1/machines", &rig.token("bob")).await.status, 200);
    drop(slow);
    while rig.get("/v1/machines", &rig.token("mallory")).await.status != 200 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn the_last_owner_stays_and_that_somebody_tried_stands_in_the_audit_log() {
    let rig = Rig::start().await;
    let own = RoleAssignmentQuery {
        role: Some("owner".into()),
        ..RoleAssignmentQuery::default()
    };
    let last = rig.owner().role_assignments(&own).await.unwrap().items.remove(0);
    assert_eq!(
        code(rig.owner().delete_role_assignment(&last.id).await),
        ErrorCode::LastOwner
    );
    let events = rig.audit("role_assignment.delete").await;
    assert_eq!(events.len(), 1);
    assert_eq!(events[0].event.outcome, Outcome::Denied);
}

#[tokio::test]
async fn who_may_not_see_a_role_assignment_does_not_learn_that_it_is_there() {
    let rig = Rig::start().await;
    rig.assign_to("user:corp/bob", "requester", "/aws/123456789012")
        .await;
    let its = RoleAssignmentQuery {
        principal: Some("user:corp/bob".into()),
        ..RoleAssignmentQuery::default()
    };
    let there = rig
        .owner()
        .role_assignments(&its)
        .await
        .unwrap()
        .items
        .remove(0)
        .id;
    let (rest, last) = there.split_at(there.len() - 1);
    let nowhere = format!("{rest}{}", if last == "0" { "1" } else { "0" });
    let eve = rig.client("eve");
    for id in [&there, &nowhere] {
        assert_eq!(
            code(eve.delete_role_assignment(id).await),
            ErrorCode::NotFound,
            "{id}"
        );
    }
    // Whose it is sees it, and is told what is missing.
    let bob = rig.client("bob");
    assert_eq!(
        code(bob.delete_role_assignment(&there).await),
        ErrorCode::Forbidden
    );
}

#[tokio::test]
async fn what_people_write_does_not_turn_round_or_hide_what_others_read() {
    let rig = Rig::start().await;
    let machine = rig.ready_for_requests("one").await;
    rig.assign_to("user:corp/bob", "approver", "/aws").await;
    let ada = rig.client("ada");
    let turned = "restart \u{202e}moc.live\u{202c} now";
    for bad in [
        turned,
        "a\u{2066}b",
        "a\u{2028}b",
        "a\u{200b}b",
        "a\u{e0041}b",
        "a\u{1b}[2Jb",
    ] {
        let asked = AccessRequestCreate {
            reason: bad.into(),
            ..ask(&machine)
        };
        let made = ada.create_access_request(None, &now(), &asked).await;
        assert_eq!(code(made), ErrorCode::InvalidReason, "{bad:?}");
        let asked = AccessRequestCreate {
            ticket: Some(bad.into()),
            ..ask(&machine)
        };
        let made = ada.create_access_request(None, &now(), &asked).await;
        assert_eq!(code(made), ErrorCode::InvalidReason, "{bad:?}");
    }
    // What languages and pictures need stays: a joiner between letters of Persian, and between the parts of a picture.
    let good = AccessRequestCreate {
        reason: "می\u{200c}خواهم 👩\u{200d}💻 עברית\nسطر".into(),
        ..ask(&machine)
    };
    let request = ada.create_access_request(None, &now(), &good).await.unwrap();
    let bob = rig.client("bob");
    let said = AccessRequestApprove {
        comment: Some(turned.into()),
        ..AccessRequestApprove::default()
    };
    let agreed = bob.approve_access_request_for(&request.id, None, &said).await;
    assert_eq!(code(agreed), ErrorCode::InvalidReason);
    let said = AccessRequestDeny {
        reason: turned.into(),
    };
    let denied = bob.deny_access_request(&request.id, None, &said).await;
    assert_eq!(code(denied), ErrorCode::InvalidReason);
}

const ELSEWHERE: &str = "arn:aws:ec2:eu-central-1:123456789012:instance/i-0fedcba9876543210";

#[tokio::test]
async fn what_is_left_of_a_request_for_later_still_needs_those_who_must_agree_by_now() {
    let rig = Rig::start().await;
    // Before the policy, which covers what there is.
    rig.discover(ELSEWHERE).await;
    let machine = rig.ready_for_requests("policy").await;
    let both = AccessRequestCreate {
        starts_at: Some(rig.clock.now() + TimeDelta::hours(1)),
        mode: Some(Mode::BestEffort),
        targets: [ask(&machine).targets, ask(ELSEWHERE).targets].concat(),
        ..ask(&machine)
    };
    let ada = rig.client("ada");
    let request = ada.create_access_request(None, &now(), &both).await.unwrap();
    let (gives_back, keeps) = (&request.grants[0].id, &request.grants[1].id);
    // The policy wants somebody's agreement by now, which nobody gave.
    rig.owner()
        .create_jit_policy(None, &policy("strict", "/aws/123456789012", "one"))
        .await
        .unwrap();
    ada.revoke_grant(gives_back, None, &GrantRevoke::default())
        .await
        .unwrap();
    rig.advance(3600);
    rig.running.start_due().await;
    let grant = ada.grant(keeps).await.unwrap();
    assert!(!["opening", "open"].contains(&grant.status.as_str()), "{grant:?}");
    assert_eq!(grant.cause.unwrap().kind, "not_allowed");
}
