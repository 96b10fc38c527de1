//! JIT policies, as the API takes and shows them.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::preflight::DryRunPoint;

/// How a lockdown deals with rules that already allow a guarded port.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Lockdown {
    /// The guarded ports are closed whatever others' rules say.
    #[default]
    Strict,
    /// Others' rules win: what they allow stays open, and the posture names it. Only what they leave unsaid is closed
    /// (Azure: a deny below their allows; AWS: nothing is displaced, since a security group closes what it doesn't allow).
    Defer,
}

/// What a lockdown does with a security group that machines outside every policy share (AWS).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum SharedGroups {
    /// Leave the group alone, keep the port open and name the others.
    #[default]
    Refuse,
    /// Displace the rules all the same: the others lose them too.
    Revoke,
    /// Leave the group alone and give the machine a private copy of it without the guarded ports in its place. Done
    /// for every group that any other machine has, whether a policy covers that one or not. Refused, by name, where
    /// rules name the group as their source: they would not let the machine's packets in any more.
    Isolate,
}

/// Who must agree before a request under the policy is granted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Approval {
    /// Nobody: the policy itself approves.
    #[default]
    Policy,
    /// One person with the `approve` action at the machine, who is not the requester: one stage that needs one.
    One,
    /// These, one after the other: 1 to 5.
    Stages(Vec<ApprovalStage>),
}

/// So many people who must agree before the next stage begins. Each needs the `approve` action at every machine of the
/// request; a stage narrows who of them counts. Where it names neither approvers nor a role, all of them count.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ApprovalStage {
    /// How many people.
    #[schema(example = 2, minimum = 1, maximum = 10)]
    pub needs: u8,
    /// Those count: `user:<issuer>/<subject>`, or the members of `group:<issuer>/<group>`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(example = json!(["group:corp/security"]), max_items = 50)]
    pub approvers: Vec<String>,
    /// Those count, too, whom an assignment of this role allows to approve.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "approver")]
    pub role: Option<String>,
    /// Whether those who counted in a stage before count here again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub again: bool,
}

/// What a policy asks of a request's reason and ticket. Patterns are regular expressions without back-references, and
/// match the whole.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Justification {
    /// What a reason looks like.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "(?s).{20,}", min_length = 1, max_length = 200)]
    pub reason_pattern: Option<String>,
    /// Whether there must be a ticket.
    #[serde(default)]
    pub ticket_required: bool,
    /// What a ticket looks like.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "OPS-[0-9]+", min_length = 1, max_length = 200)]
    pub ticket_pattern: Option<String>,
    /// Whether the ticket system is asked for the ticket, and what holds when it does not answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ticket_check: Option<WhenUnanswered>,
}

/// What holds when the ticket system does not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum WhenUnanswered {
    /// The request is refused.
    Refuse,
    /// The request goes on, and the audit log says so.
    Allow,
}

/// Ports that a policy guards, and on what terms they open.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct GuardedPorts {
    /// A port or a range; TCP when no protocol is named.
    #[schema(example = "22/tcp")]
    pub ports: String,
    /// Networks that a requested source must lie in.
    #[schema(example = json!(["203.0.113.0/24"]), min_items = 1, max_items = 50)]
    pub allowed_sources: Vec<String>,
    /// The longest a grant may last.
    #[schema(example = 10800, minimum = 10, maximum = 86400)]
    pub max_duration_seconds: i64,
}

/// What people have to have proven of themselves to ask. Programs sign in nowhere; guardrails say what they must show.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Authentication {
    /// A second factor.
    pub mfa: bool,
    /// That they signed in no longer ago than this.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = 3600, minimum = 60, maximum = 604_800)]
    pub max_age_seconds: Option<i64>,
}

impl Authentication {
    /// Whether nothing is asked for.
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

/// A JIT policy to make, or what an existing one shall become.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct JitPolicyWrite {
    /// A name for people, unique.
    #[schema(min_length = 1, max_length = 100)]
    pub name: String,
    /// The machines below this scope…
    #[schema(example = "/aws/123456789012")]
    pub scope: String,
    /// …that carry all of these tags.
    #[serde(default)]
    pub tags: BTreeMap<String, String>,
    /// What is guarded.
    #[schema(min_items = 1, max_items = 50)]
    pub guards: Vec<GuardedPorts>,
    /// How strictly.
    #[serde(default)]
    pub lockdown: Lockdown,
    /// What happens to shared groups (AWS).
    #[serde(default)]
    pub shared_groups: SharedGroups,
    /// Who must agree.
    #[serde(default)]
    pub approval: Approval,
    /// What people have to have proven of themselves to ask; nothing beyond their token when absent.
    #[serde(default, skip_serializing_if = "Authentication::is_none")]
    pub authentication: Authentication,
    /// How long a request waits for that before it lapses; as configured when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = 3600, minimum = 60, maximum = 2_592_000)]
    pub pending_for_seconds: Option<i64>,
    /// What a request's reason and ticket must be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub justification: Option<Justification>,
}

/// A JIT policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct JitPolicy {
    /// Its id.
    #[schema(example = "pol_01990000000070008000000000000001")]
    pub id: String,
    /// A name for people, unique.
    pub name: String,
    /// The machines below this scope…
    pub scope: String,
    /// …that carry all of these tags.
    pub tags: BTreeMap<String, String>,
    /// What is guarded.
    pub guards: Vec<GuardedPorts>,
    /// How strictly.
    pub lockdown: Lockdown,
    /// What happens to shared groups (AWS).
    pub shared_groups: SharedGroups,
    /// Who must agree.
    pub approval: Approval,
    /// What people have to have proven of themselves to ask; nothing beyond their token when absent.
    #[serde(default, skip_serializing_if = "Authentication::is_none")]
    pub authentication: Authentication,
    /// How long a request waits for that before it lapses; as configured when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pending_for_seconds: Option<i64>,
    /// What a request's reason and ticket must be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub justification: Option<Justification>,
    /// Counts the changes; the `ETag`, in quotes, that a change must name in `If-Match`.
    pub version: i64,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// When it was last changed.
    pub updated_at: DateTime<Utc>,
}

/// What to list.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct JitPolicyQuery {
    /// Where the page begins: the `next_cursor` of the page before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
    /// The most items, 1 to 200; 50 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(minimum = 1, maximum = 200)]
    pub limit: Option<u32>,
}

/// How to change a JIT policy.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct JitPolicyChangeQuery {
    /// `true`: change nothing, and answer with what the change would do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dry_run: Option<bool>,
}

/// A machine that another JIT policy would cover than now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CoverageChange {
    /// Which.
    pub machine: String,
    /// The id of the policy that covers it now; none covers it where this is absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<String>,
    /// The id of the policy that would. Where this is absent the machine is released: what was displaced is put back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
}

/// Somebody who would gain or lose the way to a port, without a grant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ReachChange {
    /// To which machine.
    pub machine: String,
    /// At which of its private addresses.
    pub address: String,
    /// To which ports.
    pub ports: String,
    /// From where. `0.0.0.0/0` and `::/0` are the internet.
    pub sources: Vec<String>,
    /// The NSG or security group whose rule would let them in (of a gain), or does now (of a loss).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource: Option<String>,
    /// That rule; absent where nothing filters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// The firewall whose NAT rule leads them there, where one does. The other rule sees the firewall's subnet then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub firewall: Option<String>,
    /// That NAT rule, with its collection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nat_rule: Option<String>,
    /// Whether it is certain. Otherwise a rule, before or after, names something whose addresses are not known here, or a
    /// firewall may keep them away, and the sources are the most that it could be.
    pub certain: bool,
}

/// What a change to a JIT policy would do. Nothing of it happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct JitPolicyPlan {
    /// Always true.
    pub dry_run: bool,
    /// The policy as it would be; absent when it would be removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<JitPolicy>,
    /// How many machines another policy would cover than now.
    pub machines: usize,
    /// Those machines, by id; the first 200 of them.
    pub coverage: Vec<CoverageChange>,
    /// How many machines this plan leaves out, with their grants, because you may not read them.
    #[serde(default)]
    pub machines_not_shown: usize,
    /// How many enforcement points would be looked at.
    pub points: usize,
    /// The ids of the grants that would end.
    pub grants_ended: Vec<String>,
    /// Who would get in that does not now, by rules that would be given back. At the first 200 machines that are covered
    /// otherwise or that the policy would guard otherwise: where their points were read, as they would be written;
    /// elsewhere as last observed and as if every lockdown came to stand, or was gone. And at the machines that share a
    /// security group with them which was read.
    #[serde(default)]
    pub gains: Vec<ReachChange>,
    /// Who would not get in any more, likewise.
    pub losses: Vec<ReachChange>,
    /// How many machines that are covered or guarded otherwise `gains` and `losses` leave out: those beyond the first 200, those
    /// with which there would be more than 100 enforcement points, and those of which it could not be read what becomes of
    /// their private copies of groups.
    #[serde(default)]
    pub machines_not_foreseen: usize,
    /// What would be written next at the first 20 points where these machines are locked down, each read anew for this plan:
    /// the denies of an NSG, the rules of a security group, and an EC2 instance's private copies of the groups that it
    /// shares. What can only be done when that is seen, comes later. A point where nothing would be written, and nothing is
    /// in the way, is left out.
    #[serde(default)]
    pub writes: Vec<DryRunPoint>,
    /// How many more points these machines have.
    #[serde(default)]
    pub points_not_read: usize,
}

/// The policy after a change, or what a dry run says of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(untagged)]
pub enum JitPolicyChanged {
    /// What the change would do.
    Plan(Box<JitPolicyPlan>),
    /// The policy, changed.
    Policy(Box<JitPolicy>),
}
