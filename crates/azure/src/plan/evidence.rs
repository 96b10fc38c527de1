//! What stands of each grant, and whether packets pass.

use std::collections::{BTreeMap, BTreeSet};

use postern_core::{
    enforcer::{Desired, Evidence},
    id::GrantId,
    mark::Purpose,
    net::{Ports, Protocol, Source},
    nsg::{Access, NsgProtocol, NsgRule},
    reach::{Flow, Verdict, evaluate_nsg},
};
use serde_json::Value;

use super::{
    ObservedNsg,
    changes::stands,
    layout::{Placed, layout},
    rule::{Role, may_match},
};

pub(super) fn evidence(observed: &ObservedNsg, desired: &Desired) -> BTreeMap<GrantId, Evidence> {
    let wanted: BTreeSet<GrantId> = desired
        .members
        .iter()
        .flat_map(|member| &member.grants)
        .map(|grant| grant.grant)
        .collect();
    let mut placed: BTreeMap<GrantId, Vec<Placed>> = BTreeMap::new();
    for one in layout(observed, desired).placed {
        if let Purpose::Grant { grant, .. } = one.wanted.mark.purpose {
            placed.entry(grant).or_default().push(one);
        }
    }
    let mut rules: BTreeMap<GrantId, Vec<Value>> = BTreeMap::new();
    for rule in &observed.rules {
        if let Some(Role::Grant(grant)) = rule.role(&desired.installation) {
            rules.entry(grant).or_default().push(rule.raw.clone());
        }
    }
    rules
        .into_iter()
        .map(|(grant, rules)| {
            let placed = placed.get(&grant).map(Vec::as_slice).unwrap_or_default();
            let complete = wanted.contains(&grant)
                && !placed.is_empty()
                && placed.iter().all(|one| {
                    observed
                        .standing(&one.wanted.name)
                        .is_some_and(|rule| stands(rule, one))
                });
            let blocked_by = placed
                .iter()
                .filter(|_| complete)
                .find_map(|one| blocking(observed, desired, one));
            let evidence = Evidence {
                complete: complete && blocked_by.is_none(),
                rules: Value::Array(rules),
                blocked_by,
            };
            (grant, evidence)
        })
        .collect()
}

/// The foreign deny that stops packets of the allow although it stands, if one does. A deny whose addresses are not
/// known here (a service tag, an application security group) is not taken to stop any.
pub(super) fn blocking(observed: &ObservedNsg, desired: &Desired, placed: &Placed) -> Option<String> {
    let rule = observed.standing(&placed.wanted.name)?;
    if !stands(rule, placed) {
        return None;
    }
    let foreign = |rule: &NsgRule| {
        rule.access == Access::Deny
            && rule.priority < placed.priority
            && may_match(rule, &placed.wanted.about())
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
    let protocol = match placed.wanted.protocol {
        NsgProtocol::Udp => Protocol::Udp,
        _ => Protocol::Tcp,
    };
    for source in &placed.wanted.sources {
        let Ok(source) = Source::try_from(*source) else {
            continue;
        };
        for ports in &placed.wanted.ports {
            let Ok(ports) = Ports::range(protocol, ports.first, ports.last) else {
                continue;
            };
            for destination in placed.wanted.destinations.iter().copied() {
                let flow = Flow {
                    source,
                    destination,
                    ports,
                };
                let verdict = evaluate_nsg(&observed.point, &rules, &BTreeSet::new(), &[], &flow);
                if verdict.verdict == Verdict::Allowed {
                    continue;
                }
                if let Some(rule) = verdict
                    .denied_by
                    .iter()
                    .find(|rule| suspects.contains(rule.rule.as_str()))
                {
                    return Some(rule.to_string());
                }
            }
        }
    }
    None
}
