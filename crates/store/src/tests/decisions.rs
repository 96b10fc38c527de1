//! Requests, policies as documents, idempotency keys.

use std::{collections::BTreeMap, time::Duration};

use postern_core::{
    approval::Stage,
    policy::{Approval, GuardedPorts, JitPolicy, SharedGroups},
    request::{AccessRequest, Approved, Decider, Denied, Lapsed, Pending, RequestState, Withdrawn},
    testing::{a_policy, a_request, an_id, at},
};
use proptest::prelude::*;
use serde_json::json;

use super::{HOSTILE, a_machine, samples};
use crate::{Claim, Conflict, RequestFilter, StoreError, Visible, testing::fresh_store};

/// Any text, with what hurts databases among it, but NUL, which is replaced on the way.
fn texts() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<String>(),
        prop::sample::select(&HOSTILE[..]).prop_map(str::to_owned)
    ]
    .prop_map(|text| text.replace('\0', ""))
}

fn states() -> impl Strategy<Value = RequestState> {
    (0..5u8, texts(), 0i64..1_000_000).prop_map(|(state, reason, seconds)| {
        let at = at(seconds) + Duration::from_micros(seconds.unsigned_abs());
        match state {
            0 => RequestState::Pending(Pending {
                lapses_at: at,
                awaits: Vec::new(),
            }),
            1 => RequestState::Approved(Approved {
                by: Decider::Policy,
                at,
            }),
            2 => RequestState::Denied(Denied {
                by: "user:corp/eve".parse().unwrap(),
                at,
                reason,
            }),
            3 => RequestState::Withdrawn(Withdrawn { at }),
            _ => RequestState::Lapsed(Lapsed { at }),
        }
    })
}

#[tokio::test]
async fn every_request_reads_back_as_it_was_written() {
    let store = fresh_store().await;
    for (number, (state, reason)) in (1u128..).zip(samples(&(states(), texts()), 60)) {
        let request = AccessRequest {
            id: an_id(number),
            state,
            reason,
            ..a_request()
        };
        let mut tx = store.begin().await.unwrap();
        tx.insert_request(&request).await.unwrap();
        tx.commit().await.unwrap();
        assert_eq!(store.request(request.id).await.unwrap(), Some(request));
    }
}

#[tokio::test]
async fn every_policy_reads_back_as_it_was_written() {
    let store = fresh_store().await;
    let strategy = (
        texts(),
        prop::collection::btree_map(texts(), texts(), 0..5),
        any::<(bool, bool)>(),
        1u16..=u16::MAX,
        10u64..86_400,
    );
    for (number, (name, tags, (shared, approval), port, seconds)) in (1u128..).zip(samples(&strategy, 60)) {
        let policy = JitPolicy {
            id: an_id(number),
            name: format!("{number} {name}"),
            tags: BTreeMap::clone(&tags),
            shared_groups: if shared {
                SharedGroups::Revoke
            } else {
                SharedGroups::Refuse
            },
            approval: if approval {
                Approval::Stages(vec![Stage {
                    needs: 2,
                    approvers: vec!["group:corp/leads".parse().unwrap()],
                    role: Some(name.clone()),
                    again: true,
                }])
            } else {
                Approval::Policy
            },
            pending_for: approval.then(|| Duration::from_secs(seconds)),
            guards: vec![GuardedPorts {
                ports: port.to_string().parse().unwrap(),
                allowed_sources: vec!["::/0".parse().unwrap(), "0.0.0.0/0".parse().unwrap()],
                max_duration: Duration::from_secs(seconds),
            }],
            ..a_policy("/")
        };
        let mut tx = store.begin().await.unwrap();
        tx.insert_policy(&policy).await.unwrap();
        tx.commit().await.unwrap();
        assert_eq!(store.policy(policy.id).await.unwrap(), Some(policy));
    }
    assert_eq!(
        store
            .policies(&Visible::everything(), None, 100)
            .await
            .unwrap()
            .items
            .len(),
        60
    );
    assert_eq!(
        store
            .policies(&Visible::default(), None, 100)
            .await
            .unwrap()
            .items
            .len(),
        0
    );
}

#[tokio::test]
async fn a_request_is_decided_once() {
    let store = fresh_store().await;
    let request = a_request();
    let mut tx = store.begin().await.unwrap();
    tx.insert_request(&request).await.unwrap();
    tx.commit().await.unwrap();
    let mut tx = store.begin().await.unwrap();
    let pending = tx
        .request(request.id)
        .await
        .unwrap()
        .unwrap()
        .pending(at(1))
        .unwrap();
    let approved: AccessRequest = pending.approve_by_policy(at(1)).into();
    tx.save_request(&approved).await.unwrap();
    let error = tx.save_request(&approved).await.unwrap_err();
    assert!(
        matches!(error, StoreError::Conflict(Conflict::Decided)),
        "{error}"
    );
    tx.commit().await.unwrap();
    assert_eq!(store.request(request.id).await.unwrap(), Some(approved));
}

#[tokio::test]
async fn requests_are_listed_newest_first_to_those_who_may_see_them() {
    let store = fresh_store().await;
    let mut tx = store.begin().await.unwrap();
    for number in 1..=5 {
        let mut request = AccessRequest {
            id: an_id(number),
            ..a_request()
        };
        request.targets[0].machine = a_machine(u32::try_from(number).unwrap()).id;
        tx.insert_request(&request).await.unwrap();
    }
    assert_eq!(tx.lapsed_requests(at(86_399), 10).await.unwrap().len(), 0);
    assert_eq!(tx.lapsed_requests(at(86_400), 3).await.unwrap().len(), 3);
    tx.commit().await.unwrap();
    let all = RequestFilter {
        visible: Visible::everything(),
        ..RequestFilter::default()
    };
    let first = store.requests(&all, None, 3).await.unwrap();
    let second = store.requests(&all, first.next, 3).await.unwrap();
    let seen: Vec<_> = first
        .items
        .iter()
        .chain(&second.items)
        .map(|request| request.id)
        .collect();
    assert_eq!(seen, [an_id(5), an_id(4), an_id(3), an_id(2), an_id(1)]);

    let count = async |filter: RequestFilter| store.requests(&filter, None, 10).await.unwrap().items.len();
    let seen_at = |scope: &str| RequestFilter {
        visible: Visible {
            scopes: vec![scope.parse().unwrap()],
            own: None,
        },
        ..RequestFilter::default()
    };
    assert_eq!(count(RequestFilter::default()).await, 0);
    assert_eq!(
        count(seen_at("/aws/123456789012/eu-west-1/i-00000000000000004")).await,
        1
    );
    assert_eq!(count(seen_at("/aws/123456789012")).await, 5);
    assert_eq!(count(seen_at("/azure")).await, 0);
    let own = |own: &str| Visible {
        scopes: vec![],
        own: Some(own.parse().unwrap()),
    };
    assert_eq!(
        count(RequestFilter {
            visible: own("user:corp/ada"),
            ..RequestFilter::default()
        })
        .await,
        5
    );
    assert_eq!(
        count(RequestFilter {
            visible: own("user:corp/eve"),
            ..RequestFilter::default()
        })
        .await,
        0
    );
    assert_eq!(
        count(RequestFilter {
            machine: Some(a_machine(2).id),
            ..all.clone()
        })
        .await,
        1
    );
    assert_eq!(
        count(RequestFilter {
            status: Some("denied".into()),
            ..all.clone()
        })
        .await,
        0
    );
    for hostile in HOSTILE {
        assert_eq!(
            count(RequestFilter {
                status: Some(hostile.into()),
                ..all.clone()
            })
            .await,
            0
        );
    }
}

#[tokio::test]
async fn of_two_claims_at_once_one_goes_on_and_the_other_is_told() {
    let store = fresh_store().await;
    let ada = "user:corp/ada".parse().unwrap();
    let (mut first, mut second) = (store.begin().await.unwrap(), store.begin().await.unwrap());
    assert_eq!(
        first.idempotency_claim(&ada, "k", b"1", at(0)).await.unwrap(),
        Claim::Fresh
    );
    assert_eq!(
        second.idempotency_claim(&ada, "k", b"1", at(0)).await.unwrap(),
        Claim::InFlight
    );
    let eve = "user:corp/eve".parse().unwrap();
    assert_eq!(
        second.idempotency_claim(&eve, "k", b"1", at(0)).await.unwrap(),
        Claim::Fresh,
        "keys are each principal's own"
    );
    first
        .idempotency_store(&ada, "k", 201, &json!({ "id": 1 }))
        .await
        .unwrap();
    first.commit().await.unwrap();
    let mut third = store.begin().await.unwrap();
    assert_eq!(
        third.idempotency_claim(&ada, "k", b"1", at(1)).await.unwrap(),
        Claim::Replay {
            status: 201,
            body: json!({ "id": 1 })
        }
    );
    assert_eq!(
        third.idempotency_claim(&ada, "k", b"2", at(1)).await.unwrap(),
        Claim::Mismatch
    );
    assert!(
        third
            .idempotency_store(&ada, "k", 500, &json!(null))
            .await
            .is_err(),
        "answered once"
    );
}

#[tokio::test]
async fn of_many_claims_at_once_exactly_one_is_fresh() {
    let store = fresh_store().await;
    let ada: postern_core::principal::PrincipalRef = "user:corp/ada".parse().unwrap();
    let barrier = std::sync::Arc::new(tokio::sync::Barrier::new(6));
    let tasks: Vec<_> = (0..6)
        .map(|_| {
            let (store, ada, barrier) = (store.clone(), ada.clone(), barrier.clone());
            tokio::spawn(async move {
                let mut tx = store.begin().await.unwrap();
                barrier.wait().await;
                let claim = tx.idempotency_claim(&ada, "k", b"1", at(0)).await.unwrap();
                // Nobody commits before everybody has asked.
                barrier.wait().await;
                tx.commit().await.unwrap();
                claim
            })
        })
        .collect();
    let mut fresh = 0;
    for task in tasks {
        fresh += usize::from(task.await.unwrap() == Claim::Fresh);
    }
    assert_eq!(fresh, 1);
}

#[tokio::test]
async fn a_claim_whose_transaction_failed_never_was_and_old_ones_are_forgotten() {
    let store = fresh_store().await;
    let ada = "user:corp/ada".parse().unwrap();
    let mut tx = store.begin().await.unwrap();
    tx.idempotency_claim(&ada, "k\0", b"1", at(0)).await.unwrap();
    tx.rollback().await.unwrap();
    let mut tx = store.begin().await.unwrap();
    assert_eq!(
        tx.idempotency_claim(&ada, "k\0", b"2", at(0)).await.unwrap(),
        Claim::Fresh
    );
    tx.commit().await.unwrap();
    let mut tx = store.begin().await.unwrap();
    assert_eq!(
        tx.idempotency_claim(&ada, "k\0", b"2", at(0)).await.unwrap(),
        Claim::InFlight,
        "no answer yet"
    );
    assert_eq!(tx.forget_idempotency_keys(at(0)).await.unwrap(), 0);
    assert_eq!(tx.forget_idempotency_keys(at(1)).await.unwrap(), 1);
}

#[tokio::test]
async fn a_pending_request_is_reminded_of_at_half_its_time_and_escalated_at_three_quarters() {
    use postern_core::request::Reminder;
    let store = fresh_store().await;
    let mut request = a_request();
    request.state = RequestState::Pending(Pending {
        lapses_at: at(1000),
        awaits: Vec::new(),
    });
    let mut tx = store.begin().await.unwrap();
    tx.insert_request(&request).await.unwrap();
    tx.commit().await.unwrap();
    for (seconds, expected) in [
        (499, None),
        (500, Some(Reminder::Again)),
        (600, None),
        (750, Some(Reminder::Escalated)),
        (751, None),
        (1000, None),
    ] {
        let mut tx = store.begin().await.unwrap();
        let found = tx.due_reminders(at(seconds), 10).await.unwrap();
        let how: Vec<Reminder> = found.iter().map(|(_, how)| *how).collect();
        assert_eq!(how, expected.into_iter().collect::<Vec<_>>(), "at {seconds} s");
        for (request, how) in found {
            tx.save_reminder(request.id, how).await.unwrap();
        }
        tx.commit().await.unwrap();
    }
}
