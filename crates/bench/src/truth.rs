//! When a port was reachable, from the simulators' truth logs.

use std::net::Ipv4Addr;

use anyhow::Context as _;
use chrono::{DateTime, TimeDelta, Utc};
use postern::demo::fleet::Fleet;
use postern_sim::truth::{Change, Interval, Moment, Probe, Protocol};

/// TCP port 22 of a machine, asked from an address.
#[derive(Debug, Clone)]
pub(crate) struct Ssh {
    pub(crate) machine: String,
    pub(crate) source: Ipv4Addr,
}

impl Ssh {
    fn is_aws(&self) -> bool {
        self.machine.starts_with("arn:")
    }

    fn probe(&self) -> Probe {
        Probe {
            machine: self.machine.clone(),
            source: self.source.into(),
            port: 22,
            protocol: Protocol::Tcp,
        }
    }

    /// When it was reachable. Replays the whole log.
    pub(crate) fn intervals(&self, fleet: &Fleet) -> Vec<Interval> {
        if self.is_aws() {
            fleet.ec2.open_intervals(&self.probe())
        } else {
            fleet
                .arm
                .open_intervals(&self.machine, self.source.into(), 22, Protocol::Tcp)
        }
    }

    fn reachable(&self, fleet: &Fleet, at: Moment) -> bool {
        if self.is_aws() {
            fleet.ec2.reachable(&self.probe(), Some(at))
        } else {
            fleet
                .arm
                .reachable(&self.machine, self.source.into(), 22, Protocol::Tcp, Some(at))
        }
    }

    /// The instant at which it stopped to be reachable, which happened once between `from` and `to`. `log` is the
    /// truth log of its cloud.
    pub(crate) fn closing(
        &self,
        fleet: &Fleet,
        log: &[Change],
        from: DateTime<Utc>,
        to: DateTime<Utc>,
    ) -> anyhow::Result<DateTime<Utc>> {
        let changes: Vec<&Change> = log
            .iter()
            .filter(|change| change.at >= from && change.at <= to)
            .collect();
        let closed = changes.partition_point(|change| self.reachable(fleet, Moment::Seq(change.seq)));
        let change = changes
            .get(closed)
            .with_context(|| format!("{self:?} did not close from {from} to {to}"))?;
        Ok(change.at)
    }
}

/// Milliseconds from one instant to another.
pub(crate) fn milliseconds(from: DateTime<Utc>, to: DateTime<Utc>) -> f64 {
    seconds(to - from) * 1e3
}

/// A span in seconds, to the microsecond.
pub(crate) fn seconds(span: TimeDelta) -> f64 {
    #[expect(
        clippy::cast_precision_loss,
        reason = "a measured span in microseconds is far below 2^52"
    )]
    let microseconds = span.num_microseconds().unwrap_or(i64::MAX) as f64;
    microseconds / 1e6
}
