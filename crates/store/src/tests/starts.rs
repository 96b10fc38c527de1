//! Grants that begin later, that are extended, and that are had together or not at all.

use std::time::Duration;

use postern_core::{
    grant::{EndCause, Grant, GrantState, Live, Scheduled},
    testing::at,
};

use super::{a_machine, a_row, save, some_grants};
use crate::{Conflict, Store, StoreError, testing::fresh_store};

async fn with(change: impl Fn(usize, &mut Grant)) -> (Store, Vec<Grant>) {
    let store = fresh_store().await;
    save(&store, &[a_row(a_machine(1), None)], 0).await;
    let (request, mut grants) = some_grants(1, 2);
    for (number, grant) in grants.iter_mut().enumerate() {
        change(number, grant);
    }
    let mut tx = store.begin().await.unwrap();
    tx.insert_request(&request).await.unwrap();
    tx.insert_grants(&grants).await.unwrap();
    tx.commit().await.unwrap();
    (store, grants)
}

async fn change(store: &Store, grants: &[Grant]) {
    let mut tx = store.begin().await.unwrap();
    tx.save_grants(grants).await.unwrap();
    tx.commit().await.unwrap();
}

fn later(grant: &mut Grant) {
    grant.state = GrantState::Scheduled(Scheduled {
        starts_at: at(100),
        deadline: at(400),
    });
}

#[tokio::test]
async fn a_scheduled_grant_is_due_at_its_time_and_no_look_at_its_point_wants_rules_for_it() {
    let (store, grants) = with(|_, grant| later(grant)).await;
    assert_eq!(store.next_start().await.unwrap(), Some(at(100)));
    assert_eq!(store.due_starts(at(99), 10).await.unwrap(), []);
    assert_eq!(store.due_starts(at(100), 10).await.unwrap(), [grants[0].request]);
    let mut tx = store.begin().await.unwrap();
    let points = tx.points_of(&[grants[0].id]).await.unwrap();
    let look = tx.look(&super::installation(), points[0]).await.unwrap();
    assert!(look.desired.members.iter().all(|member| member.grants.is_empty()));
    assert_eq!(
        tx.due_points_backstop(at(50)).await.unwrap(),
        0,
        "nothing of it stands"
    );
    tx.rollback().await.unwrap();

    let started: Vec<Grant> = grants
        .iter()
        .map(|grant| match grant.clone().live().unwrap() {
            Live::Scheduled(scheduled) => scheduled.start().into(),
            other => panic!("{other:?}"),
        })
        .collect();
    change(&store, &started).await;
    assert_eq!(store.grants_of_request(grants[0].request).await.unwrap(), started);
    assert_eq!(store.next_start().await.unwrap(), None);
}

#[tokio::test]
async fn a_scheduled_grant_that_nobody_starts_is_found_after_its_deadline() {
    let (store, _) = with(|_, grant| later(grant)).await;
    let mut tx = store.begin().await.unwrap();
    assert_eq!(tx.forgotten_grants(at(400), 10).await.unwrap().len(), 0);
    assert_eq!(tx.forgotten_grants(at(401), 10).await.unwrap().len(), 2);
}

#[tokio::test]
async fn an_extension_moves_the_end_of_an_open_grant_later_and_never_back() {
    let (store, grants) = with(|_, _| ()).await;
    let Live::Opening(opening) = grants[0].clone().live().unwrap() else {
        panic!("it is opening")
    };
    let open: Grant = opening.confirm_open(at(10)).into();
    let longer = open.clone().extend(Duration::from_secs(2000), at(20)).unwrap();
    let extend = async |grant: &Grant<postern_core::grant::Open>| {
        let mut tx = store.begin().await.unwrap();
        let extended = tx.extend_grant(grant).await;
        tx.commit().await.unwrap();
        extended
    };
    let refused = |result: Result<(), StoreError>| {
        assert!(
            matches!(result, Err(StoreError::Conflict(Conflict::GrantState))),
            "{result:?}"
        );
    };
    refused(extend(&longer).await);
    change(&store, std::slice::from_ref(&open)).await;
    extend(&longer).await.unwrap();
    assert_eq!(
        store.grant(open.id).await.unwrap(),
        Some(Grant::from(longer.clone()))
    );
    refused(extend(&longer).await);
    let shorter = open.extend(Duration::from_secs(1000), at(20)).unwrap();
    refused(extend(&shorter).await);
}

#[tokio::test]
async fn a_request_that_wants_all_is_broken_when_one_ended_that_never_opened() {
    let failed = EndCause::OpenFailed {
        reason: "no room".into(),
    };
    for together in [false, true] {
        let (store, grants) = with(|_, grant| grant.together = together).await;
        let request = grants[0].request;
        assert_eq!(store.broken_requests(None, 10).await.unwrap(), []);
        let ended: Grant = grants[0]
            .clone()
            .live()
            .unwrap()
            .end(failed.clone(), at(5))
            .into();
        change(&store, &[ended]).await;
        let broken = store.broken_requests(Some(request), 10).await.unwrap();
        assert_eq!(broken.len(), usize::from(together));
        let other: Grant = grants[1]
            .clone()
            .live()
            .unwrap()
            .end(failed.clone(), at(6))
            .into();
        change(&store, &[other]).await;
        assert_eq!(
            store.broken_requests(None, 10).await.unwrap(),
            [],
            "nothing is left of it"
        );
    }
    let (store, grants) = with(|_, grant| grant.together = true).await;
    let Live::Opening(opening) = grants[0].clone().live().unwrap() else {
        panic!("it is opening")
    };
    let open: Grant = opening.confirm_open(at(10)).into();
    change(&store, std::slice::from_ref(&open)).await;
    let expired: Grant = open.live().unwrap().end(EndCause::Expired, at(700)).into();
    change(&store, &[expired]).await;
    assert_eq!(store.broken_requests(None, 10).await.unwrap(), [], "it was open");
}
