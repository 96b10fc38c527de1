//! What stands of each grant, and whether packets pass.

use std::collections::{BTreeMap, BTreeSet};

use postern_core::{
    enforcer::{Desired, Evidence},
    id::GrantId,
    net::{Ports, Protocol, Source},
    nsg::{Access, Memberships, NsgProtocol, NsgRule},
    reach::{Flow, Verdict, evaluate_nsg},
};
use serde_json::Value;

use super::{
    ObservedNsg,
    layout::{Placed, layout},
    rule::{Role, State, may_match},
    share::carries,
    wanted::Wanted,
};

pub(super) fn evidence(observed: &ObservedNsg, desired: &Desired) -> BTreeMap<GrantId, Evidence> {
    let wanted: BTreeSet<GrantId> = desired
        .members
        .iter()
        .flat_map(|member| &member.grants)
        .map(|grant| grant.grant)
        .collect();
    let layout = layout(observed, desired);
    let mut placed: BTreeMap<GrantId, Vec<(&Placed, &Wanted)>> = BTreeMap::new();
    for one in &layout.placed {
        for piece in &one.pieces {
            for grant in piece.label.grants() {
                placed.entry(grant).or_default().push((one, piece));
            }
        }
    }
    let mut rules: BTreeMap<GrantId, Vec<Value>> = BTreeMap::new();
    for rule in &observed.rules {
        if let Some(Role::Grants(grants)) = rule.role(&desired.installation) {
            for grant in grants {
                rules.entry(grant).or_default().push(rule.raw.clone());
            }
        }
    }
    rules
        .into_iter()
        .map(|(grant, rules)| {
            let placed = placed.get(&grant).map(Vec::as_slice).unwrap_or_default();
            let complete = wanted.contains(&grant)
                && !placed.is_empty()
                && placed.iter().all(|(one, piece)| holds(observed, one, piece));
            let blocked_by = placed.iter().filter(|_| complete).find_map(|(one, piece)| {
                match blocking(observed, desired, one, piece)? {
                    Blocking::Certain(rule) => Some(rule),
                    Blocking::Possible(_) => None,
                }
            });
            let evidence = Evidence {
                complete: complete && blocked_by.is_none(),
                rules: Value::Array(rules),
                blocked_by,
            };
            (grant, evidence)
        })
        .collect()
}

/// Whether the grant's packets are let in by the rule where it belongs. Other grants of a shared rule may have come or
/// gone meanwhile.
fn holds(observed: &ObservedNsg, placed: &Placed, piece: &Wanted) -> bool {
    observed.standing(&placed.wanted.name).is_some_and(|rule| {
        rule.state == State::Settled
            && rule.rule.priority == placed.priority
            && carries(&rule.rule, rule.label.as_ref(), piece)
    })
}

/// A foreign deny above a rule of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Blocking {
    /// It stops packets of the grant.
    Certain(String),
    /// It may: it speaks of a service tag or an application security group, and what that stands for is not known here.
    Possible(String),
}

/// The foreign deny that stops packets of the grant although its rule stands, or may stop some.
pub(super) fn blocking(
    observed: &ObservedNsg,
    desired: &Desired,
    placed: &Placed,
    piece: &Wanted,
) -> Option<Blocking> {
    if !holds(observed, placed, piece) {
        return None;
    }
    let foreign = |rule: &NsgRule| {
        rule.access == Access::Deny && rule.priority < placed.priority && may_match(rule, &piece.about())
    };
    // Most NSGs have no such rule, and there is nothing to work out.
    let suspects: BTreeSet<&str> = observed
        .rules
        .iter()
        .filter(|rule| rule.is_inbound() && rule.role(&desired.installation).is_none())
        .filter(|rule| foreign(&rule.rule))
        .map(|rule| rule.rule.name.as_str())
        .collect();
    if suspects.is_empty() {
        return None;
    }
    let rules: Vec<NsgRule> = observed
        .rules
        .iter()
        .chain(&observed.defaults)
        .map(|rule| rule.rule.clone())
        .collect();
    let mut possible = None;
    let protocol = match piece.protocol {
        NsgProtocol::Udp => Protocol::Udp,
        _ => Protocol::Tcp,
    };
    for source in &piece.sources {
        let Ok(source) = Source::try_from(*source) else {
            continue;
        };
        for ports in &piece.ports {
            let Ok(ports) = Ports::range(protocol, ports.first, ports.last) else {
                continue;
            };
            for destination in piece.destinations.iter().copied() {
                let flow = Flow {
                    source,
                    destination,
                    ports,
                };
                let verdict = evaluate_nsg(&observed.point, &rules, Memberships::Unknown, &[], &flow);
                if verdict.verdict == Verdict::Allowed {
                    continue;
                }
                if let Some(rule) = verdict
                    .denied_by
                    .iter()
                    .find(|rule| suspects.contains(rule.rule.as_str()))
                {
                    return Some(Blocking::Certain(rule.to_string()));
                }
                possible = possible.or_else(|| {
                    let unsure = verdict.unsure.iter();
                    unsure
                        .filter(|rule| suspects.contains(rule.rule.as_str()))
                        .map(|rule| Blocking::Possible(rule.to_string()))
                        .next()
                });
            }
        }
    }
    possible
}
