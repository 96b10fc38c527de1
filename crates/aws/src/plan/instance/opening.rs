//! Opens: makes the holder, fills it and attaches it, as far as the quotas allow.

use std::collections::BTreeMap;

use postern_core::{
    enforcer::{Finding, Obstacle, Verb},
    id::GrantId,
    sg::{SecurityGroup, SgRule},
};
use serde_json::json;

use super::{
    Draft, ObservedInterface, Wanted, change, default_egress, for_grants, holder_tags,
    rule::{self, Content, Count},
    to_json,
};
use crate::operation::{GroupRef, Operation};

impl<'a> Draft<'a> {
    /// Grants are wanted at the interfaces in `vpc`.
    pub(super) fn keep_holder(&mut self, vpc: &'a str, holder: Option<&'a SecurityGroup>) {
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

    pub(super) fn has_room(&mut self, bare: &[&'a ObservedInterface]) -> bool {
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

    pub(super) fn has_name(&mut self, vpc: &str, holder: Option<&SecurityGroup>) -> bool {
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
    pub(super) fn admitted(&mut self, holder: Option<&SecurityGroup>) -> Vec<&'a Wanted> {
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

    pub(super) fn create(&mut self, vpc: &str) -> GroupRef {
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
