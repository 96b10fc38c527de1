//! From what stands to what is wanted: the writes, and their order.
//!
//! Rule by rule the order is: allows that go, denies, allows, denies that go. No step of it lets in what is let in
//! neither before nor after. Where no such order exists (a deny moves and its exceptions with it, two denies swap
//! what they guard, rules trade numbers), and where many rules change, the NSG is written whole, in one step.

use std::collections::{BTreeMap, BTreeSet};

use postern_core::{
    enforcer::{Change, Desired, Finding, Plan, Verb},
    id::{GrantId, PolicyId},
    nsg::Access,
};
use serde_json::{Value, json};

use super::{
    ObservedNsg,
    evidence::{Blocking, blocking},
    label::Label,
    layout::{Placed, layout},
    rule::{ReadRule, Role, State},
};
use crate::{
    arm::ArmId,
    operation::{NamedRule, Operation},
};

/// A rule to be written.
struct Put<'a> {
    placed: &'a Placed,
    before: Option<&'a ReadRule>,
    verb: Verb,
    /// The grants that it is about: those that come, those that go, or all.
    grants: Vec<GrantId>,
}

/// A rule to be taken away.
struct Delete<'a> {
    rule: &'a ReadRule,
    role: Role,
}

pub(super) fn plan(observed: &ObservedNsg, desired: &Desired) -> Plan {
    let Some(nsg) = ArmId::of_point(&observed.point).filter(|_| desired.point == observed.point) else {
        return Plan::default();
    };
    let layout = layout(observed, desired);
    let mut plan = Plan {
        obstacles: layout.obstacles,
        findings: layout.findings,
        ..Plan::default()
    };
    let names: BTreeSet<String> = layout
        .placed
        .iter()
        .map(|placed| placed.wanted.name.to_ascii_lowercase())
        .collect();
    let deletes: Vec<Delete<'_>> = observed
        .rules
        .iter()
        .filter_map(|rule| {
            let role = rule.role(&desired.installation)?;
            (!names.contains(&rule.rule.name.to_ascii_lowercase())).then_some(Delete { rule, role })
        })
        .collect();
    let puts: Vec<Put<'_>> = layout
        .placed
        .iter()
        .filter_map(|placed| put(observed, placed))
        .collect();
    plan.findings.extend(puts.iter().filter_map(edited));
    plan.findings.extend(blocked(observed, desired, &layout.placed));

    // A deletion that failed leaves nothing of ours to see, and may leave its rule in force.
    let ours = desired.unsettled || !names.is_empty() || !deletes.is_empty();
    let rewrite = observed.state() == State::Failed && ours;
    let count = puts.len() + deletes.len();
    if count == 0 && !rewrite {
        return plan;
    }
    let singly = || -> Option<Vec<Change>> {
        if rewrite || count >= observed.bulk_threshold || !has_order(observed, &deletes, &puts) {
            return None;
        }
        one_by_one(&nsg, &deletes, &puts)
    };
    plan.changes = match singly() {
        Some(changes) => changes,
        None => vec![at_once(observed, &nsg, &deletes, &puts)],
    };
    plan
}

fn put<'a>(observed: &'a ObservedNsg, placed: &'a Placed) -> Option<Put<'a>> {
    let wanted = &placed.wanted;
    let before = observed.standing(&wanted.name);
    let deny = wanted.access == Access::Deny;
    let named = |rule: &ReadRule| {
        let label = rule
            .label
            .as_ref()
            .filter(|label| label.installation() == wanted.label.installation());
        label.map(Label::grants).unwrap_or_default()
    };
    let (had, has) = (before.map(named).unwrap_or_default(), wanted.label.grants());
    let without = |all: &[GrantId], some: &[GrantId]| -> Vec<GrantId> {
        all.iter().copied().filter(|one| !some.contains(one)).collect()
    };
    let (come, gone) = (without(&has, &had), without(&had, &has));
    let verb = match before {
        Some(rule) if stands(rule, placed) => return None,
        // What it says or where it stands is not what we wrote, or it did not come into force.
        Some(rule)
            if !wanted.is_unedited(&rule.rule)
                || rule.rule.priority != placed.priority
                || wanted.is(&rule.rule) =>
        {
            Verb::Repair
        }
        _ if deny => Verb::LockDown,
        _ if come.is_empty() && !gone.is_empty() => Verb::Close,
        _ => Verb::Open,
    };
    let grants = match verb {
        Verb::Open if !come.is_empty() => come,
        Verb::Close => gone,
        _ => has,
    };
    Some(Put {
        placed,
        before,
        verb,
        grants,
    })
}

/// Whether the rule is there as wanted, and in force.
pub(super) fn stands(rule: &ReadRule, placed: &Placed) -> bool {
    rule.state == State::Settled && rule.rule.priority == placed.priority && placed.wanted.is(&rule.rule)
}

fn grants_of(role: &Role) -> &[GrantId] {
    match role {
        Role::Grants(grants) => grants,
        Role::Lockdown(_) | Role::Stray => &[],
    }
}

/// A rule of ours that is not as we ever wrote it.
fn edited(put: &Put<'_>) -> Option<Finding> {
    let rule = put.before?;
    let moved = put.placed.wanted.access == Access::Allow && rule.rule.priority != put.placed.priority;
    if put.placed.wanted.is_unedited(&rule.rule) && !moved {
        return None;
    }
    Some(Finding {
        code: "own_rule_edited".to_owned(),
        message: format!("`{}` is not as we wrote it", rule.rule.name),
        before: Some(after(put)),
        after: Some(rule.raw.clone()),
        grants: put.placed.wanted.label.grants(),
    })
}

/// Grants' rules that stand below somebody's deny.
fn blocked(observed: &ObservedNsg, desired: &Desired, placed: &[Placed]) -> Vec<Finding> {
    let mut findings: BTreeMap<GrantId, Finding> = BTreeMap::new();
    for one in placed {
        for piece in &one.pieces {
            let (code, message) = match blocking(observed, desired, one, piece) {
                Some(Blocking::Certain(rule)) => {
                    ("foreign_rule_blocks", format!("{rule} stops the grant's packets"))
                }
                Some(Blocking::Possible(rule)) => (
                    "foreign_rule_may_block",
                    format!(
                        "{rule} may stop the grant's packets: what its service tag or application security group \
                         stands for is not known"
                    ),
                ),
                None => continue,
            };
            for grant in piece.label.grants() {
                findings.entry(grant).or_insert_with(|| Finding {
                    code: code.to_owned(),
                    message: message.clone(),
                    before: None,
                    after: None,
                    grants: vec![grant],
                });
            }
        }
    }
    findings.into_values().collect()
}

/// Whether there is an order of single writes in which every number is free when it is taken and no step opens
/// what neither end has open.
fn has_order(observed: &ObservedNsg, deletes: &[Delete<'_>], puts: &[Put<'_>]) -> bool {
    let denies = || puts.iter().filter(|put| put.placed.wanted.access == Access::Deny);
    let moves = |put: &Put<'_>| {
        put.before
            .is_some_and(|rule| rule.rule.priority != put.placed.priority || !rule.is_inbound())
    };
    // A deny that moves over its own exceptions would shut open grants out for the time between.
    let deny_moves = denies().any(moves);
    let allow_moves = puts
        .iter()
        .any(|put| put.placed.wanted.access == Access::Allow && moves(put));
    if deny_moves && allow_moves {
        return false;
    }
    // A deny that lets something go may let it go to another deny, which must be there first; or both ways.
    let shrinks = |put: &Put<'_>| {
        put.before.is_some_and(|rule| {
            let (_, missing) = covered(rule, put.placed);
            missing
        })
    };
    if denies().any(shrinks) && denies().count() > 1 {
        return false;
    }
    let mut numbers: BTreeMap<u16, String> = observed
        .rules
        .iter()
        .filter(|rule| rule.is_inbound())
        .map(|rule| (rule.rule.priority, rule.rule.name.to_ascii_lowercase()))
        .collect();
    for step in order(deletes, puts) {
        match step {
            Step::Delete(delete) => {
                let name = delete.rule.rule.name.to_ascii_lowercase();
                numbers.retain(|_, holder| *holder != name);
            }
            Step::Put(put) => {
                let name = put.placed.wanted.name.to_ascii_lowercase();
                numbers.retain(|_, holder| *holder != name);
                if numbers.insert(put.placed.priority, name).is_some() {
                    return false;
                }
            }
        }
    }
    true
}

/// Whether the standing deny covers something, and whether it covers something that the wanted one does not.
fn covered(rule: &ReadRule, placed: &Placed) -> (bool, bool) {
    if rule.rule.access != Access::Deny || !rule.is_inbound() {
        return (false, false);
    }
    let destination_goes = rule.rule.destination.prefixes.iter().any(|prefix| {
        let text = prefix.to_string();
        !placed
            .wanted
            .destinations
            .iter()
            .any(|address| address.to_string() == text)
    });
    let port_goes = rule.rule.ports.iter().any(|theirs| {
        !placed
            .wanted
            .ports
            .iter()
            .any(|ours| ours.first <= theirs.first && theirs.last <= ours.last)
    });
    (true, destination_goes || port_goes)
}

enum Step<'p, 'a> {
    Delete(&'p Delete<'a>),
    Put(&'p Put<'a>),
}

fn order<'p, 'a>(deletes: &'p [Delete<'a>], puts: &'p [Put<'a>]) -> impl Iterator<Item = Step<'p, 'a>> {
    let going = |access: Access| {
        deletes
            .iter()
            .filter(move |delete| delete.rule.rule.access == access)
            .map(Step::Delete)
    };
    let coming = |access: Access| {
        puts.iter()
            .filter(move |put| put.placed.wanted.access == access)
            .map(Step::Put)
    };
    // A shared rule that only lets grants go is a closing too.
    let closes = |step: &Step<'_, '_>| matches!(step, Step::Put(put) if put.verb == Verb::Close);
    going(Access::Allow)
        .chain(coming(Access::Allow).filter(closes))
        .chain(coming(Access::Deny))
        .chain(coming(Access::Allow).filter(move |step| !closes(step)))
        .chain(going(Access::Deny))
}

fn one_by_one(nsg: &ArmId, deletes: &[Delete<'_>], puts: &[Put<'_>]) -> Option<Vec<Change>> {
    order(deletes, puts)
        .map(|step| {
            let (name, change) = match step {
                Step::Delete(delete) => (&delete.rule.rule.name, deletion(nsg, delete)),
                Step::Put(put) => (&put.placed.wanted.name, writing(nsg, put)),
            };
            let target = nsg.rule(name).ok()?.to_string();
            Some(Change { target, ..change })
        })
        .collect()
}

fn deletion(nsg: &ArmId, delete: &Delete<'_>) -> Change {
    let rule = &delete.rule.rule;
    Change {
        verb: verb_of(delete),
        target: nsg.to_string(),
        summary: format!("delete `{}` (priority {})", rule.name, rule.priority),
        grants: grants_of(&delete.role).to_vec(),
        policies: policy_of(&delete.role).into_iter().collect(),
        before: Some(delete.rule.raw.clone()),
        after: None,
        operation: json!(Operation::DeleteRule {
            name: rule.name.clone(),
        }),
        displaces: Vec::new(),
    }
}

fn policy_of(role: &Role) -> Option<PolicyId> {
    match role {
        Role::Lockdown(policy) => Some(*policy),
        Role::Grants(_) | Role::Stray => None,
    }
}

fn verb_of(delete: &Delete<'_>) -> Verb {
    match delete.role {
        Role::Lockdown(_) => Verb::Restore,
        Role::Grants(_) | Role::Stray => Verb::Close,
    }
}

fn writing(nsg: &ArmId, put: &Put<'_>) -> Change {
    Change {
        verb: put.verb,
        target: nsg.to_string(),
        summary: summary(put),
        grants: put.grants.clone(),
        policies: put.placed.wanted.label.policy().into_iter().collect(),
        before: put.before.map(|rule| rule.raw.clone()),
        after: Some(after(put)),
        operation: json!(Operation::PutRule {
            name: put.placed.wanted.name.clone(),
            properties: put.placed.wanted.properties(put.placed.priority),
        }),
        displaces: Vec::new(),
    }
}

fn after(put: &Put<'_>) -> Value {
    json!({
        "name": put.placed.wanted.name,
        "properties": put.placed.wanted.properties(put.placed.priority),
    })
}

fn summary(put: &Put<'_>) -> String {
    let (placed, wanted) = (put.placed, &put.placed.wanted);
    let some = |texts: Vec<String>| match texts.as_slice() {
        [first, second, third, rest @ ..] if !rest.is_empty() => {
            format!("{first}, {second}, {third} and {} more", rest.len())
        }
        all => all.join(", "),
    };
    let ports = wanted.ports.iter().map(|ports| {
        if ports.first == ports.last {
            ports.first.to_string()
        } else {
            format!("{}-{}", ports.first, ports.last)
        }
    });
    let sources = if wanted.sources.is_empty() {
        "everywhere".to_owned()
    } else {
        some(wanted.sources.iter().map(ToString::to_string).collect())
    };
    format!(
        "{} {} {} from {sources} to {} at priority {}",
        match wanted.access {
            Access::Allow => "allow",
            Access::Deny => "deny",
        },
        match wanted.protocol {
            postern_core::nsg::NsgProtocol::Udp => "udp",
            _ => "tcp",
        },
        some(ports.collect()),
        some(wanted.destinations.iter().map(ToString::to_string).collect()),
        placed.priority
    ) + &match wanted.label.grants().len() {
        0 | 1 => String::new(),
        several => format!(", for {several} grants together"),
    }
}

fn at_once(observed: &ObservedNsg, nsg: &ArmId, deletes: &[Delete<'_>], puts: &[Put<'_>]) -> Change {
    let verbs: BTreeSet<u8> = puts
        .iter()
        .map(|put| rank(put.verb))
        .chain(deletes.iter().map(|delete| rank(verb_of(delete))))
        .collect();
    let verb = match verbs.first() {
        Some(0) => Verb::LockDown,
        Some(1) => Verb::Close,
        Some(2) => Verb::Open,
        Some(3) => Verb::Restore,
        _ => Verb::Repair,
    };
    let grants: BTreeSet<GrantId> = deletes
        .iter()
        .flat_map(|delete| grants_of(&delete.role))
        .chain(puts.iter().flat_map(|put| &put.grants))
        .copied()
        .collect();
    let policies: BTreeSet<PolicyId> = deletes
        .iter()
        .filter_map(|delete| policy_of(&delete.role))
        .chain(puts.iter().filter_map(|put| put.placed.wanted.label.policy()))
        .collect();
    let before: Vec<&Value> = deletes
        .iter()
        .map(|delete| &delete.rule.raw)
        .chain(puts.iter().filter_map(|put| put.before).map(|rule| &rule.raw))
        .collect();
    Change {
        verb,
        target: nsg.to_string(),
        summary: if puts.is_empty() && deletes.is_empty() {
            "write the NSG as it is, because its last change failed".to_owned()
        } else {
            format!(
                "write {} rules and delete {} of `{}` at once",
                puts.len(),
                deletes.len(),
                observed.point
            )
        },
        grants: grants.into_iter().collect(),
        policies: policies.into_iter().collect(),
        before: Some(json!({
            "etag": observed.raw.get("etag").cloned().unwrap_or_default(),
            "rules": before,
        })),
        after: Some(json!({ "rules": puts.iter().map(after).collect::<Vec<_>>() })),
        operation: json!(Operation::PutNsg {
            remove: deletes
                .iter()
                .map(|delete| delete.rule.rule.name.clone())
                .collect(),
            put: puts
                .iter()
                .map(|put| NamedRule {
                    name: put.placed.wanted.name.clone(),
                    properties: put.placed.wanted.properties(put.placed.priority),
                })
                .collect(),
        }),
        displaces: Vec::new(),
    }
}

/// Which verb names a write that does several things.
const fn rank(verb: Verb) -> u8 {
    match verb {
        Verb::LockDown => 0,
        Verb::Close => 1,
        Verb::Open => 2,
        Verb::Restore => 3,
        Verb::Repair => 4,
    }
}
