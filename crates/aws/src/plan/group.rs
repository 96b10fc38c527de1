//! The group point: a lockdown displaces others' rules for guarded ports and keeps residual rules around them.
//!
//! A rule is displaced by first authorizing what is left of it around the guarded ports and then revoking it,
//! and restored by first authorizing it and then revoking what was left: what is not guarded is never
//! interrupted, and nothing is let through that neither the state before nor the state after would. Residuals
//! are known by their marks, so that planning anew after a crash between any two calls goes on from there.
//!
//! Two displaced rules may leave the same residual; EC2 keeps it once. It stays while either needs it, and its
//! mark names one that does. Where policies of several machines differ about shared groups, `refuse` wins: it is
//! the one that takes nothing from anybody else.

mod lockdown;
mod report;
mod restore;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use postern_core::{
    enforcer::{
        Change, Desired, Displaced, Evidence, Finding, Guard, Member, Observed, Obstacle, Plan, Print, Verb,
    },
    id::{DisplacedId, GrantId, PolicyId},
    machine::MachineId,
    mark::{Installation, Mark, Purpose},
    net::Ports,
    point::PointRef,
    policy::{Lockdown, SharedGroups},
    preview::Filters,
    sg::{SecurityGroup, SgRule},
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{
    change, for_policies, json as to_json,
    rule::{self, Content, Count, Weights},
};
use crate::{
    config::AwsLimits,
    operation::{GroupRef, Operation},
};

/// An interface that the group is attached to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attached {
    /// `eni-…`.
    pub interface: String,
    /// The instance that it belongs to; none for load balancers, endpoints and the like.
    pub instance: Option<String>,
    /// What its owner says that it is.
    pub description: String,
}

impl Attached {
    /// Who has the interface, for people.
    pub fn name(&self) -> String {
        match &self.instance {
            Some(instance) => format!("{instance} ({})", self.interface),
            None if self.description.is_empty() => self.interface.clone(),
            None => format!("{} ({})", self.interface, self.description),
        }
    }
}

/// A group that others own, as read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObservedGroup {
    /// `sg-…`.
    pub id: String,
    /// The group with the ids and tags of its rules; none when EC2 said that it does not exist.
    pub group: Option<SecurityGroup>,
    /// Where it is attached.
    pub attached: Vec<Attached>,
    /// The private copies of ours that stand for it, by name. Looked for only where somebody is to be isolated.
    #[serde(default)]
    pub copies: Vec<String>,
    /// Groups of the same account and prefix lists that displaced rules name as source and that, as EC2 said, do not
    /// exist.
    pub gone_peers: BTreeSet<String>,
    /// What the prefix lists in the group's rules and in the displaced ones count, as far as it is known.
    pub weights: Weights,
    /// The ids of rules that stand for certain, because a write just now said so.
    pub confirmed: BTreeSet<String>,
    /// The quotas.
    pub limits: AwsLimits,
}

/// The id of a rule displaced at `point`: the same rule at the same point has the same id.
pub fn displaced_id(point: &PointRef, rule: &SgRule) -> DisplacedId {
    let digest = Sha256::new()
        .chain_update(b"postern displaced rule\0")
        .chain_update(point.to_string())
        .chain_update(b"\0")
        .chain_update(Content::of(rule).to_string())
        .finalize();
    let mut bytes = [0; 16];
    for (to, from) in bytes.iter_mut().zip(digest) {
        *to = from;
    }
    DisplacedId::from_uuid(uuid::Builder::from_custom_bytes(bytes).into_uuid())
}

/// A displaced rule as saved.
#[derive(Debug)]
struct Saved {
    id: DisplacedId,
    rule: SgRule,
    residuals: BTreeMap<Content, SgRule>,
}

/// A rule that is to be displaced, or is.
#[derive(Debug)]
struct Locked<'a> {
    id: DisplacedId,
    rule: SgRule,
    /// The rule where it stands in the group, in the way.
    standing: Option<&'a SgRule>,
    /// Whether it was saved before.
    saved: Option<&'a Saved>,
    /// What is left of it.
    residuals: BTreeMap<Content, SgRule>,
}

/// What a lockdown wants of the group.
struct Wish {
    ports: Vec<Ports>,
    policies: BTreeSet<PolicyId>,
    /// The interfaces of machines that no policy covers, or one that defers, by name.
    others: Vec<String>,
    /// Whether rules may be taken out of others' way too.
    may_displace: bool,
    /// Whether, where they may not, the machines that want it get private copies.
    waits: bool,
}

impl Wish {
    fn of(observed: &ObservedGroup, desired: &Desired) -> Self {
        let guards: Vec<&Guard> = desired
            .members
            .iter()
            .filter(|member| has_a_say(observed, desired, member))
            .filter_map(overruling)
            .collect();
        let mut ports: Vec<Ports> = guards
            .iter()
            .flat_map(|guard| guard.ports.iter().copied())
            .collect();
        ports.sort_unstable();
        ports.dedup();
        let others: Vec<String> = observed
            .attached
            .iter()
            .filter(|attached| !is_guarded(attached, &desired.members))
            .map(Attached::name)
            .collect();
        let may_displace = others.is_empty()
            || guards
                .iter()
                .all(|guard| guard.shared_groups == SharedGroups::Revoke);
        let waits = guards
            .iter()
            .all(|guard| guard.shared_groups != SharedGroups::Refuse);
        Self {
            ports,
            policies: guards.iter().map(|guard| guard.policy).collect(),
            others,
            may_displace,
            waits,
        }
    }
}

/// The member's lockdown, where it overrules others' rules. One that defers asks nothing of a group: what no rule
/// allows is closed by itself, and a rule that is displaced for the sake of another machine is missed like anywhere.
fn overruling(member: &Member) -> Option<&Guard> {
    member
        .guard
        .as_ref()
        .filter(|guard| guard.lockdown == Lockdown::Strict)
}

/// Whether the member's lockdown is kept at this group. One that isolates is where the group is its own alone;
/// elsewhere the machine gets a private copy (see the instance point), and the group is left as it is. What is displaced
/// already stays so as long as such a machine has the group.
fn has_a_say(observed: &ObservedGroup, desired: &Desired, member: &Member) -> bool {
    let Some(guard) = overruling(member).filter(|guard| guard.shared_groups == SharedGroups::Isolate) else {
        return true;
    };
    let own = |attached: &Attached| is_guarded(attached, std::slice::from_ref(member));
    let is_displaced = |displaced: &Displaced| {
        serde_json::from_value::<SgRule>(displaced.rule.clone())
            .is_ok_and(|rule| rule::overlaps(&rule, &guard.ports))
    };
    let is_alone = observed.copies.is_empty() && observed.attached.iter().all(own);
    observed.attached.iter().any(own) && (is_alone || desired.displaced.iter().any(is_displaced))
}

fn is_guarded(attached: &Attached, members: &[Member]) -> bool {
    members
        .iter()
        .filter(|member| overruling(member).is_some())
        .any(|member| match (&member.machine, &attached.instance) {
            (MachineId::Aws(machine), Some(instance)) => machine.instance() == instance,
            _ => member.interfaces.contains(&attached.interface),
        })
}

impl Observed for ObservedGroup {
    fn plan(&self, desired: &Desired) -> Plan {
        let mut plan = Plan::default();
        let saved = read_saved(desired, &mut plan);
        let Some(group) = &self.group else {
            for saved in saved {
                plan.findings.push(Finding {
                    code: "displaced_group_gone".to_owned(),
                    message: format!(
                        "{} was deleted: {} cannot be put back",
                        self.id,
                        Content::of(&saved.rule)
                    ),
                    before: Some(to_json(&saved.rule)),
                    after: None,
                    grants: Vec::new(),
                });
                plan.settled.push(saved.id);
            }
            return plan;
        };
        let wish = Wish::of(self, desired);
        let mut draft = Draft::new(self, group, desired, &saved, wish, plan);
        draft.close_strange_marks();
        let locked = draft.locked();
        draft.report(&locked);
        draft.lock_down(&locked);
        draft.restore(&locked);
        draft.plan
    }

    fn shows(&self, _before: Option<&Value>, operation: &Value) -> Option<bool> {
        let operation: Operation = serde_json::from_value(operation.clone()).ok()?;
        self.shows_write(&operation)
    }

    fn evidence(&self, desired: &Desired) -> BTreeMap<GrantId, Evidence> {
        let mut found: BTreeMap<GrantId, Vec<Value>> = BTreeMap::new();
        for rule in self.group.iter().flat_map(|group| &group.ingress) {
            if let Some(Purpose::Grant { grant, .. }) =
                rule::mark_of(rule, &desired.installation).map(|mark| mark.purpose)
            {
                found
                    .entry(grant)
                    .or_default()
                    .push(json!({ "group": self.id, "rule": rule }));
            }
        }
        found
            .into_iter()
            .map(|(grant, rules)| {
                let evidence = Evidence {
                    complete: false,
                    rules: Value::Array(rules),
                    blocked_by: None,
                };
                (grant, evidence)
            })
            .collect()
    }

    fn filters(&self, changes: &[Change]) -> Option<Filters> {
        self.foreseen(changes)
    }

    fn print(&self) -> Option<Print> {
        Print::of(self)
    }

    fn snapshot(&self) -> Value {
        to_json(self)
    }
}

fn read_saved(desired: &Desired, plan: &mut Plan) -> Vec<Saved> {
    let mut saved = Vec::new();
    for displaced in &desired.displaced {
        match serde_json::from_value::<SgRule>(displaced.rule.clone()) {
            Ok(rule) => saved.push(Saved {
                id: displaced.id,
                rule,
                residuals: displaced
                    .residuals
                    .iter()
                    .filter_map(|value| serde_json::from_value::<SgRule>(value.clone()).ok())
                    .map(|rule| (Content::of(&rule), rule))
                    .collect(),
            }),
            Err(error) => plan.obstacles.push(Obstacle {
                code: "displaced_rule_unreadable".to_owned(),
                message: format!(
                    "the saved rule {} at {} cannot be read: {error}",
                    displaced.id, desired.point
                ),
                grants: Vec::new(),
                policies: Vec::new(),
            }),
        }
    }
    saved
}

/// The rules that are about to come back, as they will be authorized.
type Restoring = BTreeMap<Content, SgRule>;

/// A plan in the making.
struct Draft<'a> {
    observed: &'a ObservedGroup,
    group: &'a SecurityGroup,
    desired: &'a Desired,
    saved: &'a [Saved],
    wish: Wish,
    plan: Plan,
    /// The rules as they will stand after the changes so far.
    standing: BTreeMap<Content, SgRule>,
}

impl<'a> Draft<'a> {
    fn new(
        observed: &'a ObservedGroup,
        group: &'a SecurityGroup,
        desired: &'a Desired,
        saved: &'a [Saved],
        wish: Wish,
        plan: Plan,
    ) -> Self {
        let standing = group
            .ingress
            .iter()
            .map(|rule| (Content::of(rule), rule.clone()))
            .collect();
        Self {
            observed,
            group,
            desired,
            saved,
            wish,
            plan,
            standing,
        }
    }

    fn installation(&self) -> &'a Installation {
        &self.desired.installation
    }

    /// The saved rule that this one is a residual of.
    fn residual_of(&self, rule: &SgRule) -> Option<DisplacedId> {
        match rule::mark_of(rule, self.installation())?.purpose {
            Purpose::Residual { of } if self.saved.iter().any(|saved| saved.id == of) => Some(of),
            _ => None,
        }
    }

    /// A rule that others own. A residual of something that nobody saved counts as one: what it came from
    /// cannot be put back, so that it must not be lost.
    fn is_foreign(&self, rule: &SgRule) -> bool {
        match rule::mark_of(rule, self.installation()).map(|mark| mark.purpose) {
            None => true,
            Some(Purpose::Residual { of }) => !self.saved.iter().any(|saved| saved.id == of),
            Some(_) => false,
        }
    }

    fn weigh<'r>(&self, rules: impl IntoIterator<Item = &'r SgRule>) -> Count {
        Count::weighed(rules, &self.observed.weights)
    }

    fn count(&self) -> Count {
        self.weigh(self.standing.values())
    }

    fn push(&mut self, change: Change) {
        let change = for_policies(change, &self.wish.policies);
        self.plan.changes.push(change);
    }

    fn authorize(&mut self, verb: Verb, what: &str, rules: Vec<SgRule>) {
        // One call gives all its rules the same tags.
        let mut by_tags: BTreeMap<BTreeMap<String, String>, Vec<SgRule>> = BTreeMap::new();
        for rule in rules {
            self.standing.insert(Content::of(&rule), rule.clone());
            by_tags.entry(rule.tags.clone()).or_default().push(rule);
        }
        for rules in by_tags.into_values() {
            self.push(change(
                verb,
                &self.group.id,
                format!("{what} {} in {}", rule::list(&rules), self.group.id),
                &Operation::Authorize {
                    group: GroupRef::Id(self.group.id.clone()),
                    rules: rules.clone(),
                },
                None,
                Some(to_json(&rules)),
            ));
        }
    }

    fn revoke(&mut self, verb: Verb, what: &str, rules: &[SgRule], displaces: Vec<Displaced>) {
        if rules.is_empty() {
            return;
        }
        for rule in rules {
            self.standing.remove(&Content::of(rule));
        }
        let mut change = change(
            verb,
            &self.group.id,
            format!("{what} {} in {}", rule::list(rules), self.group.id),
            &Operation::Revoke {
                group: GroupRef::Id(self.group.id.clone()),
                rules: rules.to_vec(),
            },
            Some(to_json(&rules)),
            None,
        );
        change.displaces = displaces;
        self.push(change);
    }

    fn describe(&mut self, verb: Verb, what: &str, rules: Vec<(SgRule, SgRule)>) {
        if rules.is_empty() {
            return;
        }
        let (before, after): (Vec<SgRule>, Vec<SgRule>) = rules.into_iter().unzip();
        for rule in &after {
            self.standing.insert(Content::of(rule), rule.clone());
        }
        self.push(change(
            verb,
            &self.group.id,
            format!("{what} {} in {}", rule::list(&after), self.group.id),
            &Operation::Describe {
                group: GroupRef::Id(self.group.id.clone()),
                rules: after.clone(),
            },
            Some(to_json(&before)),
            Some(to_json(&after)),
        ));
    }

    fn no_room(&mut self, what: &str, rules: &[SgRule], need: Count) {
        let limit = self.observed.limits.rules_per_group;
        self.plan.obstacles.push(Obstacle {
            code: "rules_per_group".to_owned(),
            message: format!(
                "to {what} {}, {} would need {} IPv4 and {} IPv6 rules, of {limit} each",
                rule::list(rules),
                self.group.id,
                need.v4,
                need.v6
            ),
            grants: Vec::new(),
            policies: self.wish.policies.iter().copied().collect(),
        });
    }

    /// A grant's or a holder's mark has no place in a group of others.
    fn close_strange_marks(&mut self) {
        let strange: Vec<SgRule> = self
            .group
            .ingress
            .iter()
            .filter(|rule| !self.is_foreign(rule) && self.residual_of(rule).is_none())
            .cloned()
            .collect();
        self.revoke(Verb::Close, "remove our own", &strange, Vec::new());
    }

    /// The rules that the lockdown concerns, in the order of their contents.
    fn locked(&self) -> Vec<Locked<'a>> {
        let mut locked: BTreeMap<DisplacedId, Locked<'a>> = BTreeMap::new();
        for saved in self
            .saved
            .iter()
            .filter(|saved| rule::overlaps(&saved.rule, &self.wish.ports))
        {
            locked.insert(
                saved.id,
                Locked {
                    id: saved.id,
                    rule: saved.rule.clone(),
                    standing: None,
                    saved: Some(saved),
                    residuals: BTreeMap::new(),
                },
            );
        }
        for rule in &self.group.ingress {
            if !self.is_foreign(rule) || !rule::overlaps(rule, &self.wish.ports) {
                continue;
            }
            let id = displaced_id(&self.desired.point, rule);
            let entry = locked.entry(id).or_insert_with(|| Locked {
                id,
                rule: rule.clone(),
                standing: None,
                saved: None,
                residuals: BTreeMap::new(),
            });
            entry.standing = Some(rule);
        }
        let mut locked: Vec<Locked<'a>> = locked.into_values().collect();
        locked.sort_by_cached_key(|locked| Content::of(&locked.rule));
        for locked in &mut locked {
            let mark = self.residual_mark(locked.id);
            locked.residuals = rule::carve(&locked.rule, &self.wish.ports)
                .into_iter()
                .map(|mut residual| {
                    residual.description = Some(mark.clone());
                    (Content::of(&residual), residual)
                })
                .collect();
        }
        locked
    }

    fn residual_mark(&self, of: DisplacedId) -> String {
        Mark {
            installation: self.installation().clone(),
            purpose: Purpose::Residual { of },
        }
        .to_string()
    }
}

/// Whether two rules of the same content are not the same rule: somebody made it anew.
fn is_another(standing: &SgRule, saved: &SgRule) -> bool {
    matches!((&standing.id, &saved.id), (Some(now), Some(then)) if now != then)
}
