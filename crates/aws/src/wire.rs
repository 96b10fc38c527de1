//! Between the SDK's shapes and ours.

use std::collections::BTreeMap;

use aws_sdk_ec2::types::{
    Filter, GroupIdentifier, IpPermission, IpRange, Ipv6Range, NetworkInterface, PrefixListId,
    SecurityGroupRule, Tag, UserIdGroupPair,
};
use ipnet::IpNet;
use postern_core::sg::{SecurityGroup, SgPeer, SgProtocol, SgRule};

use crate::plan::{instance::ObservedInterface, rule};

/// A filter with some values.
pub(crate) fn filter<V: Into<String>>(name: &str, values: impl IntoIterator<Item = V>) -> Filter {
    Filter::builder()
        .name(name)
        .set_values(Some(values.into_iter().map(Into::into).collect()))
        .build()
}

/// Tags as a map. A tag without a value has an empty one.
pub(crate) fn tags(tags: &[Tag]) -> BTreeMap<String, String> {
    tags.iter()
        .filter_map(|tag| Some((tag.key()?.to_owned(), tag.value().unwrap_or_default().to_owned())))
        .collect()
}

/// A map as tags.
pub(crate) fn sdk_tags(tags: &BTreeMap<String, String>) -> Vec<Tag> {
    tags.iter()
        .map(|(key, value)| Tag::builder().key(key).value(value).build())
        .collect()
}

fn some_text(text: Option<&str>) -> Option<String> {
    text.filter(|text| !text.is_empty()).map(str::to_owned)
}

/// The rules of one permission, one for each peer. A peer that is none of the known kinds is left out.
fn rules(permission: &IpPermission) -> Vec<SgRule> {
    let (protocol, ports) = rule::normalise(
        permission.ip_protocol().unwrap_or("-1"),
        permission.from_port(),
        permission.to_port(),
    );
    let v4 = permission.ip_ranges().iter().filter_map(|range| {
        let net: IpNet = range.cidr_ip()?.parse().ok()?;
        Some((SgPeer::Net(net.trunc()), range.description()))
    });
    let v6 = permission.ipv6_ranges().iter().filter_map(|range| {
        let net: IpNet = range.cidr_ipv6()?.parse().ok()?;
        Some((SgPeer::Net(net.trunc()), range.description()))
    });
    let lists = permission.prefix_list_ids().iter().filter_map(|list| {
        Some((
            SgPeer::PrefixList(list.prefix_list_id()?.to_owned()),
            list.description(),
        ))
    });
    let groups = permission.user_id_group_pairs().iter().filter_map(|pair| {
        let peer = SgPeer::Group {
            group: pair.group_id()?.to_owned(),
            account: some_text(pair.user_id()),
            stale: is_stale(
                pair.vpc_peering_connection_id(),
                pair.peering_status(),
                pair.user_id(),
            ),
        };
        Some((peer, pair.description()))
    });
    v4.chain(v6)
        .chain(lists)
        .chain(groups)
        .map(|(peer, description)| SgRule {
            id: None,
            protocol: protocol.clone(),
            ports,
            peer,
            description: some_text(description),
            tags: BTreeMap::new(),
        })
        .collect()
}

/// Whether a rule over a peering connection lets nobody in any more. Source: API reference `UserIdGroupPair` (of a
/// deleted group in another VPC the account is not told) and `DescribeStaleSecurityGroups`.
fn is_stale(connection: Option<&str>, status: Option<&str>, account: Option<&str>) -> bool {
    let is_over = some_text(connection).is_some();
    is_over && (status != Some("active") || some_text(account).is_none())
}

/// A group as `DescribeSecurityGroups` shows it: its rules have neither ids nor tags.
pub(crate) fn group(group: &aws_sdk_ec2::types::SecurityGroup) -> Option<SecurityGroup> {
    Some(SecurityGroup {
        id: group.group_id()?.to_owned(),
        name: group.group_name().unwrap_or_default().to_owned(),
        vpc: group.vpc_id().unwrap_or_default().to_owned(),
        ingress: group.ip_permissions().iter().flat_map(rules).collect(),
        egress: group.ip_permissions_egress().iter().flat_map(rules).collect(),
        tags: tags(group.tags()),
    })
}

/// A rule as `DescribeSecurityGroupRules` shows it, and whether it is an egress rule.
pub(crate) fn group_rule(shown: &SecurityGroupRule) -> Option<(SgRule, bool)> {
    let (protocol, ports) = rule::normalise(shown.ip_protocol()?, shown.from_port(), shown.to_port());
    let peer = if let Some(net) = shown.cidr_ipv4().or(shown.cidr_ipv6()) {
        SgPeer::Net(net.parse::<IpNet>().ok()?.trunc())
    } else if let Some(list) = shown.prefix_list_id() {
        SgPeer::PrefixList(list.to_owned())
    } else {
        let peer = shown.referenced_group_info()?;
        SgPeer::Group {
            group: peer.group_id()?.to_owned(),
            account: some_text(peer.user_id()),
            stale: is_stale(
                peer.vpc_peering_connection_id(),
                peer.peering_status(),
                peer.user_id(),
            ),
        }
    };
    let rule = SgRule {
        id: shown.security_group_rule_id().map(str::to_owned),
        protocol,
        ports,
        peer,
        description: some_text(shown.description()),
        tags: tags(shown.tags()),
    };
    Some((rule, shown.is_egress().unwrap_or_default()))
}

/// A rule as a permission, with its description where `described`: to revoke, EC2 compares the rest alone.
pub(crate) fn permission(rule: &SgRule, described: bool) -> IpPermission {
    let (from, to) = match (&rule.protocol, rule.ports) {
        (SgProtocol::All, _) => (None, None),
        // EC2 reads no ports of numbered protocols; -1 is how it shows them itself.
        (_, None) => (Some(-1), Some(-1)),
        (_, Some((from, to))) => (Some(from), Some(to)),
    };
    let description = rule.description.clone().filter(|_| described);
    let permission = IpPermission::builder()
        .ip_protocol(rule::protocol_text(&rule.protocol))
        .set_from_port(from)
        .set_to_port(to);
    match &rule.peer {
        SgPeer::Net(IpNet::V4(net)) => permission.ip_ranges(
            IpRange::builder()
                .cidr_ip(net.to_string())
                .set_description(description)
                .build(),
        ),
        SgPeer::Net(IpNet::V6(net)) => permission.ipv6_ranges(
            Ipv6Range::builder()
                .cidr_ipv6(net.to_string())
                .set_description(description)
                .build(),
        ),
        SgPeer::PrefixList(list) => permission.prefix_list_ids(
            PrefixListId::builder()
                .prefix_list_id(list)
                .set_description(description)
                .build(),
        ),
        SgPeer::Group { group, account, .. } => permission.user_id_group_pairs(
            UserIdGroupPair::builder()
                .group_id(group)
                .set_user_id(account.clone())
                .set_description(description)
                .build(),
        ),
    }
    .build()
}

/// Rules as permissions.
pub(crate) fn permissions(rules: &[SgRule], described: bool) -> Vec<IpPermission> {
    rules.iter().map(|rule| permission(rule, described)).collect()
}

/// The ids of groups.
pub(crate) fn group_ids(groups: &[GroupIdentifier]) -> Vec<String> {
    groups
        .iter()
        .filter_map(|group| group.group_id().map(str::to_owned))
        .collect()
}

/// An interface that stands for itself.
pub(crate) fn interface(interface: &NetworkInterface) -> Option<ObservedInterface> {
    Some(ObservedInterface {
        id: interface.network_interface_id()?.to_owned(),
        vpc: interface.vpc_id().unwrap_or_default().to_owned(),
        ipv6: !interface.ipv6_addresses().is_empty() || !interface.ipv6_prefixes().is_empty(),
        groups: group_ids(interface.groups()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_goes_to_ec2_and_comes_back_the_same() {
        for (protocol, ports, peer) in [
            (
                SgProtocol::Tcp,
                Some((22, 22)),
                SgPeer::Net("203.0.113.0/24".parse().unwrap()),
            ),
            (
                SgProtocol::Udp,
                Some((0, 160)),
                SgPeer::Net("2001:db8::/32".parse().unwrap()),
            ),
            (SgProtocol::All, None, SgPeer::PrefixList("pl-1".to_owned())),
            (
                SgProtocol::Other("icmp".to_owned()),
                Some((-1, -1)),
                SgPeer::Group {
                    group: "sg-1".to_owned(),
                    account: Some("123456789012".to_owned()),
                    stale: false,
                },
            ),
            (
                SgProtocol::Other("50".to_owned()),
                None,
                SgPeer::Net("10.0.0.0/8".parse().unwrap()),
            ),
        ] {
            let rule = SgRule {
                id: None,
                protocol,
                ports,
                peer,
                description: Some("d".to_owned()),
                tags: BTreeMap::new(),
            };
            assert_eq!(rules(&permission(&rule, true)), [rule]);
        }
    }

    #[test]
    fn an_empty_description_is_none() {
        let permission = IpPermission::builder()
            .ip_protocol("tcp")
            .from_port(22)
            .to_port(22)
            .ip_ranges(IpRange::builder().cidr_ip("10.0.0.0/8").description("").build())
            .build();
        assert_eq!(rules(&permission).first().unwrap().description, None);
    }
}
