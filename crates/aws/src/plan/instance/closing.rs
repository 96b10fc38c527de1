//! Closes: takes rules, holders and attachments away that no grant wants.

use std::collections::BTreeSet;

use postern_core::{
    enforcer::{Finding, Verb},
    id::GrantId,
    inventory::tagged_for,
    mark::Purpose,
    sg::{SecurityGroup, SgRule},
};
use serde_json::json;

use super::{
    Draft, ObservedInterface, change, for_grants, named,
    rule::{self, Content},
    to_json,
};
use crate::operation::{GroupRef, Operation};

impl<'a> Draft<'a> {
    /// Takes `group` off an interface. False where it is the interface's only group: EC2 wants at least one
    /// (API reference, `ModifyNetworkInterfaceAttribute`).
    pub(super) fn detach(
        &mut self,
        verb: Verb,
        interface: &'a str,
        group: &str,
        grants: Vec<GrantId>,
    ) -> bool {
        let groups = self.groups.get(interface).cloned().unwrap_or_default();
        let left: Vec<GroupRef> = groups
            .iter()
            .filter(|g| !matches!(g, GroupRef::Id(id) if id == group))
            .cloned()
            .collect();
        if left.len() == groups.len() {
            return true;
        }
        if left.is_empty() {
            self.findings.push(Finding {
                code: "own_rule_edited".to_owned(),
                message: format!(
                    "somebody took every other group off {interface}: {group} stays on it, as EC2 wants at least one"
                ),
                before: None,
                after: Some(json!({ "interface": interface, "groups": [group] })),
                grants,
            });
            return false;
        }
        self.set_groups(
            verb,
            interface,
            &left,
            None,
            format!("detach {group} from {interface}"),
            grants,
        );
        true
    }

    pub(super) fn detach_misplaced(&mut self) {
        let observed = self.observed;
        for interface in &observed.interfaces {
            for group in interface
                .groups
                .iter()
                .filter(|g| observed.misplaced.contains(*g))
            {
                self.findings.push(Finding {
                    code: "own_rule_edited".to_owned(),
                    message: format!(
                        "{group} holds another instance's grants, and was on {}",
                        interface.id
                    ),
                    before: None,
                    after: Some(json!({ "interface": interface.id, "groups": interface.groups })),
                    grants: Vec::new(),
                });
                self.detach(Verb::Repair, &interface.id, group, Vec::new());
            }
        }
    }

    /// Reports the groups of ours whose marks are not as we wrote them.
    pub(super) fn report_marks(&mut self) {
        let observed = self.observed;
        let holders = observed.holders.iter().map(|holder| (holder, Purpose::Holder));
        let copies = observed.copies.iter();
        let copies = copies.map(|copy| (&copy.group, Purpose::Copy { of: copy.of.clone() }));
        for (group, purpose) in holders.chain(copies) {
            let found = tagged_for(group, &self.desired.installation);
            if found.as_ref() != Some(&purpose) {
                self.findings.push(Finding {
                    code: "own_rule_edited".to_owned(),
                    message: format!(
                        "somebody changed or removed the mark of {} ({})",
                        group.name, group.id
                    ),
                    before: None,
                    after: Some(json!(group.tags)),
                    grants: Vec::new(),
                });
            }
        }
    }

    /// Whether a group of ours can be deleted: what has no mark at all is beyond our rights.
    fn is_marked(&self, group: &SecurityGroup) -> bool {
        tagged_for(group, &self.desired.installation).is_some()
    }

    /// Whether to try to delete a group of ours that nothing uses. A rule of others that names it is in the way for as
    /// long as they like, and is told instead of tried against.
    ///
    /// That is not all that may be in the way: EC2 refuses with `DependencyViolation` to delete a group that is on an
    /// interface, that a rule in its VPC names, or that is associated with another VPC (API reference,
    /// `DeleteSecurityGroup`). Not seen are such associations (`AssociateSecurityGroupVpc`), which would be one more call
    /// and permission, and rules of groups that we may not describe.
    pub(super) fn can_go(&mut self, group: &SecurityGroup) -> bool {
        if !self.is_marked(group) {
            return false;
        }
        let Some(naming) = self.observed.named_by.get(&group.id) else {
            return true;
        };
        let others: Vec<&str> = naming.iter().map(String::as_str).collect();
        self.findings.push(Finding {
            code: "own_group_named".to_owned(),
            message: format!(
                "{} ({}) is on no interface any more and cannot be deleted, because rules of {} name it: without these \
                 it is deleted at a later look",
                group.name,
                group.id,
                others.join(", ")
            ),
            before: None,
            after: Some(json!({ "group": group.id, "named_by": others })),
            grants: Vec::new(),
        });
        false
    }

    /// Reports what others wrote into a holder. Nothing may let packets in there without a grant.
    pub(super) fn report_foreign(&mut self, rules: &[&SgRule], holder: &SecurityGroup) {
        for rule in rules {
            self.findings.push(Finding {
                code: "foreign_rule_opens".to_owned(),
                message: format!(
                    "somebody wrote {} into {}, which only holds grants' rules; it is removed",
                    Content::of(rule),
                    holder.id
                ),
                before: None,
                after: Some(to_json(rule)),
                grants: Vec::new(),
            });
        }
    }

    pub(super) fn revoke(&mut self, verb: Verb, holder: &SecurityGroup, rules: &[&SgRule]) {
        if rules.is_empty() {
            return;
        }
        let grants = rules
            .iter()
            .filter_map(|rule| named(rule, &self.desired.installation));
        let grants: Vec<GrantId> = grants.collect();
        let change = change(
            verb,
            &holder.id,
            format!(
                "stop letting {} in through {}",
                rule::list(rules.iter().copied()),
                holder.id
            ),
            &Operation::Revoke {
                group: GroupRef::Id(holder.id.clone()),
                rules: rules.iter().map(|rule| (*rule).clone()).collect(),
            },
            Some(to_json(&rules)),
            None,
        );
        self.closings.push(for_grants(change, grants));
    }

    pub(super) fn empty_egress(&mut self, holder: &SecurityGroup) -> bool {
        if holder.egress.is_empty() {
            return false;
        }
        self.closings.push(change(
            Verb::Repair,
            &holder.id,
            format!("remove the egress rules of {}", holder.id),
            &Operation::RevokeEgress {
                group: GroupRef::Id(holder.id.clone()),
                rules: holder.egress.clone(),
            },
            Some(to_json(&holder.egress)),
            None,
        ));
        true
    }

    /// Nothing is wanted: detach the holder wherever it is and delete it.
    pub(super) fn remove_holder(&mut self, holder: &'a SecurityGroup) {
        let (ours, foreign): (Vec<&SgRule>, Vec<&SgRule>) = holder
            .ingress
            .iter()
            .partition(|rule| rule::mark_of(rule, &self.desired.installation).is_some());
        self.report_foreign(&foreign, holder);
        let grants: Vec<GrantId> = ours
            .iter()
            .filter_map(|rule| named(rule, &self.desired.installation))
            .collect();
        let observed = self.observed;
        let attached: Vec<&'a ObservedInterface> = observed
            .interfaces
            .iter()
            .chain(&observed.strays)
            .filter(|interface| interface.groups.contains(&holder.id))
            .collect();
        // Where detaching closes it, that is one call. Where the holder has to stay, or could not be deleted
        // before, its rules go first, so that the grants close whatever keeps the group.
        let stays = attached
            .iter()
            .any(|interface| interface.groups.iter().all(|g| *g == holder.id));
        if attached.is_empty() || stays || !self.is_marked(holder) {
            self.revoke(Verb::Close, holder, &ours);
            self.revoke(Verb::Repair, holder, &foreign);
            if stays {
                self.empty_egress(holder);
            }
        }
        // One that lets nothing in and is nowhere is no closing that anybody waits for.
        let verb = if attached.is_empty() && holder.ingress.is_empty() {
            Verb::Restore
        } else {
            Verb::Close
        };
        let mut free = true;
        for interface in attached {
            free &= self.detach(Verb::Close, &interface.id, &holder.id, grants.clone());
        }
        if free && self.can_go(holder) {
            let change = change(
                verb,
                &holder.id,
                format!("delete group {} ({})", holder.name, holder.id),
                &Operation::DeleteHolder {
                    group: holder.id.clone(),
                },
                Some(to_json(holder)),
                None,
            );
            self.clearing.push(for_grants(change, grants));
        }
    }

    /// Takes out of a holder what no grant wants, and puts the marks of the rest right.
    pub(super) fn close_unwanted(&mut self, holder: &'a SecurityGroup) {
        let installation = &self.desired.installation;
        let known: BTreeSet<GrantId> = self.all_grants().into_iter().collect();
        let (mut closed, mut foreign) = (Vec::new(), Vec::new());
        let (mut handed_on, mut kept, mut edited) = (Vec::new(), Vec::new(), Vec::new());
        for rule in &holder.ingress {
            let mark = rule::mark_of(rule, installation);
            match self.wanted.get(&Content::of(rule)) {
                Some(wanted) if wanted.rule.description == rule.description => {}
                Some(wanted) => match named(rule, installation) {
                    Some(grant) if known.contains(&grant) => kept.push((rule, wanted)),
                    Some(_) => handed_on.push((rule, wanted)),
                    None => edited.push((rule, wanted)),
                },
                None if mark.is_some() => closed.push(rule),
                None => foreign.push(rule),
            }
        }
        self.report_foreign(&foreign, holder);
        self.revoke(Verb::Close, holder, &closed);
        self.revoke(Verb::Repair, holder, &foreign);
        self.empty_egress(holder);
        for (rule, wanted) in &edited {
            self.findings.push(Finding {
                code: "own_rule_edited".to_owned(),
                message: format!(
                    "somebody changed the mark of {} in {}",
                    Content::of(rule),
                    holder.id
                ),
                before: Some(to_json(&wanted.rule)),
                after: Some(to_json(rule)),
                grants: wanted.grants.iter().copied().collect(),
            });
        }
        for (verb, rules) in [
            (Verb::Close, handed_on),
            (Verb::Repair, edited),
            (Verb::Open, kept),
        ] {
            if rules.is_empty() {
                continue;
            }
            let grants: Vec<GrantId> = rules
                .iter()
                .flat_map(|(rule, wanted)| {
                    wanted
                        .grants
                        .iter()
                        .copied()
                        .chain(named(rule, &self.desired.installation))
                })
                .collect();
            let after: Vec<SgRule> = rules.iter().map(|(_, wanted)| wanted.rule.clone()).collect();
            let change = change(
                verb,
                &holder.id,
                format!("mark {} in {} anew", rule::list(&after), holder.id),
                &Operation::Describe {
                    group: GroupRef::Id(holder.id.clone()),
                    rules: after.clone(),
                },
                Some(to_json(&rules.iter().map(|(rule, _)| *rule).collect::<Vec<_>>())),
                Some(to_json(&after)),
            );
            self.closings.push(for_grants(change, grants));
        }
    }
}
