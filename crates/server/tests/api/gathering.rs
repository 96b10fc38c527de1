//! Requests that arrive at once: they share transactions, and nothing else.

use std::collections::BTreeSet;

use postern_api::{ErrorCode, access_request::AccessRequestCreateQuery, client::Client};
use postern_core::{audit::Outcome, time::Clock};
use tokio::task::JoinSet;

use crate::rig::{Rig, ask, code};

fn at_once() -> AccessRequestCreateQuery {
    AccessRequestCreateQuery::default()
}

type Made = Result<postern_api::access_request::AccessRequest, postern_api::client::ClientError>;

fn spawn(crowd: &mut JoinSet<(String, Made)>, who: &str, client: &Client, machine: &str) {
    let (who, client, body) = (who.to_owned(), client.clone(), ask(machine));
    crowd.spawn(async move { (who, client.create_access_request(None, &at_once(), &body).await) });
}

#[tokio::test]
async fn requests_that_arrive_together_share_transactions_and_each_stands_in_the_audit_log() {
    let rig = Rig::start().await;
    let machine = rig.ready_for_requests("one").await;
    let ada = rig.client("ada");
    let mut crowd = JoinSet::new();
    for _ in 0..40 {
        spawn(&mut crowd, "ada", &ada, &machine);
    }
    let mut made = BTreeSet::new();
    for (_, request) in crowd.join_all().await {
        let request = request.unwrap();
        assert_eq!(request.status, "pending");
        assert_eq!(ada.access_request(&request.id).await.unwrap(), request);
        made.insert(request.id);
    }
    assert_eq!(made.len(), 40);
    let events = rig.audit("access_request.create").await;
    let told: BTreeSet<String> = events
        .iter()
        .filter(|stored| stored.event.outcome == Outcome::Succeeded && stored.event.decision.is_some())
        .filter_map(|stored| Some(stored.event.subject.request?.to_string()))
        .collect();
    assert_eq!((events.len(), told), (40, made));
    let transactions = postern_store::testing::transactions_of_requests(&rig.store).await;
    assert!(transactions < 40, "{transactions} transactions");
}

#[tokio::test]
async fn each_of_a_crowd_is_answered_for_itself() {
    let rig = Rig::start().await;
    let machine = rig.ready_for_requests("one").await;
    let (ada, mallory) = (rig.client("ada"), rig.client("mallory"));
    let nowhere = "arn:aws:ec2:eu-west-1:123456789012:instance/i-0aaaaaaaaaaaaaaaa";
    let mut crowd = JoinSet::new();
    for _ in 0..12 {
        spawn(&mut crowd, "ada", &ada, &machine);
        spawn(&mut crowd, "mallory", &mallory, &machine);
        spawn(&mut crowd, "nowhere", &ada, nowhere);
    }
    for (who, request) in crowd.join_all().await {
        match who.as_str() {
            "ada" => assert_eq!(request.unwrap().requester, "user:corp/ada"),
            "mallory" => assert_eq!(code(request), ErrorCode::Forbidden),
            _ => assert_eq!(code(request), ErrorCode::MachineNotFound),
        }
    }
    let events = rig.audit("access_request.create").await;
    let denied = events
        .iter()
        .filter(|stored| stored.event.outcome == Outcome::Denied);
    assert_eq!((events.len(), denied.count()), (24, 12));
}

#[tokio::test]
async fn nobody_waits_for_a_lock_that_another_of_the_crowd_needs() {
    let rig = Rig::start().await;
    let machine = rig.ready_for_requests("one").await;
    rig.assign_to("user:corp/bob", "requester", "/aws").await;
    let (ada, bob) = (rig.client("ada"), rig.client("bob"));
    let mut counting = rig.store.begin().await.unwrap();
    let adas = "user:corp/ada".parse().unwrap();
    counting.count_pending(&[adas], rig.clock.now()).await.unwrap();
    let mut crowd = JoinSet::new();
    for number in 0..8 {
        // Few enough that those who wait leave connections to the others.
        if number < 2 {
            spawn(&mut crowd, "ada", &ada, &machine);
        }
        spawn(&mut crowd, "bob", &bob, &machine);
    }
    for _ in 0..8 {
        let (who, request) = crowd.join_next().await.unwrap().unwrap();
        assert_eq!(
            (who.as_str(), request.unwrap().status.as_str()),
            ("bob", "pending")
        );
    }
    counting.commit().await.unwrap();
    for (who, request) in crowd.join_all().await {
        assert_eq!(
            (who.as_str(), request.unwrap().status.as_str()),
            ("ada", "pending")
        );
    }
}
