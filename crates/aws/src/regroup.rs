//! Puts groups on an interface and takes groups off it, on top of what it has at that moment.
//!
//! EC2 replaces the whole list of an interface's groups, on no condition (Amazon EC2 API Reference,
//! `ModifyNetworkInterfaceAttribute`). Written as it was when the plan was made, the list would undo what somebody
//! else did to it since. So it is read again right before it is written, and only what the change is about differs;
//! between that reading and the write there is nothing that could be asked of EC2. That the write is in force is seen
//! by the reading that follows every round of changes.

use std::collections::BTreeSet;

use postern_core::enforcer::EnforceError;
use serde_json::Value;

use crate::{client::Ec2, error::Failure, plan::written::Written, wire};

const OPERATION: &str = "DescribeNetworkInterfaces";

/// What a change does to the groups of an interface.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Regrouping {
    added: Vec<String>,
    removed: BTreeSet<String>,
}

impl Regrouping {
    /// From the groups as the plan read them ([`postern_core::enforcer::Change::before`]) and as they are to be.
    pub(crate) fn new(before: Option<&Value>, after: &[String]) -> Self {
        let before: Vec<String> = before
            .and_then(|before| before.get("groups"))
            .and_then(|groups| serde_json::from_value(groups.clone()).ok())
            .unwrap_or_default();
        Self {
            added: after
                .iter()
                .filter(|group| !before.contains(group))
                .cloned()
                .collect(),
            removed: before
                .into_iter()
                .filter(|group| !after.contains(group))
                .collect(),
        }
    }

    /// The list to write where the interface has `standing`.
    fn of(&self, standing: Vec<String>) -> Vec<String> {
        let mut groups: Vec<String> = standing
            .into_iter()
            .filter(|group| !self.removed.contains(group))
            .collect();
        for group in &self.added {
            if !groups.contains(group) {
                groups.push(group.clone());
            }
        }
        groups
    }

    /// Whether an interface with `standing` is as it was to be, as far as the change is about it.
    pub(crate) fn is_done(&self, standing: &[String]) -> bool {
        self.added.iter().all(|group| standing.contains(group))
            && !standing.iter().any(|group| self.removed.contains(group))
    }

    /// Whether one group was to come in the place of another, and somebody took that one off since: then nothing is to
    /// come in its place.
    fn is_outdated(&self, standing: &[String]) -> bool {
        let is_swap = !self.added.is_empty() && !self.removed.is_empty();
        is_swap
            && !standing.iter().any(|group| self.removed.contains(group))
            && !self.added.iter().all(|group| standing.contains(group))
    }

    /// Reads the list and gives what to write; `written` is what was written lately and may not show.
    /// [`EnforceError::Conflict`] where no group would be left, which EC2 does not allow, and where what was to be
    /// replaced is gone.
    pub(crate) async fn now(
        &self,
        ec2: &Ec2,
        interface: &str,
        written: &[Written],
    ) -> Result<Vec<String>, EnforceError> {
        let answer = ec2
            .client
            .describe_network_interfaces()
            .network_interface_ids(interface)
            .send()
            .await
            .map_err(|error| Failure::new(OPERATION, &error).about(interface))?;
        let mut standing = answer
            .network_interfaces()
            .iter()
            .find(|found| found.network_interface_id() == Some(interface))
            .map(|found| wire::group_ids(found.groups()))
            .ok_or_else(|| {
                Failure::unclear(OPERATION, format!("the answer does not tell of `{interface}`"))
                    .about(interface)
            })?;
        for written in written {
            match written {
                Written::Attached { interface: at, group }
                    if at == interface && !standing.contains(group) =>
                {
                    standing.push(group.clone());
                }
                Written::Detached { interface: at, group } if at == interface => {
                    standing.retain(|standing| standing != group);
                }
                Written::Deleted { group } => standing.retain(|standing| standing != group),
                _ => {}
            }
        }
        if self.is_outdated(&standing) {
            return Err(EnforceError::Conflict {
                resource: interface.to_owned(),
                code: "what was to be replaced is gone".to_owned(),
            });
        }
        let groups = self.of(standing);
        if groups.is_empty() {
            return Err(EnforceError::Conflict {
                resource: interface.to_owned(),
                code: "no group would be left".to_owned(),
            });
        }
        Ok(groups)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn texts(groups: &[&str]) -> Vec<String> {
        groups.iter().map(|group| (*group).to_owned()).collect()
    }

    #[test]
    fn what_others_did_to_the_list_since_the_plan_stays() {
        let before = json!({ "groups": ["sg-web", "sg-old"] });
        let opening = Regrouping::new(Some(&before), &texts(&["sg-web", "sg-old", "sg-ours"]));
        assert_eq!(
            opening.of(texts(&["sg-web", "sg-new"])),
            texts(&["sg-web", "sg-new", "sg-ours"])
        );
        let before = json!({ "groups": ["sg-web", "sg-ours"] });
        let closing = Regrouping::new(Some(&before), &texts(&["sg-web"]));
        assert_eq!(closing.of(texts(&["sg-new", "sg-ours"])), texts(&["sg-new"]));
        assert_eq!(closing.of(texts(&["sg-new"])), texts(&["sg-new"]));
    }

    #[test]
    fn nothing_comes_in_the_place_of_what_somebody_took_off_since() {
        let before = json!({ "groups": ["sg-own", "sg-team"] });
        let swap = Regrouping::new(Some(&before), &texts(&["sg-own", "sg-copy"]));
        assert!(!swap.is_outdated(&texts(&["sg-team", "sg-new"])));
        assert!(!swap.is_outdated(&texts(&["sg-own", "sg-copy"])), "done before");
        assert!(swap.is_outdated(&texts(&["sg-own", "sg-new"])));
        let closing = Regrouping::new(Some(&before), &texts(&["sg-own"]));
        assert!(!closing.is_outdated(&texts(&["sg-own"])));
    }
}
