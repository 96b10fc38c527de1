//! Security rules as ARM holds them: read, compared, told ours from others'.

use std::net::IpAddr;

use ipnet::IpNet;
use postern_core::{
    id::{GrantId, PolicyId},
    mark::{Installation, Mark, Purpose},
    nsg::{Access, AddressPrefix, Direction, NsgPorts, NsgProtocol, NsgRule, Side},
};
use serde_json::Value;

/// How far a resource's last change is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// In force.
    Settled,
    /// On its way.
    Changing,
    /// Not in force, or not wholly.
    Failed,
}

impl State {
    /// Reads `provisioningState`; without one the resource is settled.
    pub(super) fn of(properties: Option<&Value>) -> Self {
        match properties
            .and_then(|properties| properties.get("provisioningState"))
            .and_then(Value::as_str)
        {
            None | Some("Succeeded") => Self::Settled,
            Some("Failed" | "Canceled") => Self::Failed,
            Some(_) => Self::Changing,
        }
    }
}

/// A rule as read.
#[derive(Debug, Clone)]
pub struct ReadRule {
    /// What it says.
    pub rule: NsgRule,
    /// ARM's document.
    pub raw: Value,
    /// How far its last change is.
    pub state: State,
    /// The mark in its description, anybody's.
    pub mark: Option<Mark>,
}

/// What a rule of ours is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Grant(GrantId),
    Lockdown(PolicyId),
    /// A mark that no NSG rule of ours has.
    Stray,
}

impl ReadRule {
    /// Reads ARM's document; none when it has no name, priority, access or direction, without which nothing can be
    /// said of it.
    ///
    /// Source of the shape: Azure REST reference, Security Rules: singular and plural members exclude each other,
    /// words are compared without regard to case.
    pub(crate) fn read(raw: &Value) -> Option<Self> {
        let properties = raw.get("properties")?;
        let text = |member: &str| properties.get(member).and_then(Value::as_str);
        let is = |member: &str, word: &str| text(member).is_some_and(|text| text.eq_ignore_ascii_case(word));
        let direction = if is("direction", "Inbound") {
            Direction::Inbound
        } else if is("direction", "Outbound") {
            Direction::Outbound
        } else {
            return None;
        };
        let access = if is("access", "Allow") {
            Access::Allow
        } else if is("access", "Deny") {
            Access::Deny
        } else {
            return None;
        };
        let protocol = match text("protocol").unwrap_or("*").to_ascii_lowercase().as_str() {
            "tcp" => NsgProtocol::Tcp,
            "udp" => NsgProtocol::Udp,
            "icmp" => NsgProtocol::Icmp,
            "esp" => NsgProtocol::Esp,
            "ah" => NsgProtocol::Ah,
            _ => NsgProtocol::Any,
        };
        let texts = |single: &str, list: &str| -> Vec<&str> {
            let many = properties.get(list).and_then(Value::as_array);
            text(single)
                .into_iter()
                .filter(|text| !text.is_empty())
                .chain(many.into_iter().flatten().filter_map(Value::as_str))
                .collect()
        };
        let ports = |single: &str, list: &str| -> Vec<NsgPorts> {
            texts(single, list)
                .into_iter()
                .map(|text| NsgPorts::parse(text).unwrap_or(NsgPorts::ALL))
                .collect()
        };
        let side = |prefix: &str, prefixes: &str, groups: &str| Side {
            prefixes: texts(prefix, prefixes)
                .into_iter()
                .map(AddressPrefix::parse)
                .collect(),
            groups: properties
                .get(groups)
                .and_then(Value::as_array)
                .into_iter()
                .flatten()
                .filter_map(|group| group.get("id")?.as_str())
                .map(str::to_lowercase)
                .collect(),
        };
        let description = text("description").map(str::to_owned);
        Some(Self {
            mark: description.as_deref().and_then(Mark::parse),
            rule: NsgRule {
                name: raw.get("name")?.as_str()?.to_owned(),
                description,
                priority: properties.get("priority")?.as_u64()?.try_into().ok()?,
                direction,
                access,
                protocol,
                source: side(
                    "sourceAddressPrefix",
                    "sourceAddressPrefixes",
                    "sourceApplicationSecurityGroups",
                ),
                destination: side(
                    "destinationAddressPrefix",
                    "destinationAddressPrefixes",
                    "destinationApplicationSecurityGroups",
                ),
                ports: ports("destinationPortRange", "destinationPortRanges"),
                source_ports: ports("sourcePortRange", "sourcePortRanges"),
            },
            state: State::of(Some(properties)),
            raw: raw.clone(),
        })
    }

    /// What the rule is for, when it is the installation's. The mark says so; where somebody edited the mark away,
    /// the name does. Another installation's mark says that it is not.
    pub(super) fn role(&self, installation: &Installation) -> Option<Role> {
        match &self.mark {
            Some(mark) if mark.installation != *installation => None,
            Some(mark) => Some(match mark.purpose {
                Purpose::Grant { grant, .. } => Role::Grant(grant),
                Purpose::Lockdown { policy } => Role::Lockdown(policy),
                Purpose::Holder | Purpose::Residual { .. } => Role::Stray,
            }),
            None => role_of_name(installation, &self.rule.name),
        }
    }

    pub(super) fn is_inbound(&self) -> bool {
        self.rule.direction == Direction::Inbound
    }
}

/// The name of a grant's rule. The word before the id keeps the names of installation `a` apart from those of
/// installation `a-deny`.
pub(super) fn allow_name(installation: &Installation, grant: GrantId, udp: bool, v6: bool) -> String {
    format!(
        "postern-{installation}-allow-{}{}{}",
        grant.hex(),
        if udp { "-udp" } else { "" },
        if v6 { "-6" } else { "" }
    )
}

/// The name of a lockdown's rule.
pub(super) fn deny_name(installation: &Installation, policy: PolicyId, udp: bool, v6: bool) -> String {
    format!(
        "postern-{installation}-deny-{}-{}{}",
        policy.hex(),
        if udp { "udp" } else { "tcp" },
        if v6 { "-6" } else { "" }
    )
}

fn role_of_name(installation: &Installation, name: &str) -> Option<Role> {
    let name = name.to_ascii_lowercase();
    let rest = name
        .strip_prefix("postern-")?
        .strip_prefix(installation.as_str())?;
    let split = |rest: &str| {
        let (hex, suffix) = rest.split_at_checked(32)?;
        Some((hex.to_owned(), suffix.to_owned()))
    };
    if let Some(rest) = rest.strip_prefix("-allow-") {
        let (hex, suffix) = split(rest)?;
        matches!(suffix.as_str(), "" | "-6" | "-udp" | "-udp-6")
            .then(|| GrantId::from_hex(&hex).map(Role::Grant))
            .flatten()
    } else {
        let (hex, suffix) = split(rest.strip_prefix("-deny-")?)?;
        matches!(suffix.as_str(), "-tcp" | "-tcp-6" | "-udp" | "-udp-6")
            .then(|| PolicyId::from_hex(&hex).map(Role::Lockdown))
            .flatten()
    }
}

/// What packets a rule of ours is about.
#[derive(Debug, Clone, Copy)]
pub(super) struct About<'a> {
    pub(super) protocol: NsgProtocol,
    /// Empty: from everywhere.
    pub(super) sources: &'a [IpNet],
    pub(super) destinations: &'a [IpAddr],
    pub(super) ports: &'a [NsgPorts],
}

/// Whether the rule may match one of the packets. Where a name stands for addresses, it may.
pub(super) fn may_match(rule: &NsgRule, about: &About<'_>) -> bool {
    let protocol = rule.protocol == NsgProtocol::Any || rule.protocol == about.protocol;
    let side = |side: &Side, hits: &dyn Fn(&IpNet) -> bool| {
        !side.groups.is_empty()
            || side.prefixes.iter().any(|prefix| match prefix {
                AddressPrefix::Net(net) => hits(net),
                AddressPrefix::Tag(_) => true,
            })
    };
    protocol
        && rule.ports.iter().any(|theirs| {
            about
                .ports
                .iter()
                .any(|ours| theirs.overlaps(ours.first, ours.last))
        })
        && side(&rule.destination, &|net| {
            about.destinations.iter().any(|address| net.contains(address))
        })
        && side(&rule.source, &|net| {
            about.sources.is_empty()
                || about
                    .sources
                    .iter()
                    .any(|source| net.contains(source) || source.contains(net))
        })
}
