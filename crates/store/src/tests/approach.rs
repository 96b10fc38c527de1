//! A machine behind a firewall: what each point on the way is asked for, and when.

use std::{collections::BTreeSet, net::Ipv4Addr};

use postern_core::{
    approach::{Approach, Exposure, Room},
    enforcer::Desired,
    grant::{HopState, Live},
    id::PointId,
    inventory::{Layer, Machine, Place, Power},
    point::PointRef,
    policy::{JitPolicy, Lockdown},
    scope::Scope,
    testing::{a_policy, at},
};

use super::{a_machine, a_row, installation, save, some_grants};
use crate::{HopUpdate, Store, testing::fresh_store};

const SUBSCRIPTION: &str = "00000000-0000-0000-0000-000000000001";

fn the_firewall() -> PointRef {
    PointRef::firewall(SUBSCRIPTION, "hub", "edge").unwrap()
}

fn the_nsg() -> PointRef {
    PointRef::nsg(SUBSCRIPTION, "prod", "web").unwrap()
}

/// One that clients come to by DNAT.
fn a_machine_behind() -> Machine {
    let mut machine = a_machine(1);
    machine.id = format!(
        "/subscriptions/{SUBSCRIPTION}/resourceGroups/prod/providers/Microsoft.Compute/virtualMachines/web"
    )
    .parse()
    .unwrap();
    machine.power = Power::Running;
    machine.interfaces[0].layers = vec![
        Layer::Firewall(Approach {
            point: the_firewall(),
            firewall: "edge".to_owned(),
            address: Ipv4Addr::new(10, 0, 0, 1),
            doors: vec!["20.0.0.1".parse().unwrap()],
            inside: vec!["10.9.0.0/26".parse().unwrap()],
            legs: Vec::new(),
            fronts: Vec::new(),
            unread: Vec::new(),
            exposures: Vec::new(),
            routed: None,
            room: Some(Room {
                left: 3,
                mapped: Vec::new(),
            }),
        }),
        Layer::Nsg {
            point: the_nsg(),
            place: Place::Subnet,
            rules: Vec::new(),
            memberships: BTreeSet::new(),
            possible_memberships: BTreeSet::new(),
        },
    ];
    machine
}

async fn wanted(store: &Store, point: &PointRef) -> (PointId, Desired) {
    let id = store.point(point).await.unwrap().unwrap().id;
    let mut tx = store.begin().await.unwrap();
    let desired = tx.look(&installation(), id).await.unwrap().desired;
    tx.commit().await.unwrap();
    (id, desired)
}

#[tokio::test]
async fn behind_a_firewall_a_grant_is_wanted_when_the_firewall_lets_it_in_and_for_the_firewalls_subnet() {
    let store = fresh_store().await;
    let machine = a_machine_behind();
    save(&store, &[a_row(machine.clone(), None)], 0).await;
    let (mut request, mut grants) = some_grants(1, 1);
    request.targets[0].machine = machine.id.clone();
    grants[0].machine = machine.id.clone();
    let mut tx = store.begin().await.unwrap();
    tx.insert_request(&request).await.unwrap();
    assert_eq!(tx.insert_grants(&grants).await.unwrap().len(), 2);
    tx.commit().await.unwrap();

    let (firewall, at_firewall) = wanted(&store, &the_firewall()).await;
    let member = &at_firewall.members[0];
    assert_eq!(member.grants[0].sources, grants[0].sources);
    let kept = member.approach.as_ref().unwrap();
    assert_eq!(kept.doors, ["20.0.0.1".parse::<std::net::IpAddr>().unwrap()]);
    assert_eq!(kept.room, None, "it would change with every grant");
    let (_, at_nsg) = wanted(&store, &the_nsg()).await;
    assert_eq!(at_nsg.members[0].grants, [], "the firewall comes first");

    let mut tx = store.begin().await.unwrap();
    let present = HopUpdate {
        grant: grants[0].id,
        state: Some(HopState::Present),
        rules: None,
        blocked_by: None,
        obstacle: None,
    };
    tx.set_hops(firewall, &[present], at(1), &[]).await.unwrap();
    tx.commit().await.unwrap();
    let (_, at_nsg) = wanted(&store, &the_nsg()).await;
    assert_eq!(
        at_nsg.members[0].grants[0].sources,
        ["10.9.0.0/26".parse().unwrap()]
    );

    // The same again changes nothing; another door does.
    let same = save(&store, &[a_row(machine.clone(), None)], 2).await;
    assert_eq!(same.touched_points, []);
    let mut moved = machine;
    if let Layer::Firewall(approach) = &mut moved.interfaces[0].layers[0] {
        approach.doors = vec!["20.0.0.2".parse().unwrap()];
    }
    let moved = save(&store, &[a_row(moved, None)], 3).await;
    assert_eq!(moved.touched_points.len(), 2);
}

#[tokio::test]
async fn under_strict_an_open_grant_is_not_wanted_for_the_subnet_from_which_others_come_too() {
    for (lockdown, wanted_there) in [(Lockdown::Strict, false), (Lockdown::Defer, true)] {
        let store = fresh_store().await;
        let (mut request, mut grants) = some_grants(1, 1);
        let mut machine = a_machine_behind();
        if let Layer::Firewall(approach) = &mut machine.interfaces[0].layers[0] {
            approach.exposures = vec![Exposure {
                certain: true,
                rule: "theirs/web".to_owned(),
                ports: grants[0].ports[0],
                sources: vec!["0.0.0.0/0".parse().unwrap()],
            }];
        }
        save(&store, &[a_row(machine.clone(), None)], 0).await;
        request.targets[0].machine = machine.id.clone();
        grants[0].machine = machine.id.clone();
        let mut tx = store.begin().await.unwrap();
        let policy = JitPolicy {
            lockdown,
            ..a_policy("/azure")
        };
        tx.insert_policy(&policy).await.unwrap();
        assert_eq!(tx.cover(&Scope::root(), None).await.unwrap().changes.len(), 1);
        tx.insert_request(&request).await.unwrap();
        tx.insert_grants(&grants).await.unwrap();
        let Live::Opening(opening) = grants[0].clone().live().unwrap() else {
            panic!("{grants:?}");
        };
        tx.save_grants(&[opening.confirm_open(at(1)).into()])
            .await
            .unwrap();
        tx.commit().await.unwrap();

        let (_, at_nsg) = wanted(&store, &the_nsg()).await;
        let member = &at_nsg.members[0];
        assert_eq!(member.guard.as_ref().unwrap().lockdown, lockdown);
        assert_eq!(!member.grants[0].sources.is_empty(), wanted_there, "{lockdown:?}");
        let (_, at_firewall) = wanted(&store, &the_firewall()).await;
        assert_eq!(at_firewall.members[0].grants[0].sources, grants[0].sources);
    }
}
