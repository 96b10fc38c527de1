//! What is wanted of a firewall, from what is wanted of its point; and the firewall as the reconcile loop sees it.

use std::{collections::BTreeMap, net::IpAddr};

use postern_core::{
    approach::Way,
    enforcer::{Desired, Evidence, Member, Observed, Plan},
    id::GrantId,
    net::Source,
};
use serde_json::Value;

use super::{
    fresh::Fresh,
    plan::{ObservedFirewall, Passage, Wanted},
};

/// The passages of every grant: for each of its ports, and each way that its clients come.
pub fn wanted(desired: &Desired) -> Wanted {
    Wanted {
        installation: desired.installation.clone(),
        passages: desired.members.iter().flat_map(passages).collect(),
        unsettled: desired.unsettled,
    }
}

fn passages(member: &Member) -> Vec<Passage> {
    let Some(approach) = &member.approach else {
        return Vec::new();
    };
    let own = IpAddr::V4(approach.address);
    let beside: Vec<IpAddr> = member
        .addresses
        .iter()
        .copied()
        .filter(|address| member.interfaces.len() > 1 && address.is_ipv4() && *address != own)
        .collect();
    let mut passages = Vec::new();
    for grant in &member.grants {
        let mut ways: BTreeMap<Way, Vec<Source>> = BTreeMap::new();
        for source in &grant.sources {
            if let Some(way) = approach.way(*source) {
                ways.entry(way).or_default().push(*source);
            }
        }
        for ports in &grant.ports {
            passages.extend(ways.iter().map(|(way, sources)| Passage {
                grant: grant.grant,
                not_after: grant.not_after,
                sources: sources.clone(),
                machine: approach.address.into(),
                ports: *ports,
                way: *way,
                beside: beside.clone(),
                fronts: approach.fronts.clone(),
                unread: approach.unread.clone(),
                opening: grant.opening,
            }));
        }
    }
    passages
}

/// A firewall, or a policy, as a point.
#[derive(Debug)]
pub(crate) struct FirewallPoint {
    pub(super) observed: ObservedFirewall,
    /// Of the machines whose grants are to open: what load balancers lead on to them.
    pub(super) fresh: Fresh,
}

impl FirewallPoint {
    /// What is wanted, with what was read after the last discovery.
    fn wanted(&self, desired: &Desired) -> Wanted {
        if self.fresh.is_empty() {
            return wanted(desired);
        }
        let mut desired = desired.clone();
        for member in &mut desired.members {
            let read = self.fresh.get(&member.machine);
            if let (Some(approach), Some(read)) = (&mut member.approach, read) {
                approach.fronts.clone_from(&read.fronts);
                approach.unread.clone_from(&read.unread);
            }
        }
        wanted(&desired)
    }
}

impl Observed for FirewallPoint {
    fn plan(&self, desired: &Desired) -> Plan {
        self.observed.plan(&self.wanted(desired))
    }

    fn evidence(&self, desired: &Desired) -> BTreeMap<GrantId, Evidence> {
        let wanted = self.wanted(desired);
        let mut evidence = self.observed.evidence(&wanted);
        // None of their clients comes this way: nothing has to be opened for them.
        let unconcerned = desired
            .members
            .iter()
            .filter(|member| member.approach.is_some())
            .flat_map(|member| &member.grants)
            .map(|grant| grant.grant)
            .filter(|grant| wanted.passages.iter().all(|passage| passage.grant != *grant));
        for grant in unconcerned {
            evidence.entry(grant).or_insert_with(|| Evidence {
                complete: self.observed.settled(),
                rules: Value::Array(Vec::new()),
                blocked_by: None,
            });
        }
        evidence
    }

    fn snapshot(&self) -> Value {
        self.observed.shown()
    }

    fn settled(&self) -> bool {
        self.observed.settled()
    }
}
