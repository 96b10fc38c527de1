//! The grants as packets are judged by them: which packets each covers, and when.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};
use ipnet::IpNet;
use postern_api::{access_request::AccessRequest, grant::Grant};
use postern_core::net::Ports;
use postern_sim::truth::Probe;

use crate::{lag::Disturbances, trail::Skew};

/// What the time of a run is worth.
#[derive(Debug)]
pub struct Times<'a> {
    /// How the servers' clocks may differ from the truth.
    pub skew: Skew,
    /// When something was broken on purpose.
    pub disturbances: &'a Disturbances,
    /// How long a describe of the cloud may lag behind: until then a reading may have confirmed what is not yet so.
    pub lag: TimeDelta,
    /// How long a write of the firewall takes. A closing there waits for the write before it, and then takes its own.
    pub firewall: TimeDelta,
}

/// When a grant's rules may stand.
#[derive(Debug, Clone)]
struct Live {
    id: String,
    machine: String,
    ports: Vec<Ports>,
    sources: Vec<IpNet>,
    from: DateTime<Utc>,
    to: DateTime<Utc>,
    /// When it was confirmed as open, or where it never was, when it ended.
    opened: Option<DateTime<Utc>>,
}

/// What packets are judged by.
#[derive(Debug)]
pub struct Docket {
    grants: Vec<Live>,
    disturbances: Disturbances,
}

impl Docket {
    /// From the grants and requests as they stand at the end.
    pub fn new(grants: &[Grant], requests: &[AccessRequest], times: &Times<'_>) -> anyhow::Result<Self> {
        let Times {
            skew,
            disturbances,
            lag,
            firewall,
        } = times;
        let starts: BTreeMap<&str, DateTime<Utc>> = requests
            .iter()
            .filter_map(|request| Some((request.id.as_str(), request.starts_at?)))
            .collect();
        let mut live = Vec::new();
        for grant in grants {
            let closing = grant
                .ended_at
                .map(|ended| disturbances.deadline(skew.latest(ended)))
                .and_then(|deadline| deadline.checked_add_signed(behind(grant, *firewall)));
            let confirmed = grant.closed_at.map(|closed| skew.latest(closed) + *lag);
            let starts_at = starts.get(grant.request_id.as_str()).copied();
            let to = [closing, confirmed].into_iter().flatten().min();
            live.push(Live {
                id: grant.id.clone(),
                machine: grant.machine.clone(),
                ports: grant
                    .ports
                    .iter()
                    .map(|ports| ports.parse())
                    .collect::<Result<_, _>>()?,
                sources: grant
                    .sources
                    .iter()
                    .map(|source| source.parse())
                    .collect::<Result<_, _>>()?,
                from: skew.earliest(starts_at.map_or(grant.created_at, |at| at.max(grant.created_at))),
                to: to.unwrap_or(DateTime::<Utc>::MAX_UTC),
                opened: grant.opened_at.or(grant.ended_at).map(|at| skew.earliest(at)),
            });
        }
        Ok(Self {
            grants: live,
            disturbances: (*disturbances).clone(),
        })
    }

    /// Whether a grant covers the packet at an instant.
    pub(super) fn covers(&self, probe: &Probe, at: DateTime<Utc>) -> bool {
        self.grants.iter().any(|grant| {
            grant.from <= at
                && at < grant.to
                && grant.machine.eq_ignore_ascii_case(&probe.machine)
                && grant.is_for(probe.port)
                && grant.sources.iter().any(|source| source.contains(&probe.source))
        })
    }

    /// Whether a grant at the packet's port, from wherever, stood already at `since` and does at an instant. One that was
    /// being opened just then stood: its NSG was written on a reading of the firewall from before.
    pub(super) fn stood(&self, probe: &Probe, since: DateTime<Utc>, at: DateTime<Utc>) -> bool {
        let written = self.disturbances.deadline(since);
        self.at_port(probe, since, at)
            .any(|grant| grant.opened.is_some_and(|opened| opened <= written))
    }

    /// Whether a grant at the packet's port, from wherever, was wanted at `since` and is at an instant, open or not.
    pub(super) fn lives(&self, probe: &Probe, since: DateTime<Utc>, at: DateTime<Utc>) -> bool {
        self.at_port(probe, since, at).next().is_some()
    }

    fn at_port(&self, probe: &Probe, since: DateTime<Utc>, at: DateTime<Utc>) -> impl Iterator<Item = &Live> {
        self.grants.iter().filter(move |grant| {
            grant.from <= since
                && grant.from <= at
                && at < grant.to
                && grant.machine.eq_ignore_ascii_case(&probe.machine)
                && grant.is_for(probe.port)
        })
    }

    /// The grants on the packet's machine, in words.
    pub(super) fn about(&self, probe: &Probe) -> Vec<String> {
        self.grants
            .iter()
            .filter(|grant| grant.machine.eq_ignore_ascii_case(&probe.machine))
            .map(|grant| {
                let Live {
                    id,
                    ports,
                    sources,
                    from,
                    to,
                    ..
                } = grant;
                format!("{id} for {ports:?} from {sources:?}, {from} to {to}")
            })
            .collect()
    }
}

impl Live {
    fn is_for(&self, port: u16) -> bool {
        self.ports
            .iter()
            .any(|ports| ports.first() <= port && port <= ports.last())
    }
}

/// How much longer a closing may take where a firewall stands before the machine.
fn behind(grant: &Grant, write: TimeDelta) -> TimeDelta {
    let there = grant
        .hops
        .iter()
        .any(|hop| hop.point.starts_with("azure:firewall"));
    if there { write * 2 } else { TimeDelta::zero() }
}
