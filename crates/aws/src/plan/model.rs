//! A tiny EC2 in memory, for the planners' tests: carries out operations, and tells what passes.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use postern_core::{
    enforcer::{Bindings, Change},
    net::{Ports, Protocol},
    sg::{SecurityGroup, SgPeer, SgRule},
};

use super::{
    instance::{ObservedInterface, default_egress},
    rule::{Content, overlaps},
};
use crate::operation::{GroupRef, Operation};

/// A packet: the interface it goes to, protocol and port, and where it comes from (an address, a group or a list).
pub(super) type Packet = (String, Protocol, u16, String);

/// The state of a region.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Model {
    pub(super) groups: BTreeMap<String, SecurityGroup>,
    pub(super) interfaces: BTreeMap<String, ObservedInterface>,
    pub(super) ipv6: bool,
    /// Whether what passes before and after a plan must pass during it as well.
    pub(super) uninterrupted: bool,
    /// The ids of rules that an authorize found standing.
    pub(super) confirmed: BTreeSet<String>,
    made: u32,
}

const PORTS: [u16; 11] = [1, 21, 22, 23, 24, 50, 443, 3388, 3389, 3390, 65535];

impl Model {
    pub(super) fn add_group(&mut self, id: &str, ingress: Vec<SgRule>) {
        let mut group = SecurityGroup {
            id: id.to_owned(),
            name: id.to_owned(),
            vpc: "vpc-1".to_owned(),
            ingress: Vec::new(),
            egress: default_egress(self.ipv6),
            tags: BTreeMap::new(),
        };
        for rule in ingress {
            self.put(&mut group, rule);
        }
        self.groups.insert(id.to_owned(), group);
    }

    /// Puts a rule into a group under a new id, unless its content is there. True if it was put.
    pub(super) fn put(&mut self, group: &mut SecurityGroup, mut rule: SgRule) -> bool {
        if group.ingress.iter().any(|standing| standing.same_content(&rule)) {
            return false;
        }
        self.made += 1;
        rule.id = Some(format!("sgr-{}", self.made));
        group.ingress.push(rule);
        true
    }

    pub(super) fn add_interface(&mut self, id: &str, groups: &[&str]) {
        let interface = ObservedInterface {
            id: id.to_owned(),
            vpc: "vpc-1".to_owned(),
            ipv6: false,
            groups: groups.iter().map(ToString::to_string).collect(),
        };
        self.interfaces.insert(id.to_owned(), interface);
    }

    /// What stands there, without what EC2 makes up: rule ids and order.
    pub(super) fn essence(
        &self,
    ) -> (
        BTreeMap<String, SecurityGroup>,
        BTreeMap<String, ObservedInterface>,
    ) {
        let mut groups = self.groups.clone();
        for group in groups.values_mut() {
            for rule in &mut group.ingress {
                rule.id = None;
            }
            group.ingress.sort_by_key(Content::of);
        }
        (groups, self.interfaces.clone())
    }

    /// Every probed packet that passes.
    pub(super) fn passing(&self) -> BTreeSet<Packet> {
        let mut passing = BTreeSet::new();
        for interface in self.interfaces.values() {
            for rule in interface
                .groups
                .iter()
                .flat_map(|group| &self.groups[group].ingress)
            {
                for (protocol, port) in [Protocol::Tcp, Protocol::Udp]
                    .into_iter()
                    .flat_map(|protocol| PORTS.map(|port| (protocol, port)))
                {
                    if overlaps(rule, &[Ports::one(protocol, port).unwrap()]) {
                        for source in sources(&rule.peer) {
                            passing.insert((interface.id.clone(), protocol, port, source));
                        }
                    }
                }
            }
        }
        passing
    }

    /// Everything that an interface may send to.
    pub(super) fn egress(&self) -> BTreeSet<(String, Content)> {
        let of = |interface: &ObservedInterface| {
            let rules = interface
                .groups
                .iter()
                .flat_map(|group| self.groups[group].egress.iter().map(Content::of));
            let id = interface.id.clone();
            rules.map(|content| (id.clone(), content)).collect::<Vec<_>>()
        };
        self.interfaces.values().flat_map(of).collect()
    }

    /// Carries out a change, as `apply` does on EC2; an error where EC2 would answer one.
    pub(super) fn apply(&mut self, change: &Change, bindings: &mut Bindings) -> Result<(), String> {
        let operation: Operation = serde_json::from_value(change.operation.clone()).unwrap();
        match operation {
            Operation::CreateHolder { vpc, name, tags, .. } => {
                let id = if let Some(group) = self.groups.values().find(|group| group.name == name) {
                    if !group.ingress.is_empty() || group.tags != tags {
                        return Err("InvalidGroup.Duplicate".to_owned());
                    }
                    group.id.clone()
                } else {
                    self.made += 1;
                    let id = format!("sg-made{}", self.made);
                    let egress = default_egress(self.ipv6);
                    let group = SecurityGroup {
                        id: id.clone(),
                        name,
                        vpc: vpc.clone(),
                        ingress: Vec::new(),
                        egress,
                        tags,
                    };
                    self.groups.insert(id.clone(), group);
                    id
                };
                bindings.insert(GroupRef::binding(&vpc), id);
            }
            Operation::CreateCopy {
                of, vpc, name, tags, ..
            } => {
                let id = if let Some(group) = self.groups.values().find(|group| group.name == name) {
                    if !group.ingress.is_empty() || group.tags != tags {
                        return Err("InvalidGroup.Duplicate".to_owned());
                    }
                    group.id.clone()
                } else {
                    self.made += 1;
                    let id = format!("sg-{:017x}", self.made);
                    let group = SecurityGroup {
                        id: id.clone(),
                        name,
                        vpc,
                        ingress: Vec::new(),
                        egress: default_egress(self.ipv6),
                        tags,
                    };
                    self.groups.insert(id.clone(), group);
                    id
                };
                bindings.insert(GroupRef::copy_binding(&of), id);
            }
            Operation::TrimEgress { group, rules } => {
                let group = resolve(&group, bindings)?;
                self.group(&group)?
                    .egress
                    .retain(|standing| !rules.iter().any(|rule| rule.same_content(standing)));
            }
            Operation::AuthorizeEgress { group, rules } => {
                let group = resolve(&group, bindings)?;
                let egress = &mut self.group(&group)?.egress;
                for rule in rules {
                    if !egress.iter().any(|standing| standing.same_content(&rule)) {
                        egress.push(rule);
                    }
                }
            }
            Operation::RevokeEgress { group, rules } => {
                let group = resolve(&group, bindings)?;
                self.group(&group)?
                    .egress
                    .retain(|standing| !rules.iter().any(|rule| rule.same_content(standing)));
                bindings.insert(GroupRef::emptied(&group), String::new());
            }
            Operation::Authorize { group, rules } => {
                let id = resolve(&group, bindings)?;
                let mut group = self.group(&id)?.clone();
                assert!(
                    rules.iter().all(|rule| rule.tags == rules[0].tags),
                    "one call, one set of tags"
                );
                for rule in rules {
                    let standing = group.ingress.iter().find(|standing| standing.same_content(&rule));
                    match standing {
                        Some(standing) if standing.description != rule.description => {
                            return Err("InvalidPermission.Duplicate".to_owned());
                        }
                        Some(standing) => self.confirmed.extend(standing.id.clone()),
                        None => {
                            self.put(&mut group, rule);
                        }
                    }
                }
                self.groups.insert(id, group);
            }
            Operation::Revoke { group, rules } => {
                let group = resolve(&group, bindings)?;
                self.group(&group)?
                    .ingress
                    .retain(|standing| !rules.iter().any(|rule| rule.same_content(standing)));
            }
            Operation::Describe { group, rules } => {
                let group = resolve(&group, bindings)?;
                for rule in rules {
                    let standing = self
                        .group(&group)?
                        .ingress
                        .iter_mut()
                        .find(|s| s.same_content(&rule));
                    standing.ok_or("InvalidPermission.NotFound")?.description = rule.description;
                }
            }
            Operation::TagRule { rule, tags } => {
                let rules = self.groups.values_mut().flat_map(|group| &mut group.ingress);
                for standing in rules.filter(|standing| standing.id.as_ref() == Some(&rule)) {
                    standing.tags.extend(tags.clone());
                }
            }
            Operation::SetGroups {
                interface,
                groups,
                emptied,
            } => {
                let groups = groups
                    .iter()
                    .map(|group| resolve(group, bindings))
                    .collect::<Result<Vec<_>, _>>()?;
                if let Some(emptied) = emptied {
                    let emptied = resolve(&emptied, bindings)?;
                    if !bindings.contains_key(&GroupRef::emptied(&emptied)) {
                        return Err("not emptied".to_owned());
                    }
                }
                if groups.is_empty() || groups.iter().any(|group| !self.groups.contains_key(group)) {
                    return Err("InvalidGroup.NotFound".to_owned());
                }
                self.interfaces
                    .get_mut(&interface)
                    .ok_or("InvalidNetworkInterfaceID.NotFound")?
                    .groups = groups;
            }
            Operation::DeleteHolder { group } => {
                if self.interfaces.values().any(|i| i.groups.contains(&group)) {
                    return Err("DependencyViolation".to_owned());
                }
                self.groups.remove(&group);
            }
        }
        Ok(())
    }

    pub(super) fn group(&mut self, id: &str) -> Result<&mut SecurityGroup, String> {
        self.groups
            .get_mut(id)
            .ok_or_else(|| "InvalidGroup.NotFound".to_owned())
    }

    /// Applies the first `count` changes. Between any two, nothing passes that passed neither before nor after
    /// all, nothing is interrupted
    /// that passed both before and after (where that is asked for), and no interface may send to more than before.
    pub(super) fn run(&mut self, changes: &[Change], count: usize) -> Result<(), String> {
        let before = self.passing();
        let egress = self.egress();
        let mut after = self.clone();
        let mut bindings = Bindings::new();
        for change in changes {
            after.apply(change, &mut bindings)?;
        }
        let after = after.passing();
        let mut bindings = Bindings::new();
        for change in &changes[..count.min(changes.len())] {
            // Repeated, as after a lost answer.
            self.apply(change, &mut bindings)?;
            self.apply(change, &mut bindings)?;
            let now = self.passing();
            for packet in &now {
                assert!(
                    before.contains(packet) || after.contains(packet),
                    "{packet:?} passes after {}",
                    change.summary
                );
            }
            for packet in before.intersection(&after).filter(|_| self.uninterrupted) {
                assert!(
                    now.contains(packet),
                    "{packet:?} is interrupted by {}",
                    change.summary
                );
            }
            assert!(
                self.egress().is_subset(&egress),
                "egress widened by {}",
                change.summary
            );
        }
        Ok(())
    }
}

fn resolve(group: &GroupRef, bindings: &Bindings) -> Result<String, String> {
    match group {
        GroupRef::Id(id) => Ok(id.clone()),
        GroupRef::Made { vpc } => bindings
            .get(&GroupRef::binding(vpc))
            .cloned()
            .ok_or_else(|| "not made".to_owned()),
        GroupRef::Copied { of } => bindings
            .get(&GroupRef::copy_binding(of))
            .cloned()
            .ok_or_else(|| "not made".to_owned()),
    }
}

fn sources(peer: &SgPeer) -> Vec<String> {
    const ADDRESSES: [&str; 5] = [
        "203.0.113.7",
        "203.0.113.200",
        "198.51.100.9",
        "10.1.2.3",
        "2001:db8::1",
    ];
    match peer {
        SgPeer::Net(net) => ADDRESSES
            .iter()
            .filter(|address| {
                let address: IpNet = IpNet::from(address.parse::<std::net::IpAddr>().unwrap());
                net.contains(&address)
            })
            .map(ToString::to_string)
            .collect(),
        SgPeer::PrefixList(id) => vec![id.clone()],
        SgPeer::Group { group, .. } => vec![group.clone()],
    }
}
