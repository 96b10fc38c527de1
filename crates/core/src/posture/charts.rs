//! Every leaf of both clouds' decision charts, with the reason that people read.

use std::{collections::BTreeMap, fmt::Write};

use super::*;
use crate::{
    inventory::{Place, Power},
    mark::{Mark, Purpose},
    nsg::{AddressPrefix, NsgRule, Side},
    point::PointRef,
    sg::{SecurityGroup, SgPeer, SgProtocol},
    testing::{a_policy, an_id, an_nsg_rule, at},
};

fn mark(purpose: Purpose) -> String {
    Mark {
        installation: "test".parse().unwrap(),
        purpose,
    }
    .to_string()
}

fn nsg(name: &str, place: Place, mut rules: Vec<NsgRule>) -> Layer {
    rules.extend([
        an_nsg_rule("AllowVnetInBound", 65000, Access::Allow, "VirtualNetwork", "*"),
        an_nsg_rule(
            "AllowAzureLoadBalancerInBound",
            65001,
            Access::Allow,
            "AzureLoadBalancer",
            "*",
        ),
        an_nsg_rule("DenyAllInBound", 65500, Access::Deny, "*", "*"),
    ]);
    Layer::Nsg {
        point: PointRef::nsg("00000000-0000-0000-0000-000000000001", "prod", name).unwrap(),
        place,
        rules,
        memberships: std::collections::BTreeSet::new(),
        possible_memberships: std::collections::BTreeSet::new(),
    }
}

fn sg_rule(id: &str, protocol: SgProtocol, ports: Option<(i32, i32)>, peer: &str) -> SgRule {
    SgRule {
        id: Some(id.into()),
        protocol,
        ports,
        peer: match peer.parse() {
            Ok(net) => SgPeer::Net(net),
            Err(_) if peer.starts_with("pl-") => SgPeer::PrefixList(peer.into()),
            Err(_) => SgPeer::Group {
                group: peer.into(),
                account: None,
                stale: false,
            },
        },
        description: None,
        tags: BTreeMap::new(),
    }
}

fn groups(ingress: Vec<SgRule>) -> Layer {
    Layer::SecurityGroups {
        groups: vec![SecurityGroup {
            id: "sg-0a".into(),
            name: "web".into(),
            vpc: "vpc-1".into(),
            ingress,
            egress: vec![],
            tags: BTreeMap::new(),
        }],
    }
}

fn machine(id: &str, interfaces: Vec<Vec<Layer>>) -> Machine {
    Machine {
        id: id.parse().unwrap(),
        name: "m".into(),
        tags: BTreeMap::new(),
        power: Power::Running,
        interfaces: interfaces
            .into_iter()
            .zip(1..)
            .map(|(layers, number)| Interface {
                id: format!("/subscriptions/s/networkinterfaces/nic-{number}"),
                addresses: vec![
                    format!("10.0.0.{number}").parse().unwrap(),
                    "fd00::1".parse().unwrap(),
                ],
                public_addresses: vec![],
                network: vec!["10.0.0.0/16".parse().unwrap()],
                network_id: "n".into(),
                layers,
            })
            .collect(),
    }
}

fn azure(interfaces: Vec<Vec<Layer>>) -> Machine {
    machine(
        "/subscriptions/00000000-0000-0000-0000-000000000001/resourceGroups/prod/providers/Microsoft.Compute/virtualMachines/vm1",
        interfaces,
    )
}

fn aws(interfaces: Vec<Vec<Layer>>) -> Machine {
    machine(
        "arn:aws:ec2:eu-west-1:123456789012:instance/i-0123456789abcdef0",
        interfaces,
    )
}

fn table(cases: Vec<(&str, Machine, Option<JitPolicy>)>) -> String {
    let mut table = String::new();
    for (case, machine, policy) in cases {
        let mut policy = policy;
        if let Some(policy) = &mut policy {
            policy.name = "guard".into();
        }
        let found = posture(&machine, policy.as_ref());
        let rule = found.rule.map_or_else(|| "-".into(), |rule| rule.rule);
        writeln!(table, "{case}\n  {} [{rule}] {}", found.kind, found.reason).unwrap();
    }
    table
}

#[test]
fn every_leaf_of_the_azure_chart_has_its_reason() {
    use Place::{Interface as Nic, Subnet};
    let allow = |source: &str, ports: &str| an_nsg_rule("allow-in", 300, Access::Allow, source, ports);
    let deny = || an_nsg_rule("deny-ssh", 200, Access::Deny, "*", "22");
    let marked = |mut rule: NsgRule, purpose| {
        rule.description = Some(mark(purpose));
        rule
    };
    let grant = Purpose::Grant {
        grant: an_id(1),
        end: at(60),
    };
    let lockdown = Purpose::Lockdown { policy: an_id(2) };
    let chart = table(vec![
        ("no NSG", azure(vec![vec![]]), None),
        ("no interface", azure(vec![]), None),
        ("defaults only", azure(vec![vec![nsg("nic", Nic, vec![])]]), None),
        (
            "SSH from anywhere",
            azure(vec![vec![nsg("nic", Nic, vec![allow("*", "22")])]]),
            None,
        ),
        (
            "RDP from the internet, on the second interface",
            azure(vec![
                vec![nsg("one", Nic, vec![])],
                vec![nsg("two", Nic, vec![allow("Internet", "3389")])],
            ]),
            None,
        ),
        (
            "WinRM in a range, from one network",
            azure(vec![vec![nsg(
                "nic",
                Nic,
                vec![allow("198.51.100.0/24", "5000-6000")],
            )]]),
            None,
        ),
        (
            "SSH from its own network by an explicit rule",
            azure(vec![vec![nsg("nic", Nic, vec![allow("VirtualNetwork", "22")])]]),
            None,
        ),
        (
            "SSH from a service tag",
            azure(vec![vec![nsg("nic", Nic, vec![allow("AzureDevOps", "22")])]]),
            None,
        ),
        (
            "SSH over IPv6",
            azure(vec![vec![nsg("nic", Nic, vec![allow("::/0", "22")])]]),
            None,
        ),
        (
            "web only",
            azure(vec![vec![nsg("nic", Nic, vec![allow("*", "443")])]]),
            None,
        ),
        (
            "the allow is below a deny",
            azure(vec![vec![nsg("nic", Nic, vec![deny(), allow("*", "22")])]]),
            None,
        ),
        (
            "the subnet allows, the interface does not",
            azure(vec![vec![
                nsg("subnet", Subnet, vec![allow("*", "22")]),
                nsg("nic", Nic, vec![]),
            ]]),
            None,
        ),
        (
            "both allow, from different networks",
            azure(vec![vec![
                nsg("subnet", Subnet, vec![allow("198.51.100.0/24", "22")]),
                nsg("nic", Nic, vec![allow("203.0.113.0/24", "22")]),
            ]]),
            None,
        ),
        (
            "both allow, the subnet from anywhere",
            azure(vec![vec![
                nsg("subnet", Subnet, vec![allow("*", "*")]),
                nsg("nic", Nic, vec![allow("203.0.113.0/24", "22")]),
            ]]),
            None,
        ),
        (
            "healthy beside an interface without NSG",
            azure(vec![vec![nsg("nic", Nic, vec![])], vec![]]),
            None,
        ),
        (
            "covered and locked down, with a grant open",
            azure(vec![vec![nsg(
                "nic",
                Nic,
                vec![
                    marked(
                        an_nsg_rule("g", 100, Access::Allow, "203.0.113.7", "22"),
                        grant.clone(),
                    ),
                    marked(an_nsg_rule("l", 110, Access::Deny, "*", "*"), lockdown.clone()),
                    allow("*", "22"),
                ],
            )]]),
            Some(a_policy("/")),
        ),
        (
            "covered, with a foreign rule above the lockdown",
            azure(vec![vec![nsg(
                "nic",
                Nic,
                vec![
                    an_nsg_rule("theirs", 90, Access::Allow, "Internet", "3389"),
                    marked(an_nsg_rule("l", 110, Access::Deny, "*", "*"), lockdown),
                ],
            )]]),
            Some(a_policy("/")),
        ),
        (
            "covered, a grant's rule hides the foreign one below",
            azure(vec![vec![nsg(
                "nic",
                Nic,
                vec![
                    marked(an_nsg_rule("g", 100, Access::Allow, "*", "22"), grant),
                    an_nsg_rule("theirs", 105, Access::Allow, "*", "22"),
                ],
            )]]),
            Some(a_policy("/")),
        ),
        (
            "covered, without any NSG",
            azure(vec![vec![]]),
            Some(a_policy("/")),
        ),
    ]);
    insta::assert_snapshot!(chart);
}

#[test]
fn names_whose_addresses_are_not_known_open_possibly_and_say_so() {
    let place = Place::Interface;
    let allow = |source: &str| an_nsg_rule("allow-in", 300, Access::Allow, source, "22");
    let to = |mut rule: NsgRule, prefix: Option<&str>, group: Option<&str>| {
        rule.destination = Side {
            prefixes: prefix.into_iter().map(AddressPrefix::parse).collect(),
            groups: group.into_iter().map(str::to_owned).collect(),
        };
        rule
    };
    let from_group = || {
        let mut rule = allow("*");
        rule.source = Side {
            prefixes: vec![],
            groups: vec!["/subscriptions/s/applicationsecuritygroups/jump".into()],
        };
        rule
    };
    let deny = |mut rule: NsgRule| {
        (rule.name, rule.access, rule.priority) = ("deny-in".into(), Access::Deny, 200);
        rule
    };
    let web = Some("/subscriptions/s/applicationsecuritygroups/web");
    let in_groups = |certain: bool, possible: bool, rules: Vec<NsgRule>| {
        let mut layer = nsg("nic", place, rules);
        if let Layer::Nsg {
            memberships,
            possible_memberships,
            ..
        } = &mut layer
        {
            let group = || web.map(str::to_owned);
            memberships.extend(group().filter(|_| certain));
            possible_memberships.extend(group().filter(|_| possible));
        }
        azure(vec![vec![layer]])
    };
    let chart = table(vec![
        (
            "from an unknown tag",
            in_groups(false, false, vec![allow("FutureService")]),
            None,
        ),
        (
            "from a listed tag",
            in_groups(false, false, vec![allow("Storage.WestEurope")]),
            None,
        ),
        (
            "to a listed tag",
            in_groups(false, false, vec![to(allow("*"), Some("Sql"), None)]),
            None,
        ),
        (
            "to an unknown tag",
            in_groups(false, false, vec![to(allow("*"), Some("FutureService"), None)]),
            None,
        ),
        ("from a group", in_groups(false, false, vec![from_group()]), None),
        (
            "to a group of others",
            in_groups(false, false, vec![to(allow("*"), None, web)]),
            None,
        ),
        (
            "to a group of some addresses",
            in_groups(false, true, vec![to(allow("*"), None, web)]),
            None,
        ),
        (
            "to a group of every address",
            in_groups(true, false, vec![to(allow("*"), None, web)]),
            None,
        ),
        (
            "below a deny for a group of some addresses",
            in_groups(false, true, vec![allow("*"), deny(to(allow("*"), None, web))]),
            None,
        ),
        (
            "below a deny for a group of every address",
            in_groups(true, false, vec![allow("*"), deny(to(allow("*"), None, web))]),
            None,
        ),
        (
            "below a deny from an unknown tag",
            in_groups(false, false, vec![allow("*"), deny(allow("FutureService"))]),
            None,
        ),
    ]);
    insta::assert_snapshot!(chart);
}

#[test]
fn every_leaf_of_the_aws_chart_has_its_reason() {
    let tcp =
        |id: &str, first: i32, last: i32, peer: &str| sg_rule(id, SgProtocol::Tcp, Some((first, last)), peer);
    let temporary = || {
        let Layer::SecurityGroups { mut groups } = groups(vec![tcp("sgr-g", 22, 22, "0.0.0.0/0")]) else {
            panic!("the layer was just made")
        };
        groups[0].tags.insert(MARK_TAG.into(), mark(Purpose::Holder));
        Layer::SecurityGroups { groups }
    };
    let chart = table(vec![
        ("no interface", aws(vec![]), None),
        ("nothing known", aws(vec![vec![]]), None),
        ("no rules", aws(vec![vec![groups(vec![])]]), None),
        (
            "SSH from anywhere",
            aws(vec![vec![groups(vec![tcp("sgr-1", 22, 22, "0.0.0.0/0")])]]),
            None,
        ),
        (
            "SSH from anywhere, IPv6",
            aws(vec![vec![groups(vec![tcp("sgr-1", 22, 22, "::/0")])]]),
            None,
        ),
        (
            "everything from anywhere",
            aws(vec![vec![groups(vec![sg_rule(
                "sgr-1",
                SgProtocol::All,
                None,
                "0.0.0.0/0",
            )])]]),
            None,
        ),
        (
            "RDP within a range",
            aws(vec![vec![groups(vec![tcp("sgr-1", 3000, 4000, "0.0.0.0/0")])]]),
            None,
        ),
        (
            "two halves make a whole",
            aws(vec![vec![groups(vec![
                tcp("sgr-1", 22, 22, "0.0.0.0/1"),
                tcp("sgr-2", 22, 22, "128.0.0.0/1"),
            ])]]),
            None,
        ),
        (
            "SSH from one network",
            aws(vec![vec![groups(vec![tcp("sgr-1", 22, 22, "203.0.113.0/24")])]]),
            None,
        ),
        (
            "SSH from a group",
            aws(vec![vec![groups(vec![tcp("sgr-1", 22, 22, "sg-0b")])]]),
            None,
        ),
        (
            "SSH from a prefix list",
            aws(vec![vec![groups(vec![tcp("sgr-1", 22, 22, "pl-1")])]]),
            None,
        ),
        (
            "UDP only",
            aws(vec![vec![groups(vec![sg_rule(
                "sgr-1",
                SgProtocol::Udp,
                Some((22, 22)),
                "0.0.0.0/0",
            )])]]),
            None,
        ),
        (
            "web only",
            aws(vec![vec![groups(vec![tcp("sgr-1", 443, 443, "0.0.0.0/0")])]]),
            None,
        ),
        (
            "covered, with a grant open",
            aws(vec![vec![temporary()]]),
            Some(a_policy("/")),
        ),
        (
            "covered, with a foreign rule",
            aws(vec![vec![groups(vec![tcp("sgr-1", 22, 22, "0.0.0.0/0")])]]),
            Some(a_policy("/")),
        ),
    ]);
    insta::assert_snapshot!(chart);
}
