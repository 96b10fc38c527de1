//! Puts back what no lockdown needs out of the way any more.

use std::collections::BTreeMap;

use postern_core::{
    enforcer::{Finding, Verb},
    id::DisplacedId,
    sg::{SgPeer, SgRule},
};
use serde_json::json;

use super::{
    Draft, Locked, Saved, change,
    rule::{self, Content},
    to_json,
};
use crate::operation::Operation;

impl<'a> Draft<'a> {
    /// What stands for a saved rule that is not to be locked any more, and was not put back.
    pub(super) fn to_restore(&self) -> impl Iterator<Item = &'a Saved> + use<'a> {
        let ports = self.wish.ports.clone();
        let gone = &self.observed.gone_peers;
        self.saved.iter().filter(move |saved| {
            !rule::overlaps(&saved.rule, &ports)
                && !matches!(
                    &saved.rule.peer,
                    SgPeer::Group { group: peer, .. } | SgPeer::PrefixList(peer) if gone.contains(peer)
                )
        })
    }

    /// The residuals of a rule that is not locked any more, as far as nobody else needs them.
    pub(super) fn leftovers(&self, of: DisplacedId, locked: &[Locked<'a>]) -> Vec<SgRule> {
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
    pub(super) fn restore(&mut self, locked: &[Locked<'a>]) {
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

        let mut doubtful: Vec<&'a Saved> = Vec::new();
        let mut absent: Vec<&'a Saved> = Vec::new();
        let mut back: Vec<&'a Saved> = Vec::new();
        for saved in coming {
            match self.standing.get(&Content::of(&saved.rule)).cloned() {
                None => absent.push(saved),
                Some(standing) if standing == saved.rule && !self.is_confirmed(&standing) => {
                    doubtful.push(saved);
                }
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
        self.make_sure(&doubtful, locked);
        self.take_leftovers(&back, locked);
        self.put_back(absent, locked);
    }

    fn is_confirmed(&self, rule: &SgRule) -> bool {
        rule.id
            .as_ref()
            .is_none_or(|id| self.observed.confirmed.contains(id))
    }

    /// The very rule that was saved: either it never went, or what was read is older than its going. Putting it
    /// back settles that without harm, and so does taking back what was kept in its place, seen or not.
    fn make_sure(&mut self, of: &[&'a Saved], locked: &[Locked<'a>]) {
        if of.is_empty() {
            return;
        }
        let rules = of.iter().map(|saved| unnumbered(&saved.rule)).collect();
        self.authorize(Verb::Restore, "make sure of", rules);
        let mut kept: BTreeMap<Content, SgRule> = BTreeMap::new();
        for saved in of {
            let leftovers = self.leftovers(saved.id, locked);
            kept.extend(leftovers.into_iter().map(|rule| (Content::of(&rule), rule)));
            for (content, rule) in &saved.residuals {
                let needed = locked.iter().any(|locked| locked.residuals.contains_key(content))
                    || self
                        .saved
                        .iter()
                        .any(|other| Content::of(&other.rule) == *content)
                    || self.standing.contains_key(content);
                if !needed {
                    kept.insert(content.clone(), rule.clone());
                }
            }
        }
        let kept: Vec<SgRule> = kept.into_values().collect();
        self.revoke(Verb::Restore, "take back", &kept, Vec::new());
    }

    /// A residual with the very content of a rule that comes back becomes that rule.
    pub(super) fn turn_back(&mut self, saved: &Saved, standing: &SgRule) {
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

    pub(super) fn take_leftovers(&mut self, of: &[&Saved], locked: &[Locked<'a>]) {
        let leftovers: Vec<SgRule> = of
            .iter()
            .flat_map(|saved| self.leftovers(saved.id, locked))
            .collect();
        self.revoke(Verb::Restore, "take back", &leftovers, Vec::new());
    }

    /// Authorizes displaced rules again, then takes their residuals back, in as few calls as fit the group.
    pub(super) fn put_back(&mut self, mut left: Vec<&'a Saved>, locked: &[Locked<'a>]) {
        let limit = self.observed.limits.rules_per_group;
        while !left.is_empty() {
            let mut batch: Vec<&'a Saved> = Vec::new();
            for saved in &left {
                let rules = batch.iter().chain([saved]).map(|saved| &saved.rule);
                if self.count().plus(self.weigh(rules)).fits(limit) {
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
                    let need = self.count().plus(self.weigh(&rules));
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

pub(super) fn unnumbered(rule: &SgRule) -> SgRule {
    SgRule {
        id: None,
        ..rule.clone()
    }
}
