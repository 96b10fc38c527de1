//! Grants and their hops.

use std::time::Duration;

use postern_core::{
    grant::{Closed, Closing, EndCause, Grant, GrantState, HopState, Live, Open, Opening, Scheduled},
    id::GrantId,
    net::{Ports, Protocol, Source},
    testing::{an_id, at},
};
use proptest::prelude::*;
use serde_json::json;

use super::{HOSTILE, a_machine, a_row, expired, samples, save, some_grants, with_grants};
use crate::{Conflict, GrantFilter, HopUpdate, Store, StoreError, Tx, Visible, testing::fresh_store};

fn open(grant: &Grant) -> Grant {
    match grant.clone().live().unwrap() {
        Live::Opening(grant) => grant.confirm_open(at(20)).into(),
        Live::Open(_) | Live::Scheduled(_) => panic!("it is not opening"),
    }
}

async fn try_save(store: &Store, grants: &[Grant]) -> Result<(), StoreError> {
    let mut tx = store.begin().await.unwrap();
    tx.save_grants(grants).await?;
    tx.commit().await
}

fn everything() -> GrantFilter {
    GrantFilter {
        visible: Visible::everything(),
        ..GrantFilter::default()
    }
}

fn instants() -> impl Strategy<Value = postern_core::time::Instant> {
    (0i64..4_000_000_000, 0u32..1_000_000)
        .prop_map(|(seconds, micros)| at(seconds - 2_000_000_000) + Duration::from_micros(micros.into()))
}

fn sources() -> impl Strategy<Value = Source> {
    prop_oneof![
        (any::<u32>(), 0u8..=32).prop_map(|(bits, prefix)| {
            let net = ipnet::Ipv4Net::new(bits.into(), prefix).unwrap().trunc();
            Source::try_from(ipnet::IpNet::V4(net)).unwrap()
        }),
        (any::<u128>(), 0u8..=64).prop_map(|(bits, prefix)| {
            let net = ipnet::Ipv6Net::new(bits.into(), prefix).unwrap().trunc();
            Source::try_from(ipnet::IpNet::V6(net)).unwrap()
        }),
    ]
}

fn ports() -> impl Strategy<Value = Ports> {
    (any::<bool>(), 1..=u16::MAX, 1..=u16::MAX).prop_map(|(tcp, a, b)| {
        Ports::range(
            if tcp { Protocol::Tcp } else { Protocol::Udp },
            a.min(b),
            a.max(b),
        )
        .unwrap()
    })
}

fn causes() -> impl Strategy<Value = EndCause> {
    prop_oneof![
        Just(EndCause::Expired),
        (any::<Option<String>>()).prop_map(|reason| EndCause::Revoked {
            by: "user:corp/eve".parse().unwrap(),
            reason: reason.map(|reason| reason.replace('\0', "")),
        }),
        any::<String>().prop_map(|reason| EndCause::OpenFailed {
            reason: reason.replace('\0', "")
        }),
        Just(EndCause::PolicyRemoved),
        Just(EndCause::MachineGone),
        Just(EndCause::Frozen {
            freeze: an_id(3),
            by: "user:corp/sam".parse().unwrap(),
            reason: "keys leaked".to_owned(),
        }),
        Just(EndCause::Released),
        Just(EndCause::HeartbeatMissed),
        Just(EndCause::DatabaseRestored),
    ]
}

fn states() -> impl Strategy<Value = GrantState> {
    let times = (
        instants(),
        instants(),
        instants(),
        prop::option::of(instants()),
        causes(),
    );
    (0..5u8, times).prop_map(|(state, (a, b, c, opened_at, cause))| match state {
        4 => GrantState::Scheduled(Scheduled {
            starts_at: a,
            deadline: b,
        }),
        0 => GrantState::Opening(Opening { deadline: a }),
        1 => GrantState::Open(Open {
            opened_at: a.min(b),
            ends_at: a.max(b),
        }),
        2 => GrantState::Closing(Closing {
            cause,
            since: a,
            opened_at,
        }),
        _ => GrantState::Closed(Closed {
            cause,
            ended_at: a,
            opened_at,
            closed_at: c,
        }),
    })
}

#[tokio::test]
async fn every_grant_reads_back_as_it_was_written() {
    let store = fresh_store().await;
    save(&store, &[a_row(a_machine(1), None)], 0).await;
    let (request, grants) = some_grants(1, 200);
    let strategy = (
        states(),
        prop::collection::vec(ports(), 1..5),
        prop::collection::vec(sources(), 1..5),
        1u64..90_000,
        instants(),
    );
    let grants: Vec<Grant> = grants
        .into_iter()
        .zip(samples(&strategy, 200))
        .map(|(grant, (state, ports, sources, seconds, created_at))| Grant {
            state,
            ports,
            sources,
            duration: Duration::from_secs(seconds),
            created_at,
            not_after: at(4_000_000_000),
            together: seconds % 2 == 0,
            ..grant
        })
        .collect();
    let mut tx = store.begin().await.unwrap();
    tx.insert_request(&request).await.unwrap();
    tx.insert_grants(&grants).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(store.grants_of_request(request.id).await.unwrap(), grants);
}

#[tokio::test]
async fn a_state_is_saved_only_from_the_state_before_it() {
    let store = fresh_store().await;
    let grant = with_grants(&store, 1).await.remove(0);
    let closing = expired(&grant);
    let closed: Grant = match &closing.state {
        GrantState::Closing(state) => Grant {
            state: GrantState::Closed(Closed {
                cause: state.cause.clone(),
                ended_at: state.since,
                opened_at: None,
                closed_at: at(60),
            }),
            ..closing.clone()
        },
        _ => panic!("it ended"),
    };
    let refused = |result: Result<(), StoreError>| {
        assert!(
            matches!(result, Err(StoreError::Conflict(Conflict::GrantState))),
            "{result:?}"
        );
    };
    refused(try_save(&store, std::slice::from_ref(&grant)).await);
    refused(try_save(&store, std::slice::from_ref(&closed)).await);
    try_save(&store, &[open(&grant)]).await.unwrap();
    refused(try_save(&store, &[open(&grant)]).await);
    try_save(&store, std::slice::from_ref(&closing)).await.unwrap();
    refused(try_save(&store, &[open(&grant)]).await);
    try_save(&store, std::slice::from_ref(&closed)).await.unwrap();
    refused(try_save(&store, &[closing]).await);
    assert_eq!(store.grant(grant.id).await.unwrap(), Some(closed));
}

#[tokio::test]
async fn one_grant_in_another_state_refuses_the_whole_batch() {
    let store = fresh_store().await;
    let grants = with_grants(&store, 3).await;
    try_save(&store, &[expired(&grants[1])]).await.unwrap();
    let all: Vec<Grant> = grants.iter().map(open).collect();
    assert!(try_save(&store, &all).await.is_err());
    assert_eq!(
        store.grant(grants[0].id).await.unwrap().unwrap().state.status(),
        "opening"
    );
}

#[tokio::test]
async fn the_database_itself_refuses_a_status_without_exactly_its_columns() {
    let store = fresh_store().await;
    with_grants(&store, 1).await;
    for spoiled in [
        "status = 'open'",
        "status = 'lost'",
        "closed_at = now()",
        "deadline = NULL",
        "status = 'closing', deadline = NULL, ended_at = now()",
        "status = 'open', deadline = NULL, opened_at = now(), ends_at = now(), cause = '{}'",
        "status = 'open', deadline = NULL, opened_at = not_after, ends_at = not_after + interval '1 second'",
        "ports = '{}'",
        "sources = '{}'",
        "duration_seconds = 0",
    ] {
        let error = sqlx::query(sqlx::AssertSqlSafe(format!("UPDATE grants SET {spoiled}")))
            .execute(&store.pool)
            .await
            .expect_err(spoiled);
        assert!(
            error.as_database_error().unwrap().is_check_violation(),
            "{spoiled}: {error}"
        );
    }
}

#[tokio::test]
async fn a_row_that_cannot_be_read_is_named_by_table_and_column() {
    let store = fresh_store().await;
    let grant = with_grants(&store, 1).await.remove(0);
    sqlx::query("UPDATE grants SET ports = '{ssh}'")
        .execute(&store.pool)
        .await
        .unwrap();
    let error = store.grant(grant.id).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "a row of `grants` has a `ports` that cannot be read"
    );
}

#[tokio::test]
async fn pages_do_not_shift_when_grants_are_added_in_between() {
    let store = fresh_store().await;
    let grants = with_grants(&store, 7).await;
    let first = store.grants(&everything(), None, 3).await.unwrap();
    let (request, more) = some_grants(100, 2);
    let mut tx = store.begin().await.unwrap();
    tx.insert_request(&request).await.unwrap();
    tx.insert_grants(&more).await.unwrap();
    tx.commit().await.unwrap();
    let second = store.grants(&everything(), first.next, 3).await.unwrap();
    let third = store.grants(&everything(), second.next, 3).await.unwrap();
    assert_eq!(third.next, None);
    let mut seen: Vec<GrantId> = [first.items, second.items, third.items]
        .concat()
        .iter()
        .map(|g| g.id)
        .collect();
    seen.reverse();
    assert_eq!(seen, grants.iter().map(|grant| grant.id).collect::<Vec<_>>());
}

#[tokio::test]
async fn grants_are_seen_at_their_scope_and_by_their_requester_and_by_nobody_else() {
    let store = fresh_store().await;
    let grants = with_grants(&store, 1).await;
    let count = async |visible: Visible| {
        store
            .grants(
                &GrantFilter {
                    visible,
                    ..GrantFilter::default()
                },
                None,
                10,
            )
            .await
            .unwrap()
            .items
            .len()
    };
    let at_scope = |scope: &str| Visible {
        scopes: vec![scope.parse().unwrap()],
        own: None,
    };
    assert_eq!(count(Visible::default()).await, 0);
    assert_eq!(count(Visible::everything()).await, 1);
    assert_eq!(count(at_scope("/aws/123456789012")).await, 1);
    assert_eq!(
        count(at_scope("/aws/123456789012/eu-west-1/i-00000000000000001")).await,
        1
    );
    assert_eq!(count(at_scope("/aws/123456789013")).await, 0);
    assert_eq!(count(at_scope("/aws/123456789012/eu-west-2")).await, 0);
    let own = |name: &str| Visible {
        scopes: vec![],
        own: Some(name.parse().unwrap()),
    };
    assert_eq!(count(own("user:corp/ada")).await, 1);
    assert_eq!(count(own("user:corp/eve")).await, 0);

    let filtered = async |filter: GrantFilter| store.grants(&filter, None, 10).await.unwrap().items.len();
    assert_eq!(
        filtered(GrantFilter {
            statuses: vec!["open".into()],
            ..everything()
        })
        .await,
        0
    );
    assert_eq!(
        filtered(GrantFilter {
            request: Some(grants[0].request),
            ..everything()
        })
        .await,
        1
    );
    assert_eq!(
        filtered(GrantFilter {
            policy: Some(an_id(999)),
            ..everything()
        })
        .await,
        0
    );
    for hostile in HOSTILE {
        assert_eq!(
            filtered(GrantFilter {
                statuses: vec![hostile.into()],
                ..everything()
            })
            .await,
            0
        );
    }
}

#[tokio::test]
async fn hops_keep_what_a_look_did_not_see_and_lose_what_it_saw_gone() {
    let store = fresh_store().await;
    let grant = with_grants(&store, 1).await.remove(0);
    let mut tx = store.begin().await.unwrap();
    let point = tx.points_of(&[grant.id]).await.unwrap()[0];
    let update = |state, rules| HopUpdate {
        grant: grant.id,
        state,
        rules,
        blocked_by: None,
        obstacle: None,
    };
    assert_eq!(
        tx.hops_of(&[grant.id]).await.unwrap()[&grant.id][0].state,
        HopState::Absent
    );

    tx.set_hops(point, &[update(Some(HopState::Unknown), None)], at(1), &[])
        .await
        .unwrap();
    let hop = tx.hops_of(&[grant.id]).await.unwrap()[&grant.id][0].clone();
    assert_eq!(
        (hop.state, hop.read_at),
        (HopState::Unknown, None),
        "an intention is no reading"
    );

    tx.set_hops(
        point,
        &[update(Some(HopState::Present), Some(json!([1])))],
        at(2),
        &[],
    )
    .await
    .unwrap();
    let failed = HopUpdate {
        obstacle: Some("no answer".into()),
        ..update(None, None)
    };
    tx.set_hops(point, &[failed], at(3), &[]).await.unwrap();
    let hop = tx.hops_of(&[grant.id]).await.unwrap()[&grant.id][0].clone();
    assert_eq!(
        (hop.state, hop.rules, hop.read_at),
        (HopState::Present, Some(json!([1])), Some(at(2)))
    );
    assert_eq!(hop.obstacle.as_deref(), Some("no answer"));

    tx.set_hops(point, &[update(Some(HopState::Absent), None)], at(4), &[])
        .await
        .unwrap();
    tx.commit().await.unwrap();
    let hop = store.hops_of(&[grant.id]).await.unwrap()[&grant.id][0].clone();
    assert_eq!(
        (hop.state, hop.rules, hop.obstacle, hop.read_at),
        (HopState::Absent, None, None, Some(at(4)))
    );
}

#[tokio::test]
async fn hops_that_are_as_they_were_are_read_and_not_written() {
    let store = fresh_store().await;
    let grants: Vec<GrantId> = with_grants(&store, 2)
        .await
        .iter()
        .map(|grant| grant.id)
        .collect();
    let mut tx = store.begin().await.unwrap();
    let point = tx.points_of(&grants[..1]).await.unwrap()[0];
    let seen = |grant: usize, rule: u8| HopUpdate {
        grant: grants[grant],
        state: Some(HopState::Present),
        rules: Some(json!([rule])),
        blocked_by: None,
        obstacle: None,
    };
    let written = "SELECT count(*) FROM grant_hops WHERE read_at = $1";
    let here = async |tx: &mut Tx, grant: usize| {
        let hops = tx.hops_of(&[grants[grant]]).await.unwrap();
        let hop = hops[&grants[grant]]
            .iter()
            .find(|hop| hop.point == point)
            .unwrap();
        (hop.state, hop.rules.clone(), hop.read_at)
    };
    tx.set_hops(point, &[seen(0, 1), seen(1, 1)], at(1), &[])
        .await
        .unwrap();
    tx.set_hops(point, &[seen(0, 1), seen(1, 2)], at(2), &[])
        .await
        .unwrap();
    for (instant, rows) in [(at(1), 1), (at(2), 1)] {
        let found: i64 = sqlx::query_scalar(written)
            .bind(instant)
            .fetch_one(&mut *tx.inner)
            .await
            .unwrap();
        assert_eq!(found, rows, "{instant}");
    }
    assert_eq!(
        here(&mut tx, 0).await,
        (HopState::Present, Some(json!([1])), Some(at(2)))
    );
    assert_eq!(
        here(&mut tx, 1).await,
        (HopState::Present, Some(json!([2])), Some(at(2)))
    );

    // A reading that failed is none, and an intention neither.
    let failed = HopUpdate {
        state: None,
        rules: None,
        obstacle: Some("no answer".to_owned()),
        ..seen(0, 1)
    };
    let told = tx.set_hops(point, &[failed], at(3), &grants[..1]).await.unwrap();
    let hop = told[&grants[0]].iter().find(|hop| hop.point == point).unwrap();
    assert_eq!(
        (told.len(), hop.state, hop.read_at),
        (1, HopState::Present, Some(at(2)))
    );
    assert_eq!(here(&mut tx, 1).await.2, Some(at(2)));

    // What was gone is read for itself: nothing later speaks for it.
    let gone = HopUpdate {
        state: Some(HopState::Absent),
        rules: None,
        ..seen(0, 1)
    };
    let told = tx
        .set_hops(point, &[gone, seen(1, 2)], at(4), &grants)
        .await
        .unwrap();
    let read: Vec<_> = grants
        .iter()
        .map(|grant| told[grant].iter().find(|hop| hop.point == point).unwrap().read_at)
        .collect();
    assert_eq!(read, [Some(at(4)), Some(at(4))]);
    tx.set_hops(point, &[seen(1, 2)], at(5), &[]).await.unwrap();
    assert_eq!(here(&mut tx, 0).await, (HopState::Absent, None, Some(at(4))));
    assert_eq!(here(&mut tx, 1).await.2, Some(at(5)));
}

#[tokio::test]
async fn a_grant_on_a_machine_that_nothing_filters_is_refused() {
    let store = fresh_store().await;
    let mut machine = a_machine(1);
    machine.interfaces.clear();
    save(&store, &[a_row(machine, None)], 0).await;
    let (request, grants) = some_grants(1, 1);
    let mut tx = store.begin().await.unwrap();
    tx.insert_request(&request).await.unwrap();
    let error = tx.insert_grants(&grants).await.unwrap_err();
    assert!(
        matches!(error, StoreError::Conflict(Conflict::NoHop(_))),
        "{error}"
    );
}

#[tokio::test]
async fn closings_count_as_overdue_from_their_end() {
    let store = fresh_store().await;
    let grants = with_grants(&store, 2).await;
    try_save(&store, &[expired(&grants[0])]).await.unwrap();
    let mut tx = store.begin().await.unwrap();
    assert_eq!(tx.count_overdue(at(50)).await.unwrap(), 0);
    assert_eq!(tx.count_overdue(at(51)).await.unwrap(), 1);
}

#[tokio::test]
async fn a_grant_that_is_still_open_after_its_end_is_overdue_too() {
    let store = fresh_store().await;
    let grants = with_grants(&store, 2).await;
    let opened = Grant {
        state: GrantState::Open(Open {
            opened_at: at(10),
            ends_at: at(60),
        }),
        ..grants[0].clone()
    };
    try_save(&store, std::slice::from_ref(&opened)).await.unwrap();
    let mut tx = store.begin().await.unwrap();
    assert_eq!(tx.count_overdue(at(60)).await.unwrap(), 0);
    assert_eq!(tx.count_overdue(at(61)).await.unwrap(), 1);
}

#[tokio::test]
async fn a_policy_concerns_its_grants_and_those_on_its_machines() {
    let store = fresh_store().await;
    let grants = with_grants(&store, 2).await;
    let covering = postern_core::testing::a_policy("/aws");
    let mut tx = store.begin().await.unwrap();
    let made_under = grants[0].policy;
    let nobodys = postern_core::testing::an_id(999);
    assert_eq!(tx.live_grants_under(made_under, &[]).await.unwrap(), grants);
    assert_eq!(tx.live_grants_under(nobodys, &[]).await.unwrap(), []);
    assert_eq!(
        tx.live_grants_under(nobodys, &[a_machine(1).id]).await.unwrap(),
        grants
    );
    tx.insert_policy(&covering).await.unwrap();
    tx.cover(&covering.scope, Some(covering.id)).await.unwrap();
    assert_eq!(tx.live_grants_under(covering.id, &[]).await.unwrap(), grants);
    tx.save_grants(&[expired(&grants[0])]).await.unwrap();
    assert_eq!(
        tx.live_grants_under(covering.id, &[]).await.unwrap(),
        [grants[1].clone()]
    );
}
