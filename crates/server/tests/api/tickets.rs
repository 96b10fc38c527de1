//! Reasons and tickets: what a policy asks for, and a ticket system that knows, denies, fails or is silent.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use axum::{Json, Router, extract::Path, http::HeaderMap, routing::get};
use chrono::TimeDelta;
use http::StatusCode;
use postern_api::{
    ErrorCode,
    access_request::AccessRequestCreate,
    jit_policy::{JitPolicyWrite, Justification, WhenUnanswered},
    review::BreakGlassQuery,
};
use postern_core::time::Clock as _;
use serde_json::{Value, json};

use crate::rig::{MACHINE, Plan, Rig, ask, code, now, policy};

fn about(reason: &str, ticket: Option<&str>) -> AccessRequestCreate {
    AccessRequestCreate {
        reason: reason.into(),
        ticket: ticket.map(Into::into),
        ..ask(MACHINE)
    }
}

/// A ticket system on a port of its own, which counts who asks.
async fn a_ticket_system() -> (String, Arc<AtomicU32>) {
    let asked = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&asked);
    let answer = move |Path(ticket): Path<String>, headers: HeaderMap| {
        count.fetch_add(1, Ordering::SeqCst);
        let knows_us = headers.get("x-key").is_some_and(|key| key == "s3cret");
        let answer: (StatusCode, Json<Value>) = match ticket.as_str() {
            _ if !knows_us => (StatusCode::UNAUTHORIZED, Json(json!({}))),
            "OPS-1" => (StatusCode::OK, Json(json!({ "fields": { "status": "open" } }))),
            "OPS-2" => (StatusCode::OK, Json(json!({ "fields": { "status": "closed" } }))),
            "OPS-500" => (StatusCode::INTERNAL_SERVER_ERROR, Json(json!({}))),
            _ => (StatusCode::NOT_FOUND, Json(json!({}))),
        };
        async move {
            if ticket == "OPS-SILENT" {
                std::future::pending::<()>().await;
            }
            answer
        }
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = Router::new().route("/api/{ticket}", get(answer));
    tokio::spawn(async move { axum::serve(listener, router).await });
    (format!("http://{address}/api/{{ticket}}"), asked)
}

/// A rig with this ticket system, and a policy that asks so; ada may ask.
async fn ready(url: Option<&str>, justification: Justification) -> Rig {
    ready_to_wait(url, justification, 15).await
}

/// The same, with so long a wait for the ticket system.
async fn ready_to_wait(url: Option<&str>, justification: Justification, seconds: u32) -> Rig {
    let tickets = url.map(|url| {
        json!({
            "url": url, "header": "x-key", "secret": "s3cret", "allow_private": true, "timeout_seconds": seconds,
            "accept": { "pointer": "/fields/status", "values": ["open"] },
        })
    });
    let rig = Rig::with(Plan {
        change: Box::new(move |config| {
            if let Some(tickets) = tickets {
                config["tickets"] = tickets;
            }
        }),
        ..Plan::default()
    })
    .await;
    rig.discover(MACHINE).await;
    let mut document = policy("ssh", "/aws", "policy");
    document.justification = Some(justification);
    rig.owner().create_jit_policy(None, &document).await.unwrap();
    rig.assign("ada", "requester", "/aws").await;
    rig
}

#[tokio::test]
async fn a_reason_and_a_ticket_are_what_the_policy_asks_for() {
    let rig = ready(
        None,
        Justification {
            reason_pattern: Some("(?s).{10,}".into()),
            ticket_required: true,
            ticket_pattern: Some("OPS-[0-9]+".into()),
            ticket_check: None,
        },
    )
    .await;
    let ada = rig.client("ada");
    for (asked, detail) in [
        (about("short", Some("OPS-1")), "reason"),
        (about("long enough a reason", None), "asks for a ticket"),
        (about("long enough a reason", Some("OPS-1x")), "OPS-[0-9]+"),
    ] {
        let refused = ada.create_access_request(None, &now(), &asked).await.unwrap_err();
        let problem = refused.problem().unwrap();
        assert_eq!(problem.code, ErrorCode::NotJustified);
        assert!(problem.detail.contains(detail), "{}", problem.detail);
    }
    for ticket in ["", "..", "a\nb", &"a".repeat(101)] {
        let refused = ada
            .create_access_request(None, &now(), &about("long enough a reason", Some(ticket)))
            .await;
        assert_eq!(code(refused), ErrorCode::InvalidReason, "{ticket:?}");
    }
    let denied = rig.audit("access_request.create").await;
    assert_eq!(denied.len(), 3, "each refusal by the policy stands in the log");
    let decision = denied[0].event.decision.as_ref().unwrap();
    assert!(
        decision["not_justified"]
            .as_str()
            .unwrap()
            .contains("policy `ssh`")
    );
    let made = ada
        .create_access_request(None, &now(), &about("long enough a reason", Some("OPS-1")))
        .await
        .unwrap();
    assert_eq!(made.ticket.as_deref(), Some("OPS-1"));
    let created = rig.audit("access_request.create").await;
    assert_eq!(created.last().unwrap().event.details["ticket"]["ticket"], "OPS-1");
    let emergency = rig
        .owner()
        .break_glass(None, &BreakGlassQuery::default(), &about("fire", None))
        .await;
    assert_eq!(
        emergency.unwrap().status,
        "approved",
        "an emergency needs no ticket"
    );
}

#[tokio::test]
async fn a_ticket_system_that_does_not_answer_is_as_the_policy_says() {
    let (url, asked) = a_ticket_system().await;
    for (when, unanswered) in [
        (WhenUnanswered::Refuse, Some(ErrorCode::TicketUnanswered)),
        (WhenUnanswered::Allow, None),
    ] {
        let rig = ready(
            Some(&url),
            Justification {
                ticket_check: Some(when),
                ..Justification::default()
            },
        )
        .await;
        let ada = rig.client("ada");
        for (ticket, expected) in [
            (None, None),
            (Some("OPS-1"), None),
            (Some("OPS-2"), Some(ErrorCode::NotJustified)),
            (Some("OPS-3"), Some(ErrorCode::NotJustified)),
            (Some("OPS-500"), unanswered),
        ] {
            let made = ada.create_access_request(None, &now(), &about("x", ticket)).await;
            assert_eq!(
                made.err().map(|error| error.problem().unwrap().code),
                expected,
                "{ticket:?}"
            );
        }
        let created = rig.audit("access_request.create").await;
        let said = |ticket: &str| {
            let all = created.iter().map(|stored| &stored.event.details["ticket"]);
            let of = all.filter(|one| one["ticket"] == ticket);
            of.map(|one| one["system"]["verdict"].clone()).next_back()
        };
        assert_eq!(said("OPS-1"), Some(json!("confirmed")));
        assert_eq!(
            said("OPS-500"),
            Some(json!("unanswered")),
            "the log says that nobody confirmed it"
        );
        let before = asked.load(Ordering::SeqCst);
        let stranger = rig
            .client("mal")
            .create_access_request(None, &now(), &about("x", Some("OPS-1")))
            .await;
        assert_eq!(code(stranger), ErrorCode::Forbidden);
        assert_eq!(
            asked.load(Ordering::SeqCst),
            before,
            "nobody else makes the server call it"
        );
    }
}

#[tokio::test]
async fn a_ticket_system_that_says_nothing_is_waited_for_as_long_as_is_configured() {
    let (url, asked) = a_ticket_system().await;
    for (when, expected) in [
        (WhenUnanswered::Refuse, Some(ErrorCode::TicketUnanswered)),
        (WhenUnanswered::Allow, None),
    ] {
        let justification = Justification {
            ticket_check: Some(when),
            ..Justification::default()
        };
        let rig = ready_to_wait(Some(&url), justification, 1).await;
        let made = rig
            .client("ada")
            .create_access_request(None, &now(), &about("x", Some("OPS-SILENT")))
            .await;
        assert_eq!(made.err().map(|error| error.problem().unwrap().code), expected);
        let created = rig.audit("access_request.create").await.pop().unwrap().event;
        assert_eq!(created.details["ticket"]["system"]["verdict"], "unanswered");
    }
    assert_eq!(asked.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn a_policy_that_asks_for_a_ticket_meanwhile_asks_it_of_what_waits_and_of_what_is_scheduled() {
    for approval in ["one", "policy"] {
        let rig = Rig::start().await;
        rig.ready_for_requests(approval).await;
        let for_later = AccessRequestCreate {
            starts_at: Some(rig.clock.now() + TimeDelta::hours(1)),
            ..ask(MACHINE)
        };
        let request = rig
            .client("ada")
            .create_access_request(None, &now(), &for_later)
            .await
            .unwrap();
        let owner = rig.owner();
        let written = rig.only_policy().await;
        let stricter = JitPolicyWrite {
            justification: Some(Justification {
                ticket_required: true,
                ..Justification::default()
            }),
            ..policy("ssh", "/aws", approval)
        };
        owner
            .update_jit_policy(&written.id, written.version, &stricter)
            .await
            .unwrap();
        if approval == "one" {
            let approved = owner.approve_access_request(&request.id, None).await;
            assert_eq!(code(approved), ErrorCode::RequesterNotAllowed);
            let denied = rig.audit("access_request.approve").await;
            let decision = denied[0].event.decision.as_ref().unwrap();
            assert_eq!(decision["not_justified"], "policy `ssh` asks for a ticket");
        } else {
            rig.advance(3600);
            rig.running.start_due().await;
            let ended = owner.grant(&request.grants[0].id).await.unwrap();
            let reason = ended.cause.unwrap().reason;
            assert_eq!(reason.as_deref(), Some("policy `ssh` asks for a ticket"));
        }
    }
}

#[tokio::test]
async fn a_check_without_a_ticket_system_confirms_nothing() {
    let rig = ready(
        None,
        Justification {
            ticket_check: Some(WhenUnanswered::Refuse),
            ..Justification::default()
        },
    )
    .await;
    let refused = rig
        .client("ada")
        .create_access_request(None, &now(), &about("x", Some("OPS-1")))
        .await;
    assert_eq!(code(refused), ErrorCode::TicketUnanswered);
}

#[tokio::test]
async fn a_pattern_that_is_none_is_refused_by_name() {
    let rig = Rig::start().await;
    let mut document = policy("ssh", "/aws", "policy");
    document.justification = Some(Justification {
        ticket_pattern: Some("a)(b".into()),
        ..Justification::default()
    });
    let refused = rig.owner().create_jit_policy(None, &document).await.unwrap_err();
    let problem = refused.problem().unwrap();
    assert_eq!(problem.code, ErrorCode::InvalidPolicy);
    assert!(
        json!(problem)
            .to_string()
            .contains("/justification/ticket_pattern")
    );
}
