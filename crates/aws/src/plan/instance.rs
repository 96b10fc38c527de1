//! The instance point: grants as rules in a holder, the temporary group of one instance.
//!
//! EC2 knows one rule per protocol, ports and peer, so grants that want the same share it. Its description is
//! the mark of the grant that ends last among those that want it: the sweeper, which reads nothing else, then
//! never closes it early. When that grant closes before the others, the description changes to the next one.

use std::collections::{BTreeMap, BTreeSet};

use postern_core::{
    enforcer::{Change, Desired, Evidence, Finding, Observed, Obstacle, Plan, Verb},
    id::GrantId,
    inventory::MARK_TAG,
    machine::MachineId,
    mark::{Installation, Mark, Purpose},
    point::PointRef,
    sg::{SecurityGroup, SgPeer, SgProtocol, SgRule},
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{
    change, for_grants, json as to_json,
    rule::{self, Content, Count},
};
use crate::{
    config::AwsLimits,
    operation::{GroupRef, Operation},
};

/// The name of the holder of `instance`, the same in every VPC that the instance has an interface in.
pub fn holder_name(installation: &Installation, instance: &str) -> String {
    format!("postern-{installation}-{instance}")
}

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
    /// The groups that have the holder's name and our mark, at most one in a VPC.
    pub holders: Vec<SecurityGroup>,
    /// Groups that have the holder's name without our mark: somebody else's.
    pub impostors: Vec<SecurityGroup>,
    /// Interfaces of others that a holder of this instance is attached to. Looked for only where something
    /// hints at them.
    pub strays: Vec<ObservedInterface>,
    /// Holders of other instances on interfaces of this one.
    pub misplaced: BTreeSet<String>,
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

fn grants(desired: &Desired) -> impl Iterator<Item = &postern_core::enforcer::WantedGrant> {
    desired
        .members
        .iter()
        .filter(|member| match (&member.machine, &desired.point) {
            (MachineId::Aws(machine), PointRef::AwsInstance(instance)) => machine == instance,
            _ => false,
        })
        .flat_map(|member| &member.grants)
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
            obstacles: Vec::new(),
            findings: Vec::new(),
        };
        draft.refuse_strangers();
        draft.detach_misplaced();
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
        Plan {
            changes: draft.closings.into_iter().chain(draft.openings).collect(),
            obstacles: draft.obstacles,
            findings: draft.findings,
            settled: Vec::new(),
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
            })
            .collect()
    }

    fn name(&self) -> String {
        holder_name(&self.desired.installation, &self.observed.instance)
    }

    /// Takes `group` off an interface. False where it is the interface's only group: EC2 wants at least one
    /// (API reference, `ModifyNetworkInterfaceAttribute`).
    fn detach(&mut self, verb: Verb, interface: &'a str, group: &str, grants: Vec<GrantId>) -> bool {
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

    fn detach_misplaced(&mut self) {
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

    /// Reports what others wrote into a holder. Nothing may let packets in there without a grant.
    fn report_foreign(&mut self, rules: &[&SgRule], holder: &SecurityGroup) {
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

    fn revoke(&mut self, verb: Verb, holder: &SecurityGroup, rules: &[&SgRule]) {
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

    fn empty_egress(&mut self, holder: &SecurityGroup) -> bool {
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
    fn remove_holder(&mut self, holder: &'a SecurityGroup) {
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
        if attached.is_empty() || stays {
            self.revoke(Verb::Close, holder, &ours);
            self.revoke(Verb::Repair, holder, &foreign);
            if stays {
                self.empty_egress(holder);
            }
        }
        let mut free = true;
        for interface in attached {
            free &= self.detach(Verb::Close, &interface.id, &holder.id, grants.clone());
        }
        if free {
            let change = change(
                Verb::Close,
                &holder.id,
                format!("delete group {} ({})", holder.name, holder.id),
                &Operation::DeleteHolder {
                    group: holder.id.clone(),
                },
                Some(to_json(holder)),
                None,
            );
            self.closings.push(for_grants(change, grants));
        }
    }

    /// Grants are wanted at the interfaces in `vpc`.
    fn keep_holder(&mut self, vpc: &'a str, holder: Option<&'a SecurityGroup>) {
        let observed = self.observed;
        if let Some(holder) = holder {
            self.close_unwanted(holder);
            for stray in observed
                .strays
                .iter()
                .filter(|stray| stray.groups.contains(&holder.id))
            {
                self.findings.push(Finding {
                    code: "own_rule_edited".to_owned(),
                    message: format!(
                        "{} was on {}, which is not {}'s",
                        holder.id, stray.id, observed.instance
                    ),
                    before: None,
                    after: Some(to_json(stray)),
                    grants: Vec::new(),
                });
                self.detach(Verb::Repair, &stray.id, &holder.id, Vec::new());
            }
        }
        let bare: Vec<&'a ObservedInterface> = observed
            .interfaces
            .iter()
            .filter(|i| i.vpc == vpc && holder.is_none_or(|holder| !i.groups.contains(&holder.id)))
            .collect();
        if !self.has_room(&bare) || !self.has_name(vpc, holder) {
            return;
        }
        let new = self.admitted(holder);
        let group = match holder {
            Some(holder) => GroupRef::Id(holder.id.clone()),
            None if new.is_empty() => return,
            None => self.create(vpc),
        };
        let target = holder.map_or_else(|| self.name(), |holder| holder.id.clone());
        if !new.is_empty() {
            let grants: Vec<GrantId> = new
                .iter()
                .flat_map(|wanted| wanted.grants.iter().copied())
                .collect();
            let rules: Vec<SgRule> = new.iter().map(|wanted| wanted.rule.clone()).collect();
            let change = change(
                Verb::Open,
                &target,
                format!("let {} in through {target}", rule::list(&rules)),
                &Operation::Authorize {
                    group: group.clone(),
                    rules: rules.clone(),
                },
                None,
                Some(to_json(&rules)),
            );
            self.openings.push(for_grants(change, grants));
        }
        let emptied = holder
            .is_none_or(|holder| !holder.egress.is_empty())
            .then(|| group.clone());
        let grants = self.all_grants();
        for interface in bare {
            let mut groups = self
                .groups
                .get(interface.id.as_str())
                .cloned()
                .unwrap_or_default();
            groups.push(group.clone());
            let summary = format!("attach {target} to {}", interface.id);
            self.set_groups(
                Verb::Open,
                &interface.id,
                &groups,
                emptied.clone(),
                summary,
                grants.clone(),
            );
        }
    }

    /// Takes out of a holder what no grant wants, and puts the marks of the rest right.
    fn close_unwanted(&mut self, holder: &'a SecurityGroup) {
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

    fn has_room(&mut self, bare: &[&'a ObservedInterface]) -> bool {
        let limit = self.observed.limits.groups_per_interface;
        let full: Vec<String> = bare
            .iter()
            .filter_map(|interface| {
                let count = self.groups.get(interface.id.as_str()).map_or(0, Vec::len);
                (count >= limit).then(|| format!("{} has {count} of {limit} groups", interface.id))
            })
            .collect();
        if full.is_empty() {
            return true;
        }
        self.obstacles.push(Obstacle {
            code: "groups_per_interface".to_owned(),
            message: format!("no room for one more security group: {}", full.join(", ")),
            grants: self.all_grants(),
            policies: Vec::new(),
        });
        false
    }

    fn has_name(&mut self, vpc: &str, holder: Option<&SecurityGroup>) -> bool {
        let impostor = self.observed.impostors.iter().find(|group| group.vpc == vpc);
        match (holder, impostor) {
            (None, Some(group)) => {
                self.obstacles.push(Obstacle {
                    code: "foreign_rule_in_the_way".to_owned(),
                    message: format!("{} in {vpc} is named {} without our mark", group.id, group.name),
                    grants: self.all_grants(),
                    policies: Vec::new(),
                });
                false
            }
            _ => true,
        }
    }

    /// The missing rules that fit the group, grant by grant: a grant is had whole or not at all.
    fn admitted(&mut self, holder: Option<&SecurityGroup>) -> Vec<&'a Wanted> {
        let standing: BTreeMap<Content, &SgRule> = holder
            .iter()
            .flat_map(|holder| &holder.ingress)
            .map(|rule| (Content::of(rule), rule))
            .filter(|(content, _)| self.wanted.contains_key(content))
            .collect();
        let limit = self.observed.limits.rules_per_group;
        let mut count = Count::of(standing.values().copied());
        let mut new: BTreeMap<&'a Content, &'a Wanted> = BTreeMap::new();
        for grant in self.all_grants() {
            let more: BTreeMap<&'a Content, &'a Wanted> = self
                .wanted
                .iter()
                .filter(|(content, wanted)| {
                    wanted.grants.contains(&grant)
                        && !standing.contains_key(content)
                        && !new.contains_key(content)
                })
                .collect();
            let with = count.plus(Count::of(more.values().map(|wanted| &wanted.rule)));
            if with.fits(limit) {
                count = with;
                new.extend(more);
            } else {
                self.obstacles.push(Obstacle {
                    code: "rules_per_group".to_owned(),
                    message: format!(
                        "{} would have {} IPv4 and {} IPv6 rules, of {limit} each",
                        self.name(),
                        with.v4,
                        with.v6
                    ),
                    grants: vec![grant],
                    policies: Vec::new(),
                });
            }
        }
        new.into_values().collect()
    }

    fn create(&mut self, vpc: &str) -> GroupRef {
        let group = GroupRef::Made { vpc: vpc.to_owned() };
        let name = self.name();
        let tags = holder_tags(&self.desired.installation, &self.observed.instance);
        let grants = self.all_grants();
        let create = change(
            Verb::Open,
            &name,
            format!("create group {name} in {vpc}"),
            &Operation::CreateHolder {
                vpc: vpc.to_owned(),
                name: name.clone(),
                description: format!("Temporary access to {}, kept by Postern", self.observed.instance),
                tags: tags.clone(),
            },
            None,
            Some(json!({ "name": name, "vpc": vpc, "tags": tags })),
        );
        // An interface with an IPv6 address stands in a VPC with an IPv6 block, whatever was read of the VPC.
        // Where neither is known and the VPC got a block just now, what is left reaches no interface that has
        // no IPv6 address, and the read-back takes it away.
        let ipv6 = self.observed.ipv6_vpcs.contains(vpc)
            || self.observed.interfaces.iter().any(|i| i.vpc == vpc && i.ipv6);
        let egress = default_egress(ipv6);
        let empty = change(
            Verb::Open,
            &name,
            format!("remove the egress rules that EC2 puts into {name}"),
            &Operation::RevokeEgress {
                group: group.clone(),
                rules: egress.clone(),
            },
            Some(to_json(&egress)),
            None,
        );
        self.openings.push(for_grants(create, grants.clone()));
        self.openings.push(for_grants(empty, grants));
        group
    }
}

#[cfg(test)]
#[path = "instance_tests.rs"]
mod tests;
