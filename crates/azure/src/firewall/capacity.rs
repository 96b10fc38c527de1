//! How much a firewall and a policy hold, and which grants they have no room for: one too many must not make Azure
//! refuse the write that opens the others.
//!
//! Source: "Azure subscription and service limits, quotas, and constraints", "Azure Firewall limits": at most 250 public
//! addresses of the firewall and unique destinations (address, port and protocol) of its DNAT rules together, however
//! many rules share a destination; 90 rule collection groups in a policy, 50 in one made before July 2022; 2 MB of
//! rules in a group, 1 MB in a policy made before. When a policy was made is not shown, so that ours counts on 1 MB,
//! and a policy with 50 to 89 groups is tried. "Azure Firewall Manager policy overview": NAT rule collections are not
//! inherited. The 20,000 unique sources and destinations of network rules are a recommendation, and not counted.

use std::collections::{BTreeMap, BTreeSet};

use postern_core::{
    firewall::{Action, Endpoint, Firewall, FirewallRule, RuleCollection},
    id::GrantId,
    net::Protocol,
};
use serde_json::Value;

use super::{
    document::{Form, Shelf},
    layout::{Layout, Piece, obstacle, role},
    list,
    plan::{ObservedFirewall, Wanted},
};

/// Public addresses and unique destinations of a firewall.
pub(crate) const DESTINATIONS: usize = 250;

/// Rule collection groups of a policy.
const GROUPS: usize = 90;

/// Bytes of the rules of a group, as JSON.
const GROUP_BYTES: usize = 1_000_000;

/// Bytes that ARM may add to a rule, for lists that we do not write.
const ADDED: usize = 160;

/// An address as written, the first and the last port, and the protocol.
pub(crate) type Destination = (String, u16, u16, Protocol);

/// The unique destinations of translating rules. Those that a policy inherits do not count.
pub(crate) fn destinations<'r>(
    collections: impl IntoIterator<Item = &'r RuleCollection>,
) -> BTreeSet<Destination> {
    let own = collections.into_iter().filter(|one| one.inherited == 0);
    own.flat_map(|collection| &collection.rules)
        .flat_map(of_rule)
        .collect()
}

fn of_rule(rule: &FirewallRule) -> Vec<Destination> {
    let matches = &rule.matches;
    let mut found = Vec::new();
    if !matches!(rule.action, Action::Translate { .. }) {
        return found;
    }
    for endpoint in &matches.destinations {
        let address = match endpoint {
            Endpoint::Any => "*".to_owned(),
            Endpoint::Range(first, last) if first == last => first.to_string(),
            Endpoint::Range(first, last) => format!("{first}-{last}"),
            Endpoint::Named(name) => name.to_lowercase(),
        };
        for ports in &matches.ports {
            for protocol in &matches.protocols {
                found.push((address.clone(), ports.first, ports.last, *protocol));
            }
        }
    }
    found
}

/// The public addresses that a firewall's document names; none in another document.
pub(crate) fn public_addresses(firewall: &Value) -> usize {
    list(firewall.get("properties"), "ipConfigurations")
        .filter(|one| one.pointer("/properties/publicIPAddress/id").is_some())
        .count()
}

/// Names in the layout's obstacles what there is no room for. What stands already has its room; then come grants that
/// were open, then the others, the oldest first.
pub(super) fn fit(
    observed: &ObservedFirewall,
    wanted: &Wanted,
    shelves: &[Shelf<'_>],
    foreign: &Firewall,
    layout: &mut Layout,
) {
    let mut pieces: BTreeMap<GrantId, Vec<&Piece>> = BTreeMap::new();
    for piece in &layout.pieces {
        pieces.entry(piece.grant).or_default().push(piece);
    }
    let own: Vec<_> = shelves
        .iter()
        .flat_map(|shelf| &shelf.rules)
        .filter(|standing| role(&wanted.installation, standing).is_some())
        .collect();
    let stands = |piece: &Piece| {
        own.iter()
            .any(|standing| standing.place.rule.eq_ignore_ascii_case(&piece.name))
    };
    let opening: BTreeSet<GrantId> = wanted
        .passages
        .iter()
        .filter(|passage| passage.opening)
        .map(|passage| passage.grant)
        .collect();
    let mut grants: Vec<(u8, GrantId)> = pieces
        .iter()
        .map(|(grant, pieces)| match pieces.iter().all(|piece| stands(piece)) {
            true => (0, *grant),
            false if !opening.contains(grant) => (1, *grant),
            false => (2, *grant),
        })
        .collect();
    grants.sort_unstable();

    let mut room = Room {
        used: destinations(&foreign.collections),
        public: observed.public_addresses,
        bytes: (observed.form == Form::Group).then(|| {
            let all = observed.document.pointer("/properties/ruleCollections");
            let ours: usize = own.iter().map(|standing| size(standing.raw)).sum();
            all.map_or(0, size).saturating_sub(ours)
        }),
    };
    let full = observed.form == Form::Group && observed.document.is_null() && observed.beside.len() >= GROUPS;
    let mut obstacles = Vec::new();
    for (rank, grant) in grants {
        let pieces = pieces.get(&grant).map_or(&[][..], Vec::as_slice);
        let named = foreign.id.rsplit('/').next().unwrap_or_default();
        if full {
            let message =
                format!("policy `{named}` has {GROUPS} rule collection groups, the most that Azure takes");
            obstacles.push(obstacle("groups_per_policy", message, grant));
        } else if let Err((code, message)) = room.take(wanted, observed.form, pieces, rank == 0) {
            obstacles.push(obstacle(code, format!("firewall `{named}` {message}"), grant));
        }
    }
    layout.obstacles.extend(obstacles);
}

/// What is taken.
struct Room {
    used: BTreeSet<Destination>,
    public: usize,
    /// Of the group; none for a classic firewall.
    bytes: Option<usize>,
}

impl Room {
    /// Gives a grant its room, or says what is missing.
    fn take(
        &mut self,
        wanted: &Wanted,
        form: Form,
        pieces: &[&Piece],
        stands: bool,
    ) -> Result<(), (&'static str, String)> {
        let mapped: BTreeSet<Destination> = pieces
            .iter()
            .filter_map(|piece| piece.door)
            .map(|(target, port)| (target.address.to_string(), port, port, target.protocol))
            .collect();
        let new = mapped.difference(&self.used).count();
        let taken = self.public.saturating_add(self.used.len());
        if !stands && new > 0 && taken.saturating_add(new) > DESTINATIONS {
            let message = format!(
                "has {taken} of {DESTINATIONS} public addresses and mapped ports, and the grant needs {new} more"
            );
            return Err(("destinations_per_firewall", message));
        }
        if let Some(bytes) = &mut self.bytes {
            let needed: usize = pieces
                .iter()
                .map(|piece| size(&piece.document(&wanted.installation, form)).saturating_add(ADDED))
                .sum();
            let together = bytes.saturating_add(needed);
            if !stands && together > GROUP_BYTES {
                let message = format!(
                    "has {bytes} of {GROUP_BYTES} bytes of rules in our group, and the grant needs {needed} more"
                );
                return Err(("bytes_per_group", message));
            }
            *bytes = together;
        }
        self.used.extend(mapped);
        Ok(())
    }
}

fn size(value: &Value) -> usize {
    value.to_string().len().saturating_add(1)
}
