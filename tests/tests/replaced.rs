//! Machines and interfaces that are stopped, deleted or replaced while a grant is open: everything of ours is
//! collected, in both clouds, and what is there instead is treated as what it is.
#![expect(clippy::unwrap_used, reason = "a test may fail by panicking")]

use std::time::Duration;

use postern_api::{
    ErrorCode, access_request::AccessRequestCreateQuery, audit_event::AuditEvent, grant::GrantRevoke,
    jit_policy::JitPolicyQuery,
};
use postern_sim::{
    arm,
    ec2::{Ingress, MachinePlan},
};
use postern_tests::{
    Person, ServerProcess, World, WorldOptions,
    world::{CLIENT, a_request},
};
use serde_json::json;

const PATIENCE: Duration = Duration::from_mins(1);
const ANYBODY: [u8; 4] = [192, 0, 2, 1];

async fn world() -> (World, ServerProcess) {
    World::locked_down(options()).await
}

fn options() -> WorldOptions {
    WorldOptions::of(env!("CARGO_BIN_EXE_postern-under-test"))
        .with("discovery_interval_seconds = 1\ndrift_interval_seconds = 1")
}

/// The grants of an hour on these machines, open.
async fn open(world: &World, machines: &[&str]) -> Vec<String> {
    let request = world.request(machines, 3600, 30).await;
    let mut grants = Vec::new();
    for grant in request.grants {
        world.until(&grant.id, "open", PATIENCE).await;
        assert!(is_marked_for(world, &grant.id));
        grants.push(grant.id);
    }
    grants
}

async fn until_closed_as_gone(world: &World, grant: &str) {
    let closed = world.until(grant, "closed", PATIENCE).await;
    assert_eq!(closed.cause.unwrap().kind, "machine_gone");
}

/// Whether a mark says that its rule is the grant's.
fn is_marked_for(world: &World, grant: &str) -> bool {
    let id = grant.rsplit('_').next().unwrap();
    world.marks().iter().any(|(_, mark)| mark.contains(id))
}

/// Waits until no mark says that it is for the grant.
async fn until_nothing_is_left_of(world: &World, grant: &str) {
    world
        .eventually(&format!("nothing is left of {grant}"), PATIENCE, async || {
            (!is_marked_for(world, grant)).then_some(())
        })
        .await;
}

/// How a grant ends.
#[derive(Debug, Clone, Copy)]
enum End {
    Time,
    Revocation,
}

/// Waits until Postern has seen that a machine is in this state.
async fn until_seen(world: &World, machine: &str, power: &str) {
    let olga = world.client(Person::Olga);
    world
        .eventually(&format!("{machine} is {power}"), PATIENCE, async || {
            let seen = olga.machine(machine).await.ok()?;
            (seen.machine.power == power).then_some(())
        })
        .await;
}

async fn events_of(world: &World, grant: &str) -> Vec<AuditEvent> {
    let mut events = world.audit_log().await;
    events.retain(|event| event.subject.to_string().contains(grant));
    events
}

/// Opens a grant, has the machine switched off, and ends the grant: what it opened is closed on time as anywhere else.
async fn ends_while_it_is_off(world: &World, machine: &str, switch: impl Fn(bool), end: End) {
    until_seen(world, machine, "running").await;
    world.quiet().await;
    let locked = world.rules();
    let seconds = match end {
        // Long enough for a slow machine to see that it is still open.
        End::Time => 25,
        End::Revocation => 3600,
    };
    let grant = world.request(&[machine], seconds, 30).await.grants.remove(0).id;
    world.until(&grant, "open", PATIENCE).await;
    assert!(world.reachable(machine, CLIENT, 22));
    switch(false);
    until_seen(world, machine, "stopped").await;
    let refused = world
        .client(Person::Ada)
        .create_access_request(
            None,
            &AccessRequestCreateQuery::default(),
            &a_request(&[machine], 600),
        )
        .await
        .unwrap_err();
    assert_eq!(
        refused.problem().map(|problem| problem.code),
        Some(ErrorCode::MachineStopped)
    );
    // Off is not gone: its grant goes on, and with it what lets packets in as soon as it is on again.
    let still = world.client(Person::Olga).grant(&grant).await.unwrap();
    assert_eq!((still.status.as_str(), still.cause), ("open", None));
    assert!(is_marked_for(world, &grant));
    let (cause, ending) = match end {
        End::Time => ("expired", "grant.end"),
        End::Revocation => ("revoked", "grant.revoke"),
    };
    if let End::Revocation = end {
        let ada = world.client(Person::Ada);
        ada.revoke_grant(&grant, None, &GrantRevoke::default())
            .await
            .unwrap();
    }
    let closed = world.until(&grant, "closed", PATIENCE).await;
    assert_eq!(closed.cause.unwrap().kind, cause);
    assert!(!is_marked_for(world, &grant));
    let left = locked.difference(&world.rules());
    assert!(left.is_empty(), "after {end:?}: {}", left.join("\n"));
    let told = events_of(world, &grant).await;
    for action in ["grant.open", ending, "grant.rule_closed"] {
        let outcomes: Vec<&str> = told
            .iter()
            .filter(|event| event.action == action)
            .map(|event| event.outcome.as_str())
            .collect();
        assert_eq!(outcomes, ["succeeded"], "{action} of {told:#?}");
    }
    assert!(
        !told.iter().any(|event| event.action == "grant.overdue"),
        "{told:#?}"
    );
}

/// Grants end while a machine is off, the policy goes meanwhile too, and everything is as it was before Postern came.
async fn is_left_as_it_was(world: &World, machine: &str, switch: impl Fn(bool)) {
    let before = world.rules();
    let _server = world.serve(&[]).await;
    world.lock_down().await;
    let locked = world.now();
    for end in [End::Time, End::Revocation] {
        switch(true);
        ends_while_it_is_off(world, machine, &switch, end).await;
    }
    let olga = world.client(Person::Olga);
    let policies = olga.jit_policies(&JitPolicyQuery::default()).await.unwrap();
    for policy in policies.items {
        olga.delete_jit_policy(&policy.id, policy.version).await.unwrap();
    }
    world.until_rules_are(&before, PATIENCE).await;
    assert_eq!(world.marks(), []);
    world
        .assert_sound_until_release(locked, Duration::from_secs(5))
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_grant_ends_on_a_stopped_instance_as_on_any_other() {
    let world = World::new(options()).await;
    let aws = world.aws();
    let vpc = aws.vpc("10.60.0.0/16", false).unwrap();
    let group = aws
        .group(
            &vpc,
            "lent",
            &[Ingress::tcp(22, "0.0.0.0/0"), Ingress::tcp(443, "0.0.0.0/0")],
        )
        .unwrap();
    // Its public address is EC2's: it goes when the instance is stopped.
    let machine = aws
        .machine(&MachinePlan {
            name: "lent".to_owned(),
            subnet_id: aws.subnet(&vpc, "10.60.1.0/24", 0).unwrap(),
            interfaces: vec![vec![group]],
            lent: true,
            ..MachinePlan::default()
        })
        .unwrap();
    let lent = || {
        let snapshot = aws.snapshot().unwrap();
        snapshot.interface(&machine.interface_ids[0]).unwrap().lent_ip
    };
    let switch = |on: bool| {
        let call = if on { "StartInstances" } else { "StopInstances" };
        aws.call(call, &[("InstanceId.1", &machine.instance_id)]).unwrap();
        // A look carries out what is due.
        aws.call("DescribeInstances", &[]).unwrap();
        assert_eq!(lent().is_some(), on);
    };
    is_left_as_it_was(&world, &machine.arn, switch).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_grant_ends_on_a_deallocated_vm_as_on_any_other() {
    let world = World::new(options()).await;
    let arm = world.fleet.arm.fleet();
    let machine = world.fleet.web.clone();
    let switch = |on: bool| {
        arm.power(&machine, if on { "start" } else { "deallocate" })
            .unwrap();
    };
    is_left_as_it_was(&world, &machine, switch).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_terminated_instance_takes_its_grant_and_leaves_no_group_of_ours() {
    let (world, _server) = world().await;
    let app = world.fleet.app.clone();
    let grants = open(&world, &[&app]).await;
    let holders = |world: &World| {
        let groups = world.aws().snapshot().unwrap().groups;
        groups
            .into_iter()
            .filter(|group| group.tags.contains_key(postern_core::inventory::MARK_TAG))
            .count()
    };
    assert_eq!(holders(&world), 1);
    let call = world
        .aws()
        .call("TerminateInstances", &[("InstanceId.1", world.instance(&app))]);
    call.unwrap();
    until_closed_as_gone(&world, &grants[0]).await;
    until_nothing_is_left_of(&world, &grants[0]).await;
    world
        .eventually("the holder is deleted", PATIENCE, async || {
            (holders(&world) == 0).then_some(())
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_that_replaces_another_in_its_group_gets_nothing_of_the_grant() {
    let (world, _server) = world().await;
    let app = world.fleet.app.clone();
    let grants = open(&world, &[&app]).await;
    // An auto-scaling group would do just this: one goes, another comes with the same subnet and groups.
    let snapshot = world.aws().snapshot().unwrap();
    let old = snapshot.instance(world.instance(&app)).unwrap().clone();
    let interface = snapshot.interface(&old.interfaces[0]).unwrap().clone();
    let lasting: Vec<String> = interface
        .groups
        .iter()
        .filter(|id| {
            let group = snapshot.group(id).unwrap();
            !group.tags.contains_key(postern_core::inventory::MARK_TAG)
        })
        .cloned()
        .collect();
    let call = world
        .aws()
        .call("TerminateInstances", &[("InstanceId.1", &old.id)]);
    call.unwrap();
    let new = world
        .aws()
        .machine(&MachinePlan {
            name: "app-2".to_owned(),
            subnet_id: interface.subnet_id.clone(),
            interfaces: vec![lasting],
            public: true,
            ..MachinePlan::default()
        })
        .unwrap();
    until_closed_as_gone(&world, &grants[0]).await;
    until_nothing_is_left_of(&world, &grants[0]).await;
    world.quiet().await;
    for source in [CLIENT, ANYBODY] {
        assert!(!world.reachable(&new.arn, source, 22), "{source:?} gets in");
    }
    // It is a machine of the policy like any other.
    let grants = open(&world, &[&new.arn]).await;
    assert!(world.reachable(&new.arn, CLIENT, 22), "{grants:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_vm_takes_its_grant_and_leaves_no_rule_of_it_in_any_nsg() {
    let (world, _server) = world().await;
    let web = world.fleet.web.clone();
    let grants = open(&world, &[&web]).await;
    let hops = world.marks();
    assert!(hops.len() >= 2, "both NSGs: {hops:?}");
    // The VM goes, its interface stays: what a delete in the portal leaves behind.
    world.fleet.arm.fleet().delete(&web).unwrap();
    until_closed_as_gone(&world, &grants[0]).await;
    until_nothing_is_left_of(&world, &grants[0]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_vm_that_gets_another_interface_is_locked_and_open_there_and_nothing_stays_at_the_old_one() {
    let (world, _server) = world().await;
    let late = world.new_azure_machine("late", &json!({}));
    world
        .eventually("the new machine is locked", PATIENCE, async || {
            (!world.reachable(&late.machine, ANYBODY, 22)).then_some(())
        })
        .await;
    world.quiet().await;
    let grants = open(&world, &[&late.machine]).await;
    let fleet = world.fleet.arm.fleet().in_group("late");
    let subnet = fleet.id("Microsoft.Network/virtualNetworks/late/subnets/late");
    let rules = [arm::inbound("everybody", 300, "Allow", "*", "22")];
    let nsg = fleet.security_group("second-nsg", &rules).unwrap();
    let second = fleet.interface("second-nic", &subnet, Some(&nsg), None).unwrap();
    fleet.virtual_machine("late-1", &[&second], &json!({})).unwrap();
    world
        .eventually(
            "it is locked and open at its new interface",
            PATIENCE,
            async || {
                let marks = world.marks();
                let at = |nsg: &str| {
                    marks
                        .iter()
                        .filter(|(resource, _)| resource.to_lowercase().starts_with(&nsg.to_lowercase()))
                        .count()
                };
                (at(&nsg) == 2 && at(&late.security_group) == 0).then_some(())
            },
        )
        .await;
    world.quiet().await;
    assert!(world.reachable(&late.machine, CLIENT, 22));
    assert!(!world.reachable(&late.machine, ANYBODY, 22));
    let grant = world.until(&grants[0], "open", PATIENCE).await;
    let points: Vec<&str> = grant.hops.iter().map(|hop| hop.point.as_str()).collect();
    assert!(
        points.iter().any(|point| point.ends_with("second-nsg")),
        "{points:?}"
    );
}
