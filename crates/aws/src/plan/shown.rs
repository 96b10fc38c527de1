//! Whether a reading shows what a write was to bring about.

use std::collections::BTreeSet;

use postern_core::sg::{SecurityGroup, SgRule};
use serde_json::Value;

use super::{group::ObservedGroup, instance::ObservedInstance, rule::Content};
use crate::{
    operation::{GroupRef, Operation},
    regroup::Regrouping,
};

/// Whether all rules stand among `standing`, or none does.
fn stand(rules: &[SgRule], standing: &[SgRule], are_wanted: bool) -> bool {
    let standing: BTreeSet<Content> = standing.iter().map(Content::of).collect();
    rules
        .iter()
        .all(|rule| standing.contains(&Content::of(rule)) == are_wanted)
}

/// Of a write to the rules of `group`.
fn in_group(group: &SecurityGroup, operation: &Operation) -> Option<bool> {
    match operation {
        Operation::Authorize { rules, .. } => Some(stand(rules, &group.ingress, true)),
        Operation::Revoke { rules, .. } => Some(stand(rules, &group.ingress, false)),
        Operation::AuthorizeEgress { rules, .. } => Some(stand(rules, &group.egress, true)),
        Operation::TrimEgress { rules, .. } | Operation::RevokeEgress { rules, .. } => {
            Some(stand(rules, &group.egress, false))
        }
        Operation::Describe { rules, .. } => Some(rules.iter().all(|rule| {
            let same = |standing: &&SgRule| Content::of(standing) == Content::of(rule);
            let standing = group.ingress.iter().find(same);
            standing.is_some_and(|standing| standing.description == rule.description)
        })),
        _ => None,
    }
}

/// Of a write to the rules of `group` where there is no such group: what was to go from one that was there is gone.
const fn in_no_group(group: &GroupRef, operation: &Operation) -> bool {
    matches!(group, GroupRef::Id(_))
        && matches!(
            operation,
            Operation::Revoke { .. } | Operation::TrimEgress { .. } | Operation::RevokeEgress { .. }
        )
}

impl ObservedInstance {
    /// A group of ours as read.
    fn find(&self, group: &GroupRef) -> Option<&SecurityGroup> {
        let mut holders = self.holders.iter();
        let mut copies = self.copies.iter();
        match group {
            GroupRef::Id(id) => holders
                .chain(copies.map(|copy| &copy.group))
                .find(|found| found.id == *id),
            GroupRef::Made { vpc } => holders.find(|holder| holder.vpc == *vpc),
            GroupRef::Copied { of } => copies.find(|copy| copy.of == *of).map(|copy| &copy.group),
        }
    }

    /// See [`postern_core::enforcer::Observed::shows`].
    pub(super) fn shows_write(&self, before: Option<&Value>, operation: &Operation) -> Option<bool> {
        match operation {
            Operation::CreateHolder { vpc, .. } => {
                Some(self.find(&GroupRef::Made { vpc: vpc.clone() }).is_some())
            }
            Operation::CreateCopy { of, .. } => {
                Some(self.find(&GroupRef::Copied { of: of.clone() }).is_some())
            }
            // Nor is one gone that is only not known for ours any more.
            Operation::DeleteHolder { group } => Some(
                self.find(&GroupRef::Id(group.clone())).is_none()
                    && !self
                        .impostors
                        .iter()
                        .chain(&self.false_copies)
                        .any(|other| other.id == *group)
                    && !self
                        .interfaces
                        .iter()
                        .any(|interface| interface.groups.contains(group)),
            ),
            Operation::SetGroups {
                interface, groups, ..
            } => {
                let mut interfaces = self.interfaces.iter().chain(&self.strays);
                let interface = interfaces.find(|one| one.id == *interface)?;
                let id = |group: &GroupRef| match group {
                    GroupRef::Id(id) => Some(id.clone()),
                    made => self.find(made).map(|group| group.id.clone()),
                };
                // One that was to be made and is not there cannot be on the interface.
                let Some(after) = groups.iter().map(id).collect::<Option<Vec<_>>>() else {
                    return Some(false);
                };
                Some(Regrouping::new(before, &after).is_done(&interface.groups))
            }
            Operation::TrimEgress { group, .. }
            | Operation::AuthorizeEgress { group, .. }
            | Operation::RevokeEgress { group, .. }
            | Operation::Authorize { group, .. }
            | Operation::Revoke { group, .. }
            | Operation::Describe { group, .. } => match self.find(group) {
                Some(found) => in_group(found, operation),
                None => Some(in_no_group(group, operation)),
            },
            Operation::TagRule { .. } => None,
        }
    }
}

impl ObservedGroup {
    /// See [`postern_core::enforcer::Observed::shows`].
    pub(super) fn shows_write(&self, operation: &Operation) -> Option<bool> {
        match &self.group {
            Some(group) => in_group(group, operation),
            None => Some(in_no_group(&GroupRef::Id(self.id.clone()), operation)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use postern_core::enforcer::Observed;
    use serde_json::json;

    use super::*;
    use crate::{
        config::AwsLimits,
        plan::instance::{Copied, ObservedInterface, default_egress},
    };

    const OF: &str = "sg-0123456789abcdef0";

    /// An instance whose interface has `groups`, with a private copy `sg-copy`.
    fn read(groups: &[&str]) -> ObservedInstance {
        let copy = SecurityGroup {
            id: "sg-copy".to_owned(),
            name: "copy".to_owned(),
            vpc: "vpc-1".to_owned(),
            ingress: Vec::new(),
            egress: default_egress(false),
            tags: BTreeMap::new(),
        };
        ObservedInstance {
            instance: "i-1".to_owned(),
            interfaces: vec![ObservedInterface {
                id: "eni-1".to_owned(),
                vpc: "vpc-1".to_owned(),
                ipv6: false,
                groups: groups.iter().map(|group| (*group).to_owned()).collect(),
            }],
            ipv6_vpcs: BTreeSet::new(),
            holders: Vec::new(),
            impostors: Vec::new(),
            strays: Vec::new(),
            misplaced: BTreeSet::new(),
            copies: vec![Copied::new(OF.to_owned(), copy)],
            strange_copies: BTreeMap::new(),
            originals: Vec::new(),
            false_copies: Vec::new(),
            named_by: BTreeMap::new(),
            limits: AwsLimits::default(),
        }
    }

    fn shows(read: &ObservedInstance, before: &Value, operation: &Operation) -> Option<bool> {
        read.shows(Some(before), &serde_json::to_value(operation).unwrap())
    }

    #[test]
    fn a_group_that_stands_was_not_deleted_whatever_is_planned() {
        let read = read(&["sg-copy"]);
        let delete = |group: &str| Operation::DeleteHolder {
            group: group.to_owned(),
        };
        assert_eq!(shows(&read, &Value::Null, &delete("sg-copy")), Some(false));
        assert_eq!(shows(&read, &Value::Null, &delete("sg-gone")), Some(true));
        let mut unknown = self::read(&[]);
        unknown.false_copies = unknown.copies.drain(..).map(|copy| copy.group).collect();
        assert_eq!(
            shows(&unknown, &Value::Null, &delete("sg-copy")),
            Some(false),
            "lost its mark"
        );
    }

    #[test]
    fn what_a_list_of_groups_was_to_change_counts_and_nothing_else() {
        let before = json!({ "groups": [OF, "sg-team"] });
        let swap = Operation::SetGroups {
            interface: "eni-1".to_owned(),
            groups: vec![
                GroupRef::Copied { of: OF.to_owned() },
                GroupRef::Id("sg-team".to_owned()),
            ],
            emptied: None,
        };
        assert_eq!(shows(&read(&[OF, "sg-team"]), &before, &swap), Some(false));
        assert_eq!(shows(&read(&["sg-copy", "sg-new"]), &before, &swap), Some(true));
        assert_eq!(shows(&read(&["sg-new"]), &before, &swap), Some(false));
        let mut without = read(&[OF]);
        without.copies.clear();
        assert_eq!(shows(&without, &before, &swap), Some(false), "never made");
    }

    #[test]
    fn rules_count_where_they_were_to_stand() {
        let read = read(&["sg-copy"]);
        let group = GroupRef::Id("sg-copy".to_owned());
        let trim = Operation::TrimEgress {
            group: group.clone(),
            rules: default_egress(false),
        };
        assert_eq!(shows(&read, &Value::Null, &trim), Some(false));
        let open = Operation::Authorize {
            group,
            rules: default_egress(false),
        };
        assert_eq!(
            shows(&read, &Value::Null, &open),
            Some(false),
            "ingress, not egress"
        );
        let into = |group: &GroupRef| Operation::Authorize {
            group: group.clone(),
            rules: Vec::new(),
        };
        let out_of = |group: &GroupRef| Operation::Revoke {
            group: group.clone(),
            rules: Vec::new(),
        };
        let gone = GroupRef::Id("sg-gone".to_owned());
        let never = GroupRef::Copied {
            of: "sg-other".to_owned(),
        };
        assert_eq!(shows(&read, &Value::Null, &into(&gone)), Some(false));
        assert_eq!(shows(&read, &Value::Null, &out_of(&gone)), Some(true));
        assert_eq!(
            shows(&read, &Value::Null, &out_of(&never)),
            Some(false),
            "never made"
        );
    }
}
