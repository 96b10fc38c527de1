//! The due queue.

use std::{collections::BTreeSet, time::Duration};

use postern_core::{
    audit::Outcome,
    machine::{Account, Cloud},
    point::PointRef,
    testing::{a_policy, an_id, at},
    time::{Instant, RandomIds},
};

use super::{a_change, a_machine, a_pass, a_row, mark, save, some_points, with_grants};
use crate::{Due, Lease, Lessee, Next, SettledChange, Store, StoreError, Tx, Urgency, testing::fresh_store};

const LONG: Duration = Duration::from_hours(1);
const NONE: Duration = Duration::ZERO;

async fn lease(store: &Store, limit: u32) -> Vec<Lease> {
    store.lease("a", limit, LONG, NONE, at(100)).await.unwrap()
}

const fn lessee<'a>(owner: &'a str, clouds: &'a [Cloud]) -> Lessee<'a> {
    Lessee {
        owner,
        clouds,
        except: &[],
        lease_for: LONG,
        grace: NONE,
    }
}

async fn next_due(store: &Store) -> Option<Instant> {
    store.next_due(&lessee("a", &[Cloud::Aws])).await.unwrap()
}

/// Intends something under the lease.
async fn hold(tx: &mut Tx, lease: &Lease) -> Result<(), StoreError> {
    let number = lease.point.uuid().as_u128() ^ (u128::from(lease.generation.unsigned_abs()) << 64);
    let pass = a_pass(number);
    let change = an_id(number);
    tx.intend(&pass, lease, &[(change, &a_change(&[]))], at(1)).await
}

async fn finish(store: &Store, lease: &Lease, next: Next) {
    let mut tx = store.begin().await.unwrap();
    tx.finish(lease, next, &[]).await.unwrap();
    tx.commit().await.unwrap();
}

#[tokio::test]
async fn two_workers_never_get_the_same_point() {
    let store = fresh_store().await;
    let points = some_points(&store, 60).await;
    mark(&store, &points, 0, Urgency::Look).await;
    let worker = |owner: &'static str| {
        let store = store.clone();
        async move {
            let mut mine = Vec::new();
            loop {
                let leased = store.lease(owner, 3, LONG, NONE, at(1)).await.unwrap();
                if leased.is_empty() {
                    return mine;
                }
                mine.extend(leased.into_iter().map(|lease| lease.point));
            }
        }
    };
    let (a, b, c) = tokio::join!(
        tokio::spawn(worker("a")),
        tokio::spawn(worker("b")),
        tokio::spawn(worker("c"))
    );
    let all: Vec<_> = [a.unwrap(), b.unwrap(), c.unwrap()].concat();
    assert_eq!(all.len(), points.len(), "each once");
    assert_eq!(
        all.into_iter().collect::<BTreeSet<_>>(),
        points.into_iter().collect()
    );
}

#[tokio::test]
async fn a_lease_that_ran_out_is_taken_over_after_the_grace_with_a_higher_generation() {
    let store = fresh_store().await;
    let points = some_points(&store, 1).await;
    mark(&store, &points, 0, Urgency::Look).await;
    let first = store.lease("a", 1, NONE, NONE, at(1)).await.unwrap().remove(0);
    assert!(!first.taken_over);
    assert_eq!(
        store.lease("b", 1, LONG, LONG, at(1)).await.unwrap(),
        [],
        "within the grace"
    );
    assert_eq!(
        store.lease("a", 1, LONG, LONG, at(1)).await.unwrap(),
        [],
        "not even by its own owner"
    );
    let second = store.lease("b", 1, LONG, NONE, at(1)).await.unwrap().remove(0);
    assert!(second.taken_over);
    assert!(second.generation > first.generation);

    assert!(store.renew(&first, LONG).await.unwrap_err().is_lease_lost());
    let mut tx = store.begin().await.unwrap();
    assert!(hold(&mut tx, &first).await.unwrap_err().is_lease_lost());
    assert!(
        tx.finish(&first, Next::Never, &[])
            .await
            .unwrap_err()
            .is_lease_lost()
    );
    hold(&mut tx, &second).await.unwrap();
    tx.rollback().await.unwrap();
    store.renew(&second, LONG).await.unwrap();
}

#[tokio::test]
async fn a_lease_that_ran_out_can_be_finished_but_neither_held_nor_renewed() {
    let store = fresh_store().await;
    let points = some_points(&store, 1).await;
    mark(&store, &points, 0, Urgency::Look).await;
    let lease = store.lease("a", 1, NONE, NONE, at(1)).await.unwrap().remove(0);
    assert!(store.renew(&lease, LONG).await.unwrap_err().is_lease_lost());
    let mut tx = store.begin().await.unwrap();
    assert!(hold(&mut tx, &lease).await.unwrap_err().is_lease_lost());
    tx.rollback().await.unwrap();
    finish(&store, &lease, Next::Never).await;
    let mut tx = store.begin().await.unwrap();
    let again = tx.finish(&lease, Next::Never, &[]).await.unwrap_err();
    assert!(again.is_lease_lost(), "a lease is finished once");
}

#[tokio::test]
async fn a_mark_during_a_lease_leaves_the_point_due_whatever_the_pass_says() {
    let store = fresh_store().await;
    let points = some_points(&store, 1).await;
    mark(&store, &points, 0, Urgency::Look).await;
    let first = lease(&store, 1).await.remove(0);
    mark(&store, &points, 50, Urgency::Closing).await;
    assert_eq!(lease(&store, 1).await, [], "it is leased");
    finish(&store, &first, Next::Never).await;
    let second = lease(&store, 1).await.remove(0);
    assert_eq!(second.wanted, first.wanted + 1);
    finish(&store, &second, Next::Never).await;
    assert_eq!(lease(&store, 1).await, [], "nothing new");
    assert_eq!(next_due(&store).await, None);
}

#[tokio::test]
async fn what_a_freeze_closed_goes_first_then_closings_then_openings_then_the_longest_due() {
    let store = fresh_store().await;
    let points = some_points(&store, 6).await;
    mark(&store, &points[5..6], 100, Urgency::Freeze).await;
    mark(&store, &points[0..1], 1, Urgency::Look).await;
    mark(&store, &points[1..2], 3, Urgency::Opening).await;
    mark(&store, &points[2..3], 2, Urgency::Opening).await;
    mark(&store, &points[3..4], 99, Urgency::Closing).await;
    mark(&store, &points[4..5], 101, Urgency::Closing).await;
    let order: Vec<_> = lease(&store, 10)
        .await
        .into_iter()
        .map(|lease| lease.point)
        .collect();
    assert_eq!(
        order,
        [points[5], points[3], points[2], points[1], points[0]],
        "and never before its time"
    );
    assert_eq!(next_due(&store).await, Some(at(101)));
}

#[tokio::test]
async fn an_earlier_mark_wins_and_a_later_one_does_not_put_off() {
    let store = fresh_store().await;
    let points = some_points(&store, 1).await;
    mark(&store, &points, 200, Urgency::Closing).await;
    assert_eq!(lease(&store, 1).await, []);
    mark(&store, &points, 90, Urgency::Look).await;
    mark(&store, &points, 500, Urgency::Look).await;
    assert_eq!(next_due(&store).await, Some(at(90)));
    assert_eq!(lease(&store, 1).await.len(), 1);
}

#[tokio::test]
async fn failed_passes_are_counted_until_one_succeeds() {
    let store = fresh_store().await;
    let points = some_points(&store, 1).await;
    mark(&store, &points, 0, Urgency::Look).await;
    for failures in 0..3 {
        let lease = lease(&store, 1).await.remove(0);
        assert_eq!(lease.attempts, failures);
        let retry = Next::Retry {
            at: at(1),
            urgency: Urgency::Closing,
            error: "no \0 answer".into(),
        };
        finish(&store, &lease, retry).await;
    }
    let last = lease(&store, 1).await.remove(0);
    let point = store.point(&last.point_ref).await.unwrap().unwrap();
    assert_eq!(point.last_error.as_deref(), Some("no \u{fffd} answer"));
    finish(
        &store,
        &last,
        Next::At {
            at: at(60),
            urgency: Urgency::Look,
        },
    )
    .await;
    assert_eq!(lease(&store, 1).await.remove(0).attempts, 0);
}

#[tokio::test]
async fn finishing_marks_other_points_in_the_same_step() {
    let store = fresh_store().await;
    let points = some_points(&store, 2).await;
    mark(&store, &points[1..], 0, Urgency::Look).await;
    let held = lease(&store, 2).await.remove(0);
    let mut tx = store.begin().await.unwrap();
    let due = Due {
        point: points[0],
        at: at(70),
        urgency: Urgency::Closing,
    };
    tx.finish(&held, Next::Never, &[due]).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(next_due(&store).await, Some(at(70)));
}

#[tokio::test]
async fn a_held_point_can_be_marked_but_not_taken_over() {
    let store = fresh_store().await;
    let points = some_points(&store, 1).await;
    mark(&store, &points, 0, Urgency::Look).await;
    let held = lease(&store, 1).await.remove(0);
    let mut tx = store.begin().await.unwrap();
    hold(&mut tx, &held).await.unwrap();
    mark(&store, &points, 5, Urgency::Closing).await;
    store.renew(&held, LONG).await.unwrap();
    sqlx::query("UPDATE points SET lease_until = 'epoch'")
        .execute(&store.pool)
        .await
        .unwrap();
    assert_eq!(lease(&store, 1).await, [], "held");
    tx.commit().await.unwrap();
    assert!(lease(&store, 1).await.remove(0).taken_over);
}

#[tokio::test]
async fn workers_that_finish_and_mark_each_other_crosswise_do_not_deadlock() {
    let store = fresh_store().await;
    let points = some_points(&store, 2).await;
    for _ in 0..25 {
        mark(&store, &points, 0, Urgency::Look).await;
        let mut leases = lease(&store, 2).await;
        leases.sort_by_key(|lease| lease.point);
        let cross = |lease: Lease, other| {
            let store = store.clone();
            tokio::spawn(async move {
                let mut tx = store.begin().await.unwrap();
                hold(&mut tx, &lease).await.unwrap();
                let due = Due {
                    point: other,
                    at: at(0),
                    urgency: Urgency::Look,
                };
                tx.finish(&lease, Next::Never, &[due]).await.unwrap();
                tx.commit().await.unwrap();
            })
        };
        let (a, b) = tokio::join!(
            cross(leases[0].clone(), points[1]),
            cross(leases[1].clone(), points[0])
        );
        a.unwrap();
        b.unwrap();
    }
}

#[tokio::test]
async fn a_listener_hears_a_mark_when_it_commits() {
    let store = fresh_store().await;
    let points = some_points(&store, 1).await;
    let mut listener = store.due_listener().await.unwrap();
    mark(&store, &points, 0, Urgency::Look).await;
    tokio::time::timeout(Duration::from_secs(10), listener.heard())
        .await
        .unwrap()
        .unwrap();
}

#[tokio::test]
async fn a_mark_for_a_point_that_does_not_exist_is_refused() {
    let store = fresh_store().await;
    let mut tx = store.begin().await.unwrap();
    let nobody = postern_core::testing::an_id(7);
    assert!(
        tx.mark_due(&[nobody], at(0), Urgency::Look)
            .await
            .unwrap_err()
            .is_not_found()
    );
}

#[tokio::test]
async fn the_backstop_finds_points_with_unfinished_grants_that_nobody_marked() {
    let store = fresh_store().await;
    some_points(&store, 3).await;
    with_grants(&store, 1).await;
    let mut tx = store.begin().await.unwrap();
    assert_eq!(tx.due_points_backstop(at(5)).await.unwrap(), 1);
    assert_eq!(tx.due_points_backstop(at(6)).await.unwrap(), 0, "now it is due");
    tx.commit().await.unwrap();
    assert_eq!(next_due(&store).await, Some(at(5)));
}

#[tokio::test]
async fn a_point_that_is_marked_without_a_pause_gets_its_turn() {
    let store = fresh_store().await;
    let points = some_points(&store, 1).await;
    mark(&store, &points, 0, Urgency::Closing).await;
    let mut marking = store.begin().await.unwrap();
    marking.mark_due(&points, at(1), Urgency::Opening).await.unwrap();
    assert_eq!(lease(&store, 1).await, [], "passed by while its row is held");

    let waiting = tokio::spawn({
        let store = store.clone();
        async move {
            store
                .lease_contended(&lessee("a", &[Cloud::Aws]), at(100))
                .await
                .unwrap()
        }
    });
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(!waiting.is_finished(), "it waits for its turn");
    marking.commit().await.unwrap();
    let leased = waiting.await.unwrap().map(|lease| lease.point);
    assert_eq!(leased.as_slice(), points.as_slice());
    assert_eq!(
        store
            .lease_contended(&lessee("b", &[Cloud::Aws]), at(100))
            .await
            .unwrap(),
        None,
        "only one gets it"
    );
}

#[tokio::test]
async fn only_points_of_the_lessees_clouds_are_leased() {
    let store = fresh_store().await;
    let points = some_points(&store, 1).await;
    mark(&store, &points, 0, Urgency::Closing).await;
    let nobody = lessee("a", &[Cloud::Azure]);
    assert_eq!(store.next_due(&nobody).await.unwrap(), None);
    assert_eq!(store.lease_contended(&nobody, at(100)).await.unwrap(), None);
    let mut tx = store.begin().await.unwrap();
    assert_eq!(tx.lease(&nobody, 10, at(100)).await.unwrap(), []);
    assert_eq!(
        tx.lease(&lessee("a", &[Cloud::Aws]), 10, at(100))
            .await
            .unwrap()
            .len(),
        1
    );
}

#[tokio::test]
async fn points_of_several_accounts_that_are_due_at_once_take_turns() {
    const EACH: u32 = 100;
    let store = fresh_store().await;
    let mut tx = store.begin().await.unwrap();
    let mut all = Vec::new();
    // One account's after the other's, as discovery finds them.
    for (seconds, account) in [(0, "111111111111"), (1, "222222222222")] {
        let refs: BTreeSet<PointRef> = (0..EACH)
            .map(|n| PointRef::security_group(account, "eu-west-1", &format!("sg-{n:017x}")).unwrap())
            .collect();
        let points = tx.ensure_points(&refs, &RandomIds, at(seconds)).await.unwrap();
        all.extend(points.into_values());
    }
    tx.commit().await.unwrap();
    mark(&store, &all, 0, Urgency::Closing).await;
    let first = lease(&store, EACH).await;
    let of_one = first
        .iter()
        .filter(|lease| lease.point_ref.account().to_string().contains("111111111111"))
        .count();
    // Half of them; with random ids, fewer than 25 or more than 75 of a hundred come about once in 10^12 times.
    assert!((25..=75).contains(&of_one), "{of_one} of {EACH}");
    let second = lease(&store, EACH).await;
    let leased: BTreeSet<_> = first.iter().chain(&second).map(|lease| lease.point).collect();
    assert_eq!(leased, all.into_iter().collect());
}

#[tokio::test]
async fn points_of_accounts_that_the_lessee_leaves_out_are_not_leased() {
    let store = fresh_store().await;
    let points = some_points(&store, 1).await;
    mark(&store, &points, 0, Urgency::Closing).await;
    let mut tx = store.begin().await.unwrap();
    let lease = tx
        .lease(&lessee("a", &[Cloud::Aws]), 10, at(100))
        .await
        .unwrap()
        .remove(0);
    drop(tx);
    let (theirs, others) = (
        lease.point_ref.account(),
        Account::Aws {
            account: "999999999999".to_owned(),
            region: "eu-west-1".to_owned(),
        },
    );
    for (except, found) in [([theirs], 0), ([others], 1)] {
        let lessee = Lessee {
            except: &except,
            ..lessee("a", &[Cloud::Aws])
        };
        assert_eq!(store.next_due(&lessee).await.unwrap().is_some(), found == 1);
        let mut tx = store.begin().await.unwrap();
        assert_eq!(tx.lease(&lessee, 10, at(100)).await.unwrap().len(), found);
        drop(tx);
        let contended = store.lease_contended(&lessee, at(100)).await.unwrap();
        assert_eq!(contended.is_some(), found == 1);
    }
}

#[tokio::test]
async fn the_backstop_finds_points_that_lock_a_machine_down_and_are_not_due() {
    let store = fresh_store().await;
    let policy = a_policy("/aws");
    let mut tx = store.begin().await.unwrap();
    tx.insert_policy(&policy).await.unwrap();
    tx.commit().await.unwrap();
    save(
        &store,
        &[a_row(a_machine(1), Some(&policy)), a_row(a_machine(2), None)],
        0,
    )
    .await;
    let mut tx = store.begin().await.unwrap();
    assert_eq!(
        tx.due_points_backstop(at(5)).await.unwrap(),
        a_machine(1).lockdown_points(&super::installation()).len()
    );
    assert_eq!(
        tx.due_points_backstop(at(6)).await.unwrap(),
        0,
        "now they are due"
    );
}

#[tokio::test]
async fn a_pass_that_names_its_own_point_among_the_others_looks_again_then() {
    let store = fresh_store().await;
    let points = some_points(&store, 1).await;
    mark(&store, &points, 0, Urgency::Look).await;
    let held = lease(&store, 1).await.remove(0);
    let due = Due {
        point: points[0],
        at: at(70),
        urgency: Urgency::Closing,
    };
    let mut tx = store.begin().await.unwrap();
    tx.finish(&held, Next::Never, &[due]).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(next_due(&store).await, Some(at(70)));
}

#[tokio::test]
async fn a_point_is_in_use_by_what_is_wanted_there_or_was_written_and_while_it_is_looked_at() {
    let store = fresh_store().await;
    let in_use = async || {
        let mut tx = store.begin().await.unwrap();
        let all: Vec<_> = (1..=2).map(|number| a_machine(number).id).collect();
        let points = tx.points_before(&all).await.unwrap();
        let used = tx.points_in_use(&points).await.unwrap();
        (points.len(), used)
    };
    save(&store, &[a_row(a_machine(1), None), a_row(a_machine(2), None)], 0).await;
    assert_eq!(in_use().await, (4, BTreeSet::new()));

    // Machine 2 is covered, and then no more: nothing was written meanwhile.
    let policy = a_policy("/aws");
    let mut tx = store.begin().await.unwrap();
    tx.insert_policy(&policy).await.unwrap();
    tx.commit().await.unwrap();
    save(&store, &[a_row(a_machine(2), Some(&policy))], 1).await;
    let mut tx = store.begin().await.unwrap();
    let of_second: BTreeSet<_> = tx
        .points_before(&[a_machine(2).id])
        .await
        .unwrap()
        .into_iter()
        .collect();
    drop(tx);
    assert_eq!(in_use().await.1, of_second);
    save(&store, &[a_row(a_machine(2), None)], 2).await;
    assert_eq!(in_use().await.1, BTreeSet::new());

    // A change that was intended, and then made.
    let points: Vec<_> = of_second.into_iter().collect();
    mark(&store, &points[..1], 0, Urgency::Look).await;
    assert_eq!(in_use().await.1, points[..1].iter().copied().collect(), "due");
    let lease = lease(&store, 10).await.pop().unwrap();
    assert_eq!(in_use().await.1, [lease.point].into(), "leased");
    for (number, outcome, used) in [
        (1, Outcome::Failed, 0),
        (2, Outcome::Unknown, 1),
        (3, Outcome::Succeeded, 1),
    ] {
        // Each for itself: a point stays in use by what was done there once.
        let mut tx = store.begin().await.unwrap();
        let change = a_change(&[]);
        tx.intend(&a_pass(number), &lease, &[(an_id(number), &change)], at(1))
            .await
            .unwrap();
        assert_eq!(tx.points_in_use(&points).await.unwrap(), [lease.point].into());
        let settled = SettledChange {
            id: an_id(number),
            outcome,
            detail: serde_json::Value::Null,
        };
        tx.settle(&[settled], at(2)).await.unwrap();
        tx.finish(&lease, Next::Never, &[]).await.unwrap();
        assert_eq!(
            tx.points_in_use(&points).await.unwrap().len(),
            used,
            "{outcome:?}"
        );
        tx.rollback().await.unwrap();
    }

    let mut tx = store.begin().await.unwrap();
    tx.finish(&lease, Next::Never, &[]).await.unwrap();
    tx.commit().await.unwrap();
    let grants = with_grants(&store, 1).await;
    let hops = &store.hops_of(&[grants[0].id]).await.unwrap()[&grants[0].id];
    assert_eq!(in_use().await.1, hops.iter().map(|hop| hop.point).collect());
}
