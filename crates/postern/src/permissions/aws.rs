//! IAM policies: what the role in a guarded account may do, who may assume it, and what they need for that.
//!
//! Which resource types and condition keys an action knows is from the Service Authorization Reference, "Actions,
//! resources, and condition keys for Amazon EC2".

use postern_core::{
    inventory::MARK_TAG,
    mark::{Installation, Mark, Purpose},
};
use serde_json::{Map, Value, json};

use super::Bearer;

/// What the documents are made for.
#[derive(Debug, Clone)]
pub struct Ask {
    /// Who is given the permissions.
    pub bearer: Bearer,
    /// `aws`, `aws-cn` or `aws-us-gov`.
    pub partition: String,
    /// Twelve digits; `None` for whichever account holds the role.
    pub account: Option<String>,
    /// Whose groups may be touched where that can be told; `None` for those of any installation.
    pub installation: Option<Installation>,
}

/// A statement of a policy, with its reason, which IAM has no place for.
#[derive(Debug, Clone)]
pub struct Statement {
    /// Its name in the policy.
    pub sid: &'static str,
    /// Why it is there, and why it is no narrower.
    pub why: &'static str,
    actions: &'static [&'static str],
    resources: Resources,
    condition: Option<Condition>,
}

#[derive(Debug, Clone, Copy)]
enum Resources {
    /// The action knows no resource types.
    All,
    /// All resources of these types in the account.
    Types(&'static [&'static str]),
}

#[derive(Debug, Clone, Copy)]
enum Condition {
    /// The resource carries the mark of a temporary group or of a private copy.
    OnOurGroups,
    /// The resource carries the mark of a temporary group.
    OnHolders,
    /// The resource is made with the mark of a temporary group or of a private copy.
    AsOurGroup,
    /// Tags only in the call that makes the resource.
    While(&'static str),
}

const SERVER: &[Statement] = &[
    Statement {
        sid: "Look",
        why: "discovery, a look at a point before and after each change; these actions know no resources",
        actions: &[
            "ec2:DescribeInstances",
            "ec2:DescribeManagedPrefixLists",
            "ec2:DescribeNetworkInterfaces",
            "ec2:DescribeRegions",
            "ec2:DescribeSecurityGroupReferences",
            "ec2:DescribeSecurityGroupRules",
            "ec2:DescribeSecurityGroups",
            "ec2:DescribeVpcs",
        ],
        resources: Resources::All,
        condition: None,
    },
    Statement {
        sid: "MakeOurGroups",
        why: "a machine's temporary group, or its private copy of a group, which are born with our mark",
        actions: &["ec2:CreateSecurityGroup"],
        resources: Resources::Types(&["security-group"]),
        condition: Some(Condition::AsOurGroup),
    },
    Statement {
        sid: "MakeGroupsInVpcs",
        why: "making a group is also asked of the VPC that it is made in",
        actions: &["ec2:CreateSecurityGroup"],
        resources: Resources::Types(&["vpc"]),
        condition: None,
    },
    Statement {
        sid: "MarkOurGroups",
        why: "the tags of a group in the call that makes it; no other group can be tagged",
        actions: &["ec2:CreateTags"],
        resources: Resources::Types(&["security-group"]),
        condition: Some(Condition::While("CreateSecurityGroup")),
    },
    Statement {
        sid: "FitAndDeleteOurGroups",
        why: "a temporary group loses its egress rules before it is used, and goes with the last grant; a private \
              copy has those of its group, and goes with the policy",
        actions: &[
            "ec2:AuthorizeSecurityGroupEgress",
            "ec2:DeleteSecurityGroup",
            "ec2:RevokeSecurityGroupEgress",
        ],
        resources: Resources::Types(&["security-group"]),
        condition: Some(Condition::OnOurGroups),
    },
    Statement {
        sid: "OpenCloseAndLockDown",
        why: "grants in temporary groups; lockdowns and their restoring in the groups of others, which carry no \
              mark that could be asked for",
        actions: &[
            "ec2:AuthorizeSecurityGroupIngress",
            "ec2:RevokeSecurityGroupIngress",
            "ec2:UpdateSecurityGroupRuleDescriptionsIngress",
        ],
        resources: Resources::Types(&["security-group"]),
        condition: None,
    },
    Statement {
        sid: "PutRulesBackWithTheirTags",
        why: "a displaced rule that had tags gets them back, when it is made again or when it stood all along",
        actions: &["ec2:AuthorizeSecurityGroupIngress", "ec2:CreateTags"],
        resources: Resources::Types(&["security-group-rule"]),
        condition: None,
    },
    Statement {
        sid: "AttachAndDetach",
        why: "a temporary group or a private copy comes to the machine's interfaces and goes again; the call names \
              all groups of the interface, those of others too",
        actions: &["ec2:ModifyNetworkInterfaceAttribute"],
        resources: Resources::Types(&["network-interface", "security-group"]),
        condition: None,
    },
];

const SWEEPER: &[Statement] = &[
    Statement {
        sid: "Look",
        why: "finding marks; these actions know no resources",
        actions: &[
            "ec2:DescribeRegions",
            "ec2:DescribeSecurityGroupRules",
            "ec2:DescribeSecurityGroups",
        ],
        resources: Resources::All,
        condition: None,
    },
    Statement {
        sid: "Close",
        why: "taking rules out of our temporary groups, and out of no others",
        actions: &["ec2:RevokeSecurityGroupIngress"],
        resources: Resources::Types(&["security-group"]),
        condition: Some(Condition::OnHolders),
    },
];

impl Bearer {
    /// The usual name of its role.
    pub const fn role(self) -> &'static str {
        match self {
            Self::Server => "postern",
            Self::Sweeper => "postern-sweeper",
        }
    }
}

impl Ask {
    /// The statements of [`Ask::permissions_policy`].
    pub fn statements(&self) -> &'static [Statement] {
        match self.bearer {
            Bearer::Server => SERVER,
            Bearer::Sweeper => SWEEPER,
        }
    }

    /// What the role may do in the guarded account.
    pub fn permissions_policy(&self) -> Value {
        let statements: Vec<Value> = self
            .statements()
            .iter()
            .map(|statement| self.statement(statement))
            .collect();
        policy(&statements)
    }

    /// Who may assume the role: `principal`, when it names `external_id`, where there is one.
    pub fn trust_policy(principal: &str, external_id: Option<&str>) -> Value {
        let mut statement = json!({
            "Effect": "Allow",
            "Principal": { "AWS": principal },
            "Action": "sts:AssumeRole",
        });
        if let (Some(id), Some(statement)) = (external_id, statement.as_object_mut()) {
            let condition = json!({ "StringEquals": { "sts:ExternalId": id } });
            statement.insert("Condition".to_owned(), condition);
        }
        policy(&[statement])
    }

    /// What whoever assumes the role needs in its own account.
    pub fn assume_policy(&self, role: &str) -> Value {
        let account = self.account.as_deref().unwrap_or("*");
        policy(&[json!({
            "Effect": "Allow",
            "Action": "sts:AssumeRole",
            "Resource": format!("arn:{}:iam::{account}:role/{role}", self.partition),
        })])
    }

    fn statement(&self, statement: &Statement) -> Value {
        let mut document = Map::new();
        document.insert("Sid".to_owned(), json!(statement.sid));
        document.insert("Effect".to_owned(), json!("Allow"));
        document.insert("Action".to_owned(), json!(statement.actions));
        let account = self.account.as_deref().unwrap_or("*");
        let resource = match statement.resources {
            Resources::All => json!("*"),
            Resources::Types(types) => types
                .iter()
                .map(|kind| format!("arn:{}:ec2:*:{account}:{kind}/*", self.partition))
                .collect(),
        };
        document.insert("Resource".to_owned(), resource);
        if let Some(condition) = statement.condition {
            document.insert("Condition".to_owned(), self.condition(condition));
        }
        Value::Object(document)
    }

    fn condition(&self, condition: Condition) -> Value {
        let ours = || json!([self.holder_mark(), self.copy_mark()]);
        let (key, value, exact) = match condition {
            Condition::OnOurGroups => ("aws:ResourceTag", ours(), false),
            Condition::OnHolders => (
                "aws:ResourceTag",
                json!(self.holder_mark()),
                self.installation.is_some(),
            ),
            Condition::AsOurGroup => ("aws:RequestTag", ours(), false),
            Condition::While(action) => {
                return json!({ "StringEquals": { "ec2:CreateAction": action } });
            }
        };
        let (operator, key) = (
            if exact { "StringEquals" } else { "StringLike" },
            format!("{key}/{MARK_TAG}"),
        );
        json!({ operator: { key: value } })
    }

    /// A pattern for the marks of private copies, whichever group they stand for.
    fn copy_mark(&self) -> String {
        let whose = self.installation.as_ref().map_or("*", Installation::as_str);
        format!("postern:{whose} copy=sg-*")
    }

    /// The text of a temporary group's mark, or a pattern for every installation's.
    fn holder_mark(&self) -> String {
        self.installation.as_ref().map_or_else(
            || "postern:* holder".to_owned(),
            |installation| {
                Mark {
                    installation: installation.clone(),
                    purpose: Purpose::Holder,
                }
                .to_string()
            },
        )
    }
}

fn policy(statements: &[Value]) -> Value {
    json!({ "Version": "2012-10-17", "Statement": statements })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(bearer: Bearer) -> Ask {
        Ask {
            bearer,
            partition: "aws".to_owned(),
            account: Some("111122223333".to_owned()),
            installation: Some("prod".parse().unwrap()),
        }
    }

    /// Source: IAM User Guide, "IAM and AWS STS quotas": 6144 characters without white space for a managed policy.
    #[test]
    fn every_policy_fits_into_a_managed_policy() {
        for bearer in [Bearer::Server, Bearer::Sweeper] {
            let size = ask(bearer).permissions_policy().to_string().len();
            assert!(size < 6144, "{bearer:?} {size}");
        }
    }

    #[test]
    fn the_sweeper_may_do_nothing_that_the_server_may_not() {
        let actions = |bearer| {
            ask(bearer)
                .statements()
                .iter()
                .flat_map(|statement| statement.actions)
                .collect::<std::collections::BTreeSet<_>>()
        };
        assert!(actions(Bearer::Sweeper).is_subset(&actions(Bearer::Server)));
    }

    #[test]
    fn the_pattern_for_any_installation_fits_the_mark_of_each() {
        let any = Ask {
            installation: None,
            ..ask(Bearer::Sweeper)
        };
        let mark = ask(Bearer::Sweeper).holder_mark();
        assert_eq!(mark.replace(":prod ", ":* "), any.holder_mark());
        let policy = any.permissions_policy().to_string();
        assert!(
            policy.contains(r#""StringLike":{"aws:ResourceTag/postern:mark":"postern:* holder"}"#),
            "{policy}"
        );
    }

    #[test]
    fn the_external_id_stands_in_the_trust_policy_where_there_is_one() {
        let principal = "arn:aws:iam::999988887777:role/postern-hub";
        let with = Ask::trust_policy(principal, Some("x1"));
        assert_eq!(
            with["Statement"][0]["Condition"]["StringEquals"]["sts:ExternalId"],
            "x1"
        );
        let without = Ask::trust_policy(principal, None);
        assert!(without["Statement"][0].get("Condition").is_none());
    }
}
