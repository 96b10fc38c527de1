//! One rule for several grants, where numbers run out.
//!
//! A rule matches every source with every destination. So rules of grants can be one rule only where that lets in
//! what they let in and nothing else: they are equal in protocol, ports and one side. The rule keeps the name of the
//! grant that had it first, also after that grant has ended.

use std::collections::BTreeSet;

use ipnet::IpNet;
use postern_core::{
    mark::{Mark, Purpose},
    nsg::{
        Access, AddressPrefix, Axis, Direction, MAX_ENTRIES, MAX_SHARES, NsgPorts, NsgRule, Share,
        SharedMark, Side, marked_end,
    },
};

use serde_json::{Map, Value, json};

use super::{label::Label, rule::ReadRule, wanted::Wanted};

/// The rule named `name` that says what the rules of `pieces` say, each a grant's own; none where no rule does.
pub(super) fn join(name: &str, pieces: &[Wanted]) -> Option<Wanted> {
    let (first, others) = pieces.split_first()?;
    if others.is_empty() {
        return Some(Wanted {
            name: name.to_owned(),
            ..first.clone()
        });
    }
    let alike = others.iter().all(|other| {
        other.access == first.access && other.protocol == first.protocol && other.ports == first.ports
    });
    if !alike || pieces.len() > MAX_SHARES {
        return None;
    }
    let axis = if others
        .iter()
        .all(|other| other.destinations == first.destinations)
    {
        Axis::Sources
    } else if others.iter().all(|other| other.sources == first.sources) {
        Axis::Destinations
    } else {
        return None;
    };
    let mut entries: Vec<IpNet> = pieces.iter().flat_map(|piece| on(axis, piece)).collect();
    entries.sort_unstable();
    entries.dedup();
    // Sorted, a network comes right before those that it holds.
    let apart = entries
        .iter()
        .zip(entries.iter().skip(1))
        .all(|(one, next)| !one.contains(next));
    if entries.len() > MAX_ENTRIES || !apart {
        return None;
    }
    let mut shares: Vec<Share> = pieces
        .iter()
        .map(|piece| share(piece, axis, &entries))
        .collect::<Option<_>>()?;
    shares.sort_unstable_by_key(|share| share.grant);
    if shares
        .iter()
        .zip(shares.iter().skip(1))
        .any(|(a, b)| a.grant == b.grant)
    {
        return None;
    }
    let mut joined = Wanted {
        name: name.to_owned(),
        label: Label::Shared(SharedMark {
            installation: first.label.installation().clone(),
            axis,
            shares,
        }),
        ..first.clone()
    };
    match axis {
        Axis::Sources => joined.sources = entries,
        Axis::Destinations => joined.destinations = entries.iter().map(IpNet::addr).collect(),
    }
    Some(joined)
}

fn on(axis: Axis, piece: &Wanted) -> Vec<IpNet> {
    match axis {
        Axis::Sources => piece.sources.clone(),
        Axis::Destinations => piece.destinations.iter().copied().map(IpNet::from).collect(),
    }
}

fn share(piece: &Wanted, axis: Axis, entries: &[IpNet]) -> Option<Share> {
    let Label::One(mark) = &piece.label else {
        return None;
    };
    let Purpose::Grant { grant, end } = mark.purpose else {
        return None;
    };
    let bits = on(axis, piece).iter().try_fold(0_u8, |bits, entry| {
        let place = entries.binary_search(entry).ok()?;
        Some(bits | 1 << place)
    })?;
    Some(Share {
        grant,
        end: marked_end(end),
        entries: bits,
    })
}

/// The entries of the axis of a shared rule as read, if they are what its mark speaks of.
pub(super) fn entries(rule: &NsgRule, mark: &SharedMark) -> Option<Vec<IpNet>> {
    let side = match mark.axis {
        Axis::Sources => &rule.source,
        Axis::Destinations => &rule.destination,
    };
    let entries = nets(side)?;
    (entries.len() == mark.entries()).then_some(entries)
}

/// The addresses of a side that consists of addresses, sorted.
fn nets(side: &Side) -> Option<Vec<IpNet>> {
    if !side.groups.is_empty() {
        return None;
    }
    let nets: Option<BTreeSet<IpNet>> = side
        .prefixes
        .iter()
        .map(|prefix| match prefix {
            AddressPrefix::Net(net) => Some(*net),
            AddressPrefix::Tag(_) => None,
        })
        .collect();
    nets.map(|nets| nets.into_iter().collect())
}

/// Whether the rule as read holds what a grant's own rule would say, alone or among others, and says so.
pub(super) fn carries(rule: &NsgRule, label: Option<&Label>, piece: &Wanted) -> bool {
    let Some(Label::Shared(mark)) = label else {
        return piece.is(rule);
    };
    let Some(entries) = entries(rule, mark) else {
        return false;
    };
    let said = share(piece, mark.axis, &entries);
    let common = match mark.axis {
        Axis::Sources => nets(&rule.destination) == Some(on(Axis::Destinations, piece)),
        Axis::Destinations => nets(&rule.source).as_ref() == Some(&piece.sources),
    };
    let ports: BTreeSet<(u16, u16)> = rule.ports.iter().map(|p| (p.first, p.last)).collect();
    said.is_some_and(|said| mark.shares.contains(&said))
        && common
        && *piece.label.installation() == mark.installation
        && rule.direction == Direction::Inbound
        && rule.access == Access::Allow
        && rule.protocol == piece.protocol
        && rule.source_ports == [NsgPorts::ALL]
        && ports == piece.ports.iter().map(|p| (p.first, p.last)).collect()
}

/// What is left of a rule without one grant.
#[derive(Debug, PartialEq)]
pub(crate) enum Rest {
    /// No grant is left.
    Nothing,
    /// The grant is not in the rule.
    Same,
    /// Others' grants are.
    Others {
        /// What the rule says then, as ARM takes it.
        properties: Map<String, Value>,
        /// What the rule's etag was.
        etag: Option<String>,
    },
}

/// What is left of the rule without the grant, going by the rule alone. Of a rule that somebody edited, so that its
/// mark does not say any more which address is whose, nothing is: nobody else would close it, and the server puts back
/// what is still wanted.
pub(crate) fn without(rule: &ReadRule, mark: &Mark) -> Rest {
    let Purpose::Grant { grant, .. } = mark.purpose else {
        return Rest::Nothing;
    };
    let shared = match &rule.label {
        Some(label) if !label.grants().contains(&grant) => return Rest::Same,
        Some(Label::Shared(shared)) => shared,
        _ => return Rest::Nothing,
    };
    let properties = rule.raw.get("properties").and_then(Value::as_object);
    let Some((entries, properties)) = entries(&rule.rule, shared).zip(properties) else {
        return Rest::Nothing;
    };
    let mut left = shared.clone();
    left.shares.retain(|share| share.grant != grant);
    let kept: Vec<(usize, String)> = entries
        .iter()
        .enumerate()
        .filter(|(place, _)| left.shares.iter().any(|share| share.wants(*place)))
        .map(|(place, net)| (place, AddressPrefix::Net(*net).to_string()))
        .collect();
    for share in &mut left.shares {
        let wanted = kept.iter().enumerate().filter(|(_, (old, _))| share.wants(*old));
        share.entries = wanted.fold(0, |bits, (new, _)| bits | 1 << new);
    }
    let label = match left.shares.as_slice() {
        [] => return Rest::Nothing,
        [only] => left.of_grant(only.grant).map(Label::One),
        _ => Some(Label::Shared(left)),
    };
    let (single, list) = match shared.axis {
        Axis::Sources => ("sourceAddressPrefix", "sourceAddressPrefixes"),
        Axis::Destinations => ("destinationAddressPrefix", "destinationAddressPrefixes"),
    };
    let mut properties = properties.clone();
    for gone in [single, list, "provisioningState"] {
        properties.remove(gone);
    }
    match kept.as_slice() {
        [(_, only)] => properties.insert(single.to_owned(), json!(only)),
        many => properties.insert(
            list.to_owned(),
            many.iter().map(|(_, text)| json!(text)).collect(),
        ),
    };
    properties.insert(
        "description".to_owned(),
        json!(label.map(|label| label.to_string())),
    );
    Rest::Others {
        properties,
        etag: rule.raw.get("etag").and_then(Value::as_str).map(str::to_owned),
    }
}
