//! Writes that take effect after the server gave their answer up: undecided for as long, and found.
#![expect(clippy::indexing_slicing, reason = "a test may fail by panicking")]

use std::{collections::BTreeMap, time::Duration};

use postern_api::{audit_event::AuditEvent, grant::GrantRevoke};
use postern_sim::fault::{Effect, FaultId, FaultRule, Faults, When};
use postern_tests::{Person, ServerProcess, World, WorldOptions, world::CLIENT};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_mins(1);

/// A second longer than these servers wait for a change.
const LATE: Duration = Duration::from_secs(3);

async fn world() -> (World, ServerProcess) {
    World::locked_down(WorldOptions::of(env!("CARGO_BIN_EXE_postern-under-test"))).await
}

/// The next call of the operation takes effect late; those after it are refused, so that what happens is its doing.
fn only_one_and_late(faults: &Faults, operation: &str) -> [FaultId; 2] {
    let rule = |when, effect| FaultRule {
        operation: operation.to_owned(),
        when,
        effect,
    };
    let refusal = Effect::Status {
        status: 403,
        code: "AuthorizationFailed".into(),
        message: "not today".into(),
        retry_after: None,
    };
    [
        rule(When::Next(1), Effect::Latency(LATE)),
        rule(When::After { skip: 1, count: 1000 }, refusal),
    ]
    .map(|rule| faults.add(rule))
}

/// What the log says of the first change of this kind at each of these points: all its outcomes.
fn outcomes(events: &[AuditEvent], verb: &str, points: &str) -> Vec<Vec<String>> {
    // Of each point, its first change and what became of that.
    let mut first: BTreeMap<String, (String, Vec<String>)> = BTreeMap::new();
    for event in events.iter().filter(|event| event.action == "change.apply") {
        let text = |member: &str| event.subject.get(member).and_then(Value::as_str);
        let (Some(change), Some(point)) = (text("change"), text("point")) else {
            continue;
        };
        if event.outcome == "intended" {
            if event.details["verb"] == verb && point.starts_with(points) {
                let new = || (change.to_owned(), Vec::new());
                first.entry(point.to_owned()).or_insert_with(new);
            }
        } else if let Some((_, outcomes)) = first.get_mut(point).filter(|(id, _)| id == change) {
            outcomes.push(event.outcome.clone());
        }
    }
    first.into_values().map(|(_, outcomes)| outcomes).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_closing_that_takes_effect_after_its_answer_was_given_up_has_succeeded_and_not_failed() {
    let (world, _server) = world().await;
    let locked = world.now();
    let (arm, ec2) = (world.fleet.arm.faults(), world.fleet.ec2.faults());
    let clouds = [
        (&world.fleet.web, arm, "SecurityRules.Delete", "azure:nsg:"),
        (
            &world.fleet.app,
            ec2,
            "ModifyNetworkInterfaceAttribute",
            "aws:instance:",
        ),
    ];
    let both = world
        .request(&[&world.fleet.web, &world.fleet.app], 600, 30)
        .await;
    for grant in &both.grants {
        world.until(&grant.id, "open", PATIENCE).await;
    }
    let rules = clouds.map(|(_, faults, operation, _)| only_one_and_late(faults, operation));
    for grant in &both.grants {
        let ada = world.client(Person::Ada);
        ada.revoke_grant(&grant.id, None, &GrantRevoke::default())
            .await
            .unwrap();
    }
    for (machine, faults, operation, _) in clouds {
        world
            .eventually("the late closing", PATIENCE, async || {
                (!world.reachable(machine, CLIENT, 22)).then_some(())
            })
            .await;
        let struck = faults.list().into_iter().filter(|fault| fault.hits > 0);
        assert!(struck.count() > 0, "{operation} was never called");
    }
    // An EC2 instance's closing has a second part, which is refused nothing.
    for ((_, faults, ..), rules) in clouds.iter().zip(rules) {
        for rule in rules {
            faults.remove(rule);
        }
    }
    for grant in &both.grants {
        world.until(&grant.id, "closed", PATIENCE).await;
    }
    world.assert_sound(locked, Duration::from_secs(20)).await;
    let events = world.audit_log().await;
    for (machine, _, _, point) in clouds {
        let told = outcomes(&events, "close", point);
        // A machine may have several points, of which one is late and the others are refused.
        assert!(
            told.contains(&vec!["succeeded".to_owned()]),
            "{machine}: {told:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_opening_that_takes_effect_after_its_answer_was_given_up_and_its_grant_was_revoked_is_closed() {
    let (world, _server) = world().await;
    let (locked, shut) = (world.now(), world.rules());
    let late = [
        only_one_and_late(world.fleet.arm.faults(), "SecurityRules.CreateOrUpdate"),
        only_one_and_late(world.fleet.ec2.faults(), "ModifyNetworkInterfaceAttribute"),
    ];
    let machines = [&world.fleet.web, &world.fleet.app];
    let both = world.request(&[&world.fleet.web, &world.fleet.app], 600, 0).await;
    for (faults, [latency, _]) in [world.fleet.arm.faults(), world.fleet.ec2.faults()]
        .into_iter()
        .zip(late)
    {
        world
            .eventually("the call is under way", PATIENCE, async || {
                let mut rules = faults.list().into_iter();
                rules
                    .any(|fault| fault.id == latency && fault.hits > 0)
                    .then_some(())
            })
            .await;
    }
    for grant in &both.grants {
        let ada = world.client(Person::Ada);
        ada.revoke_grant(&grant.id, None, &GrantRevoke::default())
            .await
            .unwrap();
    }
    // In EC2 the group that was to be attached is deleted by then, and nothing is written.
    world
        .eventually("the late opening", PATIENCE, async || {
            let written = world.fleet.arm.truth().all();
            let mut written = written.iter().filter(|change| change.at > locked);
            written
                .any(|change| change.operation == "SecurityRules.CreateOrUpdate")
                .then_some(())
        })
        .await;
    for (faults, rules) in [world.fleet.arm.faults(), world.fleet.ec2.faults()]
        .into_iter()
        .zip(late)
    {
        for rule in rules {
            faults.remove(rule);
        }
    }
    for grant in &both.grants {
        world.until(&grant.id, "closed", PATIENCE).await;
    }
    for machine in machines {
        assert!(!world.reachable(machine, CLIENT, 22), "{machine} is shut");
    }
    world.until_rules_are(&shut, PATIENCE).await;
    // Within how long they are found: what a call may still take after its answer was given up, and a look.
    world.assert_sound(locked, Duration::from_secs(30)).await;
}
