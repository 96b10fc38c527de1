//! Hand-drawn fleets: for each shape the rules of the NSG before, locked, open and closed, as people read them.

use std::fmt::Write;

use postern_core::{
    approach::Approach,
    enforcer::{Desired, Observed},
    nsg::{NsgRule, Side},
    point::PointRef,
    preview::Filters,
};
use serde_json::{Value, json};

use super::{
    ReadRule,
    model::{Model, converge, deferring, desired, foreign, grant, guard, member},
};
use crate::config::PriorityBand;

fn in_order(model: &Model) -> Vec<NsgRule> {
    let mut rules: Vec<_> = model
        .rules()
        .iter()
        .map(|raw| ReadRule::read(raw).unwrap().rule)
        .collect();
    rules.sort_by_key(|rule| rule.priority);
    rules
}

fn table(model: &Model) -> String {
    let mut text = String::new();
    for rule in in_order(model) {
        let side = |side: &Side| {
            let prefixes = side.prefixes.iter().map(ToString::to_string);
            prefixes
                .chain(side.groups.iter().cloned())
                .collect::<Vec<_>>()
                .join(",")
        };
        let ports = rule.ports.iter().map(|ports| {
            if ports.first == 0 {
                "*".to_owned()
            } else if ports.first == ports.last {
                ports.first.to_string()
            } else {
                format!("{}-{}", ports.first, ports.last)
            }
        });
        writeln!(
            text,
            "  {:>4} {:<5} {:<3} {} -> {} : {}  {}",
            rule.priority,
            format!("{:?}", rule.access).to_lowercase(),
            format!("{:?}", rule.protocol).to_lowercase(),
            side(&rule.source),
            side(&rule.destination),
            ports.collect::<Vec<_>>().join(","),
            rule.name,
        )
        .unwrap();
    }
    text
}

/// Plays a shape: locks, opens, closes, lifts. Says every rule on the way, and what the planner had to say.
fn play(mut model: Model, wanted: &Desired) -> String {
    let mut bare = wanted.clone();
    for member in &mut bare.members {
        member.grants.clear();
    }
    let mut nothing = bare.clone();
    for member in &mut nothing.members {
        member.guard = None;
    }
    let untouched = model.raw.clone();
    let mut text = format!("before\n{}", table(&model));
    let mut stage = |name: &str, model: &mut Model, wanted: &Desired| {
        converge(model, wanted);
        let plan = model.plan(wanted);
        write!(text, "{name}\n{}", table(model)).unwrap();
        for obstacle in &plan.obstacles {
            writeln!(text, "  ! {}: {}", obstacle.code, obstacle.message).unwrap();
        }
        for finding in &plan.findings {
            writeln!(text, "  ? {}: {}", finding.code, finding.message).unwrap();
        }
        for (grant, evidence) in model.observed().evidence(wanted) {
            let blocked = evidence
                .blocked_by
                .map(|rule| format!(", {rule}"))
                .unwrap_or_default();
            writeln!(
                text,
                "  = {}: {}{blocked}",
                grant.hex(),
                if evidence.complete { "open" } else { "not open" }
            )
            .unwrap();
        }
    };
    stage("locked", &mut model, &bare);
    let locked = model.content();
    stage("open", &mut model, wanted);
    converge(&mut model, &bare);
    assert_eq!(model.content(), locked, "closed is locked");
    converge(&mut model, &nothing);
    assert_eq!(model.raw, untouched, "lifted is before");
    text
}

fn ssh() -> Value {
    foreign("ssh", 300, "Allow", "Tcp", "*", "*", "22")
}

fn web() -> Value {
    foreign("web", 310, "Allow", "Tcp", "Internet", "*", "443")
}

#[test]
fn a_preview_is_what_carrying_out_the_plan_makes() {
    let mut model = Model::new(&[ssh(), web()]);
    let mut vm = member(1, &["10.0.0.4"]);
    vm.guard = Some(guard(1, &["22", "3389"]));
    vm.grants = vec![grant(1, &["22"], &["203.0.113.7"])];
    let wanted = desired(vec![vm]);
    for bulk in [2, 1000] {
        model.bulk = bulk;
        let observed = model.observed();
        let plan = observed.plan(&wanted);
        let found = observed.filters(&plan.changes);
        let mut carried_out = model.clone();
        converge(&mut carried_out, &wanted);
        let Some(Filters::Nsg { before, after }) = found else {
            panic!("{found:?}");
        };
        assert_eq!(before, in_order(&model));
        assert_eq!(after, in_order(&carried_out));
    }
}

#[test]
fn one_machine_behind_its_own_nsg() {
    let mut vm = member(1, &["10.0.0.4"]);
    vm.guard = Some(guard(1, &["22", "3389"]));
    vm.grants = vec![grant(1, &["22"], &["203.0.113.7"])];
    insta::assert_snapshot!(play(Model::new(&[ssh(), web()]), &desired(vec![vm])));
}

#[test]
fn a_subnets_nsg_before_machines_of_two_policies_and_of_none() {
    let mut one = member(1, &["10.0.0.4"]);
    one.guard = Some(guard(1, &["22"]));
    one.grants = vec![grant(1, &["22"], &["203.0.113.7"])];
    let mut two = member(2, &["10.0.0.5"]);
    two.guard = Some(guard(1, &["22"]));
    let mut three = member(3, &["10.0.0.6"]);
    three.guard = Some(guard(2, &["22", "53/udp"]));
    three.grants = vec![grant(2, &["53/udp"], &["198.51.100.0/24"])];
    let free = member(4, &["10.0.0.7"]);
    insta::assert_snapshot!(play(
        Model::new(&[ssh(), web()]),
        &desired(vec![one, two, three, free])
    ));
}

#[test]
fn two_interfaces_with_secondary_addresses_of_both_families() {
    let mut vm = member(1, &["10.0.0.4", "10.0.0.5", "10.0.1.4", "fd00::4", "fd00::5"]);
    vm.interfaces = vec!["nic1".to_owned(), "nic2".to_owned()];
    vm.guard = Some(guard(1, &["22"]));
    vm.grants = vec![
        grant(1, &["22"], &["203.0.113.7", "2001:db8::7"]),
        grant(2, &["22"], &["2001:db8:1::/48"]),
    ];
    insta::assert_snapshot!(play(Model::new(&[ssh()]), &desired(vec![vm])));
}

/// From the internet only its IPv6 address is reached, and from inside both. There is no interface with IPv6 alone:
/// "IPv6-only virtual machines or virtual machines scale sets aren't supported. Each NIC must include at least one IPv4 IP
/// configuration" ("What is IPv6 for Azure Virtual Network?", limitations).
#[test]
fn an_interface_of_both_families_whose_ipv6_address_alone_is_public() {
    let mut vm = member(1, &["10.0.0.4", "fd00::4"]);
    vm.guard = Some(guard(1, &["22"]));
    vm.grants = vec![
        grant(1, &["22"], &["2001:db8::7"]),
        grant(2, &["22"], &["10.9.0.0/24"]),
    ];
    let web_over_ipv6 = foreign("web", 310, "Allow", "Tcp", "2000::/3", "fd00::4", "443");
    insta::assert_snapshot!(play(Model::new(&[ssh(), web_over_ipv6]), &desired(vec![vm])));
}

#[test]
fn a_machine_without_an_address_of_the_sources_family() {
    let mut vm = member(1, &["fd00::4"]);
    vm.guard = Some(guard(1, &["22"]));
    vm.grants = vec![grant(1, &["22"], &["203.0.113.7"])];
    insta::assert_snapshot!(play(Model::new(&[ssh()]), &desired(vec![vm])));
}

fn of_groups(name: &str, priority: u16, access: &str, from: &str, to: &str, port: &str) -> Value {
    let mut rule = foreign(name, priority, access, "Tcp", "", "", port);
    for (group, side) in [(from, "source"), (to, "destination")] {
        if group.starts_with('/') {
            rule["properties"][format!("{side}ApplicationSecurityGroups")] = json!([{ "id": group }]);
        } else {
            rule["properties"][format!("{side}AddressPrefix")] = json!(group);
        }
    }
    rule
}

#[test]
fn foreign_rules_with_groups_tags_and_lists() {
    let mut list = foreign("list", 320, "Allow", "*", "", "", "");
    for (member, value) in [
        (
            "sourceAddressPrefixes",
            json!(["192.0.2.0/24", "198.51.100.0/24"]),
        ),
        (
            "destinationAddressPrefixes",
            json!(["10.0.0.0/25", "10.0.9.0/24"]),
        ),
        ("destinationPortRanges", json!(["20-25", "443"])),
    ] {
        rule_set(&mut list, member, value);
    }
    let model = Model::new(&[
        of_groups("to-a-group", 290, "Allow", "*", "/asg/web", "22"),
        foreign(
            "from-a-service",
            280,
            "Allow",
            "Tcp",
            "Storage.WestEurope",
            "*",
            "22",
        ),
        foreign(
            "from-the-unknown",
            270,
            "Allow",
            "Tcp",
            "FutureService",
            "*",
            "22",
        ),
        foreign("to-a-service", 260, "Allow", "Tcp", "*", "Sql", "*"),
        list,
    ]);
    let mut vm = member(1, &["10.0.0.4"]);
    vm.guard = Some(guard(1, &["22"]));
    vm.grants = vec![grant(1, &["22"], &["203.0.113.7"])];
    insta::assert_snapshot!(play(model, &desired(vec![vm])));
}

fn rule_set(rule: &mut Value, member: &str, value: Value) {
    rule["properties"][member] = value;
}

#[test]
fn foreign_denies_that_stop_packets_or_may() {
    let model = Model::new(&[
        of_groups("no-group", 200, "Deny", "*", "/asg/web", "22"),
        foreign("no-service", 210, "Deny", "Tcp", "AzureCloud", "*", "22"),
        foreign("no-one", 220, "Deny", "Tcp", "198.51.100.0/24", "*", "22"),
        ssh(),
    ]);
    let mut vm = member(1, &["10.0.0.4"]);
    vm.guard = Some(guard(1, &["22", "3389"]));
    vm.grants = vec![
        grant(1, &["22"], &["203.0.113.7"]),
        grant(2, &["22"], &["198.51.100.1"]),
        grant(3, &["3389"], &["198.51.100.1"]),
        grant(4, &["22"], &["10.9.9.9"]),
    ];
    insta::assert_snapshot!(play(model, &desired(vec![vm])));
}

#[test]
fn a_lockdown_that_defers() {
    let model = Model::new(&[
        ssh(),
        foreign("late", 4090, "Allow", "Tcp", "10.0.0.0/8", "*", "3389"),
    ]);
    let mut vm = member(1, &["10.0.0.4"]);
    vm.guard = Some(deferring(1, &["22", "3389"]));
    vm.grants = vec![grant(1, &["3389"], &["203.0.113.7"])];
    insta::assert_snapshot!(play(model, &desired(vec![vm])));
}

#[test]
fn a_lockdown_that_defers_and_has_no_number_below() {
    let model = Model::new(&[foreign("last", 4096, "Allow", "Tcp", "*", "*", "22")]);
    let mut vm = member(1, &["10.0.0.4"]);
    vm.guard = Some(deferring(1, &["22"]));
    insta::assert_snapshot!(play(model, &desired(vec![vm])));
}

#[test]
fn a_narrow_band_with_others_in_it() {
    let mut model = Model::new(&[
        ssh(),
        foreign("taken", 298, "Allow", "Tcp", "*", "*", "443"),
        foreign("taken-too", 296, "Allow", "Udp", "*", "*", "123"),
    ]);
    model.band = PriorityBand {
        first: 295,
        last: 299,
    };
    let mut one = member(1, &["10.0.0.4"]);
    one.guard = Some(guard(1, &["22"]));
    one.grants = vec![
        grant(1, &["22"], &["203.0.113.7"]),
        grant(2, &["22"], &["203.0.113.8"]),
        grant(3, &["22"], &["203.0.113.9"]),
        grant(4, &["22"], &["203.0.113.0/28"]),
    ];
    let mut two = member(2, &["10.0.0.5"]);
    two.guard = Some(guard(1, &["22"]));
    two.grants = vec![grant(5, &["22"], &["198.51.100.1"])];
    insta::assert_snapshot!(play(model, &desired(vec![one, two])));
}

#[test]
fn a_band_with_no_number_above_the_rule_in_the_way() {
    let mut model = Model::new(&[ssh()]);
    model.band = PriorityBand {
        first: 300,
        last: 400,
    };
    let mut vm = member(1, &["10.0.0.4"]);
    vm.guard = Some(guard(1, &["22"]));
    vm.grants = vec![grant(1, &["22"], &["203.0.113.7"])];
    insta::assert_snapshot!(play(model, &desired(vec![vm])));
}

/// From the internet packets come as the firewall's subnet, and only to the address that it translates to; from networks
/// whose routes lead through it they come as they are, to both.
#[test]
fn an_nsg_behind_a_firewall() {
    let mut vm = member(1, &["10.0.0.4", "10.0.0.5"]);
    vm.guard = Some(guard(1, &["22"]));
    vm.approach = Some(Approach {
        point: PointRef::firewall("00000000-0000-0000-0000-000000000001", "rg", "edge").unwrap(),
        firewall: "edge".to_owned(),
        address: "10.0.0.4".parse().unwrap(),
        doors: vec!["20.0.0.9".parse().unwrap()],
        inside: vec!["10.0.9.0/26".parse().unwrap()],
        legs: Vec::new(),
        fronts: Vec::new(),
        unread: Vec::new(),
        exposures: Vec::new(),
        routed: None,
        room: None,
    });
    vm.grants = vec![
        grant(1, &["22"], &["10.0.9.0/26"]),
        grant(2, &["22"], &["10.8.0.0/24"]),
    ];
    insta::assert_snapshot!(play(Model::new(&[ssh(), web()]), &desired(vec![vm])));
}
