//! Leases: asked for in one call, found again, kept by heartbeats, given back.

use postern_api::{
    Client, ErrorCode,
    access_request::AccessRequestCreateQuery,
    grant::GrantQuery,
    lease::{Lease, LeaseCreate, LeaseWaitQuery},
};
use postern_core::{
    grant::{EndCause, Grant},
    time::Clock,
};
use serde_json::json;

use crate::rig::{Answer, INSTANCE_POINT, Rig, ask, code, http};

fn now() -> LeaseWaitQuery {
    LeaseWaitQuery::default()
}

pub(crate) fn a_lease(machine: &str, key: Option<&str>) -> LeaseCreate {
    let request = ask(machine);
    LeaseCreate {
        key: key.map(str::to_owned),
        targets: request.targets,
        duration_seconds: request.duration_seconds,
        reason: request.reason,
        ticket: None,
        heartbeat_every_seconds: Some(20),
    }
}

pub(crate) async fn lease(client: &Client, machine: &str, key: &str) -> Lease {
    client
        .create_lease(None, &now(), &a_lease(machine, Some(key)))
        .await
        .unwrap()
}

async fn count_grants(client: &Client) -> usize {
    client.grants(&GrantQuery::default()).await.unwrap().items.len()
}

/// The stored grant of a lease.
async fn grant_of(rig: &Rig, lease: &Lease) -> Grant {
    let id = lease.request.grants[0].id.parse().unwrap();
    rig.store.grant(id).await.unwrap().unwrap()
}

/// Ends the grant of a lease by another cause, as the loop would.
async fn expire(rig: &Rig, lease: &Lease) {
    let grant = grant_of(rig, lease).await;
    let closing: Grant = grant
        .live()
        .unwrap()
        .end(EndCause::Expired, rig.clock.now())
        .into();
    let mut tx = rig.store.begin().await.unwrap();
    tx.save_grants(&[closing]).await.unwrap();
    tx.commit().await.unwrap();
}

#[tokio::test]
async fn a_lease_is_one_call_and_tells_when_to_be_heard_of_and_where_to_connect() {
    let rig = Rig::start().await;
    let machine = rig.ready_for_requests("policy").await;
    let lease = lease(&rig.client("ada"), &machine, "run-1/build/1").await;
    assert_eq!(
        (lease.status.as_str(), lease.key.as_str(), lease.holder.as_str()),
        ("opening", "run-1/build/1", "user:corp/ada")
    );
    assert_eq!(
        (lease.heartbeat_by - lease.heard_at).num_seconds(),
        60,
        "three times the pause"
    );
    assert_eq!(lease.machines[0].host.as_deref(), Some("10.0.0.4"));
    assert_eq!(lease.request.grants.len(), 1);
    assert!(rig.is_due(INSTANCE_POINT).await);
    let made = rig.audit("lease.create").await;
    assert_eq!(made.len(), 1);
    assert_eq!(made[0].event.details["key"], "run-1/build/1");
    assert_eq!(rig.audit("access_request.create").await.len(), 1);
}

#[tokio::test]
async fn a_run_that_asks_again_with_its_key_finds_its_own_lease() {
    let rig = Rig::start().await;
    let machine = rig.ready_for_requests("policy").await;
    let ada = rig.client("ada");
    let first = lease(&ada, &machine, "run-1").await;
    let again = Answer::of(
        http()
            .post(rig.url("/v1/leases"))
            .bearer_auth(rig.token("ada"))
            .json(&a_lease(&machine, Some("run-1")))
            .send()
            .await
            .unwrap(),
    )
    .await;
    assert_eq!(again.status, 200, "found, not made");
    let again: Lease = serde_json::from_str(&again.body).unwrap();
    assert_eq!(
        (again.id, again.request.id),
        (first.id.clone(), first.request.id.clone())
    );
    assert!(again.heard_at >= first.heard_at);
    assert_eq!(count_grants(&ada).await, 1);
    let other = lease(&ada, &machine, "run-2").await;
    assert_ne!(other.id, first.id, "two jobs of one principal have a lease each");
    assert_eq!(count_grants(&ada).await, 2);
}

#[tokio::test]
async fn a_key_means_one_thing_while_its_lease_lasts() {
    let rig = Rig::start().await;
    let machine = rig.ready_for_requests("policy").await;
    let ada = rig.client("ada");
    let first = lease(&ada, &machine, "run-1").await;
    let mut other = a_lease(&machine, Some("run-1"));
    other.duration_seconds += 1;
    let refused = ada.create_lease(None, &now(), &other).await.unwrap_err();
    let problem = refused.problem().unwrap();
    assert_eq!((problem.status, problem.code), (409, ErrorCode::LeaseKeyInUse));
    assert!(problem.detail.contains(&first.id), "{}", problem.detail);
    assert_eq!(count_grants(&ada).await, 1);
    ada.release_lease(&first.id).await.unwrap();
    let next = ada.create_lease(None, &now(), &other).await.unwrap();
    assert_ne!(next.id, first.id, "after its end the key is free");
}

#[tokio::test]
async fn a_lease_of_which_nothing_is_left_makes_room_for_the_next_under_its_key() {
    let rig = Rig::start().await;
    let machine = rig.ready_for_requests("policy").await;
    let ada = rig.client("ada");
    let first = lease(&ada, &machine, "run-1").await;
    expire(&rig, &first).await;
    let next = lease(&ada, &machine, "run-1").await;
    assert_ne!(next.id, first.id);
    let first = ada.lease(&first.id).await.unwrap();
    assert_eq!(
        (first.status.as_str(), first.ended_by.as_deref()),
        ("closing", Some("over"))
    );
}

#[tokio::test]
async fn an_idempotency_key_serves_as_the_leases_and_holds_beyond_its_end() {
    let rig = Rig::start().await;
    let machine = rig.ready_for_requests("policy").await;
    let ada = rig.client("ada");
    let body = a_lease(&machine, None);
    let first = ada.create_lease(Some("once"), &now(), &body).await.unwrap();
    assert_eq!(first.key, "once");
    ada.release_lease(&first.id).await.unwrap();
    let again = ada.create_lease(Some("once"), &now(), &body).await.unwrap();
    assert_eq!(
        (again.id, again.ended_by.as_deref()),
        (first.id, Some("released"))
    );
    let mut other = body.clone();
    other.reason = "something else".to_owned();
    let refused = ada.create_lease(Some("once"), &now(), &other).await;
    assert_eq!(code(refused), ErrorCode::IdempotencyKeyReused);
    // Under a lease's own key, an idempotency key answers alike too.
    let made = lease(&ada, &machine, "run-1").await;
    let keyed = a_lease(&machine, Some("run-1"));
    for _ in 0..2 {
        let found = ada.create_lease(Some("twice"), &now(), &keyed).await.unwrap();
        assert_eq!(found.id, made.id);
    }
    assert_eq!(count_grants(&ada).await, 2);
}

#[tokio::test]
async fn a_race_with_one_key_makes_one_lease() {
    let rig = Rig::start().await;
    let machine = rig.ready_for_requests("policy").await;
    let ada = rig.client("ada");
    let query = now();
    let body = a_lease(&machine, Some("race"));
    let answers = futures::future::join_all((0..6).map(|_| ada.create_lease(None, &query, &body))).await;
    let mut ids: Vec<String> = answers.into_iter().map(|answer| answer.unwrap().id).collect();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 1);
    assert_eq!(count_grants(&ada).await, 1);
}

#[tokio::test]
async fn a_heartbeat_puts_the_deadline_off_and_none_is_taken_after_the_end() {
    let rig = Rig::start().await;
    let machine = rig.ready_for_requests("policy").await;
    let ada = rig.client("ada");
    let made = lease(&ada, &machine, "run-1").await;
    let heard = ada.heartbeat_lease(&made.id, &now()).await.unwrap();
    assert!(heard.heard_at > made.heard_at && heard.heartbeat_by > made.heartbeat_by);
    ada.release_lease(&made.id).await.unwrap();
    let refused = ada.heartbeat_lease(&made.id, &now()).await.unwrap_err();
    let problem = refused.problem().unwrap();
    assert_eq!((problem.status, problem.code), (409, ErrorCode::LeaseEnded));
    assert!(problem.detail.contains("released"), "{}", problem.detail);

    let made = lease(&ada, &machine, "run-2").await;
    expire(&rig, &made).await;
    let refused = ada.heartbeat_lease(&made.id, &now()).await.unwrap_err();
    let problem = refused.problem().unwrap();
    assert_eq!(problem.code, ErrorCode::LeaseEnded);
    assert!(problem.detail.contains("expired"), "{}", problem.detail);
}

#[tokio::test]
async fn nobody_else_heartbeats_or_releases_a_lease_and_the_attempt_is_on_record() {
    let rig = Rig::start().await;
    let machine = rig.ready_for_requests("policy").await;
    let made = lease(&rig.client("ada"), &machine, "run-1").await;
    rig.assign("bob", "requester", "/").await;
    // Not even who owns everything: an operator revokes the grant, under their own name.
    for (who, client) in [("bob", rig.client("bob")), ("root", rig.owner())] {
        assert_eq!(
            code(client.heartbeat_lease(&made.id, &now()).await),
            ErrorCode::NotTheHolder,
            "{who}"
        );
        assert_eq!(
            code(client.release_lease(&made.id).await),
            ErrorCode::NotTheHolder,
            "{who}"
        );
    }
    let seen = rig.client("ada").lease(&made.id).await.unwrap();
    assert_eq!(
        (seen.heard_at, seen.ended_at, seen.status.as_str()),
        (made.heard_at, None, "opening")
    );
    let refused = rig.audit("lease.heartbeat").await;
    let denied = rig.audit("lease.release").await;
    assert_eq!((refused.len(), denied.len()), (2, 2));
    assert!(
        refused
            .iter()
            .chain(&denied)
            .all(|stored| stored.event.outcome.as_str() == "denied")
    );
    // The same key of another principal's is another lease.
    let bobs = lease(&rig.client("bob"), &machine, "run-1").await;
    assert_ne!(bobs.id, made.id);
    assert_eq!(code(rig.client("eve").lease(&made.id).await), ErrorCode::NotFound);
}

#[tokio::test]
async fn a_release_ends_its_own_grants_once_and_no_others() {
    let rig = Rig::start().await;
    let machine = rig.ready_for_requests("policy").await;
    let ada = rig.client("ada");
    let mine = lease(&ada, &machine, "run-1").await;
    let other = lease(&ada, &machine, "run-2").await;
    rig.pass().await;
    let released = ada.release_lease(&mine.id).await.unwrap();
    assert_eq!(
        (released.status.as_str(), released.ended_by.as_deref()),
        ("closing", Some("released"))
    );
    assert_eq!(
        released.request.grants[0].cause.as_ref().unwrap().kind,
        "released"
    );
    assert!(rig.is_due(INSTANCE_POINT).await);
    let again = ada.release_lease(&mine.id).await.unwrap();
    assert_eq!(again.ended_at, released.ended_at);
    assert_eq!(rig.audit("lease.release").await.len(), 1);
    assert_eq!(rig.audit("grant.release").await.len(), 1);
    assert_eq!(ada.lease(&other.id).await.unwrap().status, "opening");
    assert!(grant_of(&rig, &other).await.state.is_wanted());
}

#[tokio::test]
async fn a_lease_that_waits_for_approval_takes_its_request_back_when_released() {
    let rig = Rig::start().await;
    let machine = rig.ready_for_requests("one").await;
    let ada = rig.client("ada");
    let made = lease(&ada, &machine, "run-1").await;
    assert_eq!(made.status, "pending");
    let released = ada.release_lease(&made.id).await.unwrap();
    assert_eq!(
        (released.status.as_str(), released.request.status.as_str()),
        ("refused", "withdrawn")
    );
    rig.assign("bob", "approver", "/aws").await;
    let late = rig
        .client("bob")
        .approve_access_request(&made.request.id, None)
        .await;
    assert_eq!(code(late), ErrorCode::AlreadyDecided);
}

#[tokio::test]
async fn who_may_not_ask_leases_nothing() {
    let rig = Rig::start().await;
    let machine = rig.ready_for_requests("policy").await;
    let eve = rig.client("eve");
    let refused = eve
        .create_lease(None, &now(), &a_lease(&machine, Some("run-1")))
        .await;
    assert_eq!(code(refused), ErrorCode::Forbidden);
    assert!(rig.audit("lease").await.is_empty());
    assert_eq!(
        rig.store.next_late_lease().await.unwrap(),
        None,
        "nothing to miss"
    );
}

#[tokio::test]
async fn a_wait_counts_as_being_heard_of_until_it_is_answered() {
    let rig = Rig::start().await;
    let machine = rig.ready_for_requests("policy").await;
    let ada = rig.client("ada");
    let query = LeaseWaitQuery { wait: Some(30) };
    let body = a_lease(&machine, Some("run-1"));
    let (waited, ()) = tokio::join!(ada.create_lease(None, &query, &body), async {
        let made = loop {
            let page = ada.grants(&GrantQuery::default()).await.unwrap();
            if let [grant] = page.items.as_slice() {
                break grant.clone();
            }
        };
        let left = rig.store.next_late_lease().await.unwrap().unwrap();
        assert!(left > std::time::Duration::from_mins(1), "{left:?}");
        ada.revoke_grant(&made.id, None, &postern_api::grant::GrantRevoke::default())
            .await
            .unwrap();
    });
    let waited = waited.unwrap();
    assert_eq!(waited.status, "closing");
    assert_eq!((waited.heartbeat_by - waited.heard_at).num_seconds(), 60);
}

#[tokio::test]
async fn what_is_no_lease_is_refused_with_its_place() {
    let rig = Rig::start().await;
    let machine = rig.ready_for_requests("policy").await;
    let good = serde_json::to_value(a_lease(&machine, Some("k"))).unwrap();
    for (field, value, pointer) in [
        ("key", json!("a b"), "/key"),
        ("key", json!(""), "/key"),
        ("heartbeat_every_seconds", json!(0), "/heartbeat_every_seconds"),
        ("heartbeat_every_seconds", json!(601), "/heartbeat_every_seconds"),
        ("heartbeat_every_seconds", json!(-5), "/heartbeat_every_seconds"),
    ] {
        let mut body = good.clone();
        body[field] = value;
        let answer = rig
            .post_raw("/v1/leases", "ada", Some("application/json"), &body.to_string())
            .await;
        let problem = answer.problem();
        assert_eq!(problem.code, ErrorCode::InvalidLease, "{body}");
        assert_eq!(problem.errors[0].pointer, pointer);
    }
    let ada = rig.client("ada");
    assert_eq!(code(ada.lease("grt_1").await), ErrorCode::InvalidId);
    let absent = "lse_01990000000070008000000000000001";
    assert_eq!(code(ada.lease(absent).await), ErrorCode::NotFound);
    assert_eq!(
        code(ada.heartbeat_lease(absent, &now()).await),
        ErrorCode::NotFound
    );
    assert_eq!(code(ada.release_lease(absent).await), ErrorCode::NotFound);
}

#[tokio::test]
async fn a_request_without_a_lease_is_found_by_no_lease_key() {
    let rig = Rig::start().await;
    let machine = rig.ready_for_requests("policy").await;
    let ada = rig.client("ada");
    let plain = ada
        .create_access_request(
            Some("run-1"),
            &AccessRequestCreateQuery::default(),
            &ask(&machine),
        )
        .await
        .unwrap();
    let leased = lease(&ada, &machine, "run-1").await;
    assert_ne!(leased.request.id, plain.id);
}
