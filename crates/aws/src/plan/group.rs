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

use std::collections::{BTreeMap, BTreeSet};

use postern_core::{
    enforcer::{
        Change, Desired, Displaced, Evidence, Finding, Guard, Member, Observed, Obstacle, Plan, Verb,
    },
    id::{DisplacedId, GrantId, PolicyId},
    machine::MachineId,
    mark::{Installation, Mark, Purpose},
    net::Ports,
    point::PointRef,
    policy::SharedGroups,
    sg::{SecurityGroup, SgPeer, SgProtocol, SgRule},
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{
    change, for_policies, json as to_json,
    rule::{self, Content, Count},
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

/// A group that others own, as read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObservedGroup {
    /// `sg-…`.
    pub id: String,
    /// The group with the ids and tags of its rules; none when EC2 said that it does not exist.
    pub group: Option<SecurityGroup>,
    /// Where it is attached.
    pub attached: Vec<Attached>,
    /// Groups of the same account that displaced rules name as source and that, as EC2 said, do not exist.
    pub gone_peers: BTreeSet<String>,
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
    residuals: BTreeSet<Content>,
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
    /// The interfaces of machines that no policy covers, by name.
    others: Vec<String>,
    /// Whether rules may be taken out of others' way too.
    may_displace: bool,
}

impl Wish {
    fn of(observed: &ObservedGroup, desired: &Desired) -> Self {
        let guards: Vec<&Guard> = desired.members.iter().filter_map(|m| m.guard.as_ref()).collect();
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
            .map(|attached| match &attached.instance {
                Some(instance) => format!("{instance} ({})", attached.interface),
                None if attached.description.is_empty() => attached.interface.clone(),
                None => format!("{} ({})", attached.interface, attached.description),
            })
            .collect();
        let may_displace = others.is_empty()
            || guards
                .iter()
                .all(|guard| guard.shared_groups == SharedGroups::Revoke);
        Self {
            ports,
            policies: guards.iter().map(|guard| guard.policy).collect(),
            others,
            may_displace,
        }
    }
}

fn is_guarded(attached: &Attached, members: &[Member]) -> bool {
    members
        .iter()
        .filter(|member| member.guard.is_some())
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
                    .map(|rule| Content::of(&rule))
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

    fn count(&self) -> Count {
        Count::of(self.standing.values())
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

    /// The rules that the lockdown concerns, in the order of their ids.
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

    /// What others did to displaced rules and residuals.
    fn report(&mut self, locked: &[Locked<'a>]) {
        for locked in locked {
            let content = Content::of(&locked.rule);
            let Some(saved) = locked.saved else { continue };
            let returned = locked
                .standing
                .filter(|standing| is_another(standing, &saved.rule));
            if let Some(standing) = returned {
                self.plan.findings.push(Finding {
                    code: "displaced_rule_returned".to_owned(),
                    message: format!(
                        "somebody put {content} back into {} while it is locked down",
                        self.group.id
                    ),
                    before: Some(to_json(&saved.rule)),
                    after: Some(to_json(standing)),
                    grants: Vec::new(),
                });
            }
            for (residual, rule) in &locked.residuals {
                if !saved.residuals.contains(residual) {
                    continue;
                }
                match self.standing.get(residual) {
                    Some(standing) if self.is_foreign(standing) => self.plan.findings.push(Finding {
                        code: "residual_rule_edited".to_owned(),
                        message: format!(
                            "{residual} in {} no longer carries our mark, and is left alone",
                            self.group.id
                        ),
                        before: Some(to_json(rule)),
                        after: Some(to_json(standing)),
                        grants: Vec::new(),
                    }),
                    None if locked.standing.is_none() => self.plan.findings.push(Finding {
                        code: "residual_rule_edited".to_owned(),
                        message: format!(
                            "{residual}, kept open beside {content}, is missing in {}",
                            self.group.id
                        ),
                        before: Some(to_json(rule)),
                        after: None,
                        grants: Vec::new(),
                    }),
                    _ => {}
                }
            }
        }
        for rule in &self.group.ingress {
            let of = self.residual_of(rule);
            let whole = self.saved.iter().find(|saved| Some(saved.id) == of);
            if let Some(saved) = whole.filter(|saved| !rule::within(rule, &saved.rule)) {
                self.plan.findings.push(Finding {
                    code: "residual_rule_edited".to_owned(),
                    message: format!(
                        "{} in {} is no part of {}, whose mark it carries; it is removed",
                        Content::of(rule),
                        self.group.id,
                        Content::of(&saved.rule)
                    ),
                    before: Some(to_json(&saved.rule)),
                    after: Some(to_json(rule)),
                    grants: Vec::new(),
                });
            }
        }
    }

    /// What stands for a saved rule that is not to be locked any more, and was not put back.
    fn to_restore(&self) -> impl Iterator<Item = &'a Saved> + use<'a> {
        let ports = self.wish.ports.clone();
        let gone = &self.observed.gone_peers;
        self.saved.iter().filter(move |saved| {
            !rule::overlaps(&saved.rule, &ports)
                && !matches!(&saved.rule.peer, SgPeer::Group { group, .. } if gone.contains(group))
        })
    }

    fn lock_down(&mut self, locked: &[Locked<'a>]) {
        let mut in_the_way: Vec<&Locked<'a>> =
            locked.iter().filter(|locked| locked.standing.is_some()).collect();
        let held_off = !in_the_way.is_empty() && !self.wish.others.is_empty() && !self.wish.may_displace;
        if held_off {
            let rules: Vec<SgRule> = in_the_way.iter().map(|locked| locked.rule.clone()).collect();
            self.plan.obstacles.push(Obstacle {
                code: "shared_group".to_owned(),
                message: format!(
                    "{} lets {} in and is shared with machines that no policy covers: {}",
                    self.group.id,
                    rule::list(&rules),
                    self.wish.others.join(", ")
                ),
                grants: Vec::new(),
                policies: self.wish.policies.iter().copied().collect(),
            });
            in_the_way.clear();
        } else if !in_the_way.is_empty() && !self.wish.others.is_empty() {
            self.plan.findings.push(Finding {
                code: "shared_group".to_owned(),
                message: format!(
                    "the lockdown of {} also closes the ports of {}, as its policy says",
                    self.group.id,
                    self.wish.others.join(", ")
                ),
                before: None,
                after: None,
                grants: Vec::new(),
            });
        }
        // Where a residual has the content of a rule that is about to come back, that rule comes back for it.
        let restoring: Restoring = self
            .to_restore()
            .map(|saved| (Content::of(&saved.rule), unnumbered(&saved.rule)))
            .collect();
        in_the_way.sort_by_key(|locked| (locked.residuals.len(), locked.id));
        self.displace(in_the_way, &restoring);
        let blocked = self.fill_in(locked, &restoring);
        if !blocked {
            self.take_stale(locked, &restoring);
        }
    }

    fn missing(&self, locked: &Locked<'a>, restoring: &Restoring) -> BTreeMap<Content, SgRule> {
        locked
            .residuals
            .iter()
            .filter(|(content, _)| !self.standing.contains_key(content))
            .map(|(content, rule)| {
                let rule = restoring.get(content).unwrap_or(rule);
                (content.clone(), rule.clone())
            })
            .collect()
    }

    /// Displaces rules in as few calls as fit the group: residuals of all, then the rules themselves.
    fn displace(&mut self, mut left: Vec<&Locked<'a>>, restoring: &Restoring) {
        let limit = self.observed.limits.rules_per_group;
        while !left.is_empty() {
            let bare: Vec<&Locked<'a>> = left
                .iter()
                .copied()
                .filter(|locked| self.missing(locked, restoring).is_empty())
                .collect();
            let batch = if bare.is_empty() {
                let mut residuals: BTreeMap<Content, SgRule> = BTreeMap::new();
                let mut batch = Vec::new();
                for locked in &left {
                    let mut with = residuals.clone();
                    with.extend(self.missing(locked, restoring));
                    if self.count().plus(Count::of(with.values())).fits(limit) {
                        residuals = with;
                        batch.push(*locked);
                    }
                }
                self.authorize(Verb::LockDown, "keep open", residuals.into_values().collect());
                batch
            } else {
                bare
            };
            if batch.is_empty() {
                let rules: Vec<SgRule> = left.iter().map(|locked| locked.rule.clone()).collect();
                let mut need = self.count();
                if let Some(first) = left.first() {
                    need = need.plus(Count::of(self.missing(first, restoring).values()));
                }
                self.no_room("displace", &rules, need);
                return;
            }
            left.retain(|locked| !batch.iter().any(|done| done.id == locked.id));
            let displaces: Vec<Displaced> = batch
                .iter()
                .filter_map(|locked| self.to_save(locked, restoring))
                .collect();
            for locked in &batch {
                self.report_lost_protocols(locked);
            }
            let rules: Vec<SgRule> = batch
                .iter()
                .filter_map(|locked| locked.standing.cloned())
                .collect();
            self.revoke(Verb::LockDown, "displace", &rules, displaces);
        }
    }

    /// What to save of a rule before it goes. A rule that was saved and never left needs no second saving.
    fn to_save(&self, locked: &Locked<'a>, restoring: &Restoring) -> Option<Displaced> {
        let standing = locked.standing?;
        if locked
            .saved
            .is_some_and(|saved| !is_another(standing, &saved.rule) && saved.rule == *standing)
        {
            return None;
        }
        let foreign: BTreeSet<Content> = self
            .group
            .ingress
            .iter()
            .filter(|rule| self.is_foreign(rule))
            .map(Content::of)
            .collect();
        Some(Displaced {
            id: locked.id,
            rule: to_json(standing),
            residuals: locked
                .residuals
                .iter()
                .filter(|(content, _)| !foreign.contains(content) && !restoring.contains_key(content))
                .map(|(_, rule)| to_json(rule))
                .collect(),
        })
    }

    fn report_lost_protocols(&mut self, locked: &Locked<'a>) {
        if locked.rule.protocol != SgProtocol::All {
            return;
        }
        let kept = rule::KEPT_PROTOCOLS.map(|number| number.to_string()).join(", ");
        self.plan.findings.push(Finding {
            code: "protocols_not_kept".to_owned(),
            message: format!(
                "while {} of {} is displaced, TCP, UDP, ICMP and the protocols {kept} stay open around the guarded \
                 ports; EC2 has no rule for all others",
                Content::of(&locked.rule),
                self.group.id
            ),
            before: Some(to_json(&locked.rule)),
            after: None,
            grants: Vec::new(),
        });
    }

    /// Residuals of rules that are displaced already: those that are missing, and those whose mark names a rule
    /// that needs them no longer. True when something does not fit.
    fn fill_in(&mut self, locked: &[Locked<'a>], restoring: &Restoring) -> bool {
        let limit = self.observed.limits.rules_per_group;
        let gone: Vec<&Locked<'a>> = locked.iter().filter(|locked| locked.standing.is_none()).collect();
        let mut new: BTreeMap<Content, SgRule> = BTreeMap::new();
        let (mut blocked, mut repairs) = (false, true);
        for locked in gone {
            let mut with = self.missing(locked, restoring);
            with.retain(|content, _| !new.contains_key(content));
            if with.is_empty() {
                continue;
            }
            let need = self.count().plus(Count::of(new.values().chain(with.values())));
            if need.fits(limit) {
                repairs &= with.keys().all(|content| {
                    locked
                        .saved
                        .is_some_and(|saved| saved.residuals.contains(content))
                });
                new.extend(with);
            } else {
                blocked = true;
                let rules: Vec<SgRule> = with.into_values().collect();
                self.no_room("keep open", &rules, need);
            }
        }
        let verb = if repairs { Verb::Repair } else { Verb::LockDown };
        self.authorize(verb, "keep open", new.into_values().collect());

        let mut claims: BTreeMap<&Content, Vec<&Locked<'a>>> = BTreeMap::new();
        for locked in locked {
            for content in locked.residuals.keys() {
                claims.entry(content).or_default().push(locked);
            }
        }
        let renamed: Vec<(SgRule, SgRule)> = self
            .group
            .ingress
            .iter()
            .filter_map(|rule| {
                let of = self.residual_of(rule)?;
                let content = Content::of(rule);
                let claimants = claims.get(&content)?;
                if restoring.contains_key(&content) || claimants.iter().any(|locked| locked.id == of) {
                    return None;
                }
                let mut after = rule.clone();
                after.description = Some(self.residual_mark(claimants.first()?.id));
                Some((rule.clone(), after))
            })
            .collect();
        self.describe(Verb::Repair, "mark anew", renamed);
        blocked
    }

    /// Residuals of displaced rules that are narrower or wider than they should be.
    fn take_stale(&mut self, locked: &[Locked<'a>], restoring: &Restoring) {
        let stale: Vec<SgRule> = self
            .group
            .ingress
            .iter()
            .filter(|rule| {
                let content = Content::of(rule);
                self.residual_of(rule)
                    .is_some_and(|of| locked.iter().any(|locked| locked.id == of))
                    && !locked
                        .iter()
                        .any(|locked| locked.residuals.contains_key(&content))
                    && !restoring.contains_key(&content)
            })
            .cloned()
            .collect();
        self.revoke(Verb::LockDown, "take back", &stale, Vec::new());
    }

    /// The residuals of a rule that is not locked any more, as far as nobody else needs them.
    fn leftovers(&self, of: DisplacedId, locked: &[Locked<'a>]) -> Vec<SgRule> {
        self.standing
            .values()
            .filter(|rule| {
                self.residual_of(rule) == Some(of)
                    && !locked
                        .iter()
                        .any(|locked| locked.residuals.contains_key(&Content::of(rule)))
            })
            .cloned()
            .collect()
    }

    /// Puts back what no lockdown needs out of the way any more.
    fn restore(&mut self, locked: &[Locked<'a>]) {
        let coming: Vec<&'a Saved> = self.to_restore().collect();
        for saved in self.saved {
            let here = coming.iter().any(|coming| coming.id == saved.id);
            if here || rule::overlaps(&saved.rule, &self.wish.ports) {
                continue;
            }
            self.plan.findings.push(Finding {
                code: "displaced_group_gone".to_owned(),
                message: format!(
                    "the source of {} was deleted: it cannot be put back into {}",
                    Content::of(&saved.rule),
                    self.group.id
                ),
                before: Some(to_json(&saved.rule)),
                after: None,
                grants: Vec::new(),
            });
            let leftovers = self.leftovers(saved.id, locked);
            if leftovers.is_empty() {
                self.plan.settled.push(saved.id);
            }
            self.revoke(Verb::Restore, "take back", &leftovers, Vec::new());
        }

        let mut absent: Vec<&'a Saved> = Vec::new();
        let mut back: Vec<&'a Saved> = Vec::new();
        for saved in coming {
            match self.standing.get(&Content::of(&saved.rule)).cloned() {
                None => absent.push(saved),
                Some(standing) if self.is_foreign(&standing) => {
                    if self.leftovers(saved.id, locked).is_empty() {
                        self.plan.settled.push(saved.id);
                    } else {
                        back.push(saved);
                    }
                }
                Some(standing) => {
                    self.turn_back(saved, &standing);
                    back.push(saved);
                }
            }
        }
        self.take_leftovers(&back, locked);
        self.put_back(absent, locked);
    }

    /// A residual with the very content of a rule that comes back becomes that rule.
    fn turn_back(&mut self, saved: &Saved, standing: &SgRule) {
        let mut after = standing.clone();
        after.description.clone_from(&saved.rule.description);
        after.tags.clone_from(&saved.rule.tags);
        if let (Some(id), false) = (&standing.id, saved.rule.tags.is_empty()) {
            self.push(change(
                Verb::Restore,
                id,
                format!("tag {} in {} as before", Content::of(&after), self.group.id),
                &Operation::TagRule {
                    rule: id.clone(),
                    tags: saved.rule.tags.clone(),
                },
                None,
                Some(json!({ "tags": saved.rule.tags })),
            ));
        }
        self.describe(Verb::Restore, "put back", vec![(standing.clone(), after)]);
    }

    fn take_leftovers(&mut self, of: &[&Saved], locked: &[Locked<'a>]) {
        let leftovers: Vec<SgRule> = of
            .iter()
            .flat_map(|saved| self.leftovers(saved.id, locked))
            .collect();
        self.revoke(Verb::Restore, "take back", &leftovers, Vec::new());
    }

    /// Authorizes displaced rules again, then takes their residuals back, in as few calls as fit the group.
    fn put_back(&mut self, mut left: Vec<&'a Saved>, locked: &[Locked<'a>]) {
        let limit = self.observed.limits.rules_per_group;
        while !left.is_empty() {
            let mut batch: Vec<&'a Saved> = Vec::new();
            for saved in &left {
                let rules = batch.iter().chain([saved]).map(|saved| &saved.rule);
                if self.count().plus(Count::of(rules)).fits(limit) {
                    batch.push(saved);
                }
            }
            if batch.is_empty() {
                // No room for the rule beside its residuals: they go first, as the lesser harm.
                let Some(first) = left
                    .iter()
                    .copied()
                    .find(|saved| !self.leftovers(saved.id, locked).is_empty())
                else {
                    let rules: Vec<SgRule> = left.iter().map(|saved| saved.rule.clone()).collect();
                    let need = self.count().plus(Count::of(&rules));
                    self.no_room("put back", &rules, need);
                    return;
                };
                self.take_leftovers(&[first], locked);
                continue;
            }
            left.retain(|saved| !batch.iter().any(|done| done.id == saved.id));
            let rules = batch.iter().map(|saved| unnumbered(&saved.rule)).collect();
            self.authorize(Verb::Restore, "put back", rules);
            self.take_leftovers(&batch, locked);
        }
    }
}

fn unnumbered(rule: &SgRule) -> SgRule {
    SgRule {
        id: None,
        ..rule.clone()
    }
}

/// Whether two rules of the same content are not the same rule: somebody made it anew.
fn is_another(standing: &SgRule, saved: &SgRule) -> bool {
    matches!((&standing.id, &saved.id), (Some(now), Some(then)) if now != then)
}

#[cfg(test)]
#[path = "group_tests.rs"]
mod tests;
