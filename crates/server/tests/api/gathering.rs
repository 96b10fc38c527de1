//! Requests that arrive at once: they share transactions, and nothing else.

use std::collections::{BTreeMap, BTreeSet};

use postern_api::{ErrorCode, access_request::AccessRequestCreateQuery, client::Client};
use postern_core::{audit::Outcome, time::Clock};
use tokio::task::JoinSet;

use crate::rig::{Rig, ask, code};

fn at_once() -> AccessRequestCreateQuery {
    AccessRequestCreateQuery::default()
}

type Made = Result<postern_api::access_request::AccessRequest, postern_api::client::ClientError>;

fn spawn(crowd: &mut JoinSet<(String, Made)>, who: &str, client: &Client, machine: &str) {
    spawn_keyed(crowd, who, client, machine, None);
}

fn spawn_keyed(
    crowd: &mut JoinSet<(String, Made)>,
    who: &str,
    client: &Client,
    machine: &str,
    key: Option<&str>,
) {
    let (who, client, body, key) = (
        who.to_owned(),
        client.clone(),
        ask(machine),
        key.map(str::to_owned),
    );
    crowd.spawn(async move {
        (
            who,
            client
                .create_access_request(key.as_deref(), &at_once(), &body)
                .await,
        )
    });
}

/// Waits until so many requests are being made: of those beyond the third, all wait for one transaction.
async fn under_way(rig: &Rig, count: usize) {
    let line = format!("postern_http_access_requests_under_way {count}");
    while !rig.get("/metrics", "").await.body.lines().any(|one| one == line) {
        tokio::task::yield_now().await;
    }
}

/// Has Bob make as many requests as make a crowd, each by itself. None of them ends while decisions are held.
async fn crowd_of_bobs(rig: &Rig, machine: &str) -> JoinSet<(String, Made)> {
    let mut crowd = JoinSet::new();
    for _ in 0..3 {
        spawn(&mut crowd, "bob", &rig.client("bob"), machine);
    }
    under_way(rig, 3).await;
    crowd
}

#[tokio::test]
async fn requests_that_arrive_together_share_transactions_and_each_stands_in_the_audit_log() {
    let rig = Rig::start().await;
    let machine = rig.ready_for_requests("one").await;
    rig.assign("bob", "requester", "/aws").await;
    let ada = rig.client("ada");
    let held = postern_store::testing::hold_decisions(&rig.store).await;
    let mut crowd = crowd_of_bobs(&rig, &machine).await;
    for _ in 0..37 {
        spawn(&mut crowd, "ada", &ada, &machine);
    }
    under_way(&rig, 40).await;
    held.rollback().await.unwrap();
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
    // Bob's three; those of Ada's that were there when the first of them began; and the others.
    let transactions = postern_store::testing::transactions_of_requests(&rig.store).await;
    assert!(transactions <= 5, "{transactions} transactions");
}

#[tokio::test]
async fn requests_with_keys_share_transactions_and_each_key_makes_one() {
    let rig = Rig::start().await;
    let machine = rig.ready_for_requests("one").await;
    rig.assign("bob", "requester", "/aws").await;
    let (ada, mallory) = (rig.client("ada"), rig.client("mallory"));
    let mut other = ask(&machine);
    other.duration_seconds = 700;
    let mut used = Vec::new();
    for key in ["used", "spent"] {
        let made = ada
            .create_access_request(Some(key), &at_once(), &ask(&machine))
            .await;
        used.push(made.unwrap().id);
    }
    // Another server is making what this key was sent with.
    let mut elsewhere = rig.store.begin().await.unwrap();
    let adas = "user:corp/ada".parse().unwrap();
    let claimed = elsewhere
        .idempotency_claim(&adas, "elsewhere", &[0; 32], rig.clock.now())
        .await
        .unwrap();
    assert_eq!(claimed, postern_store::Claim::Fresh);
    let held = postern_store::testing::hold_decisions(&rig.store).await;
    let mut crowd = crowd_of_bobs(&rig, &machine).await;
    // The first of a crowd may be made without the others.
    spawn(&mut crowd, "leader", &ada, &machine);
    under_way(&rig, 4).await;
    for number in 0..10 {
        spawn_keyed(&mut crowd, "fresh", &ada, &machine, Some(&format!("k-{number}")));
    }
    for who in ["twice", "twice"] {
        spawn_keyed(&mut crowd, who, &ada, &machine, Some("twice"));
    }
    for who in ["used", "elsewhere"] {
        spawn_keyed(&mut crowd, who, &ada, &machine, Some(who));
    }
    spawn_keyed(&mut crowd, "mallory", &mallory, &machine, Some("twice"));
    {
        let (ada, other) = (ada.clone(), other.clone());
        crowd.spawn(async move {
            let made = ada.create_access_request(Some("spent"), &at_once(), &other).await;
            ("mismatch".to_owned(), made)
        });
    }
    under_way(&rig, 20).await;
    held.rollback().await.unwrap();
    let mut ids = BTreeMap::<String, BTreeSet<String>>::new();
    for (who, request) in crowd.join_all().await {
        match who.as_str() {
            "mallory" => assert_eq!(code(request), ErrorCode::Forbidden),
            "mismatch" => assert_eq!(code(request), ErrorCode::IdempotencyKeyReused),
            "elsewhere" => assert_eq!(code(request), ErrorCode::IdempotencyInFlight),
            _ => {
                ids.entry(who).or_default().insert(request.unwrap().id);
            }
        }
    }
    let made: Vec<(&str, usize)> = ids.iter().map(|(who, ids)| (who.as_str(), ids.len())).collect();
    let expected = [
        ("bob", 3),
        ("fresh", 10),
        ("leader", 1),
        ("twice", 1),
        ("used", 1),
    ];
    assert_eq!(made, expected);
    assert_eq!(ids["used"], [used[0].clone()].into());
    // The two before all this; Bob's three; the leader's; and one for everything else that was made.
    let transactions = postern_store::testing::transactions_of_requests(&rig.store).await;
    assert!(transactions <= 7, "{transactions} transactions");

    // The keys of those that were made are used, with what they were sent with, and those of the others are not.
    for (key, id) in [
        ("twice", ids["twice"].first()),
        ("used", used.first()),
        ("spent", used.last()),
    ] {
        let again = ada
            .create_access_request(Some(key), &at_once(), &ask(&machine))
            .await;
        assert_eq!(Some(&again.unwrap().id), id, "{key}");
        let reused = ada.create_access_request(Some(key), &at_once(), &other).await;
        assert_eq!(code(reused), ErrorCode::IdempotencyKeyReused, "{key}");
    }
    elsewhere.rollback().await.unwrap();
    rig.assign("mallory", "requester", "/aws").await;
    for (client, key) in [(&ada, "elsewhere"), (&mallory, "twice")] {
        client
            .create_access_request(Some(key), &at_once(), &ask(&machine))
            .await
            .unwrap();
    }
    assert_eq!(
        rig.audit("access_request.create")
            .await
            .iter()
            .filter(|stored| stored.event.outcome == Outcome::Succeeded)
            .count(),
        19
    );
}

#[tokio::test]
async fn keys_that_are_sent_again_in_crowds_turn_sharing_off_for_nobody() {
    repeated_keys_turn_sharing_off_for_nobody(false).await;
}

#[tokio::test]
async fn keys_that_are_sent_again_take_no_lock_that_they_could_wait_for_in_vain() {
    repeated_keys_turn_sharing_off_for_nobody(true).await;
}

/// With `counted`, somebody else is counting Ada's requests while her keys arrive again: whoever counts too, waits.
async fn repeated_keys_turn_sharing_off_for_nobody(counted: bool) {
    let rig = Rig::start().await;
    let machine = rig.ready_for_requests("one").await;
    rig.assign("bob", "requester", "/aws").await;
    let ada = rig.client("ada");
    let keys: Vec<String> = (0..12).map(|number| format!("k-{number}")).collect();
    let mut first = BTreeSet::new();
    for key in &keys {
        let made = ada
            .create_access_request(Some(key), &at_once(), &ask(&machine))
            .await;
        first.insert(made.unwrap().id);
    }
    let mut counting = rig.store.begin().await.unwrap();
    if counted {
        let adas = "user:corp/ada".parse().unwrap();
        counting.count_pending(&[adas], rig.clock.now()).await.unwrap();
    }
    let held = postern_store::testing::hold_decisions(&rig.store).await;
    let mut crowd = crowd_of_bobs(&rig, &machine).await;
    for key in &keys {
        spawn_keyed(&mut crowd, "ada", &ada, &machine, Some(key));
    }
    under_way(&rig, 15).await;
    held.rollback().await.unwrap();
    let again: BTreeSet<String> = crowd
        .join_all()
        .await
        .into_iter()
        .filter_map(|(who, request)| (who == "ada").then(|| request.unwrap().id))
        .collect();
    assert_eq!(again, first);
    counting.rollback().await.unwrap();

    let before = postern_store::testing::transactions_of_requests(&rig.store).await;
    let held = postern_store::testing::hold_decisions(&rig.store).await;
    let mut crowd = crowd_of_bobs(&rig, &machine).await;
    for _ in 0..20 {
        spawn(&mut crowd, "ada", &ada, &machine);
    }
    under_way(&rig, 23).await;
    held.rollback().await.unwrap();
    for (_, request) in crowd.join_all().await {
        request.unwrap();
    }
    // Bob's three; those of Ada's that were there when the first of them began; and the others.
    let transactions = postern_store::testing::transactions_of_requests(&rig.store).await - before;
    assert!(transactions <= 5, "{transactions} transactions");
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
