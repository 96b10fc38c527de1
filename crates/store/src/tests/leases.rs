//! Access leases: one per holder and key, and late by the database's own clock.

use std::time::Duration;

use postern_core::{
    id::{LeaseId, RequestId},
    lease::{AccessLease, LeaseEnd},
    request::AccessRequest,
    testing::{a_request, an_id, at},
};

use crate::{Conflict, NewAccessLease, Store, StoreError, testing::fresh_store};

const EVERY: Duration = Duration::from_secs(20);

/// A lease under a key, of a request of its own.
async fn leased(store: &Store, number: u128, key: &str, wait: Duration) -> Result<AccessLease, StoreError> {
    let request = AccessRequest {
        id: an_id(number),
        ..a_request()
    };
    let lease = NewAccessLease {
        id: an_id(number),
        request: request.id,
        holder: request.requester.clone(),
        key: key.parse().unwrap(),
        fingerprint: [7; 32],
        heartbeat_every: EVERY,
        created_at: at(0),
    };
    let mut tx = store.begin().await?;
    tx.insert_request(&request).await?;
    tx.insert_lease(&lease, wait).await?;
    tx.commit().await?;
    Ok(store.access_lease(lease.id).await?.unwrap())
}

async fn late(store: &Store) -> Option<LeaseId> {
    let mut tx = store.begin().await.unwrap();
    let late = tx.late_lease().await.unwrap().map(|lease| lease.id);
    tx.rollback().await.unwrap();
    late
}

/// Its holder was last heard of longer ago.
async fn silent(store: &Store, id: LeaseId, seconds: f64) {
    sqlx::query("UPDATE access_leases SET deadline = deadline - make_interval(secs => $2) WHERE id = $1")
        .bind(id.uuid())
        .bind(seconds)
        .execute(&store.pool)
        .await
        .unwrap();
}

#[tokio::test]
async fn a_lease_reads_back_as_it_was_made() {
    let store = fresh_store().await;
    let made = leased(&store, 1, "run/1", Duration::ZERO).await.unwrap();
    assert_eq!(made.request, an_id(1));
    assert_eq!(
        (made.fingerprint, made.heartbeat_every, made.ended),
        ([7; 32], EVERY, None)
    );
    assert_eq!((made.deadline - made.heard_at).num_seconds(), 60);
    let found: RequestId = an_id(1);
    assert_eq!(store.lease_of_request(found).await.unwrap(), Some(made.clone()));
    let mut tx = store.begin().await.unwrap();
    let under = tx.lease_under(&made.holder, &made.key).await.unwrap();
    assert_eq!(under, Some(made));
}

#[tokio::test]
async fn a_holder_has_one_live_lease_per_key() {
    let store = fresh_store().await;
    let one = leased(&store, 1, "run/1", Duration::ZERO).await.unwrap();
    let twice = leased(&store, 2, "run/1", Duration::ZERO).await;
    assert!(matches!(twice, Err(StoreError::Database(_))), "{twice:?}");
    leased(&store, 3, "run/2", Duration::ZERO).await.unwrap();
    let mut tx = store.begin().await.unwrap();
    tx.end_lease(one.id, LeaseEnd::Released, at(9)).await.unwrap();
    tx.commit().await.unwrap();
    leased(&store, 4, "run/1", Duration::ZERO).await.unwrap();
    let ended = store.access_lease(one.id).await.unwrap().unwrap();
    assert_eq!(ended.ended, Some((at(9), LeaseEnd::Released)));
}

#[tokio::test]
async fn a_lease_ends_once_and_is_not_heard_of_afterwards() {
    let store = fresh_store().await;
    let lease = leased(&store, 1, "run/1", Duration::ZERO).await.unwrap();
    let mut tx = store.begin().await.unwrap();
    tx.end_lease(lease.id, LeaseEnd::HeartbeatMissed, at(9))
        .await
        .unwrap();
    for error in [
        tx.end_lease(lease.id, LeaseEnd::Released, at(10))
            .await
            .unwrap_err(),
        tx.hear_lease(&lease, Duration::ZERO).await.unwrap_err(),
    ] {
        assert!(
            matches!(error, StoreError::Conflict(Conflict::LeaseEnded)),
            "{error}"
        );
    }
    tx.commit().await.unwrap();
    store.answered_lease(&lease).await.unwrap();
    let ended = store.access_lease(lease.id).await.unwrap().unwrap();
    assert_eq!(ended.heard_at, lease.heard_at);
}

#[tokio::test]
async fn who_is_silent_past_the_deadline_is_late_until_heard_of() {
    let store = fresh_store().await;
    let lease = leased(&store, 1, "run/1", Duration::ZERO).await.unwrap();
    leased(&store, 2, "run/2", Duration::ZERO).await.unwrap();
    assert_eq!(late(&store).await, None);
    let next = store.next_late_lease().await.unwrap().unwrap();
    assert!(
        next > Duration::from_secs(30) && next <= Duration::from_mins(1),
        "{next:?}"
    );
    silent(&store, lease.id, 60.0).await;
    assert_eq!(late(&store).await, Some(lease.id));
    assert_eq!(store.next_late_lease().await.unwrap(), Some(Duration::ZERO));
    let mut tx = store.begin().await.unwrap();
    tx.hear_lease(&lease, Duration::ZERO).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(late(&store).await, None);
}

#[tokio::test]
async fn a_wait_puts_the_deadline_off_and_its_answer_brings_it_back() {
    let store = fresh_store().await;
    let lease = leased(&store, 1, "run/1", Duration::from_mins(1)).await.unwrap();
    assert_eq!((lease.deadline - lease.heard_at).num_seconds(), 120);
    // A heartbeat meanwhile takes nothing from who waits.
    let mut tx = store.begin().await.unwrap();
    let heard = tx.hear_lease(&lease, Duration::ZERO).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(heard.deadline, lease.deadline);
    store.answered_lease(&lease).await.unwrap();
    let answered = store.access_lease(lease.id).await.unwrap().unwrap();
    assert_eq!((answered.deadline - answered.heard_at).num_seconds(), 60);
}

#[tokio::test]
async fn a_late_lease_that_another_replica_works_on_is_passed_by() {
    let store = fresh_store().await;
    let lease = leased(&store, 1, "run/1", Duration::ZERO).await.unwrap();
    silent(&store, lease.id, 61.0).await;
    let mut busy = store.begin().await.unwrap();
    assert_eq!(busy.late_lease().await.unwrap().unwrap().id, lease.id);
    assert_eq!(late(&store).await, None);
    busy.rollback().await.unwrap();
    assert_eq!(late(&store).await, Some(lease.id));
}
