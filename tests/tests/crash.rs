//! Kill -9 of the server at each step between decision and closing, for both clouds; after a restart the invariants
//! hold, checked from the simulators' truth logs.
#![expect(clippy::unwrap_used, reason = "a test may fail by panicking")]

use std::time::Duration;

use futures::StreamExt as _;
use postern_api::access_request::AccessRequestCreateQuery;
use postern_tests::{World, WorldOptions};

/// Every point between two steps of a pass, in their order.
const POINTS: [&str; 9] = [
    "after-lease",
    "after-decide",
    "after-observe",
    "after-intent",
    "before-apply",
    "after-apply",
    "before-read-back",
    "before-outcome",
    "after-outcome",
];

/// The lease, the enforcers' request time and the restart: how long a point may rest after a crash.
const LAG: Duration = Duration::from_secs(15);
const PATIENCE: Duration = Duration::from_mins(1);

fn options() -> WorldOptions {
    WorldOptions::of(env!("CARGO_BIN_EXE_postern-under-test"))
}

/// What is going on when the server dies.
#[derive(Debug, Clone, Copy)]
enum Phase {
    /// Grants on a machine of each cloud are being opened.
    Opening,
    /// They are open and their time is over.
    Closing,
    /// They are open and somebody removes the policy: rules close and the lockdown is restored.
    Releasing,
}

async fn dies_and_recovers(point: &str, phase: Phase) {
    let world = World::new(options()).await;
    let before = world.rules();
    let mut server = world.serve(&[]).await;
    let policy = world.lock_down().await;
    let locked = world.now();
    let machines = [world.fleet.web.clone(), world.fleet.app.clone()];
    let machines: Vec<&str> = machines.iter().map(String::as_str).collect();
    let crash = format!("{point}=1");

    let doomed = match phase {
        Phase::Opening => {
            server.kill();
            let doomed = world.serve(&[("POSTERN_CRASH_AT", &crash)]).await;
            // The answer may be lost with the server; the decision is not.
            let client = world.client(postern_tests::Person::Ada);
            let request = postern_tests::world::a_request(&machines, 12);
            let _ = client
                .create_access_request(None, &AccessRequestCreateQuery::default(), &request)
                .await;
            doomed
        }
        Phase::Closing => {
            let request = world.request(&machines, 10, 30).await;
            assert!(
                request.grants.iter().all(|grant| grant.status == "open"),
                "{request:?}"
            );
            world.quiet().await;
            server.kill();
            world.serve(&[("POSTERN_CRASH_AT", &crash)]).await
        }
        Phase::Releasing => {
            let request = world.request(&machines, 600, 30).await;
            assert!(
                request.grants.iter().all(|grant| grant.status == "open"),
                "{request:?}"
            );
            world.quiet().await;
            server.kill();
            let doomed = world.serve(&[("POSTERN_CRASH_AT", &crash)]).await;
            let _ = world
                .client(postern_tests::Person::Olga)
                .delete_jit_policy(&policy.id, policy.version)
                .await;
            doomed
        }
    };
    let mut doomed = doomed;
    doomed.ended(PATIENCE).await;

    let _server = world.serve(&[]).await;
    world
        .eventually(
            &format!("every grant is closed after dying at {point} while {phase:?}"),
            PATIENCE,
            async || {
                let grants = world.all_grants().await;
                (grants.len() == 2 && grants.iter().all(|grant| grant.status == "closed")).then_some(())
            },
        )
        .await;
    if let Phase::Opening | Phase::Closing = phase {
        world
            .client(postern_tests::Person::Olga)
            .delete_jit_policy(&policy.id, policy.version)
            .await
            .unwrap();
    }
    world.until_rules_are(&before, PATIENCE).await;
    // The last outcome is committed after the last rule is back.
    world
        .eventually("every intent has an outcome", PATIENCE, async || {
            let events = world.audit_log().await;
            let count = |intended: bool| {
                let of = |event: &&postern_api::audit_event::AuditEvent| {
                    event.action == "change.apply" && (event.outcome == "intended") == intended
                };
                events.iter().filter(of).count()
            };
            (count(true) == count(false)).then_some(())
        })
        .await;
    world.assert_sound_until_release(locked, LAG).await;
}

async fn at_every_point(phase: Phase) {
    futures::stream::iter(POINTS)
        .for_each_concurrent(4, |point| dies_and_recovers(point, phase))
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_killed_while_opening_leaves_nothing_open_and_nothing_unsaid() {
    at_every_point(Phase::Opening).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_killed_while_closing_leaves_nothing_open_and_nothing_unsaid() {
    at_every_point(Phase::Closing).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_killed_while_releasing_restores_what_was_there() {
    at_every_point(Phase::Releasing).await;
}
