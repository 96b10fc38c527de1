//! The audit log.

mod sight;

use postern_core::{
    audit::{Actor, AuditEvent, Outcome, Subject},
    scope::Scope,
    testing::{an_id, at},
};
use serde_json::{Value, json};

use super::{HOSTILE, a_machine};
use crate::{
    AuditFilter, Order, Page, Store, StoreError, StoredEvent, Visible, audit::Bounds, testing::fresh_store,
};

fn an_event(number: u128) -> AuditEvent {
    AuditEvent {
        id: an_id(number),
        at: at(i64::try_from(number).unwrap()),
        action: "grant.open".into(),
        outcome: Outcome::Succeeded,
        actor: Actor::Principal {
            principal: "user:corp/ada".parse().unwrap(),
        },
        scope: a_machine(1).id.scope(),
        reason: Some("disk full".into()),
        decision: Some(json!({ "by": ["ra_1"] })),
        details: json!({ "n": u64::try_from(number).unwrap() }),
        subject: Subject {
            request: Some(an_id(1)),
            grant: Some(an_id(2)),
            policy: Some(an_id(3)),
            machine: Some(a_machine(1).id),
            point: Some("aws:instance:x".into()),
            pass: Some(an_id(4)),
            change: Some(an_id(5)),
        },
        http_request: Some("r-1".into()),
    }
}

fn a_bare_event(number: u128) -> AuditEvent {
    AuditEvent {
        action: "machine.discover".into(),
        outcome: Outcome::Denied,
        actor: Actor::System {
            component: "discovery".into(),
        },
        scope: Scope::root(),
        reason: None,
        decision: None,
        details: Value::Null,
        subject: Subject::default(),
        http_request: None,
        ..an_event(number)
    }
}

async fn append(store: &Store, events: &[AuditEvent]) {
    let mut tx = store.begin().await.unwrap();
    tx.audit(events).await.unwrap();
    tx.commit().await.unwrap();
}

fn everything() -> AuditFilter {
    AuditFilter {
        visible: Visible::everything(),
        ..AuditFilter::default()
    }
}

async fn list(store: &Store, filter: &AuditFilter) -> Vec<AuditEvent> {
    let page = store
        .audit_events(filter, None, 100, Order::OldestFirst)
        .await
        .unwrap();
    page.items.into_iter().map(|stored| stored.event).collect()
}

/// How many events are on a page that is [read through](read_through).
const PAGE: u32 = 4;

/// All events of the pages, read one after the other in this order; the oldest first.
async fn read_through(
    order: Order,
    page: impl AsyncFn(Option<i64>) -> Result<Page<StoredEvent, i64>, StoreError>,
) -> Vec<AuditEvent> {
    let (mut seen, mut after) = (Vec::new(), None);
    loop {
        let page = page(after).await.unwrap();
        assert!(page.items.len() == PAGE as usize || page.next.is_none());
        seen.extend(page.items.into_iter().map(|stored| stored.event));
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    if order == Order::NewestFirst {
        seen.reverse();
    }
    seen
}

#[tokio::test]
async fn events_read_back_as_they_were_written_and_in_their_order() {
    let store = fresh_store().await;
    let events = [an_event(3), a_bare_event(1), an_event(2)];
    append(&store, &events).await;
    assert_eq!(list(&store, &everything()).await, events);
    let mut newest = store
        .audit_events(&everything(), None, 100, Order::NewestFirst)
        .await
        .unwrap()
        .items;
    newest.reverse();
    assert_eq!(
        newest.into_iter().map(|stored| stored.event).collect::<Vec<_>>(),
        events
    );
}

#[tokio::test]
async fn nobody_changes_the_log_not_even_its_owner() {
    let store = fresh_store().await;
    append(&store, &[an_event(1)]).await;
    for statement in [
        "UPDATE audit_events SET reason = 'x'",
        "UPDATE audit_events SET reason = 'x' WHERE false",
        "DELETE FROM audit_events",
        "TRUNCATE audit_events",
        "TRUNCATE audit_events CASCADE",
        "INSERT INTO audit_events (id, at, action, outcome, actor, actor_ref, scope, details)
         SELECT id, at, action, outcome, actor, actor_ref, scope, details FROM audit_events
         ON CONFLICT (id) DO UPDATE SET reason = 'x'",
        "SET session_replication_role = replica; DELETE FROM audit_events",
    ] {
        let mut connection = store.pool.acquire().await.unwrap().detach();
        let error = sqlx::raw_sql(statement)
            .execute(&mut connection)
            .await
            .expect_err(statement)
            .to_string();
        assert!(
            error.contains("audit_events is append-only")
                || error.contains("cannot truncate a table referenced"),
            "{statement}: {error}"
        );
    }
    assert_eq!(list(&store, &everything()).await, [an_event(1)]);
}

#[tokio::test]
async fn the_service_role_appends_and_reads_and_may_do_nothing_else() {
    let store = fresh_store().await;
    append(&store, &[an_event(1)]).await;
    for (statement, allowed) in [
        ("SELECT count(*) FROM audit_events", true),
        (
            "INSERT INTO idempotency_keys VALUES ('a', 'b', '', NULL, NULL, now())",
            true,
        ),
        ("UPDATE audit_events SET reason = 'x'", false),
        ("DELETE FROM audit_events", false),
        ("TRUNCATE audit_events", false),
        ("ALTER TABLE audit_events DISABLE TRIGGER append_only", false),
        ("DROP TABLE audit_events", false),
        ("DELETE FROM jit_policy_versions", false),
    ] {
        let mut connection = store.pool.acquire().await.unwrap().detach();
        sqlx::raw_sql("SET ROLE postern_service")
            .execute(&mut connection)
            .await
            .unwrap();
        let result = sqlx::raw_sql(statement).execute(&mut connection).await;
        match (allowed, result) {
            (true, result) => drop(result.expect(statement)),
            (false, result) => {
                let error = result.expect_err(statement);
                let code = error
                    .as_database_error()
                    .unwrap()
                    .code()
                    .map(std::borrow::Cow::into_owned);
                assert_eq!(
                    code.as_deref(),
                    Some("42501"),
                    "insufficient_privilege: {statement}: {error}"
                );
            }
        }
    }
}

#[tokio::test]
async fn every_filter_lets_through_what_matches_and_nothing_else() {
    let store = fresh_store().await;
    append(&store, &[an_event(1), a_bare_event(2)]).await;
    let (subject, bare) = ([an_event(1)], [a_bare_event(2)]);
    let machine = a_machine(1).id;
    for (filter, expected) in [
        (
            AuditFilter {
                action_prefix: Some("grant.".into()),
                ..everything()
            },
            &subject[..],
        ),
        (
            AuditFilter {
                action_prefix: Some("machine".into()),
                ..everything()
            },
            &bare,
        ),
        (
            AuditFilter {
                action_prefix: Some("open".into()),
                ..everything()
            },
            &[],
        ),
        (
            AuditFilter {
                outcome: Some(Outcome::Denied),
                ..everything()
            },
            &bare,
        ),
        (
            AuditFilter {
                actor: Some("user:corp/ada".into()),
                ..everything()
            },
            &subject,
        ),
        (
            AuditFilter {
                actor: Some("system:discovery".into()),
                ..everything()
            },
            &bare,
        ),
        (
            AuditFilter {
                scope: Some("/aws".parse().unwrap()),
                ..everything()
            },
            &subject,
        ),
        (
            AuditFilter {
                scope: Some("/azure".parse().unwrap()),
                ..everything()
            },
            &[],
        ),
        (
            AuditFilter {
                scope: Some(machine.scope()),
                ..everything()
            },
            &subject,
        ),
        (
            AuditFilter {
                machine: Some(machine),
                ..everything()
            },
            &subject,
        ),
        (
            AuditFilter {
                machine: Some(a_machine(2).id),
                ..everything()
            },
            &[],
        ),
        (
            AuditFilter {
                grant: Some(an_id(2)),
                ..everything()
            },
            &subject,
        ),
        (
            AuditFilter {
                request: Some(an_id(1)),
                ..everything()
            },
            &subject,
        ),
        (
            AuditFilter {
                policy: Some(an_id(3)),
                ..everything()
            },
            &subject,
        ),
        (
            AuditFilter {
                policy: Some(an_id(4)),
                ..everything()
            },
            &[],
        ),
        (
            AuditFilter {
                point: Some("aws:instance:x".into()),
                ..everything()
            },
            &subject,
        ),
        (
            AuditFilter {
                since: Some(at(2)),
                ..everything()
            },
            &bare,
        ),
        (
            AuditFilter {
                until: Some(at(2)),
                ..everything()
            },
            &subject,
        ),
        (AuditFilter::default(), &[]),
        (
            AuditFilter {
                visible: Visible {
                    scopes: vec!["/aws".parse().unwrap()],
                    own: None,
                },
                ..AuditFilter::default()
            },
            &subject,
        ),
    ] {
        assert_eq!(list(&store, &filter).await, expected, "{filter:?}");
    }
}

#[tokio::test]
async fn hostile_texts_match_nothing_harm_nothing_and_are_kept_as_they_are() {
    let store = fresh_store().await;
    append(&store, &[an_event(1)]).await;
    for hostile in HOSTILE {
        for filter in [
            AuditFilter {
                action_prefix: Some(hostile.into()),
                ..everything()
            },
            AuditFilter {
                actor: Some(hostile.into()),
                ..everything()
            },
            AuditFilter {
                point: Some(hostile.into()),
                ..everything()
            },
        ] {
            assert_eq!(list(&store, &filter).await, [], "{hostile}");
        }
    }
    let events: Vec<AuditEvent> = HOSTILE
        .iter()
        .zip(10..)
        .map(|(hostile, number)| AuditEvent {
            action: (*hostile).to_owned(),
            reason: Some((*hostile).to_owned()),
            details: json!({ *hostile: hostile }),
            ..a_bare_event(number)
        })
        .collect();
    append(&store, &events).await;
    for (kept, written) in list(&store, &everything()).await.iter().skip(1).zip(&events) {
        assert_eq!(
            kept.reason,
            written
                .reason
                .as_ref()
                .map(|reason| reason.replace('\0', "\u{fffd}"))
        );
        assert_eq!(kept.action, written.action.replace('\0', "\u{fffd}"));
    }
}

#[tokio::test]
async fn pages_follow_each_other_in_both_orders() {
    let store = fresh_store().await;
    let events: Vec<AuditEvent> = (1..=10).map(an_event).collect();
    append(&store, &events).await;
    for order in [Order::OldestFirst, Order::NewestFirst] {
        let page = async |after| store.audit_events(&everything(), after, PAGE, order).await;
        assert_eq!(read_through(order, page).await, events);
    }
}

/// Sixty events in four accounts, whose times do not rise with their numbers.
fn scrambled() -> Vec<AuditEvent> {
    (0..60)
        .map(|number| AuditEvent {
            at: at(i64::try_from(number * 37 % 60).unwrap()),
            scope: format!("/aws/{:012}/eu-west-1", number % 4).parse().unwrap(),
            ..an_event(number)
        })
        .collect()
}

fn accounts(numbers: impl IntoIterator<Item = u32>) -> Visible {
    Visible {
        scopes: numbers
            .into_iter()
            .map(|number| format!("/aws/{number:012}").parse().unwrap())
            .collect(),
        own: None,
    }
}

#[tokio::test]
async fn a_span_of_time_holds_the_same_events_whether_it_is_read_by_time_or_by_number() {
    let store = fresh_store().await;
    let events = scrambled();
    append(&store, &events).await;
    let spans = [
        (None, None),
        (Some(20), None),
        (None, Some(40)),
        (Some(20), Some(40)),
        (Some(20), Some(26)),
        (Some(90), Some(99)),
    ];
    let sights = [
        Visible::everything(),
        Visible::default(),
        accounts([1]),
        accounts([0, 2, 3]),
        accounts([9, 8, 7, 6, 3]),
    ];
    for ((since, until), visible) in spans
        .iter()
        .flat_map(|span| sights.iter().map(move |sight| (span, sight)))
    {
        let filter = AuditFilter {
            visible: visible.clone(),
            since: since.map(at),
            until: until.map(at),
            ..AuditFilter::default()
        };
        let expected: Vec<AuditEvent> = events
            .iter()
            .filter(|event| filter.since.is_none_or(|since| event.at >= since))
            .filter(|event| filter.until.is_none_or(|until| event.at < until))
            .filter(|event| visible.scopes.iter().any(|scope| scope.contains(&event.scope)))
            .cloned()
            .collect();
        for (order, narrow) in [Order::OldestFirst, Order::NewestFirst]
            .into_iter()
            .flat_map(|order| [0, 21, i64::MAX].map(|narrow| (order, narrow)))
        {
            let bounds = Bounds {
                narrow,
                few: -1,
                places: -1,
            };
            let page = async |after| store.audit_page(&filter, after, PAGE, order, bounds).await;
            let seen = read_through(order, page).await;
            assert_eq!(seen, expected, "{filter:?}, {order:?}, {narrow}");
        }
    }
}

#[tokio::test]
async fn an_event_of_a_transaction_that_failed_never_was() {
    let store = fresh_store().await;
    let mut tx = store.begin().await.unwrap();
    tx.audit(&[an_event(1)]).await.unwrap();
    tx.rollback().await.unwrap();
    assert_eq!(list(&store, &everything()).await, []);
}
