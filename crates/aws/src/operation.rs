//! The writes that the planners ask for: one value per EC2 call, as it stands in a change and in the journal.

use std::collections::BTreeMap;

use postern_core::sg::SgRule;
use serde::{Deserialize, Serialize};

/// A group that a call is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GroupRef {
    /// A group that was there when the plan was made.
    Id(String),
    /// The holder that an earlier change of the same plan makes in this VPC; its id is in the bindings under
    /// [`GroupRef::binding`].
    Made {
        /// `vpc-…`.
        vpc: String,
    },
    /// The private copy of a group that an earlier change of the same plan makes; its id is in the bindings under
    /// [`GroupRef::copy_binding`].
    Copied {
        /// The group that it is a copy of.
        of: String,
    },
}

impl GroupRef {
    /// The name under which the bindings of a pass hold the id of the holder made in `vpc`.
    pub fn binding(vpc: &str) -> String {
        format!("holder:{vpc}")
    }

    /// The name under which the bindings of a pass hold the id of the copy made of `of`.
    pub fn copy_binding(of: &str) -> String {
        format!("copy:{of}")
    }

    /// The name under which the bindings of a pass say that the egress of `group` was emptied.
    pub fn emptied(group: &str) -> String {
        format!("emptied:{group}")
    }
}

/// One EC2 call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "call")]
pub enum Operation {
    /// `CreateSecurityGroup`, tags included: a holder.
    CreateHolder {
        /// Where.
        vpc: String,
        /// Its name, unique in the VPC.
        name: String,
        /// For people.
        description: String,
        /// Its tags, the mark among them.
        tags: BTreeMap<String, String>,
    },
    /// `CreateSecurityGroup`, tags included: a private copy, empty as yet.
    CreateCopy {
        /// Of which group.
        of: String,
        /// Where.
        vpc: String,
        /// Its name, unique in the VPC.
        name: String,
        /// For people.
        description: String,
        /// Its tags, the mark among them.
        tags: BTreeMap<String, String>,
    },
    /// `RevokeSecurityGroupEgress` on a private copy: these rules and no others. A rule that is not there is success.
    TrimEgress {
        /// Of which group.
        group: GroupRef,
        /// Which rules.
        rules: Vec<SgRule>,
    },
    /// `AuthorizeSecurityGroupEgress` on a private copy. A rule that is there with the same description is success.
    AuthorizeEgress {
        /// In which group.
        group: GroupRef,
        /// Which rules.
        rules: Vec<SgRule>,
    },
    /// `RevokeSecurityGroupEgress` on a holder. A rule that is not there is success.
    RevokeEgress {
        /// Of which group.
        group: GroupRef,
        /// Which rules.
        rules: Vec<SgRule>,
    },
    /// `AuthorizeSecurityGroupIngress`. All rules have the same tags. A rule that is there with the same
    /// description is success.
    Authorize {
        /// In which group.
        group: GroupRef,
        /// Which rules.
        rules: Vec<SgRule>,
    },
    /// `RevokeSecurityGroupIngress`. A rule that is not there is success.
    Revoke {
        /// Of which group.
        group: GroupRef,
        /// Which rules.
        rules: Vec<SgRule>,
    },
    /// `UpdateSecurityGroupRuleDescriptionsIngress`.
    Describe {
        /// Of which group.
        group: GroupRef,
        /// The rules with their new descriptions.
        rules: Vec<SgRule>,
    },
    /// `CreateTags` on a rule.
    TagRule {
        /// `sgr-…`.
        rule: String,
        /// The tags to set.
        tags: BTreeMap<String, String>,
    },
    /// `ModifyNetworkInterfaceAttribute`: the whole list of an interface's groups. What it differs by from the list
    /// that the plan found is what is done to the list as it is when the call is made.
    SetGroups {
        /// `eni-…`.
        interface: String,
        /// The groups that it will have.
        groups: Vec<GroupRef>,
        /// A group whose egress an earlier change of the same plan must have emptied: a group that still has
        /// its egress rules would widen what the machine may reach.
        emptied: Option<GroupRef>,
    },
    /// `DeleteSecurityGroup` on a holder or a private copy. A group that is not there is success.
    DeleteHolder {
        /// `sg-…`.
        group: String,
    },
}
