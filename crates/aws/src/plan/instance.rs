//! The instance point: grants as rules in a holder, the temporary group of one instance.
//!
//! EC2 knows one rule per protocol, ports and peer, so grants that want the same share it. Its description is
//! the mark of the grant that ends last among those that want it: the sweeper, which reads nothing else, then
//! never closes it early. When that grant closes before the others, the description changes to the next one.
//!
//! It is also where a lockdown isolates: the lists of groups of its interfaces are written by this point alone.

mod closing;
mod isolation;
mod opening;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use postern_core::{
    enforcer::{
        Change, Desired, Displaced, Evidence, Finding, Guard, Member, Observed, Obstacle, Plan, Print, Verb,
    },
    id::GrantId,
    inventory::MARK_TAG,
    machine::MachineId,
    mark::{Installation, Mark, Purpose},
    point::PointRef,
    policy::{Lockdown, SharedGroups},
    preview::Filters,
    sg::{SecurityGroup, SgPeer, SgProtocol, SgRule},
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{
    change, for_grants, for_policies, json as to_json,
    rule::{self, Content},
};
use crate::{
    config::AwsLimits,
    operation::{GroupRef, Operation},
};

pub use postern_core::inventory::holder_name;

/// The tags of the holder of `instance`.
pub fn holder_tags(installation: &Installation, instance: &str) -> BTreeMap<String, String> {
    BTreeMap::from([
        ("Name".to_owned(), holder_name(installation, instance)),
        (MARK_TAG.to_owned(), holder_mark(installation).to_string()),
    ])
}

/// The mark of a holder of `installation`.
pub fn holder_mark(installation: &Installation) -> Mark {
    Mark {
        installation: installation.clone(),
        purpose: Purpose::Holder,
    }
}

/// The egress rules that EC2 puts into a new group.
///
/// Source: Amazon VPC User Guide, "Default security groups" and "Security group rules": all IPv4 traffic, and all
/// IPv6 traffic where the VPC has an IPv6 block.
pub fn default_egress(ipv6: bool) -> Vec<SgRule> {
    let to = |net: &str| {
        net.parse().ok().map(|net| SgRule {
            id: None,
            protocol: SgProtocol::All,
            ports: None,
            peer: SgPeer::Net(net),
            description: None,
            tags: BTreeMap::new(),
        })
    };
    to("0.0.0.0/0")
        .into_iter()
        .chain(ipv6.then(|| to("::/0")).flatten())
        .collect()
}

/// The name of the private copy of group `of` for `instance`; for both empty, what all such names begin with.
pub fn copy_name(installation: &Installation, instance: &str, of: &str) -> String {
    format!("{}-{of}", holder_name(installation, instance))
}

/// The tags of the private copy of group `of` for `instance`.
pub fn copy_tags(installation: &Installation, instance: &str, of: &str) -> BTreeMap<String, String> {
    BTreeMap::from([
        ("Name".to_owned(), copy_name(installation, instance, of)),
        (MARK_TAG.to_owned(), copy_mark(installation, of).to_string()),
    ])
}

/// The mark of a private copy of group `of`.
pub fn copy_mark(installation: &Installation, of: &str) -> Mark {
    Mark {
        installation: installation.clone(),
        purpose: Purpose::Copy { of: of.to_owned() },
    }
}

/// That an interface had a group before a private copy came in its place: what is saved when that is done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachment {
    /// `eni-…`.
    pub interface: String,
    /// The group.
    pub group: String,
}

impl Attachment {
    /// As it was saved.
    fn read(displaced: &Displaced) -> serde_json::Result<Self> {
        serde_json::from_value(displaced.rule.clone())
    }
}

/// Whether it is known that a lockdown took the group from an interface of the instance.
pub fn took_the_place_of(group: &str, desired: &Desired) -> bool {
    let mut saved = desired
        .displaced
        .iter()
        .filter_map(|one| Attachment::read(one).ok());
    saved.any(|saved| saved.group == group)
}

/// A private copy of the instance, as read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Copied {
    /// The group that it stands for.
    pub of: String,
    /// The copy.
    pub group: SecurityGroup,
    /// Interfaces of others that it is attached to. Looked for only where it may have to go.
    pub elsewhere: Vec<Elsewhere>,
}

impl Copied {
    /// A copy of `of` that is on no interface of others.
    pub const fn new(of: String, group: SecurityGroup) -> Self {
        Self {
            of,
            group,
            elsewhere: Vec::new(),
        }
    }
}

/// An interface that is not the instance's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Elsewhere {
    /// Which.
    pub interface: ObservedInterface,
    /// The instance that has it; none where none has.
    pub instance: Option<String>,
}

/// A group of others that the instance has, or that a private copy on it stands for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Original {
    /// `sg-…`.
    pub id: String,
    /// The group; none when EC2 said that it does not exist.
    pub group: Option<SecurityGroup>,
    /// Who else has it, or a copy of ours of it, by name. Looked for only where it matters.
    pub others: Vec<String>,
    /// Whose rules name it, its own included.
    pub named_by: BTreeSet<String>,
}

/// A network interface, as far as the holder is concerned.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObservedInterface {
    /// `eni-…`.
    pub id: String,
    /// Its VPC.
    pub vpc: String,
    /// Whether it has an IPv6 address.
    pub ipv6: bool,
    /// Its groups' ids, in the order that EC2 gives.
    pub groups: Vec<String>,
}

/// An instance with its interfaces and holders, as read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObservedInstance {
    /// `i-…`.
    pub instance: String,
    /// Its interfaces; none once it is terminated or gone.
    pub interfaces: Vec<ObservedInterface>,
    /// The VPCs that are known to have an IPv6 block.
    pub ipv6_vpcs: BTreeSet<String>,
    /// The groups that have the holder's name and our mark, or a grant's rule of ours, at most one in a VPC.
    pub holders: Vec<SecurityGroup>,
    /// Groups that have the holder's name without our mark: somebody else's.
    pub impostors: Vec<SecurityGroup>,
    /// Interfaces of others that a holder of this instance is attached to. Looked for only where something
    /// hints at them.
    pub strays: Vec<ObservedInterface>,
    /// Holders of other instances on interfaces of this one.
    pub misplaced: BTreeSet<String>,
    /// Its private copies of groups.
    #[serde(default)]
    pub copies: Vec<Copied>,
    /// Private copies of other instances on interfaces of this one, each with the group that it stands for.
    #[serde(default)]
    pub strange_copies: BTreeMap<String, String>,
    /// The groups of others that its private copies stand for and, where it is to be isolated, those that it has.
    #[serde(default)]
    pub originals: Vec<Original>,
    /// Groups that have the name of a private copy of it without our mark: somebody else's.
    #[serde(default)]
    pub false_copies: Vec<SecurityGroup>,
    /// The groups whose rules name a holder or a private copy of it, by what they name. Looked for only where that may
    /// have to go: EC2 does not delete a group that a rule in its VPC names (API reference, `DeleteSecurityGroup`).
    #[serde(default)]
    pub named_by: BTreeMap<String, BTreeSet<String>>,
    /// The quotas.
    pub limits: AwsLimits,
}

/// A rule that grants want.
#[derive(Debug)]
struct Wanted {
    /// The rule with its mark.
    rule: SgRule,
    /// Those who want it.
    grants: BTreeSet<GrantId>,
}

/// The rules that the grants on `instance` want, each with the mark of the grant that ends last.
fn wanted(desired: &Desired) -> BTreeMap<Content, Wanted> {
    let mut rules: BTreeMap<Content, (SgRule, Vec<(postern_core::time::Instant, GrantId)>)> = BTreeMap::new();
    for grant in grants(desired) {
        for ports in &grant.ports {
            for source in &grant.sources {
                let allow = rule::allow(*ports, source.net());
                rules
                    .entry(Content::of(&allow))
                    .or_insert_with(|| (allow, Vec::new()))
                    .1
                    .push((grant.not_after, grant.grant));
            }
        }
    }
    rules
        .into_iter()
        .filter_map(|(content, (mut rule, wanting))| {
            let (end, grant) = wanting.iter().max()?;
            let mark = Mark {
                installation: desired.installation.clone(),
                purpose: Purpose::Grant {
                    grant: *grant,
                    end: *end,
                },
            };
            rule.description = Some(mark.to_string());
            let grants = wanting.iter().map(|(_, grant)| *grant).collect();
            Some((content, Wanted { rule, grants }))
        })
        .collect()
}

fn own(desired: &Desired) -> impl Iterator<Item = &Member> {
    desired
        .members
        .iter()
        .filter(|member| match (&member.machine, &desired.point) {
            (MachineId::Aws(machine), PointRef::AwsInstance(instance)) => machine == instance,
            _ => false,
        })
}

fn grants(desired: &Desired) -> impl Iterator<Item = &postern_core::enforcer::WantedGrant> {
    own(desired).flat_map(|member| &member.grants)
}

/// The lockdown of the instance, where it overrules others' rules.
pub fn strict(desired: &Desired) -> Option<&Guard> {
    own(desired)
        .find_map(|member| member.guard.as_ref())
        .filter(|guard| guard.lockdown == Lockdown::Strict)
}

/// The lockdown for which the instance gets private copies of groups that others use too.
pub fn isolating(desired: &Desired) -> Option<&Guard> {
    strict(desired).filter(|guard| guard.shared_groups == SharedGroups::Isolate)
}

/// The grant that a rule's mark names.
fn named(rule: &SgRule, installation: &Installation) -> Option<GrantId> {
    match rule::mark_of(rule, installation)?.purpose {
        Purpose::Grant { grant, .. } => Some(grant),
        _ => None,
    }
}

/// A plan in the making.
struct Draft<'a> {
    observed: &'a ObservedInstance,
    desired: &'a Desired,
    wanted: &'a BTreeMap<Content, Wanted>,
    /// The interfaces' groups as they will be after the changes so far.
    groups: BTreeMap<&'a str, Vec<GroupRef>>,
    closings: Vec<Change>,
    openings: Vec<Change>,
    /// What makes private copies and keeps them like what they stand for.
    isolation: Vec<Change>,
    /// What puts groups back in the place of their copies.
    restores: Vec<Change>,
    /// What deletes groups of ours. EC2 may refuse that for as long as others like: in the end, it holds nothing up.
    clearing: Vec<Change>,
    obstacles: Vec<Obstacle>,
    findings: Vec<Finding>,
}

impl Observed for ObservedInstance {
    fn plan(&self, desired: &Desired) -> Plan {
        let wanted = wanted(desired);
        let mut draft = Draft {
            observed: self,
            desired,
            wanted: &wanted,
            groups: self
                .interfaces
                .iter()
                .chain(&self.strays)
                .map(|interface| {
                    let groups = interface.groups.iter().cloned().map(GroupRef::Id).collect();
                    (interface.id.as_str(), groups)
                })
                .collect(),
            closings: Vec::new(),
            openings: Vec::new(),
            isolation: Vec::new(),
            restores: Vec::new(),
            clearing: Vec::new(),
            obstacles: Vec::new(),
            findings: Vec::new(),
        };
        draft.refuse_strangers();
        draft.report_marks();
        draft.detach_misplaced();
        draft.keep_copies();
        let vpcs: BTreeSet<&str> = self
            .interfaces
            .iter()
            .map(|interface| interface.vpc.as_str())
            .chain(self.holders.iter().map(|holder| holder.vpc.as_str()))
            .collect();
        for vpc in vpcs {
            let holder = self.holders.iter().find(|holder| holder.vpc == vpc);
            let has_interfaces = self.interfaces.iter().any(|interface| interface.vpc == vpc);
            match holder {
                Some(holder) if wanted.is_empty() || !has_interfaces => draft.remove_holder(holder),
                None if wanted.is_empty() => {}
                holder => draft.keep_holder(vpc, holder),
            }
        }
        draft.make_copies();
        draft.give_back();
        let settled = draft.settle_attachments();
        let changes = draft.closings.into_iter().chain(draft.openings);
        let changes = changes.chain(draft.isolation).chain(draft.restores);
        Plan {
            changes: changes.chain(draft.clearing).collect(),
            obstacles: draft.obstacles,
            findings: draft.findings,
            settled,
        }
    }

    fn evidence(&self, desired: &Desired) -> BTreeMap<GrantId, Evidence> {
        let wanted = wanted(desired);
        let mut rules: BTreeMap<GrantId, Vec<Value>> = BTreeMap::new();
        for holder in &self.holders {
            let attached: Vec<&str> = self
                .interfaces
                .iter()
                .chain(&self.strays)
                .filter(|interface| interface.groups.contains(&holder.id))
                .map(|interface| interface.id.as_str())
                .collect();
            for rule in &holder.ingress {
                let standing = wanted.get(&Content::of(rule)).map(|w| w.grants.clone());
                for grant in standing
                    .unwrap_or_default()
                    .into_iter()
                    .chain(named(rule, &desired.installation))
                    .collect::<BTreeSet<_>>()
                {
                    rules.entry(grant).or_default().push(json!({
                        "group": holder.id,
                        "rule": rule,
                        "interfaces": attached,
                    }));
                }
            }
        }
        rules
            .into_iter()
            .map(|(grant, rules)| {
                let evidence = Evidence {
                    complete: self.lets_through(grant, &wanted),
                    rules: Value::Array(rules),
                    blocked_by: None,
                };
                (grant, evidence)
            })
            .collect()
    }

    fn shows(&self, before: Option<&Value>, operation: &Value) -> Option<bool> {
        let operation: Operation = serde_json::from_value(operation.clone()).ok()?;
        self.shows_write(before, &operation)
    }

    fn filters(&self, changes: &[Change]) -> Option<Filters> {
        self.foreseen(changes)
    }

    fn print(&self) -> Option<Print> {
        Print::of(self)
    }

    fn snapshot(&self) -> Value {
        to_json(self)
    }
}

impl ObservedInstance {
    /// Whether every rule that the grant wants stands at every interface.
    fn lets_through(&self, grant: GrantId, wanted: &BTreeMap<Content, Wanted>) -> bool {
        let mut contents = wanted
            .iter()
            .filter(|(_, wanted)| wanted.grants.contains(&grant))
            .map(|(content, _)| content)
            .peekable();
        if contents.peek().is_none() || self.interfaces.is_empty() {
            return false;
        }
        let contents: Vec<&Content> = contents.collect();
        self.interfaces.iter().all(|interface| {
            self.holders.iter().any(|holder| {
                interface.groups.contains(&holder.id)
                    && contents
                        .iter()
                        .all(|content| holder.ingress.iter().any(|rule| Content::of(rule) == **content))
            })
        })
    }
}

impl<'a> Draft<'a> {
    fn all_grants(&self) -> Vec<GrantId> {
        grants(self.desired).map(|grant| grant.grant).collect()
    }

    fn refuse_strangers(&mut self) {
        let known = self.all_grants();
        let strangers: Vec<GrantId> = self
            .desired
            .members
            .iter()
            .flat_map(|member| &member.grants)
            .map(|grant| grant.grant)
            .filter(|grant| !known.contains(grant))
            .collect();
        if !strangers.is_empty() {
            self.obstacles.push(Obstacle {
                code: "machine_not_behind_point".to_owned(),
                message: format!("{} stands for one instance only", self.desired.point),
                grants: strangers,
                policies: Vec::new(),
            });
        }
        if self.observed.interfaces.is_empty() && !known.is_empty() {
            self.obstacles.push(Obstacle {
                code: "machine_not_behind_point".to_owned(),
                message: format!(
                    "{} has no network interface: it is terminated or being so",
                    self.observed.instance
                ),
                grants: known,
                policies: Vec::new(),
            });
        }
    }

    /// Sets an interface's groups, if that changes them.
    fn set_groups(
        &mut self,
        verb: Verb,
        interface: &'a str,
        groups: &[GroupRef],
        emptied: Option<GroupRef>,
        summary: String,
        grants: Vec<GrantId>,
    ) {
        let before = self.groups.insert(interface, groups.to_vec()).unwrap_or_default();
        let change = change(
            verb,
            interface,
            summary,
            &Operation::SetGroups {
                interface: interface.to_owned(),
                groups: groups.to_vec(),
                emptied,
            },
            Some(json!({ "groups": self.names(&before) })),
            Some(json!({ "groups": self.names(groups) })),
        );
        let change = for_grants(change, grants);
        if verb == Verb::Open {
            self.openings.push(change);
        } else {
            self.closings.push(change);
        }
    }

    fn names(&self, groups: &[GroupRef]) -> Vec<String> {
        groups
            .iter()
            .map(|group| match group {
                GroupRef::Id(id) => id.clone(),
                GroupRef::Made { .. } => self.name(),
                GroupRef::Copied { of } => copy_name(&self.desired.installation, &self.observed.instance, of),
            })
            .collect()
    }

    fn name(&self) -> String {
        holder_name(&self.desired.installation, &self.observed.instance)
    }
}
