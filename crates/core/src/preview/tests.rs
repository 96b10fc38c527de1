//! Who gains and who loses, by what a plan would change.

use proptest::prelude::*;

use super::*;
use crate::{
    approach::{Approach, Exposure, Leg, Routed},
    id::GrantId,
    inventory::{Place, Power},
    reach::{Verdict, reach_address},
    sg::{SgPeer, SgProtocol},
    testing::{an_nsg_rule, ports},
};

fn rule(priority: u16, access: Access, source: &str, range: &str) -> NsgRule {
    an_nsg_rule(&format!("r{priority}"), priority, access, source, range)
}

fn point(name: &str) -> PointRef {
    PointRef::nsg("00000000-0000-0000-0000-000000000001", "rg", name).unwrap()
}

fn defaults() -> Vec<NsgRule> {
    vec![
        rule(65000, Access::Allow, "VirtualNetwork", "*"),
        rule(65500, Access::Deny, "*", "*"),
    ]
}

fn machine(layers: Vec<Layer>) -> Machine {
    let id = "/subscriptions/00000000-0000-0000-0000-000000000001/resourceGroups/rg/providers/Microsoft.Compute/virtualMachines/vm1";
    Machine {
        id: id.parse().unwrap(),
        name: "vm1".into(),
        tags: BTreeMap::new(),
        power: Power::Running,
        interfaces: vec![Interface {
            id: "nic".into(),
            addresses: vec!["10.0.0.4".parse().unwrap()],
            public_addresses: vec![],
            network: vec!["10.0.0.0/16".parse().unwrap()],
            network_id: "n".into(),
            layers,
        }],
    }
}

fn nsg(name: &str, place: Place, mut rules: Vec<NsgRule>) -> Layer {
    rules.extend(defaults());
    Layer::Nsg {
        point: point(name),
        place,
        rules,
        memberships: BTreeSet::new(),
        possible_memberships: BTreeSet::new(),
    }
}

fn becomes(name: &str, before: Vec<NsgRule>, after: Vec<NsgRule>) -> PointPreview {
    PointPreview {
        point: point(name),
        filters: Filters::Nsg { before, after },
    }
}

fn lines(changes: &[ReachChange]) -> Vec<String> {
    changes.iter().map(ToString::to_string).collect()
}

#[test]
fn a_lockdown_says_who_loses_what_by_which_rule() {
    let before = vec![
        rule(300, Access::Allow, "203.0.113.0/24", "20-30"),
        rule(310, Access::Allow, "*", "443"),
    ];
    let mut after = before.clone();
    after.push(rule(299, Access::Deny, "*", "22"));
    let machine = machine(vec![nsg("own", Place::Interface, before.clone())]);
    let preview = Preview::of(
        &[machine],
        &[becomes("own", before, after)],
        &[ports("22"), ports("443")],
    );
    assert_eq!(preview.gains, []);
    assert_eq!(
        lines(&preview.losses),
        [
            "10.0.0.0/16 to 22/tcp of `vm1` at 10.0.0.4 by rule `r65000` (priority 65000) of `own`",
            "possibly 10.1.0.0/16, 10.2.0.0/15, 10.4.0.0/14, 10.8.0.0/13, 10.16.0.0/12, 10.32.0.0/11, \
             10.64.0.0/10, 10.128.0.0/9, 100.64.0.0/10, 169.254.0.0/16, 172.16.0.0/12, 192.168.0.0/16 to 22/tcp \
             of `vm1` at 10.0.0.4 by rule `r65000` (priority 65000) of `own`",
            "203.0.113.0/24 to 22/tcp of `vm1` at 10.0.0.4 by rule `r300` (priority 300) of `own`",
        ]
    );
}

#[test]
fn what_opens_one_hop_of_two_gains_nothing_and_what_opens_both_does() {
    let open = [rule(298, Access::Allow, "203.0.113.7", "22")];
    let shut = vec![rule(299, Access::Deny, "*", "22")];
    let both: Vec<NsgRule> = open.iter().chain(&shut).cloned().collect();
    let machine = machine(vec![
        nsg("outer", Place::Subnet, shut.clone()),
        nsg("inner", Place::Interface, shut.clone()),
    ]);
    let of = |names: &[&str]| {
        let points: Vec<PointPreview> = names
            .iter()
            .map(|name| becomes(name, shut.clone(), both.clone()))
            .collect();
        Preview::of(std::slice::from_ref(&machine), &points, &[ports("22")])
    };
    assert_eq!(of(&["outer"]).gains, []);
    assert_eq!(of(&["inner"]).gains, []);
    let preview = of(&["outer", "inner"]);
    assert_eq!(
        lines(&preview.gains),
        ["203.0.113.7/32 to 22/tcp of `vm1` at 10.0.0.4 by rule `r298` (priority 298) of `inner`"]
    );
    assert_eq!(preview.losses, []);
}

#[test]
fn a_rule_for_a_name_gains_possibly() {
    let after = vec![rule(298, Access::Allow, "FutureService", "22")];
    let machine = machine(vec![nsg("own", Place::Interface, vec![])]);
    let preview = Preview::of(&[machine], &[becomes("own", vec![], after)], &[ports("22")]);
    assert_eq!(
        lines(&preview.gains),
        ["possibly 0.0.0.0/0 to 22/tcp of `vm1` at 10.0.0.4 by rule `r298` (priority 298) of `own`",]
    );
}

fn group(id: &str, nets: &[&str]) -> SecurityGroup {
    SecurityGroup {
        id: id.into(),
        name: id.into(),
        vpc: "vpc-1".into(),
        ingress: nets.iter().map(|net| ssh_from(net)).collect(),
        egress: vec![],
        tags: BTreeMap::new(),
    }
}

fn ssh_from(net: &str) -> SgRule {
    SgRule {
        id: None,
        protocol: SgProtocol::Tcp,
        ports: Some((22, 22)),
        peer: SgPeer::Net(net.parse().unwrap()),
        description: None,
        tags: BTreeMap::new(),
    }
}

fn instance(groups: &[SecurityGroup]) -> (Machine, PointRef) {
    let mut machine = machine(vec![Layer::SecurityGroups {
        groups: groups.to_vec(),
    }]);
    let instance = "arn:aws:ec2:eu-west-1:123456789012:instance/i-0123456789abcdef0";
    machine.id = instance.parse().unwrap();
    let MachineId::Aws(id) = machine.id.clone() else {
        panic!("{instance}");
    };
    (machine, PointRef::AwsInstance(id))
}

fn attached(ids: &[&str], read: &[SecurityGroup]) -> Attached {
    let ids = ids.iter().map(ToString::to_string).collect();
    Attached {
        interfaces: BTreeMap::from([("nic".to_owned(), ids)]),
        groups: read.to_vec(),
    }
}

fn rules_of(group: &str, before: &[&str], after: &[&str]) -> PointPreview {
    let rules = |nets: &[&str]| nets.iter().map(|net| ssh_from(net)).collect();
    PointPreview {
        point: PointRef::security_group("123456789012", "eu-west-1", group).unwrap(),
        filters: Filters::SecurityGroup {
            before: rules(before),
            after: rules(after),
        },
    }
}

#[test]
fn a_group_that_is_attached_gains_in_the_same_words() {
    let (machine, point) = instance(&[group("sg-a", &["10.1.0.0/16"])]);
    let one = PointPreview {
        point,
        filters: Filters::Instance {
            before: attached(&["sg-a"], &[]),
            after: attached(&["sg-a", "sg-b"], &[group("sg-b", &["203.0.113.7/32"])]),
        },
    };
    let preview = Preview::of(&[machine], &[one], &[ports("22")]);
    assert_eq!(
        lines(&preview.gains),
        [
            "203.0.113.7/32 to 22/tcp of `i-0123456789abcdef0` at 10.0.0.4 by rule `tcp 22 from 203.0.113.7/32` of `sg-b`"
        ]
    );
    assert_eq!(preview.losses, []);
}

#[test]
fn rules_of_a_group_change_where_it_is_attached_also_where_it_only_comes() {
    let (with_it, point) = instance(&[group("sg-0000000000000000a", &["198.51.100.1/32"])]);
    let change = rules_of("sg-0000000000000000a", &["198.51.100.1/32"], &["203.0.113.7/32"]);
    let preview = Preview::of(
        std::slice::from_ref(&with_it),
        std::slice::from_ref(&change),
        &[ports("22")],
    );
    let told = |changes: &[ReachChange]| {
        changes
            .iter()
            .flat_map(|one| one.sources.clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(told(&preview.gains), ["203.0.113.7/32".parse().unwrap()]);
    assert_eq!(told(&preview.losses), ["198.51.100.1/32".parse().unwrap()]);

    let (without_it, _) = instance(&[group("sg-0000000000000000b", &[])]);
    let swap = PointPreview {
        point,
        filters: Filters::Instance {
            before: attached(&["sg-0000000000000000b"], &[]),
            after: attached(&["sg-0000000000000000a"], &[group("sg-0000000000000000a", &[])]),
        },
    };
    let preview = Preview::of(
        std::slice::from_ref(&without_it),
        &[swap, change.clone()],
        &[ports("22")],
    );
    assert_eq!(told(&preview.gains), ["203.0.113.7/32".parse().unwrap()]);
    assert_eq!(preview.losses, []);
    let preview = Preview::of(&[without_it], &[change], &[ports("22")]);
    assert_eq!(preview, Preview::default(), "of a group that it has not");
}

#[test]
fn who_gets_in_beside_a_list_that_nobody_knows_may_gain() {
    let of_a_list = SgRule {
        peer: SgPeer::PrefixList("pl-0123456789abcdef0".to_owned()),
        ..ssh_from("0.0.0.0/0")
    };
    let mut shared = group("sg-0000000000000000b", &[]);
    shared.ingress.push(of_a_list);
    let (machine, _) = instance(&[group("sg-0000000000000000a", &[]), shared]);
    let change = rules_of("sg-0000000000000000a", &[], &["198.51.100.0/24"]);
    let preview = Preview::of(&[machine], &[change], &[ports("22")]);
    let told: Vec<_> = preview
        .gains
        .iter()
        .map(|one| (one.sources.clone(), one.certain))
        .collect();
    assert_eq!(told, [(vec!["198.51.100.0/24".parse().unwrap()], false)]);
    assert_eq!(preview.losses, []);
}

#[test]
fn what_grants_open_can_be_left_out() {
    let demo: Installation = "demo".parse().unwrap();
    let mark = Mark {
        installation: demo.clone(),
        purpose: Purpose::Grant {
            grant: GrantId::from_uuid(uuid::Uuid::from_u128(1)),
            end: "2026-07-28T12:00:00Z".parse().unwrap(),
        },
    };
    let mut grants = rule(200, Access::Allow, "203.0.113.7", "22");
    grants.description = Some(mark.to_string());
    let own = [
        rule(201, Access::Deny, "*", "22"),
        rule(300, Access::Allow, "*", "22"),
    ];
    let with_grant: Vec<NsgRule> = std::iter::once(grants).chain(own.clone()).collect();
    let filters = Filters::Nsg {
        before: own.to_vec(),
        after: with_grant.clone(),
    };
    assert_eq!(
        filters.without_grants(&demo),
        Filters::Nsg {
            before: own.to_vec(),
            after: own.to_vec()
        }
    );
    let seen = machine(vec![nsg("own", Place::Interface, with_grant.clone())]);
    let left = |installation: &str| without_grants(seen.clone(), &installation.parse().unwrap());
    assert_eq!(
        left("demo"),
        machine(vec![nsg("own", Place::Interface, own.to_vec())])
    );
    assert_eq!(left("another"), seen);
}

fn some_rules() -> impl Strategy<Value = Vec<NsgRule>> {
    let one = (
        any::<bool>(),
        prop::sample::select(vec![
            "*",
            "203.0.113.0/24",
            "203.0.113.7",
            "Internet",
            "10.0.0.0/8",
            "FutureService",
        ]),
        prop::sample::select(vec!["22", "20-30", "*", "3389"]),
    );
    prop::collection::btree_map(100u16..200, one, 0..6).prop_map(|rules| {
        rules
            .into_iter()
            .map(|(priority, (allow, source, range))| {
                let access = if allow { Access::Allow } else { Access::Deny };
                rule(priority, access, source, range)
            })
            .collect()
    })
}

proptest! {
    #[test]
    fn whoever_gains_or_loses_does_and_nobody_else(before in some_rules(), after in some_rules()) {
        let side = |rules: &[NsgRule]| machine(vec![nsg("own", Place::Interface, rules.to_vec())]);
        let (was, will) = (side(&before), side(&after));
        let points = [becomes("own", before, after)];
        let wanted = [ports("22"), ports("3389")];
        let preview = Preview::of(std::slice::from_ref(&was), &points, &wanted);
        for source in ["203.0.113.7", "203.0.113.8", "198.51.100.1", "10.9.0.1", "10.0.0.9"] {
            let source: Source = source.parse().unwrap();
            for ports in wanted {
                let verdict = |machine: &Machine| {
                    let flow = Flow { source, destination: "10.0.0.4".parse().unwrap(), ports };
                    reach_address(&machine.interfaces[0], &flow).verdict
                };
                let named = |changes: &[ReachChange]| changes.iter().any(|change| {
                    change.ports.contains(ports) && change.certain
                        && change.sources.iter().any(|net| net.prefix_len() > 0 && net.contains(&source.net()))
                });
                let (first, last) = (verdict(&was), verdict(&will));
                // The internet as a whole stands for addresses that `Internet` means; others are told exactly.
                if named(&preview.gains) {
                    prop_assert!(first != Verdict::Allowed, "{source} {ports} {preview:#?}");
                }
                if named(&preview.losses) {
                    prop_assert!(last != Verdict::Allowed, "{source} {ports} {preview:#?}");
                }
                let said = |changes: &[ReachChange]| changes.iter().any(|change| {
                    change.ports.contains(ports) && change.sources.iter().any(|net| net.contains(&source.net()))
                });
                if (first, last) == (Verdict::Denied, Verdict::Allowed) {
                    prop_assert!(said(&preview.gains), "{source} {ports} {preview:#?}");
                }
                if (first, last) == (Verdict::Allowed, Verdict::Denied) {
                    prop_assert!(said(&preview.losses), "{source} {ports} {preview:#?}");
                }
            }
        }
    }
}

/// Behind a firewall that a default route leads to, with NAT rules of others.
fn behind_a_firewall(exposures: Vec<Exposure>, rules: Vec<NsgRule>) -> Machine {
    let approach = Approach {
        point: PointRef::firewall("00000000-0000-0000-0000-000000000001", "hub", "edge").unwrap(),
        firewall: "edge".to_owned(),
        address: [10, 0, 0, 4].into(),
        doors: vec!["20.0.0.1".parse().unwrap()],
        inside: vec!["10.9.0.0/26".parse().unwrap()],
        legs: vec![
            leg("0.0.0.0/0", true),
            leg("10.0.0.0/16", false),
            leg("172.16.0.0/12", false),
        ],
        fronts: vec![],
        unread: vec![],
        exposures,
        routed: None,
        room: None,
    };
    machine(vec![
        Layer::Firewall(approach),
        nsg("own", Place::Interface, rules),
    ])
}

fn leg(prefix: &str, through: bool) -> Leg {
    Leg {
        prefix: prefix.parse().unwrap(),
        through,
        elsewhere: false,
    }
}

fn exposure(rule: &str, port: &str, source: &str) -> Exposure {
    Exposure {
        rule: rule.to_owned(),
        ports: ports(port),
        sources: vec![source.parse().unwrap()],
        certain: true,
    }
}

/// What a lockdown of the ports makes of it.
fn locked(machine: Machine, rules: &[NsgRule], guarded: &[&str]) -> Preview {
    let mut after = rules.to_vec();
    after.extend(
        guarded
            .iter()
            .zip(200..)
            .map(|(range, priority)| rule(priority, Access::Deny, "*", range)),
    );
    let all: Vec<Ports> = guarded.iter().map(|text| ports(text)).collect();
    Preview::of(&[machine], &[becomes("own", rules.to_vec(), after)], &all)
}

#[test]
fn behind_a_firewall_those_lose_whom_others_nat_rules_lead_in_and_who_may_come_another_way() {
    let rules = [rule(300, Access::Allow, "*", "*")];
    let exposures = vec![
        exposure("in/ssh", "22", "198.51.100.0/24"),
        exposure("in/web", "443", "0.0.0.0/0"),
    ];
    let preview = locked(
        behind_a_firewall(exposures, rules.to_vec()),
        &rules,
        &["22", "3389"],
    );
    assert_eq!(preview.gains, []);
    let by = "by rule `r300` (priority 300) of `own`";
    let told = lines(&preview.losses);
    let is_told = |text: &str| told.contains(&format!("{text} {by}"));
    for ports in ["22/tcp", "3389/tcp"] {
        // Straight: its own network and what is connected with a route of its own.
        assert!(
            is_told(&format!(
                "10.0.0.0/16, 172.16.0.0/12 to {ports} of `vm1` at 10.0.0.4"
            )),
            "{told:#?}"
        );
        // By the firewall's network rules, by a load balancer, or hidden by the firewall.
        assert!(
            is_told(&format!("possibly 0.0.0.0/0 to {ports} of `vm1` at 10.0.0.4")),
            "{told:#?}"
        );
    }
    assert!(
        told.contains(&format!(
            "198.51.100.0/24 to 22/tcp of `vm1` at 10.0.0.4 {by}, led there by rule `in/ssh` of `edge`"
        )),
        "{told:#?}"
    );
    assert_eq!(told.len(), 5, "{told:#?}");
}

#[test]
fn whom_a_nat_rule_leads_to_a_filter_that_stops_the_firewall_loses_nothing() {
    let rules = [
        rule(290, Access::Deny, "10.9.0.0/26", "22"),
        rule(300, Access::Allow, "*", "*"),
    ];
    let exposures = || vec![exposure("in/ssh", "22", "198.51.100.0/24")];
    let led = |preview: &Preview| -> Vec<(bool, Vec<IpNet>)> {
        let losses = preview.losses.iter().filter(|loss| loss.nat.is_some());
        losses.map(|loss| (loss.certain, loss.sources.clone())).collect()
    };
    let preview = locked(behind_a_firewall(exposures(), rules.to_vec()), &rules, &["22"]);
    assert_eq!(led(&preview), []);
    // Of which address of its subnet the firewall makes use, nobody says.
    let half = [
        rule(290, Access::Deny, "10.9.0.0/27", "22"),
        rule(300, Access::Allow, "*", "*"),
    ];
    let preview = locked(behind_a_firewall(exposures(), half.to_vec()), &half, &["22"]);
    let clients: Vec<IpNet> = vec!["198.51.100.0/24".parse().unwrap()];
    assert_eq!(led(&preview), [(false, clients.clone())]);
    // Nor whom a rule leads in that names what is not known here.
    let all = [rule(300, Access::Allow, "*", "*")];
    let mut named = exposures();
    named[0].certain = false;
    let preview = locked(behind_a_firewall(named, all.to_vec()), &all, &["22"]);
    assert_eq!(led(&preview), [(false, clients.clone())]);
    // With an address of its own the machine is known out there.
    let mut public = behind_a_firewall(exposures(), all.to_vec());
    public.interfaces[0].public_addresses = vec!["20.0.0.9".parse().unwrap()];
    let from_everywhere = |preview: &Preview| -> bool {
        let internet: IpNet = "8.0.0.0/7".parse().unwrap();
        let mut straight = preview
            .losses
            .iter()
            .filter(|loss| loss.certain && loss.nat.is_none());
        straight.any(|loss| loss.sources.iter().any(|net| net.contains(&internet)))
    };
    let preview = locked(public.clone(), &all, &["22"]);
    assert_eq!(led(&preview), [(true, clients)]);
    assert!(
        !from_everywhere(&preview),
        "answers go through the firewall: {:#?}",
        preview.losses
    );
    approach_of(&mut public).legs[0] = leg("192.168.0.0/16", true);
    let preview = locked(public, &all, &["22"]);
    assert!(from_everywhere(&preview), "{:#?}", preview.losses);
}

fn approach_of(machine: &mut Machine) -> &mut Approach {
    let Layer::Firewall(approach) = &mut machine.interfaces[0].layers[0] else {
        panic!("no firewall")
    };
    approach
}

#[test]
fn who_comes_by_another_appliance_or_by_a_route_that_is_not_known_comes_possibly() {
    let private = |machine: Machine, rules: &[NsgRule]| -> Vec<(bool, String)> {
        let preview = locked(machine, rules, &["22"]);
        let all = preview.losses.iter().flat_map(|loss| {
            let nets = loss.sources.iter().map(ToString::to_string);
            nets.map(|net| (loss.certain, net)).collect::<Vec<_>>()
        });
        all.collect()
    };
    // Only the site, of which a leg is, and what is next to it.
    let rules = [
        rule(300, Access::Allow, "192.168.6.0/23", "*"),
        rule(310, Access::Deny, "*", "*"),
    ];
    let mut machine = behind_a_firewall(Vec::new(), rules.to_vec());
    approach_of(&mut machine).legs.push(Leg {
        elsewhere: true,
        ..leg("192.168.6.0/24", false)
    });
    approach_of(&mut machine).routed = Some(vec![Routed {
        ports: ports("22"),
        certain: true,
        sources: vec!["192.168.7.0/25".parse().unwrap()],
    }]);
    // The other half of the site has no network rule, and may be a network that is peered.
    let mut found = private(machine, &rules);
    found.sort();
    assert_eq!(
        found,
        [
            (false, "192.168.6.0/24".to_owned()),
            (false, "192.168.7.128/25".to_owned()),
            (true, "192.168.7.0/25".to_owned()),
        ]
    );
}

#[test]
fn whom_a_route_leads_through_a_firewall_loses_what_its_network_rules_let_through() {
    let all = [rule(300, Access::Allow, "*", "*")];
    let routed = |ports_of: &str, source: &str, certain| Routed {
        ports: ports(ports_of),
        certain,
        sources: vec![source.parse().unwrap()],
    };
    let mut machine = behind_a_firewall(Vec::new(), all.to_vec());
    approach_of(&mut machine).routed = Some(vec![
        routed("20-30", "192.168.7.0/24", true),
        routed("22", "192.168.9.0/24", false),
        routed("22/udp", "192.168.8.0/24", true),
        // Of its own network nobody passes the firewall.
        routed("22", "10.0.3.0/24", true),
    ]);
    let told = lines(&locked(machine.clone(), &all, &["22", "3389"]).losses);
    let by = "of `vm1` at 10.0.0.4 by rule `r300` (priority 300) of `own`";
    let mut expected = vec![
        format!("10.0.0.0/16, 172.16.0.0/12, 192.168.7.0/24 to 22/tcp {by}"),
        format!("10.0.0.0/16, 172.16.0.0/12 to 3389/tcp {by}"),
        format!("possibly 0.0.0.0/0 to 22/tcp {by}"),
        format!("possibly 0.0.0.0/0 to 3389/tcp {by}"),
    ];
    expected.sort();
    let mut sorted = told.clone();
    sorted.sort();
    assert_eq!(sorted, expected);

    // Of another address of the machine the firewall's rules are not known.
    machine.interfaces[0].addresses = vec!["10.0.0.5".parse().unwrap()];
    let told = lines(&locked(machine, &all, &["22"]).losses);
    assert!(
        !told
            .iter()
            .any(|line| line.contains("192.168.7.0/24") && !line.starts_with("possibly")),
        "{told:#?}"
    );
}
