//! The plan of a change to a policy, in both clouds: who gains and who loses, as packets, and every write, as the audit log
//! then has them; and no more of either.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may fail by panicking"
)]

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use postern_api::{
    audit_event::AuditEventQuery,
    jit_policy::{JitPolicy, JitPolicyPlan, JitPolicyWrite, ReachChange, SharedGroups},
    machine::MachineQuery,
    preflight::DryRunPoint,
    role::{RoleAssignmentCreate, RoleCreate},
};
use postern_tests::{Person, ServerProcess, World, WorldOptions, world::a_policy};
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_mins(1);

/// The internet, an office that some rules let in, and the machines' own networks.
const SOURCES: [[u8; 4]; 4] = [[192, 0, 2, 1], [198, 51, 100, 4], [10, 20, 2, 9], [10, 30, 1, 9]];
const PORTS: [u16; 4] = [22, 443, 1000, 3389];

type Packets = BTreeSet<(String, [u8; 4], u16)>;
/// By point, in order.
type Writes = BTreeMap<String, Vec<Value>>;

async fn world() -> (World, ServerProcess) {
    let world = World::new(
        WorldOptions::of(env!("CARGO_BIN_EXE_postern-under-test")).with("discovery_interval_seconds = 1"),
    )
    .await;
    let server = world.serve(&[]).await;
    let olga = world.client(Person::Olga);
    world
        .eventually("the fleet is discovered", PATIENCE, async || {
            let page = olga.machines(&MachineQuery::default()).await.ok()?;
            (page.items.len() >= 4).then_some(())
        })
        .await;
    (world, server)
}

/// Every probed packet that passes.
fn passing(world: &World) -> Packets {
    let mut passing = Packets::new();
    for machine in world.machines() {
        for source in SOURCES {
            for port in PORTS {
                if world.reachable(machine, source, port) {
                    passing.insert((machine.to_owned(), source, port));
                }
            }
        }
    }
    passing
}

/// The probed packets that the changes tell of; those of them that are certain.
fn told(changes: &[ReachChange], world: &World) -> (Packets, Packets) {
    let (mut all, mut certain) = (Packets::new(), Packets::new());
    for change in changes {
        let (ports, protocol) = change.ports.split_once('/').unwrap();
        let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
        let ports = first.parse::<u16>().unwrap()..=last.parse::<u16>().unwrap();
        assert_eq!(protocol, "tcp");
        assert!(world.machines().contains(&change.machine.as_str()));
        for source in SOURCES {
            let from: IpAddr = source.into();
            let is_named = |text: &String| text.parse::<ipnet::IpNet>().unwrap().contains(&from);
            if change.sources.iter().any(is_named) {
                for port in PORTS.into_iter().filter(|port| ports.contains(port)) {
                    let packet = (change.machine.clone(), source, port);
                    all.insert(packet.clone());
                    if change.certain {
                        certain.insert(packet);
                    }
                }
            }
        }
    }
    (all, certain)
}

/// What was gained and what was lost is what the plan told, and what was told for certain happened.
fn is_as_told(plan: &JitPolicyPlan, world: &World, before: &Packets) {
    assert_eq!((plan.machines_not_foreseen, plan.points_not_read), (0, 0));
    let after = passing(world);
    for (what, changes, happened) in [
        ("gained", &plan.gains, after.difference(before)),
        ("lost", &plan.losses, before.difference(&after)),
    ] {
        let happened: Packets = happened.cloned().collect();
        let (all, certain) = told(changes, world);
        assert!(
            happened.is_subset(&all),
            "{what} and not told: {happened:?} {plan:#?}"
        );
        assert!(
            certain.is_subset(&happened),
            "told and not {what}: {certain:?} {plan:#?}"
        );
    }
}

/// A write, but for the names of rules of a policy that does not exist yet where `by_name` is not set.
fn written(verb: &str, target: &str, summary: &str, sides: [&Value; 2], by_name: bool) -> Value {
    if by_name {
        json!([verb, target, summary, sides])
    } else {
        json!([verb, summary])
    }
}

fn foretold(points: &[DryRunPoint], by_name: bool) -> Writes {
    let of = |point: &DryRunPoint| {
        assert!(point.unread.is_none() && point.rules_not_shown == 0, "{point:?}");
        let changes = point.changes.iter().map(|change| {
            let sides = [&change.before, &change.after].map(|side| side.as_ref().unwrap_or(&Value::Null));
            written(&change.verb, &change.target, &change.summary, sides, by_name)
        });
        (point.point.clone(), changes.collect())
    };
    points.iter().map(of).collect()
}

/// The writes that the audit log has intended since it had `seen` events of that kind, by point, in order; and how many
/// such events there are.
async fn intended(world: &World, seen: usize, by_name: bool) -> (Writes, usize) {
    let query = AuditEventQuery {
        action: Some("change.apply".to_owned()),
        outcome: Some("intended".to_owned()),
        limit: Some(200),
        ..AuditEventQuery::default()
    };
    let olga = world.client(Person::Olga);
    let mut events = olga.audit_events(&query).await.unwrap().items;
    events.sort_by_key(|event| event.seq);
    let all = events.len();
    let mut writes = Writes::new();
    for event in events.into_iter().skip(seen) {
        let text = |name: &str| event.details[name].as_str().unwrap();
        let sides = [&event.details["before"], &event.details["after"]];
        let write = written(text("verb"), text("target"), text("summary"), sides, by_name);
        let point = event.subject["point"].as_str().unwrap();
        writes.entry(point.to_owned()).or_default().push(write);
    }
    (writes, all)
}

async fn policy(world: &World, wish: &JitPolicyWrite) -> JitPolicy {
    world
        .client(Person::Olga)
        .create_jit_policy(None, wish)
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_plan_of_a_new_a_changed_and_a_removed_policy_is_what_happens() {
    let (world, _server) = world().await;
    let olga = world.client(Person::Olga);
    let wish = a_policy("everything", "/");

    let (rules, open) = (world.rules(), passing(&world));
    let plan = olga.plan_create_jit_policy(&wish).await.unwrap();
    assert!(plan.gains.is_empty(), "{:?}", plan.gains);
    world.quiet().await;
    assert_eq!(world.rules(), rules, "a plan changes nothing");
    let made = policy(&world, &wish).await;
    world.quiet().await;
    is_as_told(&plan, &world, &open);
    let (writes, seen) = intended(&world, 0, false).await;
    assert!(writes.len() > 4, "both clouds: {writes:#?}");
    assert_eq!(foretold(&plan.writes, false), writes);

    // RDP is guarded no more.
    let locked = passing(&world);
    let narrower = JitPolicyWrite {
        guards: wish.guards.iter().take(1).cloned().collect(),
        ..wish.clone()
    };
    let plan = olga
        .plan_update_jit_policy(&made.id, made.version, &narrower)
        .await
        .unwrap();
    assert!(plan.losses.is_empty() && plan.coverage.is_empty(), "{plan:?}");
    let made = olga
        .update_jit_policy(&made.id, made.version, &narrower)
        .await
        .unwrap();
    world.quiet().await;
    is_as_told(&plan, &world, &locked);
    let (writes, seen) = intended(&world, seen, true).await;
    assert_eq!(foretold(&plan.writes, true), writes);
    // What is not about who gets in takes nothing from anybody.
    let renamed = JitPolicyWrite {
        name: "all".to_owned(),
        ..narrower.clone()
    };
    let plan = olga
        .plan_update_jit_policy(&made.id, made.version, &renamed)
        .await
        .unwrap();
    assert!(
        plan.gains.is_empty() && plan.losses.is_empty() && plan.writes.is_empty(),
        "{plan:?}"
    );

    let locked = passing(&world);
    let plan = olga.plan_delete_jit_policy(&made.id, made.version).await.unwrap();
    assert!(plan.losses.is_empty() && !plan.gains.is_empty(), "{plan:?}");
    olga.delete_jit_policy(&made.id, made.version).await.unwrap();
    world.until_rules_are(&rules, PATIENCE).await;
    is_as_told(&plan, &world, &locked);
    assert_eq!(passing(&world), open);
    let (writes, _) = intended(&world, seen, true).await;
    assert_eq!(foretold(&plan.writes, true), writes);
}

/// What opened by itself before is not what a grant opens, and a grant that ends is told as such.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_has_a_grant_is_not_told_to_gain_or_to_lose_by_it() {
    let (world, _server) =
        World::locked_down(WorldOptions::of(env!("CARGO_BIN_EXE_postern-under-test"))).await;
    let machines = [world.fleet.web.as_str(), world.fleet.app.as_str()];
    let request = world.request(&machines, 600, 30).await;
    let olga = world.client(Person::Olga);
    for made in olga
        .jit_policies(&postern_api::jit_policy::JitPolicyQuery::default())
        .await
        .unwrap()
        .items
    {
        let plan = olga.plan_delete_jit_policy(&made.id, made.version).await.unwrap();
        assert!(plan.losses.is_empty(), "{plan:#?}");
        let from_everywhere = |change: &&ReachChange| {
            machines.contains(&change.machine.as_str())
                && change.ports == "22/tcp"
                && change.sources.contains(&"0.0.0.0/0".to_owned())
        };
        assert_eq!(plan.gains.iter().filter(from_everywhere).count(), 2, "{plan:#?}");
        assert_eq!(plan.grants_ended.len(), request.grants.len());
        let about_grants = plan.writes.iter().flat_map(|point| &point.changes);
        let about_grants = about_grants.filter(|change| change.verb == "open" || change.verb == "close");
        assert_eq!(about_grants.count(), 0, "{plan:#?}");
    }
}

/// `revoke` takes a rule out of a group that another machine has too, and gives it back to both.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_machine_that_shares_a_group_is_told_of_though_no_policy_covers_it() {
    let (world, _server) = world().await;
    let shared = share_a_group(&world).await;
    let tier = BTreeMap::from([("tier".to_owned(), "web".to_owned())]);
    let wish = JitPolicyWrite {
        shared_groups: SharedGroups::Revoke,
        tags: tier.clone(),
        ..a_policy("app", "/aws")
    };
    let olga = world.client(Person::Olga);
    let open = passing(&world);
    let plan = olga.plan_create_jit_policy(&wish).await.unwrap();
    let lose: BTreeSet<&str> = plan.losses.iter().map(|change| change.machine.as_str()).collect();
    assert_eq!(
        lose,
        [world.fleet.app.as_str(), &world.fleet.build].into(),
        "{shared}"
    );
    let made = policy(&world, &wish).await;
    world.quiet().await;
    is_as_told(&plan, &world, &open);
    let locked = passing(&world);
    let plan = olga.plan_delete_jit_policy(&made.id, made.version).await.unwrap();
    olga.delete_jit_policy(&made.id, made.version).await.unwrap();
    world.quiet().await;
    is_as_told(&plan, &world, &locked);
    assert_eq!(passing(&world), open);

    // Where the group is not to be touched, nobody loses anything, and the plan says why.
    let refusing = JitPolicyWrite {
        shared_groups: SharedGroups::Refuse,
        ..wish
    };
    let plan = olga.plan_create_jit_policy(&refusing).await.unwrap();
    assert!(plan.losses.is_empty(), "{plan:#?}");
    let obstacles: Vec<_> = plan.writes.iter().flat_map(|point| &point.obstacles).collect();
    assert_eq!(obstacles.len(), 1, "{plan:#?}");
    assert_eq!(obstacles[0].code, "shared_group");
    let build = world.fleet.build.rsplit('/').next().unwrap();
    assert!(obstacles[0].detail.contains(build), "{obstacles:?}");

    // Whoever may not read that machine is told how many there are, and no name.
    let role = RoleCreate {
        name: "configures".to_owned(),
        actions: ["configure".to_owned()].into(),
    };
    olga.create_role(None, &role).await.unwrap();
    for (role, tags) in [("configures", BTreeMap::new()), ("reader", tier)] {
        let assignment = RoleAssignmentCreate {
            role: role.to_owned(),
            principal: "user:demo/eve".to_owned(),
            scope: "/".to_owned(),
            tags,
            ..RoleAssignmentCreate::default()
        };
        olga.create_role_assignment(None, &assignment).await.unwrap();
    }
    let eve = world.client(Person::Eve);
    let refused = eve.plan_create_jit_policy(&refusing).await.unwrap();
    let revoked = eve
        .plan_create_jit_policy(&JitPolicyWrite {
            shared_groups: SharedGroups::Revoke,
            ..refusing.clone()
        })
        .await
        .unwrap();
    assert_eq!(refused.writes[0].obstacles[0].code, "shared_group");
    assert_eq!((refused.machines_not_shown, revoked.machines_not_shown), (0, 1));
    assert!(
        revoked
            .losses
            .iter()
            .all(|change| change.machine == world.fleet.app)
    );
    assert!(
        !revoked.losses.is_empty() && !revoked.writes.is_empty(),
        "{revoked:#?}"
    );
    // What keeps the group from being copied names who has it.
    let from_itself = [
        ("GroupId", shared.as_str()),
        ("IpPermissions.1.IpProtocol", "tcp"),
        ("IpPermissions.1.FromPort", "22"),
        ("IpPermissions.1.ToPort", "22"),
        ("IpPermissions.1.Groups.1.GroupId", shared.as_str()),
    ];
    world
        .aws()
        .call("AuthorizeSecurityGroupIngress", &from_itself)
        .unwrap();
    let isolating = JitPolicyWrite {
        shared_groups: SharedGroups::Isolate,
        ..refusing
    };
    let obstacle = |plan: &JitPolicyPlan| {
        let obstacles: Vec<_> = plan
            .writes
            .iter()
            .flat_map(|point| point.obstacles.clone())
            .collect();
        assert_eq!(obstacles.len(), 1, "{plan:#?}");
        obstacles.into_iter().next().unwrap()
    };
    let seen = obstacle(&olga.plan_create_jit_policy(&isolating).await.unwrap());
    assert!(seen.detail.contains(build), "{seen:?}");
    let isolated = eve.plan_create_jit_policy(&isolating).await.unwrap();
    assert_eq!(obstacle(&isolated).code, seen.code);
    for plan in [refused, revoked, isolated] {
        let text = serde_json::to_string(&plan).unwrap();
        assert!(!text.contains(build), "{text}");
    }
}

/// Gives the machine `build` the group of the machine `app` instead of its own, and waits until that is seen.
async fn share_a_group(world: &World) -> String {
    let aws = world.aws();
    let there = aws.snapshot().unwrap();
    let at = |machine: &str| {
        let id = machine.rsplit('/').next().unwrap().to_owned();
        let mut interfaces = there.interfaces.iter();
        let of = |interface: &&postern_sim::ec2::state::Interface| {
            let attached = interface.attachment.as_ref();
            attached.is_some_and(|attachment| attachment.instance_id == id)
        };
        interfaces.find(of).unwrap().clone()
    };
    let (own, other) = (at(&world.fleet.app), at(&world.fleet.build));
    let group = own.groups.first().unwrap().clone();
    aws.set_groups(&other.id, std::slice::from_ref(&group)).unwrap();
    let olga = world.client(Person::Olga);
    world
        .eventually("the shared group is seen", PATIENCE, async || {
            let machine = olga.machine(&world.fleet.build).await.ok()?;
            let text = serde_json::to_string(&machine).ok()?;
            text.contains(&group).then_some(())
        })
        .await;
    group
}
