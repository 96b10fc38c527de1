//! Machines, their points and the policies over them.

use std::collections::{BTreeMap, BTreeSet};

use postern_core::{
    grant::HopState,
    posture::PostureKind,
    scope::Scope,
    testing::{a_policy, at},
};

use super::{HOSTILE, a_machine, a_row, ids_from, save, with_grants};
use crate::{Asked, Conflict, MachineFilter, Store, StoreError, Visible, testing::fresh_store};

fn everything() -> MachineFilter {
    MachineFilter {
        visible: Visible::everything(),
        ..MachineFilter::default()
    }
}

#[tokio::test]
async fn saving_says_what_is_new_what_changed_and_which_points_that_touches() {
    let store = fresh_store().await;
    let first = save(&store, &[a_row(a_machine(1), None), a_row(a_machine(2), None)], 1).await;
    assert_eq!(first.new, [a_machine(1).id, a_machine(2).id]);
    assert_eq!((first.changed, first.touched_points.len()), (2, 4));

    let again = save(&store, &[a_row(a_machine(1), None), a_row(a_machine(2), None)], 2).await;
    assert_eq!(
        (again.new.len(), again.changed, again.touched_points.len()),
        (0, 0, 0)
    );

    let mut renamed = a_machine(1);
    renamed.name = "db".into();
    let renamed = save(&store, &[a_row(renamed, None)], 3).await;
    assert_eq!(
        (renamed.changed, renamed.touched_points.len()),
        (1, 0),
        "no way to it changed"
    );

    let mut moved = a_machine(1);
    moved.interfaces[0].addresses = vec!["10.9.9.9".parse().unwrap()];
    let moved = save(&store, &[a_row(moved, None)], 4).await;
    assert_eq!(
        (moved.changed, moved.touched_points.len()),
        (1, 2),
        "both points see another address"
    );

    let mut open = a_machine(1);
    open.interfaces.clear();
    let open = save(&store, &[a_row(open, None)], 5).await;
    assert_eq!(open.touched_points.len(), 2, "both points have lost it");
    let stored = store.machine(&a_machine(1).id).await.unwrap().unwrap();
    assert_eq!(
        (stored.first_seen_at, stored.seen_at, stored.gone_at),
        (at(1), at(5), None)
    );
    assert_eq!(stored.posture.kind, PostureKind::NotApplicable);
}

#[tokio::test]
async fn a_wanted_grant_gets_a_hop_at_a_point_that_comes_into_the_way() {
    let store = fresh_store().await;
    let mut machine = a_machine(1);
    let grants = with_grants(&store, 1).await;
    assert_eq!(
        store.hops_of(&[grants[0].id]).await.unwrap()[&grants[0].id].len(),
        1
    );
    let nsg = "azure:nsg:00000000-0000-0000-0000-000000000001/prod/web-nsg"
        .parse()
        .unwrap();
    machine.name = "moved".into();
    let mut row = a_row(machine, None);
    row.opens.insert(nsg);
    save(&store, &[row], 1).await;
    let hops = store
        .hops_of(&[grants[0].id])
        .await
        .unwrap()
        .remove(&grants[0].id)
        .unwrap();
    assert_eq!(hops.len(), 2);
    assert!(hops.iter().all(|hop| hop.state == HopState::Absent));
}

#[tokio::test]
async fn a_machine_is_gone_after_two_complete_discoveries_without_it_and_can_come_back() {
    let store = fresh_store().await;
    save(&store, &[a_row(a_machine(1), None)], 10).await;
    let account = a_machine(1).id.account();
    let mut tx = store.begin().await.unwrap();
    tx.discovery_done(&account, at(5), std::time::Duration::ZERO, at(15))
        .await
        .unwrap();
    assert_eq!(
        tx.discovery_done(&account, at(20), std::time::Duration::ZERO, at(21))
            .await
            .unwrap()
            .machines,
        [],
        "missed once"
    );
    assert_eq!(
        tx.discovery_done(&account, at(30), std::time::Duration::ZERO, at(31))
            .await
            .unwrap()
            .machines,
        [a_machine(1).id]
    );
    assert_eq!(
        tx.discovery_done(&account, at(40), std::time::Duration::ZERO, at(41))
            .await
            .unwrap()
            .machines,
        [],
        "gone once"
    );
    tx.commit().await.unwrap();
    assert_eq!(
        store.machine(&a_machine(1).id).await.unwrap().unwrap().gone_at,
        Some(at(31))
    );
    assert_eq!(store.machines(&everything(), None, 10).await.unwrap().items, []);
    let all = MachineFilter {
        with_gone: true,
        ..everything()
    };
    assert_eq!(store.machines(&all, None, 10).await.unwrap().items.len(), 1);

    let back = save(&store, &[a_row(a_machine(1), None)], 50).await;
    assert_eq!((back.new.len(), back.touched_points.len()), (1, 2));
}

#[tokio::test]
async fn filters_and_pages_list_each_machine_once() {
    let store = fresh_store().await;
    let rows: Vec<_> = (1..=5).map(|number| a_row(a_machine(number), None)).collect();
    save(&store, &rows, 0).await;
    let first = store.machines(&everything(), None, 3).await.unwrap();
    let second = store
        .machines(&everything(), first.next.as_ref(), 3)
        .await
        .unwrap();
    assert_eq!(second.next, None);
    let seen: Vec<_> = first
        .items
        .into_iter()
        .chain(second.items)
        .map(|stored| stored.machine)
        .collect();
    assert_eq!(seen, (1..=5).map(a_machine).collect::<Vec<_>>());

    let count = async |filter: MachineFilter| store.machines(&filter, None, 10).await.unwrap().items.len();
    let tags = |value: &str| BTreeMap::from([("env".to_owned(), value.to_owned())]);
    assert_eq!(
        count(MachineFilter::default()).await,
        0,
        "nobody sees anything unless told"
    );
    assert_eq!(
        count(MachineFilter {
            text: Some("WEB-3".into()),
            ..everything()
        })
        .await,
        1
    );
    assert_eq!(
        count(MachineFilter {
            tags: tags("prod"),
            ..everything()
        })
        .await,
        5
    );
    assert_eq!(
        count(MachineFilter {
            tags: tags("dev"),
            ..everything()
        })
        .await,
        0
    );
    assert_eq!(
        count(MachineFilter {
            posture: Some(PostureKind::Healthy),
            ..everything()
        })
        .await,
        5
    );
    assert_eq!(
        count(MachineFilter {
            posture: Some(PostureKind::Configured),
            ..everything()
        })
        .await,
        0
    );
    assert_eq!(
        count(MachineFilter {
            scope: Some(a_machine(2).id.scope()),
            ..everything()
        })
        .await,
        1
    );
    assert_eq!(
        count(MachineFilter {
            scope: Some("/azure".parse().unwrap()),
            ..everything()
        })
        .await,
        0
    );
    for hostile in HOSTILE
        .into_iter()
        .filter(|hostile| *hostile != "_" && *hostile != "%")
    {
        assert_eq!(
            count(MachineFilter {
                text: Some(hostile.into()),
                ..everything()
            })
            .await,
            0,
            "{hostile}"
        );
        assert_eq!(
            count(MachineFilter {
                tags: tags(hostile),
                ..everything()
            })
            .await,
            0,
            "{hostile}"
        );
    }
    for wildcard in ["_", "%"] {
        assert_eq!(
            count(MachineFilter {
                text: Some(wildcard.into()),
                ..everything()
            })
            .await,
            0,
            "no wildcard"
        );
    }
}

#[tokio::test]
async fn the_most_specific_policy_covers_and_its_end_uncovers() {
    let store = fresh_store().await;
    save(&store, &[a_row(a_machine(1), None), a_row(a_machine(2), None)], 0).await;
    let (wide, deep) = (a_policy("/aws"), a_policy(&a_machine(2).id.scope().to_string()));
    let mut tx = store.begin().await.unwrap();
    tx.insert_policy(&wide).await.unwrap();
    assert_eq!(tx.cover(&wide.scope, None).await.unwrap().changes.len(), 2);
    tx.insert_policy(&deep).await.unwrap();
    let covered = tx.cover(&deep.scope, None).await.unwrap();
    assert_eq!(covered.changes.len(), 1);
    assert_eq!(
        (covered.changes[0].before, covered.changes[0].after),
        (Some(wide.id), Some(deep.id))
    );
    assert_eq!(covered.points.len(), 2);
    assert_eq!(
        tx.cover(&Scope::root(), None).await.unwrap().points,
        [],
        "nothing new"
    );
    let touched = tx.cover(&Scope::root(), Some(wide.id)).await.unwrap();
    assert_eq!(
        (touched.changes.len(), touched.points.len()),
        (0, 2),
        "what it covers already"
    );
    let policy = tx
        .machines(&[a_machine(1).id])
        .await
        .unwrap()
        .pop_first()
        .unwrap()
        .1;
    assert_eq!(
        (policy.policy, policy.posture.kind),
        (Some(wide.id), PostureKind::Configured)
    );
    tx.delete_policy(wide.id, None).await.unwrap();
    tx.cover(&Scope::root(), None).await.unwrap();
    let after = tx
        .machines(&[a_machine(1).id])
        .await
        .unwrap()
        .pop_first()
        .unwrap()
        .1;
    assert_eq!((after.policy, after.posture.kind), (None, PostureKind::Healthy));
}

#[tokio::test]
async fn a_removed_policy_is_among_the_changes_of_what_it_covered() {
    let store = fresh_store().await;
    save(&store, &[a_row(a_machine(1), None)], 0).await;
    let policy = a_policy("/aws");
    let mut tx = store.begin().await.unwrap();
    tx.insert_policy(&policy).await.unwrap();
    tx.cover(&policy.scope, None).await.unwrap();
    tx.delete_policy(policy.id, Some(1)).await.unwrap();
    let covered = tx.cover(&policy.scope, None).await.unwrap();
    assert_eq!(covered.changes.len(), 1, "its machines are not forgotten with it");
    assert_eq!(covered.changes[0].before, Some(policy.id));
    assert_eq!(covered.points.len(), 2);
}

#[tokio::test]
async fn a_policy_is_not_removed_while_a_machine_counts_on_it() {
    let store = fresh_store().await;
    let policy = a_policy("/aws");
    save(&store, &[a_row(a_machine(1), None), a_row(a_machine(2), None)], 0).await;
    let mut tx = store.begin().await.unwrap();
    tx.insert_policy(&policy).await.unwrap();
    tx.cover(&policy.scope, None).await.unwrap();
    tx.commit().await.unwrap();
    let mut tx = store.begin().await.unwrap();
    tx.delete_policy(policy.id, None).await.unwrap();
    assert!(tx.commit().await.is_err(), "what it covered was forgotten");
    sqlx::query("UPDATE machines SET gone_at = now() WHERE name = 'web-2'")
        .execute(&store.pool)
        .await
        .unwrap();
    let mut tx = store.begin().await.unwrap();
    tx.delete_policy(policy.id, None).await.unwrap();
    tx.cover(&policy.scope, None).await.unwrap();
    tx.commit().await.unwrap();
}

#[tokio::test]
async fn a_policy_is_changed_only_from_the_version_that_was_read() {
    let store = fresh_store().await;
    let mut policy = a_policy("/aws");
    let other = a_policy("/azure");
    let mut tx = store.begin().await.unwrap();
    tx.insert_policy(&policy).await.unwrap();
    tx.insert_policy(&other).await.unwrap();
    tx.commit().await.unwrap();

    policy.version = 2;
    policy.updated_at = at(9);
    let mut tx = store.begin().await.unwrap();
    tx.update_policy(&policy).await.unwrap();
    let error = tx.update_policy(&policy).await.unwrap_err();
    assert!(
        matches!(
            error,
            StoreError::Conflict(Conflict::Version {
                expected: 1,
                found: 2,
                ..
            })
        ),
        "{error}"
    );
    tx.commit().await.unwrap();
    assert_eq!(store.policy(policy.id).await.unwrap(), Some(policy.clone()));
    let versions = store.policy_versions(policy.id).await.unwrap();
    assert_eq!(
        versions.iter().map(|(_, changed)| *changed).collect::<Vec<_>>(),
        [at(0), at(9)]
    );

    policy.version = 3;
    policy.name.clone_from(&other.name);
    let mut tx = store.begin().await.unwrap();
    let error = tx.update_policy(&policy).await.unwrap_err();
    assert!(
        matches!(error, StoreError::Conflict(Conflict::PolicyName(_))),
        "{error}"
    );
    drop(tx);
    let mut tx = store.begin().await.unwrap();
    assert!(tx.delete_policy(policy.id, Some(1)).await.is_err());
    assert_eq!(tx.delete_policy(policy.id, Some(2)).await.unwrap().version, 2);
    assert!(
        tx.delete_policy(policy.id, None)
            .await
            .unwrap_err()
            .is_not_found()
    );
}

#[tokio::test]
async fn what_a_slow_discovery_saw_earlier_never_replaces_what_another_saw_later() {
    let store = fresh_store().await;
    save(&store, &[a_row(a_machine(1), None)], 10).await;
    let mut renamed = a_machine(1);
    renamed.name = "of long ago".into();
    renamed.interfaces[0].layers.clear();
    let points = store.points_of_machine(&a_machine(1).id).await.unwrap();
    let late = save(&store, &[a_row(renamed, None), a_row(a_machine(2), None)], 5).await;
    assert_eq!(late.written, [a_machine(2).id].into());
    let kept = store.machine(&a_machine(1).id).await.unwrap().unwrap();
    assert_eq!((kept.machine, kept.seen_at), (a_machine(1), at(10)));
    assert_eq!(store.points_of_machine(&a_machine(1).id).await.unwrap(), points);
}

/// Its first save after this fails that writes more of a machine than that it was seen.
async fn only_seen_may_be_written(store: &Store) {
    sqlx::raw_sql(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN
             RAISE EXCEPTION 'more than seen_at is written';
         END $$;
         CREATE TRIGGER whole BEFORE INSERT OR UPDATE OF id, cloud, account, scope, name, tags, power, document,
             policy_id, posture, posture_detail, first_seen_at, gone_at ON machines
             FOR EACH ROW EXECUTE FUNCTION refuse();",
    )
    .execute(&store.pool)
    .await
    .unwrap();
}

#[tokio::test]
async fn of_a_machine_that_is_as_it_was_only_that_it_was_seen_is_written() {
    let store = fresh_store().await;
    let policy = a_policy("/aws");
    let mut tx = store.begin().await.unwrap();
    tx.insert_policy(&policy).await.unwrap();
    tx.commit().await.unwrap();
    let rows = [a_row(a_machine(1), None), a_row(a_machine(2), Some(&policy))];
    save(&store, &rows, 10).await;
    only_seen_may_be_written(&store).await;

    let again = save(&store, &rows, 20).await;
    assert_eq!(
        again.written,
        rows.iter().map(|row| row.machine.id.clone()).collect()
    );
    assert_eq!(
        (again.changed, again.new, again.touched_points),
        (0, vec![], vec![])
    );
    let late = save(&store, &rows, 15).await;
    assert_eq!(late.written, [].into(), "seen later than this was asked");
    let stored = store.machine(&a_machine(2).id).await.unwrap().unwrap();
    assert_eq!((stored.first_seen_at, stored.seen_at), (at(10), at(20)));

    let mut renamed = a_machine(1);
    renamed.name = "db".into();
    let mut judged = a_row(a_machine(1), None);
    judged.posture.kind = PostureKind::Recommended;
    for row in [
        a_row(renamed, None),
        a_row(a_machine(1), Some(&policy)),
        judged,
        a_row(a_machine(3), None),
    ] {
        let mut tx = store.begin().await.unwrap();
        let refused = tx
            .save_machines(std::slice::from_ref(&row), &ids_from(&store, 30), at(30))
            .await
            .unwrap_err();
        let refused = format!("{refused:?}");
        assert!(
            refused.contains("more than seen_at is written"),
            "{row:?}: {refused}"
        );
    }
}

/// A row is replaced on its page, and no index is written, when an update touches no column of any index.
#[tokio::test]
async fn that_a_machine_was_seen_is_in_no_index() {
    let store = fresh_store().await;
    let indexes: Vec<String> = sqlx::query_scalar(
        "SELECT indexdef FROM pg_indexes WHERE tablename = 'machines' AND indexdef LIKE '%seen_at%'",
    )
    .fetch_all(&store.pool)
    .await
    .unwrap();
    assert_eq!(indexes, Vec::<String>::new());
}

#[tokio::test]
async fn a_machine_that_is_gone_is_not_back_because_it_was_seen_before() {
    let store = fresh_store().await;
    let account = a_machine(1).id.account();
    save(&store, &[a_row(a_machine(1), None)], 0).await;
    let mut tx = store.begin().await.unwrap();
    for seconds in [100, 200] {
        tx.discovery_done(&account, at(seconds), std::time::Duration::ZERO, at(seconds))
            .await
            .unwrap();
    }
    tx.commit().await.unwrap();
    assert_eq!(
        save(&store, &[a_row(a_machine(1), None)], 150).await.written,
        [].into()
    );
    let gone = store.machine(&a_machine(1).id).await.unwrap().unwrap().gone_at;
    assert_eq!(gone, Some(at(200)));
    assert_eq!(
        save(&store, &[a_row(a_machine(1), None)], 201).await.new,
        [a_machine(1).id]
    );
}

/// An NSG that was moved from the interface to the subnet between two lists is on neither.
#[tokio::test]
async fn what_is_told_in_two_goes_far_apart_takes_no_lockdown_from_a_machine() {
    let store = fresh_store().await;
    let row = a_row(a_machine(1), None);
    assert!(!row.locks.is_empty(), "{row:?}");
    save(&store, std::slice::from_ref(&row), 10).await;
    let locks = async || {
        sqlx::query_scalar::<_, i64>("SELECT count(*) FROM machine_points WHERE locks")
            .fetch_one(&store.pool)
            .await
            .unwrap()
    };
    let before = locks().await;
    let mut bare = row.clone();
    (bare.opens, bare.locks) = (BTreeSet::new(), BTreeSet::new());
    for (at_seconds, since, stands) in [(1000, 20, true), (1120, 1000, false)] {
        let mut tx = store.begin().await.unwrap();
        let asked = Asked {
            at: at(at_seconds),
            since: at(since),
        };
        let saved = tx
            .save_machines(std::slice::from_ref(&bare), &ids_from(&store, 1), asked)
            .await
            .unwrap();
        tx.commit().await.unwrap();
        assert_eq!(saved.written.len(), 1);
        assert_eq!(
            locks().await,
            if stands { before } else { 0 },
            "{since} to {at_seconds}"
        );
    }
}

/// What is told of it was asked for in two goes, and a complete discovery by another server came between.
#[tokio::test]
async fn a_new_machine_was_first_seen_when_the_cloud_was_last_asked() {
    let store = fresh_store().await;
    let account = a_machine(1).id.account();
    let done = async |seconds| {
        let mut tx = store.begin().await.unwrap();
        let gone = tx
            .discovery_done(&account, at(seconds), std::time::Duration::ZERO, at(seconds))
            .await
            .unwrap();
        tx.commit().await.unwrap();
        gone.machines
    };
    assert_eq!(done(20).await, []);
    let mut tx = store.begin().await.unwrap();
    let asked = Asked {
        at: at(30),
        since: at(10),
    };
    let rows = [a_row(a_machine(1), None)];
    let saved = tx
        .save_machines(&rows, &ids_from(&store, 1), asked)
        .await
        .unwrap();
    tx.commit().await.unwrap();
    assert_eq!(saved.new, [a_machine(1).id]);
    assert_eq!(done(40).await, [], "missed once");
    assert_eq!(done(50).await, [a_machine(1).id]);
}
