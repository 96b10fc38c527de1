//! How long a rule may outlive its grant: the published closing lag, for what a run did to the servers.

use chrono::{DateTime, TimeDelta, Utc};

/// While nothing is broken: a pass, on a machine that many runs share, the time that a write takes to be in force,
/// and a look at the point.
const UNDISTURBED: TimeDelta = TimeDelta::seconds(6);
/// After a disturbance ends: the lease, the longest request time and a restart. The backoff, which doubles, adds at
/// most once more what the disturbance lasted.
const RECOVERY: TimeDelta = TimeDelta::seconds(6);

/// When something was broken on purpose.
#[derive(Debug, Clone, Default)]
pub struct Disturbances {
    open: Vec<(String, DateTime<Utc>)>,
    past: Vec<(DateTime<Utc>, DateTime<Utc>)>,
}

impl Disturbances {
    /// Something breaks; a name that is broken already stays so.
    pub fn begin(&mut self, what: &str, at: DateTime<Utc>) {
        if self.open.iter().all(|(name, _)| name != what) {
            self.open.push((what.to_owned(), at));
        }
    }

    /// It is whole again.
    pub fn end(&mut self, what: &str, at: DateTime<Utc>) {
        if let Some(place) = self.open.iter().position(|(name, _)| name == what) {
            let (_, from) = self.open.swap_remove(place);
            self.past.push((from, at));
        }
    }

    /// The spans in which no promise about time holds, in order, none touching another.
    fn spans(&self) -> Vec<(DateTime<Utc>, DateTime<Utc>)> {
        let merge = |mut spans: Vec<(DateTime<Utc>, DateTime<Utc>)>| {
            spans.sort_unstable();
            let mut merged: Vec<(DateTime<Utc>, DateTime<Utc>)> = Vec::new();
            for (from, to) in spans {
                match merged.last_mut() {
                    Some(last) if from <= last.1 => last.1 = last.1.max(to),
                    _ => merged.push((from, to)),
                }
            }
            merged
        };
        let open = self
            .open
            .iter()
            .map(|(_, from)| (*from, DateTime::<Utc>::MAX_UTC));
        let raw = merge(self.past.iter().copied().chain(open).collect());
        merge(
            raw.into_iter()
                .map(|(from, to)| {
                    let recovered = to.checked_add_signed((to - from) + RECOVERY);
                    (from, recovered.unwrap_or(DateTime::<Utc>::MAX_UTC))
                })
                .collect(),
        )
    }

    /// The latest instant at which a rule may stand whose grant ended at `ended`.
    pub fn deadline(&self, ended: DateTime<Utc>) -> DateTime<Utc> {
        let (mut at, mut left) = (ended, UNDISTURBED);
        for (from, to) in self.spans() {
            if to <= at {
                continue;
            }
            if from > at {
                if from - at >= left {
                    break;
                }
                left -= from - at;
            }
            at = to;
        }
        at.checked_add_signed(left).unwrap_or(DateTime::<Utc>::MAX_UTC)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> DateTime<Utc> {
        DateTime::UNIX_EPOCH + TimeDelta::seconds(second)
    }

    #[test]
    fn undisturbed_time_alone_counts() {
        let mut disturbances = Disturbances::default();
        assert_eq!(disturbances.deadline(at(0)), at(6));
        disturbances.begin("a", at(2));
        disturbances.begin("a", at(3));
        disturbances.end("a", at(4));
        // Disturbed from 2 to 4, recovered at 4 + 2 + 6.
        assert_eq!(disturbances.deadline(at(0)), at(16));
        assert_eq!(disturbances.deadline(at(12)), at(18));
        disturbances.begin("b", at(100));
        assert_eq!(disturbances.deadline(at(97)), DateTime::<Utc>::MAX_UTC);
    }
}
