//! Takes rules for guarded ports out of the way, and keeps what is left of them.

use std::collections::{BTreeMap, BTreeSet};

use postern_core::{
    enforcer::{Displaced, Finding, Obstacle, Verb},
    sg::{SgProtocol, SgRule},
};

use super::{
    Draft, Locked, Restoring, is_another,
    restore::unnumbered,
    rule::{self, Content},
    to_json,
};

impl<'a> Draft<'a> {
    pub(super) fn lock_down(&mut self, locked: &[Locked<'a>]) {
        let mut in_the_way: Vec<&Locked<'a>> =
            locked.iter().filter(|locked| locked.standing.is_some()).collect();
        let held_off = !in_the_way.is_empty() && !self.wish.others.is_empty() && !self.wish.may_displace;
        if held_off && self.wish.waits {
            in_the_way.clear();
        } else if held_off {
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
        // Stable: the rest of the order is that of their contents.
        in_the_way.sort_by_key(|locked| locked.residuals.len());
        self.displace(in_the_way, &restoring);
        let blocked = self.fill_in(locked, &restoring);
        if !blocked {
            self.take_stale(locked, &restoring);
        }
    }

    pub(super) fn missing(&self, locked: &Locked<'a>, restoring: &Restoring) -> BTreeMap<Content, SgRule> {
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
    pub(super) fn displace(&mut self, mut left: Vec<&Locked<'a>>, restoring: &Restoring) {
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
                    if self.count().plus(self.weigh(with.values())).fits(limit) {
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
                    need = need.plus(self.weigh(self.missing(first, restoring).values()));
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
    pub(super) fn to_save(&self, locked: &Locked<'a>, restoring: &Restoring) -> Option<Displaced> {
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

    pub(super) fn report_lost_protocols(&mut self, locked: &Locked<'a>) {
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
    pub(super) fn fill_in(&mut self, locked: &[Locked<'a>], restoring: &Restoring) -> bool {
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
            let need = self.count().plus(self.weigh(new.values().chain(with.values())));
            if need.fits(limit) {
                repairs &= with.keys().all(|content| {
                    locked
                        .saved
                        .is_some_and(|saved| saved.residuals.contains_key(content))
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
    pub(super) fn take_stale(&mut self, locked: &[Locked<'a>], restoring: &Restoring) {
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
}
