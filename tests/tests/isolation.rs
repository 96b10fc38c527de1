//! A machine whose port is open through a group that others use too: locked down by a copy of its own, opened, closed,
//! and given its group back; the others notice nothing.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may fail by panicking"
)]

use std::{collections::BTreeSet, time::Duration};

use postern_api::{
    grant::GrantRevoke,
    jit_policy::{JitPolicyPlan, JitPolicyWrite, SharedGroups},
    machine::MachineQuery,
    preflight::DryRunPoint,
    role::RoleAssignmentCreate,
};
use postern_core::inventory::MARK_TAG;
use postern_sim::ec2::Ingress;
use postern_tests::{
    Person, ServerProcess, World, WorldOptions,
    world::{CLIENT, a_policy},
};

const PATIENCE: Duration = Duration::from_mins(1);
const ANYBODY: [u8; 4] = [192, 0, 2, 1];

/// The machine's interface, and the group that the other machine has too.
struct Shared {
    own: String,
    group: String,
}

async fn world() -> (World, ServerProcess, Shared) {
    let world = World::new(
        WorldOptions::of(env!("CARGO_BIN_EXE_postern-under-test"))
            .with("discovery_interval_seconds = 1\ndrift_interval_seconds = 1"),
    )
    .await;
    let aws = world.aws();
    let there = aws.snapshot().unwrap();
    let at = |machine: &str| {
        let id = machine.rsplit('/').next().unwrap();
        let of = |interface: &&postern_sim::ec2::state::Interface| {
            let attached = interface.attachment.as_ref();
            attached.is_some_and(|attachment| attachment.instance_id == id)
        };
        there.interfaces.iter().find(of).unwrap().clone()
    };
    let (own, other) = (at(&world.fleet.app), at(&world.fleet.build));
    let group = own.groups[0].clone();
    aws.set_groups(&other.id, std::slice::from_ref(&group)).unwrap();
    let server = world.serve(&[]).await;
    let olga = world.client(Person::Olga);
    world
        .eventually("the fleet is discovered", PATIENCE, async || {
            let page = olga.machines(&MachineQuery::default()).await.ok()?;
            (page.items.len() >= 4).then_some(())
        })
        .await;
    let ada = RoleAssignmentCreate {
        role: "requester".to_owned(),
        principal: "user:demo/ada".to_owned(),
        scope: "/".to_owned(),
        ..RoleAssignmentCreate::default()
    };
    olga.create_role_assignment(None, &ada).await.unwrap();
    let own = own.id;
    (world, server, Shared { own, group })
}

fn isolating(world: &World) -> JitPolicyWrite {
    let app = scope_of(&world.fleet.app);
    JitPolicyWrite {
        shared_groups: SharedGroups::Isolate,
        ..a_policy("isolated", &app)
    }
}

/// The scope of one instance, from its ARN.
fn scope_of(arn: &str) -> String {
    let parts: Vec<&str> = arn.split(':').collect();
    let instance = arn.rsplit('/').next().unwrap();
    format!("/aws/{}/{}/{instance}", parts[4], parts[3])
}

async fn until_reach(world: &World, machine: &str, source: [u8; 4], open: bool) {
    let what = format!("{machine} is {}", if open { "open" } else { "shut" });
    world
        .eventually(&what, PATIENCE, async || {
            (world.reachable(machine, source, 22) == open).then_some(())
        })
        .await;
}

fn groups_at(world: &World, interface: &str) -> Vec<String> {
    let there = world.aws().snapshot().unwrap();
    there.interface(interface).unwrap().groups.clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_machine_is_locked_opened_closed_and_released_without_a_change_of_the_group_it_shares() {
    let (world, _server, shared) = world().await;
    let (app, build) = (world.fleet.app.clone(), world.fleet.build.clone());
    let olga = world.client(Person::Olga);
    let before = world.rules();
    let group = world
        .aws()
        .snapshot()
        .unwrap()
        .group(&shared.group)
        .unwrap()
        .clone();
    assert!(world.reachable(&app, ANYBODY, 22) && world.reachable(&build, ANYBODY, 22));

    let policy = olga.create_jit_policy(None, &isolating(&world)).await.unwrap();
    until_reach(&world, &app, ANYBODY, false).await;
    world.quiet().await;
    assert!(
        world.reachable(&app, ANYBODY, 443),
        "what is not guarded stays open"
    );
    assert!(world.reachable(&build, ANYBODY, 22), "others keep what they have");
    assert_eq!(world.aws().snapshot().unwrap().group(&shared.group), Some(&group));
    let found = olga.machine(&app).await.unwrap().findings;
    assert!(
        found.iter().any(|finding| finding.code == "shared_group"),
        "{found:?}"
    );
    assert!(found.iter().all(|finding| !finding.drift), "{found:?}");

    let request = world.request(&[&app], 3600, 30).await;
    let grant = request.grants[0].id.clone();
    world.until(&grant, "open", PATIENCE).await;
    assert!(world.reachable(&app, CLIENT, 22) && !world.reachable(&app, ANYBODY, 22));
    let ada = world.client(Person::Ada);
    ada.revoke_grant(&grant, None, &GrantRevoke::default())
        .await
        .unwrap();
    world.until(&grant, "closed", PATIENCE).await;
    assert!(!world.reachable(&app, CLIENT, 22));

    olga.delete_jit_policy(&policy.id, policy.version).await.unwrap();
    world.until_rules_are(&before, PATIENCE).await;
    world.quiet().await;
    assert_eq!(groups_at(&world, &shared.own), [shared.group]);
    let there = world.aws().snapshot().unwrap();
    assert!(
        there
            .groups
            .iter()
            .all(|group| !group.tags.contains_key(MARK_TAG))
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_put_back_beside_a_policy_goes_again_and_a_change_of_it_reaches_the_copy() {
    let (world, _server, shared) = world().await;
    let app = world.fleet.app.clone();
    let olga = world.client(Person::Olga);
    let policy = olga.create_jit_policy(None, &isolating(&world)).await.unwrap();
    until_reach(&world, &app, ANYBODY, false).await;
    world.quiet().await;
    let copy = groups_at(&world, &shared.own);

    let aws = world.aws();
    aws.set_groups(&shared.own, std::slice::from_ref(&shared.group))
        .unwrap();
    until_reach(&world, &app, ANYBODY, false).await;
    assert_eq!(groups_at(&world, &shared.own), copy);
    world
        .eventually("it is told", PATIENCE, async || {
            let found = olga.machine(&app).await.unwrap().findings;
            found.into_iter().find(|finding| finding.drift)
        })
        .await;

    aws.allow(&shared.group, &[Ingress::tcp_range(20, 30, "198.51.100.0/24")])
        .unwrap();
    world
        .eventually("the copy follows", PATIENCE, async || {
            let office = [198, 51, 100, 4];
            world.reachable(&app, office, 23).then_some(())
        })
        .await;
    assert!(!world.reachable(&app, [198, 51, 100, 4], 22));

    olga.delete_jit_policy(&policy.id, policy.version).await.unwrap();
    until_reach(&world, &app, ANYBODY, true).await;
    world.quiet().await;
    assert_eq!(groups_at(&world, &shared.own), [shared.group]);
}

/// The rules of that direction that the changes write into a copy, as `(protocol, ports, source)`.
fn rules_written(point: &DryRunPoint, word: &str) -> BTreeSet<String> {
    point
        .changes
        .iter()
        .filter(|change| change.summary.starts_with("let ") && change.summary.contains(word))
        .filter_map(|change| change.after.as_ref()?.as_array())
        .flatten()
        .map(|rule| format!("{} {} {}", rule["protocol"], rule["ports"], rule["peer"]))
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_plan_of_a_policy_shows_each_copy_with_its_rules_and_the_change_then_writes_these() {
    let (world, _server, shared) = world().await;
    let olga = world.client(Person::Olga);
    let aws = world.aws();
    aws.allow(&shared.group, &[Ingress::tcp_range(20, 30, "198.51.100.0/24")])
        .unwrap();
    let before = world.rules();
    let plan = olga.plan_create_jit_policy(&isolating(&world)).await.unwrap();
    assert_eq!(world.rules(), before, "nothing is written");
    let copies = |plan: &JitPolicyPlan| -> Vec<DryRunPoint> {
        let at_instance = |point: &&DryRunPoint| point.point.starts_with("aws:instance:");
        plan.writes.iter().filter(at_instance).cloned().collect()
    };
    assert_eq!(copies(&plan).len(), 1, "{:?}", plan.writes);
    let lose: BTreeSet<&str> = plan.losses.iter().map(|one| one.machine.as_str()).collect();
    assert_eq!(
        lose,
        [world.fleet.app.as_str()].into(),
        "the others notice nothing"
    );
    let point = &copies(&plan)[0];
    assert!(point.unread.is_none() && point.obstacles.is_empty(), "{point:?}");
    let said = |start: &str| {
        let mut changes = point.changes.iter();
        changes.any(|change| change.verb == "lock_down" && change.summary.starts_with(start))
    };
    assert!(said("create group postern-"), "{point:?}");
    let told = rules_written(point, " in through ");
    // Around the guarded port, and none for it.
    let office = |ports: &str| {
        let mut rules = told.iter();
        rules.any(|rule| rule.contains(ports) && rule.contains("198.51.100.0/24"))
    };
    assert!(office("[20,21]") && office("[23,30]"), "{told:?}");
    assert!(!told.iter().any(|rule| rule.contains("[22,22]")), "{told:?}");

    let policy = olga.create_jit_policy(None, &isolating(&world)).await.unwrap();
    until_reach(&world, &world.fleet.app, ANYBODY, false).await;
    world.quiet().await;
    let copy = groups_at(&world, &shared.own).remove(0);
    assert_ne!(copy, shared.group);
    let there = aws.snapshot().unwrap();
    let rules = there.group(&copy).unwrap().rules.iter();
    let inbound = rules.filter(|rule| !rule.allows.egress);
    assert_eq!(inbound.count(), told.len(), "what was told, and no more");

    // And the way back.
    let plan = olga
        .plan_delete_jit_policy(&policy.id, policy.version)
        .await
        .unwrap();
    let gain: BTreeSet<&str> = plan.gains.iter().map(|one| one.machine.as_str()).collect();
    assert_eq!(gain, [world.fleet.app.as_str()].into());
    let point = &copies(&plan)[0];
    let changes: Vec<&str> = point
        .changes
        .iter()
        .map(|change| change.summary.as_str())
        .collect();
    assert!(
        changes
            .iter()
            .any(|what| what.starts_with("delete group ") && what.contains(&copy)),
        "{changes:?}"
    );
    assert!(point.changes.iter().all(|change| change.verb == "restore"));
    // Another policy's plan has no copies to tell of.
    let other = olga
        .plan_create_jit_policy(&a_policy("azure", "/azure"))
        .await
        .unwrap();
    assert!(copies(&other).is_empty(), "{:?}", other.writes);
}
