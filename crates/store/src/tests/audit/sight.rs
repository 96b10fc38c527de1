//! Who sees what of the audit log, and that little is not looked for in all of it.

use std::time::Duration;

use postern_core::{
    audit::{Actor, AuditEvent, Outcome},
    testing::at,
};

use super::{PAGE, a_bare_event, accounts, an_event, append, read_through};
use crate::{
    AuditFilter, Order, Store, StoreOptions, Visible,
    audit::Bounds,
    testing::{fresh_database, fresh_store},
};

/// Sixty events at every depth of scope, and at scopes whose texts begin alike.
fn scattered() -> Vec<AuditEvent> {
    let scopes = [
        "/",
        "/aws",
        "/aws/000000000001",
        "/aws/000000000001/eu-west-1",
        "/aws/000000000001/eu-west-1/i-00000000000000001",
        "/aws/000000000001/eu-west-1/i-00000000000000002",
        "/aws/000000000002/eu-west-1/i-00000000000000001",
        "/azure",
        "/azure/00000000-0000-0000-0000-000000000001/rg",
        "/azure/00000000-0000-0000-0000-000000000001/rg/vm",
        "/azure/00000000-0000-0000-0000-000000000001/rg-b/vm",
        "/azure/00000000-0000-0000-0000-000000000001/rg0/vm",
    ];
    scopes
        .iter()
        .cycle()
        .zip(0..60)
        .map(|(scope, number)| AuditEvent {
            at: at(i64::try_from(number * 37 % 60).unwrap()),
            scope: scope.parse().unwrap(),
            ..if number % 7 < 3 {
                a_bare_event(number)
            } else {
                an_event(number)
            }
        })
        .collect()
}

#[tokio::test]
async fn somebody_sees_the_same_events_whether_theirs_are_few_or_many() {
    let store = fresh_store().await;
    let events = scattered();
    append(&store, &events).await;
    let one = "/aws/000000000001/eu-west-1";
    let machine = "/aws/000000000002/eu-west-1/i-00000000000000001";
    let group = "/azure/00000000-0000-0000-0000-000000000001/rg";
    let nothing = "/aws/999999999999";
    let sights: [&[&str]; 10] = [
        &[],
        &["/"],
        &[nothing],
        &[group],
        &["/aws", group],
        // One below another, and one twice.
        &["/aws", one, one],
        &[nothing, machine, group, "/aws/000000000001"],
        &[
            nothing,
            "/aws/999999999998",
            "/aws/999999999997",
            "/aws/999999999996",
        ],
        &[nothing, "/azure", machine, one, "/aws/000000000001/us-east-1"],
        &[
            nothing,
            "/aws/999999999998",
            "/aws/999999999997",
            "/aws/999999999996",
            "/aws/999999999995",
            "/aws/999999999994",
            "/aws/999999999993",
            "/aws/000000000001",
            machine,
            "/azure/00000000-0000-0000-0000-000000000001/rg-b/vm",
        ],
    ];
    let asked = [
        AuditFilter::default(),
        AuditFilter {
            actor: Some("system:discovery".into()),
            ..AuditFilter::default()
        },
        AuditFilter {
            outcome: Some(Outcome::Succeeded),
            since: Some(at(10)),
            ..AuditFilter::default()
        },
        AuditFilter {
            action_prefix: Some("grant.".into()),
            until: Some(at(40)),
            ..AuditFilter::default()
        },
        AuditFilter {
            since: Some(at(20)),
            until: Some(at(50)),
            ..AuditFilter::default()
        },
    ];
    for (asked, sight, scope) in asked.iter().flat_map(|asked| {
        sights.iter().flat_map(move |sight| {
            [None, Some("/aws"), Some(one), Some(group), Some(nothing)].map(|scope| (asked, sight, scope))
        })
    }) {
        let filter = AuditFilter {
            visible: Visible {
                scopes: sight.iter().map(|scope| scope.parse().unwrap()).collect(),
                own: None,
            },
            scope: scope.map(|scope| scope.parse().unwrap()),
            ..asked.clone()
        };
        let lets_through = |event: &&AuditEvent| {
            filter
                .visible
                .scopes
                .iter()
                .any(|scope| scope.contains(&event.scope))
                && filter
                    .scope
                    .as_ref()
                    .is_none_or(|scope| scope.contains(&event.scope))
                && filter
                    .action_prefix
                    .as_ref()
                    .is_none_or(|prefix| event.action.starts_with(prefix))
                && filter.outcome.is_none_or(|outcome| event.outcome == outcome)
                && (filter.actor.is_none() || matches!(event.actor, Actor::System { .. }))
                && filter.since.is_none_or(|since| event.at >= since)
                && filter.until.is_none_or(|until| event.at < until)
        };
        let expected: Vec<AuditEvent> = events.iter().filter(lets_through).cloned().collect();
        for (order, (few, places)) in [Order::OldestFirst, Order::NewestFirst]
            .into_iter()
            .flat_map(|order| {
                [(-1, -1), (9, -1), (i64::MAX, -1), (-1, 5), (-1, 10_000)].map(|bounds| (order, bounds))
            })
        {
            let bounds = Bounds {
                narrow: 21,
                few,
                places,
            };
            let page = async |after| store.audit_page(&filter, after, PAGE, order, bounds).await;
            let seen = read_through(order, page).await;
            assert_eq!(seen, expected, "{filter:?}, {order:?}, {bounds:?}");
        }
    }
}

/// How many rows and index entries of the log have been read by lists so far, of which there is one connection.
async fn rows_read(store: &Store) -> i64 {
    sqlx::query("SELECT pg_stat_force_next_flush()")
        .execute(&store.lists)
        .await
        .unwrap();
    sqlx::query_scalar(
        "SELECT (pg_stat_get_tuples_returned('audit_events'::regclass)
             + (SELECT sum(idx_tup_read + idx_tup_fetch) FROM pg_stat_user_indexes WHERE relname = 'audit_events'))::bigint",
    )
    .fetch_one(&store.lists)
    .await
    .unwrap()
}

#[tokio::test]
async fn who_may_see_little_of_the_log_does_not_have_it_walked_through() {
    let options = StoreOptions {
        max_connections: 4,
        ..StoreOptions::default()
    };
    let store = Store::connect(&fresh_database().await, options).await.unwrap();
    // Account 1 has the ten oldest events, account 2 the next 6,000; a hundred others share the rest.
    sqlx::raw_sql(
        "INSERT INTO audit_events (id, at, action, outcome, actor, actor_ref, scope, details)
         SELECT gen_random_uuid(), timestamptz '2026-01-01Z' + n * interval '1 second', 'grant.open', 'succeeded',
             '{\"kind\": \"anonymous\"}', 'anonymous',
             CASE WHEN n <= 10 THEN '/aws/000000000001'
                 WHEN n <= 6010 THEN '/aws/000000000002'
                 ELSE '/aws/' || (200000000000 + n % 100) END || '/eu-west-1/i-00000000000000001', '{}'
         FROM generate_series(1, 20000) AS n",
    )
    .execute(&store.pool)
    .await
    .unwrap();
    sqlx::query("VACUUM ANALYZE audit_events")
        .execute(&store.pool)
        .await
        .unwrap();
    let nowhere: Vec<u32> = (900..1000).collect();
    let denied = AuditFilter {
        outcome: Some(Outcome::Denied),
        ..AuditFilter::default()
    };
    let old = AuditFilter {
        until: Some(at(0) + Duration::from_hours(24 * 365 * 100)),
        actor: Some("anonymous".into()),
        ..AuditFilter::default()
    };
    for (asked, sight, expected) in [
        (AuditFilter::default(), accounts([1]), 10),
        (AuditFilter::default(), accounts([2]), 50),
        (AuditFilter::default(), accounts(nowhere.iter().copied()), 0),
        (
            AuditFilter::default(),
            accounts(nowhere.iter().copied().chain([1])),
            10,
        ),
        (denied, accounts(nowhere.iter().copied().chain([1])), 0),
        (old, accounts(nowhere.iter().copied().chain([1])), 10),
    ] {
        let filter = AuditFilter {
            visible: sight,
            ..asked
        };
        for order in [Order::NewestFirst, Order::OldestFirst] {
            let before = rows_read(&store).await;
            let page = store.audit_events(&filter, None, 50, order).await.unwrap();
            let read = rows_read(&store).await - before;
            assert_eq!(page.items.len(), expected, "{filter:?}");
            assert!(read >= i64::try_from(expected).unwrap(), "nothing was counted");
            assert!(read < 500, "{read} rows were read: {filter:?}, {order:?}");
        }
    }
}
