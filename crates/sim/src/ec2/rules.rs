//! Security rules as EC2 takes them: protocols and ports checked, ranges made canonical, quotas counted.
//!
//! Source: API reference `IpPermission`, `IpRange`, `AuthorizeSecurityGroupIngress`.

use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};

use super::context::Limits;
use super::error::{Ec2Error, Result};
use super::params::Part;
use super::peering::reference;
use super::state::{Allowance, Group, Peer, Region, Rule};

/// A rule that a request names.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Named {
    pub(crate) allows: Allowance,
    pub(crate) description: Option<String>,
}

/// Reads `IpPermissions.N`. A permission with several sources is as many rules.
///
/// `strict` refuses what could not be authorized (unknown groups, wrong descriptions); a revocation is only
/// compared with what is there.
pub(crate) fn permissions(
    parts: &[Part<'_>],
    egress: bool,
    group: &Group,
    region: &Region,
    account: &str,
    strict: bool,
) -> Result<Vec<Named>> {
    let mut named = Vec::new();
    for part in parts {
        let (protocol, from_port, to_port) = ports(
            part.require("IpProtocol")?,
            part.int("FromPort")?,
            part.int("ToPort")?,
        )?;
        let mut add = |peer: Peer, description: Option<String>| -> Result<()> {
            let description = description.filter(|_| strict);
            if let Some(text) = &description {
                check_text(text, "security group rule description")?;
            }
            let description = description.filter(|text| !text.is_empty());
            let allows = Allowance {
                egress,
                protocol: protocol.clone(),
                from_port,
                to_port,
                peer,
            };
            named.push(Named { allows, description });
            Ok(())
        };
        let before = part.parts("IpRanges");
        let (v6, lists, groups) = (
            part.parts("Ipv6Ranges"),
            part.parts("PrefixListIds"),
            part.parts("Groups"),
        );
        if before.is_empty() && v6.is_empty() && lists.is_empty() && groups.is_empty() {
            return Err(Ec2Error::new(
                "InvalidPermission.Malformed",
                "The permission names no source: an address range, a prefix list or a security group is needed",
            ));
        }
        for range in before {
            add(
                Peer::CidrV4(cidr_v4(range.require("CidrIp")?)?),
                range.text("Description"),
            )?;
        }
        for range in v6 {
            add(
                Peer::CidrV6(cidr_v6(range.require("CidrIpv6")?)?),
                range.text("Description"),
            )?;
        }
        for list in lists {
            let id = list.require("PrefixListId")?;
            if strict {
                region.prefix_list(id)?;
            }
            add(Peer::PrefixList(id.to_owned()), list.text("Description"))?;
        }
        for pair in groups {
            let peer = group_peer(&pair, group, region, account, strict)?;
            add(peer, pair.text("Description"))?;
        }
    }
    Ok(named)
}

fn group_peer(pair: &Part<'_>, group: &Group, region: &Region, account: &str, strict: bool) -> Result<Peer> {
    let user_id = pair.text("UserId").unwrap_or_else(|| account.to_owned());
    pair.ignore(&["VpcId", "VpcPeeringConnectionId", "PeeringStatus"]);
    let name = pair.text("GroupName");
    let group_id = match (pair.text("GroupId"), name) {
        (Some(id), _) => id,
        (None, Some(name)) => region
            .group_named(&group.vpc_id, &name)
            .map(|group| group.id.clone())
            .ok_or_else(|| Ec2Error::group_not_found(&name))?,
        (None, None) => return Err(Ec2Error::missing("GroupId")),
    };
    if strict {
        let other = region.group(&group_id)?;
        if user_id != account {
            // Peering with other accounts is not simulated.
            return Err(other_network());
        }
        check_reach(region, &group.vpc_id, other)?;
    }
    Ok(Peer::Group { group_id, user_id })
}

/// Refuses to name a group of a VPC that no active peering connection leads to.
pub(crate) fn check_reach(region: &Region, own_vpc: &str, other: &Group) -> Result<()> {
    match reference(region, own_vpc, &other.id) {
        Some(found) if found.is_stale() => Err(other_network()),
        _ => Ok(()),
    }
}

fn other_network() -> Ec2Error {
    let message = "You have specified two resources that belong to different networks.";
    Ec2Error::new("InvalidGroup.NotFound", message)
}

/// The protocol's name and the ports that count, checked.
pub(crate) fn ports(
    protocol: &str,
    from: Option<i32>,
    to: Option<i32>,
) -> Result<(String, Option<i32>, Option<i32>)> {
    let protocol = match protocol.to_ascii_lowercase().as_str() {
        "6" | "tcp" => "tcp",
        "17" | "udp" => "udp",
        "1" | "icmp" => "icmp",
        "58" | "icmpv6" => "icmpv6",
        "-1" | "all" => "-1",
        other => {
            return match other.parse::<u8>() {
                // All ports, whatever ports are given.
                Ok(number) => Ok((number.to_string(), None, None)),
                Err(_) => Err(Ec2Error::invalid_value(format!(
                    "Invalid value '{protocol}' for IP protocol. Unknown protocol."
                ))),
            };
        }
    };
    match protocol {
        "tcp" | "udp" => {
            let (Some(from), Some(to)) = (from, to) else {
                return Err(Ec2Error::invalid_value(
                    "Invalid value 'Must specify both from and to ports with TCP/UDP.' for portRange.",
                ));
            };
            for port in [from, to] {
                if !(0..=65535).contains(&port) {
                    return Err(Ec2Error::invalid_value(format!(
                        "TCP/UDP port ({port}) out of range"
                    )));
                }
            }
            if from > to {
                return Err(Ec2Error::invalid_value(format!(
                    "Invalid TCP/UDP port range ({from}:{to})"
                )));
            }
            Ok((protocol.to_owned(), Some(from), Some(to)))
        }
        "icmp" | "icmpv6" => {
            let (kind, code) = match (from, to) {
                (Some(kind), Some(code)) => (kind, code),
                (None, None) if protocol == "icmpv6" => (-1, -1),
                _ => {
                    return Err(Ec2Error::invalid_value(
                        "Invalid value 'Must specify both type and code with ICMP.' for portRange.",
                    ));
                }
            };
            if !(-1..=255).contains(&kind) || !(-1..=255).contains(&code) {
                return Err(Ec2Error::invalid_value(format!(
                    "ICMP type or code ({kind}:{code}) out of range"
                )));
            }
            if kind == -1 && code != -1 {
                return Err(Ec2Error::invalid_value(format!(
                    "ICMP code ({code}) must be -1 where the type is -1"
                )));
            }
            Ok((protocol.to_owned(), Some(kind), Some(code)))
        }
        _ => Ok((protocol.to_owned(), None, None)),
    }
}

/// An IPv4 range in canonical form: `100.68.0.18/18` is `100.68.0.0/18`.
pub(crate) fn cidr_v4(text: &str) -> Result<Ipv4Net> {
    text.parse::<Ipv4Net>()
        .map(|net| net.trunc())
        .map_err(|_| malformed_cidr(text))
}

/// An IPv6 range in canonical form.
pub(crate) fn cidr_v6(text: &str) -> Result<Ipv6Net> {
    text.parse::<Ipv6Net>()
        .map(|net| net.trunc())
        .map_err(|_| malformed_cidr(text))
}

fn malformed_cidr(text: &str) -> Ec2Error {
    Ec2Error::invalid_value(format!("CIDR block {text} is malformed"))
}

/// Refuses names and descriptions over 255 characters or with characters that EC2 does not take.
pub(crate) fn check_text(text: &str, what: &str) -> Result<()> {
    if text.chars().count() > 255 {
        return Err(Ec2Error::invalid_value(format!(
            "Invalid {what}. The length must not exceed 255 characters."
        )));
    }
    let valid = |c: char| c.is_ascii_alphanumeric() || " ._-:/()#,@[]+=&;{}!$*".contains(c);
    if text.chars().all(valid) {
        return Ok(());
    }
    Err(Ec2Error::invalid_value(format!(
        "Invalid {what}. Valid characters are a-z, A-Z, 0-9, spaces, and ._-:/()#,@[]+=&;{{}}!$*"
    )))
}

/// The error of a rule that is there already; a description makes no difference.
pub(crate) fn duplicate(allows: &Allowance) -> Ec2Error {
    let message = format!("the specified rule \"{}\" already exists", sentence(allows));
    Ec2Error::new("InvalidPermission.Duplicate", message)
}

fn sentence(allows: &Allowance) -> String {
    let peer = match &allows.peer {
        Peer::CidrV4(cidr) => cidr.to_string(),
        Peer::CidrV6(cidr) => cidr.to_string(),
        Peer::PrefixList(id) => id.clone(),
        Peer::Group { group_id, .. } => group_id.clone(),
    };
    match (allows.protocol.as_str(), allows.from_port, allows.to_port) {
        ("-1", _, _) => format!("peer: {peer}, ALL, ALLOW"),
        (protocol, Some(from), Some(to)) => {
            format!(
                "peer: {peer}, {}, from port: {from}, to port: {to}, ALLOW",
                protocol.to_uppercase()
            )
        }
        (protocol, _, _) => format!("peer: {peer}, {protocol}, ALLOW"),
    }
}

/// Refuses more rules than the quota in one direction.
///
/// IPv4 and IPv6 are counted apart. A rule that names a group counts as one of each; one that names a prefix
/// list counts as the list's largest number of entries, in the list's address family.
/// Source: Amazon VPC user guide, "Amazon VPC quotas" (security groups; customer-managed prefix lists).
pub(crate) fn check_quota(rules: &[Rule], egress: bool, region: &Region, limits: &Limits) -> Result<()> {
    let (mut v4, mut v6) = (0_usize, 0_usize);
    for rule in rules.iter().filter(|rule| rule.allows.egress == egress) {
        match &rule.allows.peer {
            Peer::CidrV4(_) => v4 += 1,
            Peer::CidrV6(_) => v6 += 1,
            Peer::Group { .. } => {
                v4 += 1;
                v6 += 1;
            }
            Peer::PrefixList(id) => {
                let list = region.prefix_list(id)?;
                let weight = usize::try_from(list.max_entries).unwrap_or(1);
                if list.ipv6 { v6 += weight } else { v4 += weight }
            }
        }
    }
    if v4.max(v6) > limits.rules_per_group {
        return Err(Ec2Error::new(
            "RulesPerSecurityGroupLimitExceeded",
            "The maximum number of rules per security group has been reached.",
        ));
    }
    Ok(())
}

/// Everything, to or from anywhere.
pub(crate) fn all_traffic(egress: bool, peer: Peer) -> Allowance {
    Allowance {
        egress,
        protocol: "-1".to_owned(),
        from_port: None,
        to_port: None,
        peer,
    }
}

/// `0.0.0.0/0`.
pub(crate) fn any_v4() -> Peer {
    Peer::CidrV4(Ipv4Net::new(Ipv4Addr::UNSPECIFIED, 0).unwrap_or_default())
}

/// `::/0`.
pub(crate) fn any_v6() -> Peer {
    Peer::CidrV6(Ipv6Net::new(Ipv6Addr::UNSPECIFIED, 0).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_become_canonical() {
        assert_eq!(cidr_v4("100.68.0.18/18").unwrap().to_string(), "100.68.0.0/18");
        assert_eq!(cidr_v6("2001:DB8::1/32").unwrap().to_string(), "2001:db8::/32");
        for wrong in ["10.0.0.1", "10.0.0.0/33", "10.0.0/8", "::/0", "300.0.0.0/8", ""] {
            assert_eq!(
                cidr_v4(wrong).unwrap_err().code,
                "InvalidParameterValue",
                "{wrong}"
            );
        }
    }

    #[test]
    fn protocol_numbers_become_names_and_ports_must_fit_the_protocol() {
        assert_eq!(ports("6", Some(22), Some(22)).unwrap().0, "tcp");
        assert_eq!(
            ports("-1", Some(22), Some(22)).unwrap(),
            ("-1".to_owned(), None, None)
        );
        assert_eq!(ports("50", None, None).unwrap(), ("50".to_owned(), None, None));
        assert_eq!(
            ports("icmpv6", None, None).unwrap(),
            ("icmpv6".to_owned(), Some(-1), Some(-1))
        );
        for (protocol, from, to) in [
            ("tcp", None, None),
            ("tcp", Some(22), None),
            ("tcp", Some(-1), Some(-1)),
            ("udp", Some(0), Some(65536)),
            ("tcp", Some(23), Some(22)),
            ("icmp", None, None),
            ("icmp", Some(-1), Some(0)),
            ("icmp", Some(256), Some(0)),
            ("gre6", None, None),
            ("256", None, None),
        ] {
            assert_eq!(
                ports(protocol, from, to).unwrap_err().code,
                "InvalidParameterValue",
                "{protocol}"
            );
        }
    }
}
