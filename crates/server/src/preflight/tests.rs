use std::collections::{BTreeMap, BTreeSet};

use postern_core::{
    approach::{Approach, Room},
    inventory::{Machine, Place as Where},
    posture::posture,
    testing::{an_id, at, ports},
};

use super::*;
use crate::config::Quotas;

const NIC: &str = "/subscriptions/00000000-0000-0000-0000-000000000001/resourcegroups/prod/providers/microsoft.network/networkinterfaces/web";
const VM: &str = "/subscriptions/00000000-0000-0000-0000-000000000001/resourcegroups/prod/providers/microsoft.compute/virtualmachines/web";
const INSTANCE: &str = "arn:aws:ec2:eu-west-1:123456789012:instance/i-0123456789abcdef0";

fn rule(name: &str, priority: u16, access: Access, source: &str) -> NsgRule {
    let side = |text: &str| Side {
        prefixes: vec![AddressPrefix::parse(text)],
        groups: vec![],
    };
    NsgRule {
        name: name.into(),
        description: None,
        priority,
        direction: Direction::Inbound,
        access,
        protocol: NsgProtocol::Tcp,
        source: side(source),
        destination: side("*"),
        ports: vec![NsgPorts { first: 22, last: 22 }],
        source_ports: vec![NsgPorts::ALL],
    }
}

fn lockdown(priority: u16) -> NsgRule {
    let mark = Mark {
        installation: "test".parse().unwrap(),
        purpose: Purpose::Lockdown { policy: an_id(1) },
    };
    NsgRule {
        description: Some(mark.to_string()),
        ..rule("postern-lockdown", priority, Access::Deny, "*")
    }
}

fn machine(id: &str, layers: Vec<Layer>) -> StoredMachine {
    let machine = Machine {
        id: id.parse().unwrap(),
        name: "web".into(),
        tags: BTreeMap::new(),
        power: Power::Running,
        interfaces: vec![Interface {
            id: NIC.into(),
            addresses: vec!["10.0.0.4".parse().unwrap()],
            public_addresses: vec![],
            network: vec!["10.0.0.0/16".parse().unwrap()],
            network_id: "vnet".into(),
            layers,
        }],
    };
    StoredMachine {
        posture: posture(&machine, None),
        machine,
        policy: None,
        first_seen_at: at(0),
        seen_at: at(0),
        gone_at: None,
    }
}

fn behind(rules: Vec<NsgRule>) -> StoredMachine {
    let nsg = Layer::Nsg {
        point: PointRef::nsg("00000000-0000-0000-0000-000000000001", "prod", "web-nsg").unwrap(),
        place: Where::Interface,
        rules,
        memberships: BTreeSet::new(),
        possible_memberships: BTreeSet::new(),
    };
    machine(VM, vec![nsg])
}

fn group(id: &str) -> SecurityGroup {
    SecurityGroup {
        id: id.into(),
        name: id.into(),
        vpc: "vpc-1".into(),
        ingress: vec![],
        egress: vec![],
        tags: BTreeMap::new(),
    }
}

fn target(machine: &StoredMachine, source: &str) -> Target {
    Target {
        machine: machine.machine.id.clone(),
        ports: vec![ports("22/tcp")],
        sources: vec![source.parse().unwrap()],
    }
}

fn settings() -> Settings {
    Settings {
        quotas: Some(Quotas {
            groups_per_interface: 5,
            rules_per_group: 3,
        }),
        ..Settings::default()
    }
}

fn seen(machine: &StoredMachine, source: &str) -> Preflight {
    look(
        &target(machine, source),
        machine,
        &"test".parse().unwrap(),
        &settings(),
        at(10),
    )
}

fn codes(found: &Preflight) -> (Vec<ErrorCode>, Vec<&'static str>) {
    (
        found.obstacles.iter().map(|note| note.code).collect(),
        found.warnings.iter().map(|note| note.code).collect(),
    )
}

#[test]
fn a_free_way_opens() {
    let machine = behind(vec![lockdown(500), rule("ssh", 1000, Access::Allow, "*")]);
    assert_eq!(codes(&seen(&machine, "203.0.113.7")), (vec![], vec![]));
}

#[test]
fn a_foreign_deny_above_our_lockdown_is_named() {
    let machine = behind(vec![rule("no-ssh", 200, Access::Deny, "*"), lockdown(500)]);
    let found = seen(&machine, "203.0.113.7");
    assert_eq!(codes(&found), (vec![ErrorCode::BlockedByRule], vec![]));
    let by = found.obstacles[0].rule.as_ref().unwrap();
    assert_eq!((by.rule.as_str(), by.priority), ("no-ssh", Some(200)));
    assert!(found.obstacles[0].detail.contains("no-ssh"));
    assert_eq!(found.refusal(3).unwrap().code(), ErrorCode::BlockedByRule);
}

#[test]
fn a_foreign_deny_below_our_lockdown_or_for_others_is_not_in_the_way() {
    let below = behind(vec![lockdown(500), rule("no-ssh", 600, Access::Deny, "*")]);
    let others = behind(vec![
        rule("no-ssh", 200, Access::Deny, "198.51.100.0/24"),
        lockdown(500),
    ]);
    for machine in [below, others] {
        assert_eq!(codes(&seen(&machine, "203.0.113.7")), (vec![], vec![]));
    }
}

#[test]
fn before_the_lockdown_stands_its_place_is_above_the_first_allow() {
    let under = behind(vec![
        rule("ssh", 300, Access::Allow, "*"),
        rule("no-ssh", 400, Access::Deny, "*"),
    ]);
    assert_eq!(codes(&seen(&under, "203.0.113.7")), (vec![], vec![]));
    let over = behind(vec![
        rule("no-ssh", 200, Access::Deny, "*"),
        rule("ssh", 300, Access::Allow, "*"),
    ]);
    assert_eq!(codes(&seen(&over, "203.0.113.7")).0, [ErrorCode::BlockedByRule]);
}

#[test]
fn the_denies_of_other_machines_in_the_nsg_are_not_the_place() {
    let elsewhere = NsgRule {
        destination: rule("any", 100, Access::Deny, "10.0.0.5").source,
        ..lockdown(150)
    };
    let ours = NsgRule {
        destination: rule("any", 100, Access::Deny, "10.0.0.4").source,
        ..lockdown(4096)
    };
    // The machine's own lockdown defers: a grant stands right above it, and so under others' denies.
    let machine = behind(vec![elsewhere, rule("no-ssh", 200, Access::Deny, "*"), ours]);
    let (codes, _) = codes(&seen(&machine, "203.0.113.7"));
    assert_eq!(codes, [ErrorCode::BlockedByRule]);
}

#[test]
fn a_deny_for_a_part_or_for_a_name_that_is_not_known_is_a_warning() {
    let part = behind(vec![
        rule("part", 200, Access::Deny, "203.0.113.128/25"),
        lockdown(500),
    ]);
    assert_eq!(
        codes(&seen(&part, "203.0.113.0/24")),
        (vec![], vec!["may_be_blocked"])
    );
    let tag = behind(vec![rule("tag", 200, Access::Deny, "SomeNewTag"), lockdown(500)]);
    assert_eq!(
        codes(&seen(&tag, "203.0.113.7")),
        (vec![], vec!["may_be_blocked"])
    );
}

#[test]
fn no_free_number_above_our_lockdown_is_no_capacity() {
    let mut rules: Vec<NsgRule> = (100..105)
        .map(|number| rule(&format!("r{number}"), number, Access::Allow, "198.51.100.1"))
        .collect();
    rules.push(lockdown(105));
    assert_eq!(
        codes(&seen(&behind(rules.clone()), "203.0.113.7")).0,
        [ErrorCode::NoCapacity]
    );
    rules.remove(2);
    assert_eq!(codes(&seen(&behind(rules), "203.0.113.7")).0, []);
}

#[test]
fn a_machine_that_is_stopped_or_has_no_address_of_the_family_is_refused() {
    let mut machine = behind(vec![lockdown(500)]);
    assert_eq!(codes(&seen(&machine, "2001:db8::7")).0, [ErrorCode::NoAddress]);
    machine.machine.power = Power::Stopped;
    assert_eq!(
        codes(&seen(&machine, "203.0.113.7")).0,
        [ErrorCode::MachineStopped]
    );
    machine.machine.power = Power::Unknown;
    assert_eq!(
        codes(&seen(&machine, "203.0.113.7")),
        (vec![], vec!["not_running"])
    );
}

#[test]
fn an_old_observation_refuses_nothing_and_says_so() {
    let machine = behind(vec![rule("no-ssh", 200, Access::Deny, "*"), lockdown(500)]);
    let late = |seconds| {
        look(
            &target(&machine, "203.0.113.7"),
            &machine,
            &"test".parse().unwrap(),
            &settings(),
            at(seconds),
        )
    };
    assert_eq!(codes(&late(300)).0, [ErrorCode::BlockedByRule]);
    assert_eq!(
        codes(&late(301)),
        (vec![], vec!["observation_old", "blocked_by_rule"])
    );
}

#[test]
fn a_full_interface_has_room_when_our_group_is_attached_already() {
    let mut groups: Vec<SecurityGroup> = (1..=5).map(|number| group(&format!("sg-{number}"))).collect();
    let full = machine(
        INSTANCE,
        vec![Layer::SecurityGroups {
            groups: groups.clone(),
        }],
    );
    assert_eq!(codes(&seen(&full, "203.0.113.7")).0, [ErrorCode::NoCapacity]);
    let mark = Mark {
        installation: "test".parse().unwrap(),
        purpose: Purpose::Holder,
    };
    groups[4].name = postern_core::inventory::holder_name(&mark.installation, "i-0123456789abcdef0");
    groups[4]
        .tags
        .insert(postern_core::inventory::MARK_TAG.into(), mark.to_string());
    let held = machine(INSTANCE, vec![Layer::SecurityGroups { groups }]);
    assert_eq!(codes(&seen(&held, "203.0.113.7")), (vec![], vec![]));
}

#[test]
fn more_rules_than_a_group_holds_are_refused_where_the_quota_is_known() {
    let stored = machine(
        INSTANCE,
        vec![Layer::SecurityGroups {
            groups: vec![group("sg-1")],
        }],
    );
    let mut wide = target(&stored, "203.0.113.7");
    for port in ["80", "443", "3389"] {
        wide.ports.push(ports(port));
    }
    let installation = "test".parse().unwrap();
    let known = look(&wide, &stored, &installation, &settings(), at(0));
    assert_eq!(codes(&known).0, [ErrorCode::NoCapacity]);
    let unknown = look(&wide, &stored, &installation, &Settings::default(), at(0));
    assert_eq!(codes(&unknown).0, []);
}

#[test]
fn more_doors_than_a_firewall_has_left_are_refused_unless_it_maps_the_port_already() {
    let approach = |left: Option<u16>| Approach {
        point: PointRef::firewall("00000000-0000-0000-0000-000000000001", "hub", "edge").unwrap(),
        firewall: "/azurefirewalls/edge".into(),
        address: "10.0.0.4".parse().unwrap(),
        doors: vec!["20.0.0.1".parse().unwrap()],
        inside: vec!["10.0.9.0/26".parse().unwrap()],
        legs: vec![],
        fronts: vec![],
        unread: vec![],
        exposures: vec![],
        routed: None,
        room: left.map(|left| Room {
            left,
            mapped: vec![ports("22")],
        }),
    };
    let installation = "test".parse().unwrap();
    for (left, wanted, source, refused) in [
        (Some(1), "5985,3389", "203.0.113.7", true),
        (Some(1), "5985,5986", "192.168.1.5", false),
        (Some(1), "5985", "203.0.113.7", false),
        (Some(0), "5985", "203.0.113.7", true),
        (Some(0), "22", "203.0.113.7", false),
        (Some(0), "22/udp", "203.0.113.7", true),
        (None, "5985", "203.0.113.7", false),
    ] {
        let stored = machine(VM, vec![Layer::Firewall(approach(left))]);
        let mut wish = target(&stored, source);
        wish.ports = wanted.split(',').map(ports).collect();
        let seen = look(&wish, &stored, &installation, &settings(), at(0));
        let expected: &[ErrorCode] = if refused { &[ErrorCode::NoCapacity] } else { &[] };
        assert_eq!(codes(&seen).0, expected, "{left:?} {wanted} {source}");
    }
}
