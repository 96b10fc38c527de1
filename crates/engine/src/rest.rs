//! Points at rest. A whole look reads from the database what is wanted, judges the cloud's answer by it, and finds
//! nothing to do. As long as nothing else is wanted and the cloud tells the same, a look need not do that again: a plan
//! has no clock and no randomness. It still reads the cloud, and says in the database that it did.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use chrono::TimeDelta;
use postern_core::{
    enforcer::{Desired, Print},
    id::PointId,
    time::Instant,
};
use postern_store::{Lease, Next, StoreError, Urgency};

use crate::Engine;

/// How long after a whole look the next one is due at the latest, whatever the readings between them told: bounds what
/// a change in the database costs that forgot to mark its points.
const WHOLE_EVERY: TimeDelta = TimeDelta::hours(1);

/// What a whole look found at a point where there was nothing to do.
#[derive(Debug, Clone)]
pub(crate) struct Rest {
    /// What is wanted there.
    pub(crate) desired: Arc<Desired>,
    /// What the cloud told.
    pub(crate) print: Print,
    /// When something else than a look is to be done there.
    pub(crate) until: Option<(Instant, Urgency)>,
    /// When that look was.
    pub(crate) since: Instant,
}

/// The points that were at rest when this process last looked at them.
#[derive(Debug, Default)]
pub(crate) struct AtRest(Mutex<HashMap<PointId, Seen>>);

#[derive(Debug)]
struct Seen {
    generation: i64,
    wanted: i64,
    rest: Rest,
}

impl AtRest {
    /// What was found at the point, if nobody leased or marked it since, and a look is all that is due there. It is
    /// forgotten, and has to be kept again.
    pub(crate) fn take(&self, lease: &Lease, now: Instant) -> Option<Rest> {
        let Seen {
            generation,
            wanted,
            rest,
        } = self.seen().remove(&lease.point)?;
        let is_next = generation.checked_add(1) == Some(lease.generation) && wanted == lease.wanted;
        let only_looks = lease.urgency == Urgency::Look && lease.attempts == 0 && !lease.taken_over;
        let still = rest.until.is_none_or(|(until, _)| now < until) && now - rest.since < WHOLE_EVERY;
        (is_next && only_looks && still).then_some(rest)
    }

    /// Remembers what was found under the lease.
    pub(crate) fn keep(&self, lease: &Lease, rest: Rest) {
        let seen = Seen {
            generation: lease.generation,
            wanted: lease.wanted,
            rest,
        };
        self.seen().insert(lease.point, seen);
    }

    fn seen(&self) -> std::sync::MutexGuard<'_, HashMap<PointId, Seen>> {
        // A map is whole between two of its calls.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Engine {
    /// Gives a point back where the cloud told at `now` what it told before.
    pub(crate) async fn stay_at_rest(
        &self,
        lease: &Lease,
        rest: Rest,
        now: Instant,
    ) -> Result<(), StoreError> {
        let [a, b, ..] = self.ids.random();
        let look = (
            self.config.next_look(now, true, u16::from_be_bytes([a, b])),
            Urgency::Look,
        );
        let (at, urgency) = rest.until.map_or(look, |until| until.min(look));
        let mut tx = self.store.begin().await?;
        if rest
            .desired
            .members
            .iter()
            .any(|member| !member.grants.is_empty())
        {
            tx.read_again(lease.point, now).await?;
        }
        tx.finish(lease, Next::At { at, urgency }, &[]).await?;
        tx.commit().await?;
        self.at_rest.keep(lease, rest);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use postern_core::{
        point::PointRef,
        testing::{an_id, at},
    };

    use super::*;

    fn lease(generation: i64, wanted: i64) -> Lease {
        Lease {
            point: an_id(1),
            point_ref: PointRef::nsg("00000000-0000-0000-0000-000000000001", "rg", "nsg").unwrap(),
            generation,
            wanted,
            attempts: 0,
            urgency: Urgency::Look,
            taken_over: false,
            valid_for: Duration::from_secs(30),
        }
    }

    fn rest() -> Rest {
        Rest {
            desired: Arc::new(Desired {
                installation: "test".parse().unwrap(),
                point: lease(1, 1).point_ref,
                members: Vec::new(),
                displaced: Vec::new(),
                unsettled: false,
            }),
            print: Print::of(&1).unwrap(),
            until: Some((at(1000), Urgency::Closing)),
            since: at(0),
        }
    }

    fn taken(then: &Lease, rest: Rest, next: &Lease, now: i64) -> bool {
        let at_rest = AtRest::default();
        at_rest.keep(then, rest);
        let taken = at_rest.take(next, at(now)).is_some();
        assert!(at_rest.take(next, at(now)).is_none(), "once");
        taken
    }

    #[test]
    fn the_next_look_finds_what_the_one_before_it_found() {
        assert!(taken(&lease(7, 3), rest(), &lease(8, 3), 300));
    }

    #[test]
    fn whatever_may_have_changed_what_is_wanted_asks_for_a_whole_look() {
        let cases = [
            ("leased by somebody in between", lease(9, 3)),
            ("a database from before", lease(7, 3)),
            ("marked", lease(8, 4)),
            (
                "a closing",
                Lease {
                    urgency: Urgency::Closing,
                    ..lease(8, 3)
                },
            ),
            (
                "failed before",
                Lease {
                    attempts: 1,
                    ..lease(8, 3)
                },
            ),
            (
                "taken over",
                Lease {
                    taken_over: true,
                    ..lease(8, 3)
                },
            ),
        ];
        for (why, next) in cases {
            assert!(!taken(&lease(7, 3), rest(), &next, 300), "{why}");
        }
        assert!(!taken(&lease(7, 3), rest(), &lease(8, 3), 1000), "a grant ends");
        let endless = Rest {
            until: None,
            ..rest()
        };
        assert!(taken(&lease(7, 3), endless.clone(), &lease(8, 3), 3599));
        assert!(!taken(&lease(7, 3), endless, &lease(8, 3), 3600), "long ago");
    }

    #[test]
    fn readings_that_differ_anywhere_have_different_prints() {
        let one = Print::of(&serde_json::json!({ "rules": ["a", "b"] }));
        assert_eq!(one, Print::of(&serde_json::json!({ "rules": ["a", "b"] })));
        assert_ne!(one, Print::of(&serde_json::json!({ "rules": ["a", "c"] })));
        assert_ne!(one, Print::of(&serde_json::json!({ "rules": ["b", "a"] })));
    }
}
