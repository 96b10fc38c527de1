//! Security rules as ARM holds them: read, compared, told ours from others'.

use std::net::IpAddr;

use ipnet::IpNet;
use postern_core::{
    id::{GrantId, PolicyId},
    mark::Installation,
    nsg::{Access, AddressPrefix, Direction, NsgPorts, NsgProtocol, NsgRule, Side, Tag},
};
use serde_json::Value;

use super::label::Label;

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
    pub label: Option<Label>,
}

/// What a rule of ours is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Role {
    Grants(Vec<GrantId>),
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
            label: description.as_deref().and_then(Label::parse),
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
        match &self.label {
            Some(label) if label.installation() != installation => None,
            Some(label) => Some(match (label.grants(), label.policy()) {
                (_, Some(policy)) => Role::Lockdown(policy),
                (grants, None) if grants.is_empty() => Role::Stray,
                (grants, None) => Role::Grants(grants),
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
    let udp = if udp { "-udp" } else { "" };
    let v6 = if v6 { "-6" } else { "" };
    allow_name_of(installation, grant, &format!("{udp}{v6}"))
}

/// The same with what follows the grant.
pub(super) fn allow_name_of(installation: &Installation, grant: GrantId, suffix: &str) -> String {
    format!("postern-{installation}-allow-{}{suffix}", grant.hex())
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
    if let Some((grant, _)) = grant_of_name(installation, &name) {
        return Some(Role::Grants(vec![grant]));
    }
    let (hex, suffix) = after_word(installation, "-deny-", &name)?;
    matches!(suffix, "-tcp" | "-tcp-6" | "-udp" | "-udp-6")
        .then(|| PolicyId::from_hex(hex).map(Role::Lockdown))
        .flatten()
}

/// The grant that a name, in lower case, is made of, and what follows it.
pub(super) fn grant_of_name<'n>(installation: &Installation, name: &'n str) -> Option<(GrantId, &'n str)> {
    let (hex, suffix) = after_word(installation, "-allow-", name)?;
    let grant = GrantId::from_hex(hex)?;
    matches!(suffix, "" | "-6" | "-udp" | "-udp-6").then_some((grant, suffix))
}

fn after_word<'n>(installation: &Installation, word: &str, name: &'n str) -> Option<(&'n str, &'n str)> {
    name.strip_prefix("postern-")?
        .strip_prefix(installation.as_str())?
        .strip_prefix(word)?
        .split_at_checked(32)
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

/// Whether the rule may match one of the packets. Where a name stands for addresses that are not known here, it may;
/// so may a rule for an application security group, because its members are not known here.
pub(super) fn may_match(rule: &NsgRule, about: &About<'_>) -> bool {
    let protocol = rule.protocol == NsgProtocol::Any || rule.protocol == about.protocol;
    let side = |side: &Side, hits: &dyn Fn(&IpNet) -> bool, named: &dyn Fn(Tag) -> bool| {
        !side.groups.is_empty()
            || side.prefixes.iter().any(|prefix| match prefix {
                AddressPrefix::Net(net) => hits(net),
                AddressPrefix::Tag(tag) => named(Tag::read(tag)),
            })
    };
    protocol
        && rule.ports.iter().any(|theirs| {
            about
                .ports
                .iter()
                .any(|ours| theirs.overlaps(ours.first, ours.last))
        })
        && side(
            &rule.destination,
            &|net| about.destinations.iter().any(|address| net.contains(address)),
            &|tag| {
                about
                    .destinations
                    .iter()
                    .any(|address| tag.may_be_destination(*address))
            },
        )
        && side(
            &rule.source,
            &|net| {
                about.sources.is_empty()
                    || about
                        .sources
                        .iter()
                        .any(|source| net.contains(source) || source.contains(net))
            },
            &|tag| about.sources.is_empty() || about.sources.iter().any(|source| tag.may_be_source(source)),
        )
}
