//! Reachability against an oracle that looks at one packet after another, as the clouds do.

use std::collections::BTreeSet;

use proptest::{collection::vec, option, prelude::*, sample::select};

use super::*;
use crate::{
    net::Protocol,
    nsg::{AddressPrefix, NsgPorts, NsgProtocol, Side},
};

/// Every fate that a packet may have: one when all is known, both when a rule that may match decides.
type Fates = BTreeSet<bool>;

const NETWORK: &str = "10.0.0.0/30";
pub(super) const MACHINE: &str = "10.0.0.2";
pub(super) const GROUP: &str = "/subscriptions/s/asg/web";
/// Some of the machine's ip configurations are in it.
const PARTIAL: &str = "/subscriptions/s/asg/some";

/// Yes, no, or not known.
#[derive(Clone, Copy, PartialEq)]
enum Match {
    Yes,
    No,
    Maybe,
}

fn any_of(matches: impl IntoIterator<Item = Match>) -> Match {
    matches.into_iter().fold(Match::No, |a, b| match (a, b) {
        (Match::Yes, _) | (_, Match::Yes) => Match::Yes,
        (Match::Maybe, _) | (_, Match::Maybe) => Match::Maybe,
        _ => Match::No,
    })
}

fn both(a: Match, b: Match) -> Match {
    match (a, b) {
        (Match::No, _) | (_, Match::No) => Match::No,
        (Match::Yes, Match::Yes) => Match::Yes,
        _ => Match::Maybe,
    }
}

fn when(yes: bool) -> Match {
    if yes { Match::Yes } else { Match::No }
}

fn is_private(from: IpAddr) -> bool {
    matches!(from, IpAddr::V4(v4) if v4.is_private())
}

fn source_matches(side: &Side, from: IpAddr) -> Match {
    let network: IpNet = NETWORK.parse().unwrap();
    let prefixes = side.prefixes.iter().map(|prefix| match prefix {
        AddressPrefix::Net(net) => when(net.contains(&from)),
        AddressPrefix::Tag(tag) => match tag.as_str() {
            "*" => Match::Yes,
            "Internet" => when(!is_private(from) && !network.contains(&from)),
            "VirtualNetwork" if network.contains(&from) => Match::Yes,
            "VirtualNetwork" if is_private(from) => Match::Maybe,
            "VirtualNetwork" | "AzureLoadBalancer" | "AzurePlatformIMDS" => Match::No,
            "Storage" if is_private(from) => Match::No,
            _ => Match::Maybe,
        },
    });
    let groups = side
        .groups
        .iter()
        .map(|_| if is_private(from) { Match::Maybe } else { Match::No });
    any_of(prefixes.chain(groups))
}

fn destination_matches(side: &Side) -> Match {
    let to: IpAddr = MACHINE.parse().unwrap();
    let prefixes = side.prefixes.iter().map(|prefix| match prefix {
        AddressPrefix::Net(net) => when(net.contains(&to)),
        AddressPrefix::Tag(tag) => match tag.as_str() {
            "*" | "VirtualNetwork" => Match::Yes,
            "Internet" | "AzureLoadBalancer" | "Sql" => Match::No,
            _ => Match::Maybe,
        },
    });
    any_of(
        prefixes.chain(side.groups.iter().map(|group| match group.as_str() {
            GROUP => Match::Yes,
            PARTIAL => Match::Maybe,
            _ => Match::No,
        })),
    )
}

/// The naive first match, for TCP from a source port that the client may choose.
fn nsg_fates(rules: &[NsgRule], from: IpAddr, port: u16) -> Fates {
    let mut fates = Fates::new();
    let mut inbound: Vec<&NsgRule> = rules
        .iter()
        .filter(|r| r.direction == Direction::Inbound)
        .collect();
    inbound.sort_by_key(|rule| rule.priority);
    for rule in inbound {
        let port = when(
            rule.ports
                .iter()
                .any(|range| (range.first..=range.last).contains(&port)),
        );
        let protocol = when(matches!(rule.protocol, NsgProtocol::Any | NsgProtocol::Tcp));
        let source_port = if rule.source_ports == [NsgPorts::ALL] {
            Match::Yes
        } else {
            Match::Maybe
        };
        let matched = [
            port,
            protocol,
            source_port,
            source_matches(&rule.source, from),
            destination_matches(&rule.destination),
        ]
        .into_iter()
        .fold(Match::Yes, both);
        let passes = rule.access == Access::Allow;
        match matched {
            Match::No => {}
            Match::Maybe => {
                fates.insert(passes);
            }
            Match::Yes => {
                fates.insert(passes);
                return fates;
            }
        }
    }
    fates.insert(false);
    fates
}

fn group_fates(rules: &[SgRule], from: IpAddr, port: u16) -> Fates {
    let matched = any_of(rules.iter().map(|rule| {
        let covers = match (&rule.protocol, rule.ports) {
            (SgProtocol::All, _) => true,
            (SgProtocol::Tcp, Some((first, last))) => (first..=last).contains(&i32::from(port)),
            _ => false,
        };
        let peer = match &rule.peer {
            SgPeer::Net(net) => when(net.contains(&from)),
            SgPeer::PrefixList(_) => Match::Maybe,
            SgPeer::Group { stale: false, .. } if is_private(from) => Match::Maybe,
            SgPeer::Group { .. } => Match::No,
        };
        both(when(covers), peer)
    }));
    match matched {
        Match::Yes => [true].into(),
        Match::No => [false].into(),
        Match::Maybe => [true, false].into(),
    }
}

/// What holds for every packet of the flow.
fn expected(flow: &Flow, fates: impl Fn(IpAddr, u16) -> Fates) -> Verdict {
    let mut all = Fates::new();
    let IpNet::V4(net) = flow.source.net() else {
        panic!("the oracle looks at IPv4")
    };
    for from in u32::from(net.network())..=u32::from(net.broadcast()) {
        for port in flow.ports.first()..=flow.ports.last() {
            all.extend(fates(IpAddr::V4(from.into()), port));
        }
    }
    match (all.contains(&true), all.contains(&false)) {
        (true, false) => Verdict::Allowed,
        (false, true) => Verdict::Denied,
        _ => Verdict::Partly,
    }
}

/// Networks that meet often: public, of the machine's network, and private beyond it.
fn a_net() -> impl Strategy<Value = IpNet> {
    (
        select(vec![[203, 0, 113, 0], [203, 0, 113, 8], [10, 0, 0, 0]]),
        0..8_u8,
        28..=32_u8,
    )
        .prop_map(|([a, b, c, d], host, prefix)| {
            IpNet::new(IpAddr::from([a, b, c, d + host]), prefix)
                .unwrap()
                .trunc()
        })
}

fn a_prefix() -> impl Strategy<Value = AddressPrefix> {
    prop_oneof![
        6 => a_net().prop_map(AddressPrefix::Net),
        1 => Just(AddressPrefix::Net("203.0.0.0/8".parse::<IpNet>().unwrap().trunc())),
        1 => Just(AddressPrefix::Net("2001:db8::/32".parse().unwrap())),
        5 => select(vec!["*", "Internet", "VirtualNetwork", "AzureLoadBalancer", "Storage", "FutureService", "AzurePlatformIMDS"])
            .prop_map(|tag| AddressPrefix::Tag(tag.to_owned())),
    ]
}

fn a_destination() -> impl Strategy<Value = Side> {
    let prefix = |text: &str| Side {
        prefixes: vec![AddressPrefix::parse(text)],
        groups: vec![],
    };
    let group = |id: &str| Side {
        prefixes: vec![],
        groups: vec![id.to_owned()],
    };
    prop_oneof![
        6 => Just(prefix("*")),
        2 => Just(prefix(MACHINE)),
        1 => Just(prefix("10.0.0.3")),
        1 => Just(prefix("VirtualNetwork")),
        1 => Just(prefix("Sql")),
        1 => Just(prefix("FutureService")),
        1 => Just(group(GROUP)),
        1 => Just(group(PARTIAL)),
        1 => Just(group("/subscriptions/s/asg/db")),
    ]
}

fn a_range() -> impl Strategy<Value = (u16, u16)> {
    (20..26_u16, 0..4_u16).prop_map(|(first, more)| (first, first + more))
}

prop_compose! {
    fn an_nsg_rule()(
        allow: bool,
        inbound in prop::bool::weighted(0.9),
        protocol in select(vec![NsgProtocol::Any, NsgProtocol::Tcp, NsgProtocol::Tcp, NsgProtocol::Udp]),
        prefixes in vec(a_prefix(), 0..3),
        from_group in prop::bool::weighted(0.1),
        destination in a_destination(),
        ports in prop_oneof![
            3 => vec(a_range().prop_map(|(first, last)| NsgPorts { first, last }), 1..3),
            1 => Just(vec![NsgPorts::ALL]),
        ],
        some_source_ports in prop::bool::weighted(0.1),
    ) -> NsgRule {
        NsgRule {
            name: String::new(),
            description: None,
            priority: 0,
            direction: if inbound { Direction::Inbound } else { Direction::Outbound },
            access: if allow { Access::Allow } else { Access::Deny },
            protocol,
            source: Side { prefixes, groups: if from_group { vec![GROUP.to_owned()] } else { vec![] } },
            destination,
            ports,
            source_ports: vec![if some_source_ports { NsgPorts { first: 1024, last: 2048 } } else { NsgPorts::ALL }],
        }
    }
}

/// Rules in any order in the list, with priorities of their own.
fn an_nsg() -> impl Strategy<Value = Vec<NsgRule>> {
    vec(an_nsg_rule(), 0..7).prop_flat_map(|mut rules| {
        for (priority, rule) in (100..).zip(&mut rules) {
            rule.priority = priority;
            rule.name = format!("r{priority}");
        }
        Just(rules).prop_shuffle()
    })
}

prop_compose! {
    fn an_sg_rule()(
        protocol in select(vec![SgProtocol::All, SgProtocol::Tcp, SgProtocol::Tcp, SgProtocol::Udp, SgProtocol::Other("icmp".into())]),
        (first, last) in a_range(),
        peer in prop_oneof![
            8 => a_net().prop_map(SgPeer::Net),
            1 => Just(SgPeer::Net("0.0.0.0/0".parse().unwrap())),
            1 => Just(SgPeer::PrefixList("pl-1".into())),
            1 => Just(SgPeer::Group { group: "sg-2".into(), account: None, stale: false }),
            1 => Just(SgPeer::Group { group: "sg-3".into(), account: None, stale: true }),
        ],
    ) -> SgRule {
        SgRule {
            id: None,
            ports: (protocol != SgProtocol::All).then_some((first.into(), last.into())),
            protocol,
            peer,
            description: None,
            tags: std::collections::BTreeMap::new(),
        }
    }
}

fn a_flow() -> impl Strategy<Value = Flow> {
    (a_net(), a_range()).prop_map(|(net, (first, last))| Flow {
        source: Source::try_from(net).unwrap(),
        destination: MACHINE.parse().unwrap(),
        ports: Ports::range(Protocol::Tcp, first, last).unwrap(),
    })
}

fn a_group(id: &str, ingress: Vec<SgRule>) -> SecurityGroup {
    SecurityGroup {
        id: id.to_owned(),
        name: id.to_owned(),
        vpc: "vpc-1".to_owned(),
        ingress,
        egress: vec![],
        tags: std::collections::BTreeMap::new(),
    }
}

pub(super) fn network() -> Vec<IpNet> {
    vec![NETWORK.parse().unwrap()]
}

pub(super) fn nsg(rules: &[NsgRule], flow: &Flow) -> HopVerdict {
    let point = PointRef::nsg("00000000-0000-0000-0000-000000000001", "prod", "web").unwrap();
    let known = Memberships::Known {
        certain: &[GROUP.to_owned()].into(),
        possible: &[PARTIAL.to_owned()].into(),
    };
    evaluate_nsg(&point, rules, known, &network(), flow)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, ..ProptestConfig::default() })]

    #[test]
    fn an_nsgs_verdict_is_that_of_every_packet(rules in an_nsg(), flow in a_flow()) {
        let found = nsg(&rules, &flow);
        prop_assert_eq!(found.verdict, expected(&flow, |from, port| nsg_fates(&rules, from, port)));
        // The rule that is named decides for some packet, and is of the kind that the verdict says.
        if let Some(named) = &found.rule {
            let rule = rules.iter().find(|rule| rule.name == named.rule).unwrap();
            prop_assert_eq!(rule.access == Access::Allow, found.verdict == Verdict::Allowed);
        }
        prop_assert!(found.verdict != Verdict::Allowed || found.rule.is_some(), "nothing passes without a rule");
    }

    #[test]
    fn groups_verdict_is_that_of_every_packet(
        one in vec(an_sg_rule(), 0..5),
        two in option::of(vec(an_sg_rule(), 0..4)),
        flow in a_flow(),
    ) {
        let mut all = one.clone();
        all.extend(two.clone().unwrap_or_default());
        let mut groups = vec![a_group("sg-1", one)];
        groups.extend(two.map(|rules| a_group("sg-2", rules)));
        let found = evaluate_groups(&groups, &network(), &flow);
        prop_assert_eq!(found.verdict, expected(&flow, |from, port| group_fates(&all, from, port)));
    }

    #[test]
    fn one_more_group_rule_never_closes_what_is_open(
        rules in vec(an_sg_rule(), 0..5),
        more in an_sg_rule(),
        flow in a_flow(),
    ) {
        let before = evaluate_groups(&[a_group("sg-1", rules.clone())], &network(), &flow).verdict;
        let mut rules = rules;
        rules.insert(0, more);
        let after = evaluate_groups(&[a_group("sg-1", rules)], &network(), &flow).verdict;
        prop_assert!(before != Verdict::Allowed || after == Verdict::Allowed);
        prop_assert!(before != Verdict::Partly || after != Verdict::Denied);
    }

    #[test]
    fn the_order_of_group_rules_does_not_matter(
        (rules, shuffled) in vec(an_sg_rule(), 0..6)
            .prop_flat_map(|rules| (Just(rules.clone()), Just(rules).prop_shuffle())),
        flow in a_flow(),
    ) {
        let verdict = |rules| {
            let found = evaluate_groups(&[a_group("sg-1", rules)], &network(), &flow);
            let mut unsure = found.unsure;
            unsure.sort();
            unsure.dedup();
            (found.verdict, unsure)
        };
        prop_assert_eq!(verdict(rules), verdict(shuffled));
    }
}
