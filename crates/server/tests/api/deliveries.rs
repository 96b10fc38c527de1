//! Deliveries: who sees whom Postern could not tell, and lets it try again.

use std::time::Duration;

use postern_api::{ErrorCode, delivery::DeliveryQuery};
use postern_core::{audit::Outcome, time::Clock};
use postern_store::Attempted;

use crate::rig::{Rig, code};

const MINUTE: Duration = Duration::from_mins(1);

/// Somebody wants to hear of role assignments, one is made, and they do not take the message.
pub(crate) async fn with_a_dead_delivery(rig: &Rig) -> i64 {
    rig.subscribe("siem", &["role_assignment"], Outcome::Succeeded)
        .await;
    rig.assign("eve", "auditor", "/aws").await;
    give_up(rig).await
}

/// The subscriber does not take the message that it is told next.
pub(crate) async fn give_up(rig: &Rig) -> i64 {
    let lease = rig
        .store
        .lease_subscriber("rig", MINUTE, 10, rig.clock.now())
        .await
        .unwrap()
        .unwrap();
    let dead = Attempted::Dead {
        error: "answered 410 Gone".into(),
    };
    let id = lease.waiting[0].id;
    assert!(
        rig.store
            .attempted(&lease, id, &dead, MINUTE, rig.clock.now())
            .await
            .unwrap()
    );
    rig.store.release_subscriber(&lease).await.unwrap();
    id
}

#[tokio::test]
async fn what_was_given_up_is_listed_and_replayed_and_that_stands_in_the_log() {
    let rig = Rig::start().await;
    let id = with_a_dead_delivery(&rig).await;
    let owner = rig.owner();
    let dead = DeliveryQuery {
        status: Some("dead".into()),
        ..DeliveryQuery::default()
    };
    let found = owner.deliveries(&dead).await.unwrap().items;
    assert_eq!(found.len(), 1);
    assert_eq!(
        (found[0].id, found[0].action.as_str()),
        (id, "role_assignment.create")
    );
    assert_eq!(found[0].last_error.as_deref(), Some("answered 410 Gone"));
    let replayed = owner.replay_delivery(id, Some("once")).await.unwrap();
    assert_eq!(replayed.status, "waiting");
    assert_eq!(
        owner.replay_delivery(id, Some("once")).await.unwrap(),
        replayed,
        "the same request"
    );
    assert_eq!(
        code(owner.replay_delivery(id, None).await),
        ErrorCode::NotFound,
        "it waits already"
    );
    let events = rig.audit("delivery.replay").await;
    assert_eq!(events.len(), 1);
    assert_eq!(events[0].event.details["delivery"], id);
    assert!(
        rig.store
            .lease_subscriber("rig", MINUTE, 10, rig.clock.now())
            .await
            .unwrap()
            .is_some()
    );
}

#[tokio::test]
async fn deliveries_are_for_those_who_audit_everything_and_replayed_by_those_who_configure_it() {
    let rig = Rig::start().await;
    let id = with_a_dead_delivery(&rig).await;
    let eve = rig.client("eve");
    let query = DeliveryQuery::default();
    assert_eq!(
        code(eve.deliveries(&query).await),
        ErrorCode::Forbidden,
        "she audits /aws alone"
    );
    rig.assign("eve", "auditor", "/").await;
    assert_eq!(eve.deliveries(&query).await.unwrap().items.len(), 2);
    assert_eq!(code(eve.replay_delivery(id, None).await), ErrorCode::Forbidden);
    let odd = DeliveryQuery {
        status: Some("lost".into()),
        ..DeliveryQuery::default()
    };
    assert_eq!(code(eve.deliveries(&odd).await), ErrorCode::InvalidQuery);
    let answer = rig.post_raw("/v1/deliveries/x/replay", "root", None, "").await;
    assert_eq!(answer.problem().code, ErrorCode::InvalidId);
}
