//! A displaced rule that EC2 does not take back, because the peering connection to its source is deleted.

use std::time::Duration;

use postern::demo::fleet::{ACCOUNT, REGION};
use postern_api::audit_event::AuditEvent;
use postern_sim::{
    ec2::{Ingress, Origin},
    fault::{Effect, FaultRule, When},
};
use postern_tests::{Person, World, WorldOptions};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_mins(1);
const TAKEN_BACK: &str = "AuthorizeSecurityGroupIngress";

async fn world() -> World {
    World::new(
        WorldOptions::of(env!("CARGO_BIN_EXE_postern-under-test"))
            // What is refused is tried again after that long at most.
            .with("drift_interval_seconds = 2"),
    )
    .await
}

/// The outcomes that the log tells of what was put back at the group, and of the finding about it.
fn told(events: &[AuditEvent], group: &str) -> (Vec<String>, Vec<String>) {
    let here = |event: &&AuditEvent| {
        let point = event.subject.get("point").and_then(Value::as_str);
        point.is_some_and(|point| point.ends_with(group))
    };
    let detail = |event: &AuditEvent, member: &str, is: &str| {
        event.details.get(member).and_then(Value::as_str) == Some(is)
    };
    let events = || events.iter().filter(here);
    let changes = events()
        .filter(|event| event.action == "change.apply" && detail(event, "verb", "restore"))
        .map(|event| event.outcome.clone());
    let findings = events()
        .filter(|event| detail(event, "code", "restore_refused"))
        .map(|event| event.action.clone());
    (changes.collect(), findings.collect())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rule_whose_peering_is_gone_is_a_standing_finding_and_comes_back_with_the_peering() {
    let world = world().await;
    let aws = world.fleet.ec2.fleet(ACCOUNT, REGION);
    let group = {
        let there = aws.snapshot().unwrap();
        let mut groups = there.groups.into_iter();
        groups.find(|group| group.name == "app").unwrap()
    };
    let other = aws.vpc("10.9.0.0/16", false).unwrap();
    let bastion = aws.group(&other, "bastion", &[]).unwrap();
    let peering = aws.peering(&group.vpc_id, &other).unwrap();
    let of_bastion = Ingress {
        protocol: "tcp".to_owned(),
        ports: (22, 22),
        from: Origin::Group(bastion.clone()),
        description: String::new(),
    };
    aws.allow(&group.id, &[of_bastion]).unwrap();
    let names_bastion = || {
        let there = aws.snapshot().unwrap();
        let rules = format!("{:?}", there.group(&group.id).unwrap().rules);
        rules.contains(&bastion)
    };
    assert!(names_bastion());
    let _server = world.serve(&[]).await;
    let policy = world.lock_down().await;
    let locked = world.now();
    assert!(!names_bastion(), "it is displaced");

    aws.call(
        "DeleteVpcPeeringConnection",
        &[("VpcPeeringConnectionId", &peering)],
    )
    .unwrap();
    let olga = world.client(Person::Olga);
    olga.delete_jit_policy(&policy.id, policy.version).await.unwrap();
    world
        .eventually("the other rules are back", PATIENCE, async || {
            world
                .reachable(&world.fleet.app, [192, 0, 2, 1], 22)
                .then_some(())
        })
        .await;
    let events = world
        .eventually("it is found", PATIENCE, async || {
            let events = world.audit_log().await;
            (told(&events, &group.id).1 == ["point.finding"]).then_some(events)
        })
        .await;
    let shown = olga.machine(&world.fleet.app).await.unwrap();
    let standing = shown.findings.iter().find(|one| one.code == "restore_refused");
    assert!(standing.unwrap().message.contains("InvalidGroup.NotFound"));

    // It is tried again and again, which nobody is told.
    let counts = world.fleet.ec2.faults().add(FaultRule {
        operation: TAKEN_BACK.to_owned(),
        when: When::Always,
        effect: Effect::Latency(Duration::ZERO),
    });
    world
        .eventually("it was tried several times", PATIENCE, async || {
            let mut faults = world.fleet.ec2.faults().list().into_iter();
            let tries = faults.find(|fault| fault.id == counts)?.hits;
            (tries > 3).then_some(())
        })
        .await;
    assert_eq!(
        told(&world.audit_log().await, &group.id),
        told(&events, &group.id),
        "nothing is told of the tries since"
    );

    aws.peering(&group.vpc_id, &other).unwrap();
    world
        .eventually("it comes back with the peering", PATIENCE, async || {
            names_bastion().then_some(())
        })
        .await;
    world
        .eventually("the finding is resolved", PATIENCE, async || {
            let (changes, findings) = told(&world.audit_log().await, &group.id);
            let done = changes.last().is_some_and(|outcome| outcome == "succeeded");
            (done && findings == ["point.finding", "point.resolved"]).then_some(())
        })
        .await;
    world
        .assert_sound_until_release(locked, Duration::from_secs(5))
        .await;
}
