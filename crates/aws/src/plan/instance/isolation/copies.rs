//! Makes private copies, and keeps them like their groups.

use std::collections::{BTreeMap, BTreeSet};

use postern_core::{
    enforcer::{Guard, Verb},
    sg::{SecurityGroup, SgProtocol, SgRule},
};
use serde_json::json;

use super::{
    super::{
        Copied, Draft, Original, copy_tags, default_egress, isolating,
        rule::{self, Content, Count},
        strict,
    },
    copied, kept, locking, opens,
};
use crate::operation::{GroupRef, Operation};

/// What one set of rules lacks of another, and what it has beyond it.
fn difference(standing: &[SgRule], wanted: &BTreeMap<Content, SgRule>) -> (Vec<SgRule>, Vec<SgRule>) {
    let there: BTreeSet<Content> = standing.iter().map(Content::of).collect();
    let missing = wanted.iter().filter(|(content, _)| !there.contains(*content));
    let extra = standing
        .iter()
        .filter(|rule| !wanted.contains_key(&Content::of(rule)));
    (
        missing.map(|(_, rule)| rule.clone()).collect(),
        extra.cloned().collect(),
    )
}

impl<'a> Draft<'a> {
    /// Makes the copies that are missing, and makes those that are there follow the groups.
    pub(in crate::plan::instance) fn make_copies(&mut self) {
        let Some(guard) = strict(self.desired) else { return };
        for original in &self.observed.originals {
            let copy = self.copy_of(&original.id);
            let Some(group) = &original.group else { continue };
            match copy.filter(|copy| self.in_use(copy)) {
                Some(copy) if self.stays(copy) => {
                    self.tell(guard, original, group);
                    self.fill(guard, group, Some(copy), &GroupRef::Id(copy.group.id.clone()));
                }
                None if isolating(self.desired).is_some() => self.isolate_from(guard, original, group, copy),
                _ => {}
            }
        }
    }

    /// Says that a copy stands there, and what that costs.
    fn tell(&mut self, guard: &Guard, original: &Original, group: &SecurityGroup) {
        let ports: Vec<String> = guard.ports.iter().map(ToString::to_string).collect();
        self.find(
            "shared_group",
            format!(
                "{} has {} in the place of {}, without {}; what becomes of the rules of {} reaches it at the next look",
                self.observed.instance,
                self.copy_name(&original.id),
                original.id,
                ports.join(", "),
                original.id,
            ),
            None,
            None,
        );
        if !original.named_by.is_empty() {
            let whose: Vec<&str> = original.named_by.iter().map(String::as_str).collect();
            self.find(
                "shared_group",
                format!(
                    "rules of {} name {}, which they now do not take {} for",
                    whose.join(", "),
                    original.id,
                    self.observed.instance
                ),
                None,
                None,
            );
        }
        for rule in &group.ingress {
            if rule.protocol == SgProtocol::All && rule::overlaps(rule, &guard.ports) {
                let others = rule::KEPT_PROTOCOLS.map(|number| number.to_string()).join(", ");
                self.find(
                    "protocols_not_kept",
                    format!(
                        "of {} of {}, {} has TCP, UDP, ICMP and the protocols {others} around the guarded ports; EC2 \
                         has no rule for all others",
                        Content::of(rule),
                        original.id,
                        self.copy_name(&original.id)
                    ),
                    Some(rule),
                    None,
                );
            }
        }
    }

    fn isolate_from(
        &mut self,
        guard: &'a Guard,
        original: &'a Original,
        group: &'a SecurityGroup,
        copy: Option<&'a Copied>,
    ) {
        let taken = self.in_place_of(&original.id);
        let places = self.places(&taken);
        let replaces_copies = places.iter().any(|interface| {
            taken
                .iter()
                .any(|id| *id != original.id && self.has(interface, id))
        });
        let is_shared = replaces_copies || !original.others.is_empty();
        let wanted = !places.is_empty() && is_shared && (replaces_copies || opens(group, &guard.ports));
        if !wanted || !self.may_copy(guard, original, group) {
            return;
        }
        self.tell(guard, original, group);
        let put = match copy {
            Some(copy) => GroupRef::Id(copy.group.id.clone()),
            None => self.create_copy(guard, group),
        };
        if !self.fill(guard, group, copy, &put) {
            return;
        }
        for interface in places {
            let swap = self.swap(Verb::LockDown, interface, &taken, &put, Some(guard.policy));
            self.isolation.extend(swap);
        }
    }

    fn may_copy(&mut self, guard: &Guard, original: &Original, group: &SecurityGroup) -> bool {
        if !original.named_by.is_empty() {
            let whose: Vec<&str> = original.named_by.iter().map(String::as_str).collect();
            self.refuse(
                guard,
                "shared_group",
                format!(
                    "{} is shared with {} and cannot be copied for {}: rules of {} name it, and would not let the \
                     packets of a machine with a copy in",
                    original.id,
                    original.others.join(", "),
                    self.observed.instance,
                    whose.join(", ")
                ),
            );
            return false;
        }
        let name = self.copy_name(&original.id);
        let impostor = self.observed.false_copies.iter().find(|found| found.name == name);
        if let Some(impostor) = impostor.filter(|found| found.vpc == group.vpc) {
            let message = format!("{} is named {name} without our mark", impostor.id);
            self.refuse(guard, "foreign_rule_in_the_way", message);
            return false;
        }
        let count = Count::of(kept(group, &guard.ports).values());
        let limit = self.observed.limits.rules_per_group;
        if !count.fits(limit) {
            self.refuse(
                guard,
                "rules_per_group",
                format!(
                    "{name} would have {} IPv4 and {} IPv6 rules, of {limit} each",
                    count.v4, count.v6
                ),
            );
            return false;
        }
        true
    }

    fn create_copy(&mut self, guard: &Guard, group: &SecurityGroup) -> GroupRef {
        let name = self.copy_name(&group.id);
        let tags = copy_tags(&self.desired.installation, &self.observed.instance, &group.id);
        let mut create = locking(
            guard,
            Verb::LockDown,
            &name,
            format!("create group {name} in {}", group.vpc),
            &Operation::CreateCopy {
                of: group.id.clone(),
                vpc: group.vpc.clone(),
                name: name.clone(),
                description: format!(
                    "Copy of {} for {} without its guarded ports, kept by Postern",
                    group.id, self.observed.instance
                ),
                tags: tags.clone(),
            },
        );
        create.after = Some(json!({ "name": name, "vpc": group.vpc, "tags": tags }));
        self.isolation.push(create);
        GroupRef::Copied { of: group.id.clone() }
    }

    /// Makes a copy like its group. False where not all of its rules fit.
    fn fill(&mut self, guard: &Guard, group: &SecurityGroup, copy: Option<&Copied>, at: &GroupRef) -> bool {
        let wanted = kept(group, &guard.ports);
        let egress = copied(group.egress.iter().cloned());
        let (ingress_there, egress_there, verb): (Vec<SgRule>, Vec<SgRule>, Verb) = match copy {
            Some(copy) => {
                // What lets in to guarded ports was taken out of it before.
                let ingress = copy.group.ingress.iter();
                let ingress =
                    ingress.filter(|rule| !self.in_use(copy) || !rule::overlaps(rule, &guard.ports));
                let verb = if self.in_use(copy) {
                    Verb::Repair
                } else {
                    Verb::LockDown
                };
                (ingress.cloned().collect(), copy.group.egress.clone(), verb)
            }
            // At most: to IPv6 it lets out where the VPC has a block, and what is not there is not missed.
            None => (Vec::new(), default_egress(true), Verb::LockDown),
        };
        let name = self.copy_name(&group.id);
        let target = copy.map_or_else(|| name.clone(), |copy| copy.group.id.clone());
        let (missing_out, extra_out) = difference(&egress_there, &egress);
        let (missing, extra) = difference(&ingress_there, &wanted);
        let limit = self.observed.limits.rules_per_group;
        let fits = Count::of(wanted.values()).fits(limit);
        if !fits {
            let message = format!(
                "{name} has no room for all rules of {}, of {limit} each",
                group.id
            );
            self.refuse(guard, "rules_per_group", message);
        }
        let at_once = Count::of(&ingress_there).plus(Count::of(&missing)).fits(limit);

        let trim = (!extra_out.is_empty()).then(|| {
            let what = format!("stop letting {} out through {name}", rule::list(&extra_out));
            (
                what,
                Operation::TrimEgress {
                    group: at.clone(),
                    rules: extra_out,
                },
            )
        });
        let let_out = (!missing_out.is_empty()).then(|| {
            let what = format!("let {} out through {name}", rule::list(&missing_out));
            (
                what,
                Operation::AuthorizeEgress {
                    group: at.clone(),
                    rules: missing_out,
                },
            )
        });
        let let_in = (fits && !missing.is_empty()).then(|| {
            let what = format!(
                "let {} in through {name}, as {} does",
                rule::list(&missing),
                group.id
            );
            (
                what,
                Operation::Authorize {
                    group: at.clone(),
                    rules: missing,
                },
            )
        });
        let close = (!extra.is_empty()).then(|| {
            let what = format!("stop letting {} in through {name}", rule::list(&extra));
            (
                what,
                Operation::Revoke {
                    group: at.clone(),
                    rules: extra,
                },
            )
        });
        // What stays is not interrupted where there is room for both.
        let ingress = if at_once { [let_in, close] } else { [close, let_in] };
        let out = [let_out, trim];
        for (what, operation) in out.into_iter().chain(ingress).flatten() {
            let change = locking(guard, verb, &target, what, &operation);
            self.isolation.push(change);
        }
        fits
    }
}
