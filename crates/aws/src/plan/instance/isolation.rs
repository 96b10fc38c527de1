//! Isolates: at this instance a private copy without the guarded ports stands in the place of a group that others use.
//!
//! The copy is made and filled before it is attached, and one call attaches it and detaches the group, so that
//! nothing is interrupted and nothing opens. What it stands for is in its mark: whoever finds a copy knows what to put
//! back, also without a memory. What is remembered tells whether somebody took it off meanwhile. It lets in what the group does but for the guarded ports, and follows the group.
//!
//! A rule that names the group as its source does not let in the packets of a machine that has a copy of it. So a
//! group that any rule names is not copied, and the obstacle says whose rules these are.

mod copies;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use postern_core::{
    enforcer::{Change, Displaced, Finding, Guard, Obstacle, Verb},
    id::{DisplacedId, PolicyId},
    mark::Mark,
    net::Ports,
    sg::{SecurityGroup, SgRule},
};
use serde_json::json;
use sha2::{Digest, Sha256};

use super::{
    Attachment, Copied, Draft, Original, change, copy_name, for_policies, isolating,
    rule::{self, Content},
    strict, to_json, took_the_place_of,
};
use crate::operation::{GroupRef, Operation};

/// The rules that a copy has, by their contents: without ids, tags and marks, and without those that are stale: they
/// let nobody in, and EC2 takes no new ones.
fn copied(rules: impl IntoIterator<Item = SgRule>) -> BTreeMap<Content, SgRule> {
    let mut copied = BTreeMap::new();
    for mut rule in rules.into_iter().filter(|rule| !rule::is_stale(rule)) {
        rule.id = None;
        rule.tags = BTreeMap::new();
        rule.description = rule.description.filter(|text| Mark::parse(text).is_none());
        copied.entry(Content::of(&rule)).or_insert(rule);
    }
    copied
}

/// What a copy of the group lets in.
pub(super) fn kept(group: &SecurityGroup, guarded: &[Ports]) -> BTreeMap<Content, SgRule> {
    copied(group.ingress.iter().flat_map(|rule| {
        if !rule::overlaps(rule, guarded) {
            return vec![rule.clone()];
        }
        let mut parts = rule::carve(rule, guarded);
        for part in &mut parts {
            part.description.clone_from(&rule.description);
        }
        parts
    }))
}

/// The list with `put` in the place of the `taken`.
fn swapped(groups: &[GroupRef], taken: &BTreeSet<&str>, put: &GroupRef) -> Vec<GroupRef> {
    let mut after: Vec<GroupRef> = Vec::new();
    for group in groups {
        let group = match group {
            GroupRef::Id(id) if taken.contains(id.as_str()) => put,
            other => other,
        };
        if !after.contains(group) {
            after.push(group.clone());
        }
    }
    after
}

/// The id of an attachment saved at a point: the same one has the same id.
fn displaced_id(point: &str, attachment: &Attachment) -> DisplacedId {
    let digest = Sha256::new()
        .chain_update(b"postern displaced attachment\0")
        .chain_update(point)
        .chain_update(b"\0")
        .chain_update(&attachment.interface)
        .chain_update(b"\0")
        .chain_update(&attachment.group)
        .finalize();
    let mut bytes = [0; 16];
    for (to, from) in bytes.iter_mut().zip(digest) {
        *to = from;
    }
    DisplacedId::from_uuid(uuid::Builder::from_custom_bytes(bytes).into_uuid())
}

fn opens(group: &SecurityGroup, guarded: &[Ports]) -> bool {
    group.ingress.iter().any(|rule| rule::overlaps(rule, guarded))
}

/// A change that the lockdown makes, with the rules that it is about.
fn locking(guard: &Guard, verb: Verb, target: &str, summary: String, to: &Operation) -> Change {
    let (before, after) = match to {
        Operation::Revoke { rules, .. } | Operation::TrimEgress { rules, .. } => (Some(to_json(rules)), None),
        Operation::Authorize { rules, .. } | Operation::AuthorizeEgress { rules, .. } => {
            (None, Some(to_json(rules)))
        }
        _ => (None, None),
    };
    for_policies(
        change(verb, target, summary, to, before, after),
        &BTreeSet::from([guard.policy]),
    )
}

impl<'a> Draft<'a> {
    fn original(&self, of: &str) -> Option<&'a Original> {
        self.observed.originals.iter().find(|original| original.id == of)
    }

    fn copy_of(&self, of: &str) -> Option<&'a Copied> {
        self.observed.copies.iter().find(|copy| copy.of == of)
    }

    fn has(&self, interface: &str, group: &str) -> bool {
        self.groups.get(interface).is_some_and(|groups| {
            groups
                .iter()
                .any(|has| matches!(has, GroupRef::Id(id) if id == group))
        })
    }

    fn in_use(&self, copy: &Copied) -> bool {
        let mut own = self.observed.interfaces.iter();
        own.any(|interface| self.has(&interface.id, &copy.group.id))
    }

    /// What stands at the instance for group `of` without being its copy: the group, and other instances' copies.
    fn in_place_of(&self, of: &'a str) -> BTreeSet<&'a str> {
        let strange = self.observed.strange_copies.iter();
        let strange = strange.filter(|(_, stands_for)| *stands_for == of);
        strange.map(|(id, _)| id.as_str()).chain([of]).collect()
    }

    /// The interfaces of the instance that have any of the groups.
    fn places(&self, groups: &BTreeSet<&str>) -> Vec<&'a str> {
        let has = |interface: &str| groups.iter().any(|group| self.has(interface, group));
        let own = self.observed.interfaces.iter().map(|one| one.id.as_str());
        own.filter(|interface| has(interface)).collect()
    }

    fn copy_name(&self, of: &str) -> String {
        copy_name(&self.desired.installation, &self.observed.instance, of)
    }

    /// One call that puts `put` in the place of `taken` at an interface.
    fn swap(
        &mut self,
        verb: Verb,
        interface: &'a str,
        taken: &BTreeSet<&str>,
        put: &GroupRef,
        policy: Option<PolicyId>,
    ) -> Option<Change> {
        let before = self.groups.get(interface).cloned().unwrap_or_default();
        let after = swapped(&before, taken, put);
        if after == before {
            return None;
        }
        self.groups.insert(interface, after.clone());
        let had = |id: &&str| before.contains(&GroupRef::Id((*id).to_owned()));
        let gone: Vec<&str> = taken.iter().copied().filter(had).collect();
        let name = self.names(std::slice::from_ref(put)).join("");
        let mut change = change(
            verb,
            interface,
            format!("put {name} in the place of {} at {interface}", gone.join(", ")),
            &Operation::SetGroups {
                interface: interface.to_owned(),
                groups: after.clone(),
                emptied: None,
            },
            Some(json!({ "groups": self.names(&before) })),
            Some(json!({ "groups": self.names(&after) })),
        );
        change.displaces = self.to_save(interface, &gone);
        Some(for_policies(change, &policy.into_iter().collect()))
    }

    /// What to save before groups are taken off an interface. A copy of ours stands for a group that was saved, or, if
    /// it is another instance's, that counts as having been there.
    fn to_save(&self, interface: &str, gone: &[&str]) -> Vec<Displaced> {
        let groups: BTreeSet<&str> = gone
            .iter()
            .filter(|id| self.observed.copies.iter().all(|copy| copy.group.id != **id))
            .map(|id| self.observed.strange_copies.get(*id).map_or(*id, String::as_str))
            .collect();
        let attachments = groups.into_iter().map(|group| Attachment {
            interface: interface.to_owned(),
            group: group.to_owned(),
        });
        attachments
            .map(|attachment| Displaced {
                id: displaced_id(&self.desired.point.to_string(), &attachment),
                rule: to_json(&attachment),
                residuals: Vec::new(),
            })
            // What is saved and not settled stays as it was first saved.
            .filter(|new| self.desired.displaced.iter().all(|known| known.id != new.id))
            .collect()
    }

    /// The saved attachments that are as they were, or that others ended.
    pub(super) fn settle_attachments(&mut self) -> Vec<DisplacedId> {
        let observed = self.observed;
        let mut settled = Vec::new();
        for displaced in &self.desired.displaced {
            let saved = match Attachment::read(displaced) {
                Ok(saved) => saved,
                Err(error) => {
                    self.obstacles.push(Obstacle {
                        code: "displaced_rule_unreadable".to_owned(),
                        message: format!(
                            "the saved attachment {} at {} cannot be read: {error}",
                            displaced.id, self.desired.point
                        ),
                        grants: Vec::new(),
                        policies: Vec::new(),
                    });
                    continue;
                }
            };
            let mut copies = observed.copies.iter().filter(|copy| copy.of == saved.group);
            let Some(interface) = observed.interfaces.iter().find(|one| one.id == saved.interface) else {
                let is_on = |copy: &Copied| {
                    copy.elsewhere
                        .iter()
                        .any(|one| one.interface.id == saved.interface)
                };
                if !copies.any(is_on) {
                    settled.push(displaced.id);
                }
                continue;
            };
            let strange = observed.strange_copies.iter();
            let mut strange = strange.filter(|(_, of)| **of == saved.group).map(|(id, _)| id);
            if copies.any(|copy| interface.groups.contains(&copy.group.id))
                || strange.any(|id| interface.groups.contains(id))
            {
                continue;
            }
            if !interface.groups.contains(&saved.group) {
                self.find(
                    "own_rule_missing",
                    format!(
                        "somebody took what stood for {} off {}: that is taken for taking {} off",
                        saved.group, saved.interface, saved.group
                    ),
                    None,
                    None,
                );
                settled.push(displaced.id);
            } else if self.has(&saved.interface, &saved.group) {
                settled.push(displaced.id);
            }
        }
        settled
    }

    fn refuse(&mut self, guard: &Guard, code: &str, message: String) {
        self.obstacles.push(Obstacle {
            code: code.to_owned(),
            message,
            grants: Vec::new(),
            policies: vec![guard.policy],
        });
    }

    fn find(&mut self, code: &str, message: String, before: Option<&SgRule>, after: Option<&SgRule>) {
        self.findings.push(Finding {
            code: code.to_owned(),
            message,
            before: before.map(to_json),
            after: after.map(to_json),
            grants: Vec::new(),
        });
    }

    /// Whether a copy that is attached stays so. Under another policy that guards the machine it does as long as its
    /// group would open a guarded port: until that group is locked down, where it is.
    fn stays(&self, copy: &Copied) -> bool {
        let Some(guard) = strict(self.desired) else {
            return false;
        };
        let original = self
            .original(&copy.of)
            .and_then(|original| original.group.as_ref());
        self.in_use(copy)
            && (isolating(self.desired).is_some() || original.is_none_or(|group| opens(group, &guard.ports)))
    }

    /// Copies that are attached: closed where they let in too much, put back where somebody took them off.
    pub(super) fn keep_copies(&mut self) {
        let observed = self.observed;
        let Some(guard) = strict(self.desired) else { return };
        let staying: Vec<&'a Copied> = observed.copies.iter().filter(|copy| self.stays(copy)).collect();
        for copy in staying {
            let original = self
                .original(&copy.of)
                .and_then(|original| original.group.as_ref());
            self.close_copy(guard, copy, original);
            if original.is_none() {
                self.report_gone(copy);
                continue;
            }
            let taken = self.in_place_of(&copy.of);
            for interface in self.places(&taken) {
                let put = GroupRef::Id(copy.group.id.clone());
                let swap = self.swap(Verb::LockDown, interface, &taken, &put, Some(guard.policy));
                self.closings.extend(swap);
            }
        }
    }

    fn report_gone(&mut self, copy: &Copied) {
        self.find(
            "displaced_group_gone",
            format!(
                "{} was deleted: {} stays in its place at {}, as nothing can be put back",
                copy.of, copy.group.id, self.observed.instance
            ),
            None,
            None,
        );
    }

    /// Takes out of a copy what lets in to guarded ports.
    fn close_copy(&mut self, guard: &Guard, copy: &Copied, original: Option<&SecurityGroup>) {
        let open: Vec<SgRule> = copy
            .group
            .ingress
            .iter()
            .filter(|rule| rule::overlaps(rule, &guard.ports))
            .cloned()
            .collect();
        if open.is_empty() {
            return;
        }
        for rule in &open {
            let known =
                original.is_some_and(|group| group.ingress.iter().any(|whole| rule::within(rule, whole)));
            if !known {
                self.find(
                    "foreign_rule_opens",
                    format!(
                        "somebody wrote {} into {}, which keeps it closed; it is removed",
                        Content::of(rule),
                        copy.group.id
                    ),
                    None,
                    Some(rule),
                );
            }
        }
        let change = locking(
            guard,
            Verb::LockDown,
            &copy.group.id,
            format!("stop letting {} in through {}", rule::list(&open), copy.group.id),
            &Operation::Revoke {
                group: GroupRef::Id(copy.group.id.clone()),
                rules: open,
            },
        );
        self.closings.push(change);
    }

    /// Where nothing is to be isolated any more, what the copies stand for comes back, and they go.
    pub(super) fn give_back(&mut self) {
        let observed = self.observed;
        for copy in &observed.copies {
            if self.stays(copy) {
                continue;
            }
            let is_there = self
                .original(&copy.of)
                .is_some_and(|original| original.group.is_some());
            if !is_there && self.in_use(copy) {
                self.report_gone(copy);
                continue;
            }
            let taken = BTreeSet::from([copy.group.id.as_str()]);
            let put = GroupRef::Id(copy.of.clone());
            for interface in self.places(&taken) {
                let swap = self.swap(Verb::Restore, interface, &taken, &put, None);
                self.restores.extend(swap);
            }
            self.drop_unused(copy);
        }
        for (strange, of) in &observed.strange_copies {
            if isolating(self.desired).is_some() {
                continue;
            }
            let is_there = self.original(of).is_some_and(|original| original.group.is_some());
            let taken = BTreeSet::from([strange.as_str()]);
            for interface in self.places(&taken) {
                self.find(
                    "own_rule_edited",
                    format!("{strange} stands for {of} at another instance, and was on {interface}"),
                    None,
                    None,
                );
                if is_there {
                    let put = GroupRef::Id(of.clone());
                    let swap = self.swap(Verb::Restore, interface, &taken, &put, None);
                    self.restores.extend(swap);
                }
            }
        }
    }

    /// Deletes a copy that is on no interface of the instance. From an interface that no instance has, its group comes
    /// back first; one that another has is for that one's point to put right.
    fn drop_unused(&mut self, copy: &'a Copied) {
        let mut free = !self.in_use(copy);
        let is_there = self
            .original(&copy.of)
            .is_some_and(|original| original.group.is_some());
        // Who may make groups could have us put any group on an interface by what looks like a copy of it.
        let is_known = took_the_place_of(&copy.of, self.desired);
        for elsewhere in &copy.elsewhere {
            let interface = elsewhere.interface.id.as_str();
            if is_there && is_known && elsewhere.instance.is_none() {
                let groups = elsewhere
                    .interface
                    .groups
                    .iter()
                    .cloned()
                    .map(GroupRef::Id)
                    .collect();
                self.groups.insert(interface, groups);
                let taken = BTreeSet::from([copy.group.id.as_str()]);
                let put = GroupRef::Id(copy.of.clone());
                let swap = self.swap(Verb::Restore, interface, &taken, &put, None);
                self.restores.extend(swap);
            } else {
                free = false;
                self.find(
                    "own_rule_edited",
                    format!(
                        "{} stands for {} at {}, and was on {interface}",
                        copy.group.id, copy.of, self.observed.instance
                    ),
                    None,
                    None,
                );
            }
        }
        if free && self.can_go(&copy.group) {
            self.clearing.push(change(
                Verb::Restore,
                &copy.group.id,
                format!("delete group {} ({})", copy.group.name, copy.group.id),
                &Operation::DeleteHolder {
                    group: copy.group.id.clone(),
                },
                Some(to_json(&copy.group)),
                None,
            ));
        }
    }
}
