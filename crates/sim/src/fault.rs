//! The fault layer: by operation and count or chance, slow a call down, refuse it, or cut its connection.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde::{Deserialize, Serialize};

/// Names one added rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct FaultId(pub u64);

/// Which calls a rule strikes and what it does to them.
///
/// As JSON, for the control endpoint:
/// `{"operation": "Revoke*", "when": {"next": 2}, "effect": {"latency_ms": 250}}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FaultRule {
    /// The operation: an EC2 or STS action (`AuthorizeSecurityGroupIngress`) or an ARM operation
    /// (`SecurityRules.CreateOrUpdate`). Each `*` stands for any run of characters.
    pub operation: String,
    /// Which of the matching calls.
    pub when: When,
    /// What happens to them.
    pub effect: Effect,
}

/// Which of the matching calls a rule strikes, counted from when the rule was added.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum When {
    /// The next so many, then never again.
    Next(u64),
    /// Every n-th: the n-th, the 2n-th and so on. Zero never strikes.
    EveryNth(u64),
    /// Each with this chance, from 0.0 to 1.0; values outside are taken as the nearer end.
    Probability(f64),
    /// All.
    Always,
    /// After `skip` calls were let through, the next `count`.
    After {
        /// How many calls to let through first.
        skip: u64,
        /// How many to strike then.
        count: u64,
    },
}

/// What a rule does to a call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Effect {
    /// The call waits so long before it is looked at; later rules may strike it too. It takes effect also when
    /// the client has given up by then. Milliseconds in JSON.
    #[serde(rename = "latency_ms", with = "millis")]
    Latency(Duration),
    /// The call is refused, in the cloud's own error shape; the state does not change.
    Status {
        /// The HTTP status; one that HTTP does not know becomes 500.
        status: u16,
        /// The cloud's error code, such as `RequestLimitExceeded`.
        code: String,
        /// The error message.
        message: String,
        /// The `Retry-After` header, in seconds.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        retry_after: Option<u64>,
    },
    /// The connection is reset before the state changes.
    ResetBefore,
    /// The state changes, then the connection is reset without an answer.
    ResetAfter,
}

mod millis {
    //! A duration as whole milliseconds.
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(value: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(u64::try_from(value.as_millis()).unwrap_or(u64::MAX))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        u64::deserialize(deserializer).map(Duration::from_millis)
    }
}

/// One rule as the layer holds it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ActiveFault {
    /// Its name for [`Faults::remove`].
    pub id: FaultId,
    /// The rule.
    pub rule: FaultRule,
    /// How many calls named a matching operation.
    pub seen: u64,
    /// How many of them were struck.
    pub hits: u64,
}

/// What the layer decided for one call.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verdict {
    /// How long the call waits first: the sum of all [`Effect::Latency`] that struck.
    pub latency: Duration,
    /// The first effect that struck and is not a latency.
    pub effect: Option<Effect>,
}

/// The rules in force; clones share them. The dice are seeded, so a run can be repeated.
#[derive(Debug, Clone)]
pub struct Faults(Arc<Mutex<Inner>>);

#[derive(Debug)]
struct Inner {
    rng: StdRng,
    last: u64,
    rules: Vec<ActiveFault>,
    removed_hits: u64,
}

impl Default for Faults {
    fn default() -> Self {
        Self::seeded(0)
    }
}

impl Faults {
    /// No rules yet; every [`When::Probability`] follows from `seed` and the order of calls.
    pub fn seeded(seed: u64) -> Self {
        let rng = StdRng::seed_from_u64(seed);
        Self(Arc::new(Mutex::new(Inner {
            rng,
            last: 0,
            rules: Vec::new(),
            removed_hits: 0,
        })))
    }

    /// Puts a rule behind those already there.
    pub fn add(&self, rule: FaultRule) -> FaultId {
        let mut inner = self.lock();
        inner.last += 1;
        let id = FaultId(inner.last);
        inner.rules.push(ActiveFault {
            id,
            rule,
            seen: 0,
            hits: 0,
        });
        id
    }

    /// Takes a rule away; false where there is none of that name.
    pub fn remove(&self, id: FaultId) -> bool {
        let mut inner = self.lock();
        let Some(position) = inner.rules.iter().position(|fault| fault.id == id) else {
            return false;
        };
        inner.removed_hits += inner.rules.remove(position).hits;
        true
    }

    /// Takes every rule away.
    pub fn clear(&self) {
        let mut inner = self.lock();
        inner.removed_hits += inner.rules.iter().map(|fault| fault.hits).sum::<u64>();
        inner.rules.clear();
    }

    /// The rules in force, in order, with their counters.
    pub fn list(&self) -> Vec<ActiveFault> {
        self.lock().rules.clone()
    }

    /// How often any rule struck since the start, also those removed since.
    pub fn hits(&self) -> u64 {
        let inner = self.lock();
        inner.removed_hits + inner.rules.iter().map(|fault| fault.hits).sum::<u64>()
    }

    /// Decides one call. Rules are asked in order; those behind the first effect that ends the call are
    /// not asked and do not count it.
    pub fn decide(&self, operation: &str) -> Verdict {
        let mut inner = self.lock();
        let Inner { rng, rules, .. } = &mut *inner;
        let mut verdict = Verdict::default();
        for fault in rules
            .iter_mut()
            .filter(|fault| matches(&fault.rule.operation, operation))
        {
            fault.seen += 1;
            if !strikes(fault.rule.when, fault.seen, rng) {
                continue;
            }
            fault.hits += 1;
            if let Effect::Latency(latency) = &fault.rule.effect {
                verdict.latency += *latency;
            } else {
                verdict.effect = Some(fault.rule.effect.clone());
                break;
            }
        }
        verdict
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether the call counted as number `seen` (from 1) is struck.
fn strikes(when: When, seen: u64, rng: &mut StdRng) -> bool {
    match when {
        When::Next(count) => seen <= count,
        When::EveryNth(n) => n != 0 && seen.is_multiple_of(n),
        When::Probability(chance) => rng.random_bool(if chance.is_nan() {
            0.0
        } else {
            chance.clamp(0.0, 1.0)
        }),
        When::Always => true,
        When::After { skip, count } => seen > skip && seen - skip <= count,
    }
}

/// Whether `name` fits `pattern`, where each `*` stands for any run of characters.
pub(crate) fn matches(pattern: &str, name: &str) -> bool {
    let Some((head, tail)) = pattern.split_once('*') else {
        return pattern == name;
    };
    let Some(rest) = name.strip_prefix(head) else {
        return false;
    };
    rest.char_indices()
        .map(|(at, _)| at)
        .chain([rest.len()])
        .any(|at| rest.get(at..).is_some_and(|rest| matches(tail, rest)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(operation: &str, when: When, effect: Effect) -> FaultRule {
        FaultRule {
            operation: operation.to_owned(),
            when,
            effect,
        }
    }

    fn pattern(faults: &Faults, calls: usize) -> Vec<bool> {
        (0..calls).map(|_| faults.decide("Op").effect.is_some()).collect()
    }

    #[test]
    fn a_star_stands_for_any_run_of_characters() {
        assert!(matches("*", "DescribeInstances"));
        assert!(matches("Describe*", "DescribeInstances"));
        assert!(matches("*SecurityGroup*gress", "RevokeSecurityGroupIngress"));
        assert!(matches("SecurityRules.Delete", "SecurityRules.Delete"));
        assert!(!matches("Describe", "DescribeInstances"));
        assert!(!matches("*Groups", "DescribeInstances"));
    }

    #[test]
    fn each_when_strikes_the_calls_it_names() {
        let cases = [
            (When::Next(2), [true, true, false, false, false]),
            (When::EveryNth(2), [false, true, false, true, false]),
            (When::EveryNth(0), [false; 5]),
            (When::Probability(0.0), [false; 5]),
            (When::Probability(1.0), [true; 5]),
            (When::Probability(f64::NAN), [false; 5]),
            (When::Always, [true; 5]),
            (
                When::After { skip: 1, count: 2 },
                [false, true, true, false, false],
            ),
        ];
        for (when, expected) in cases {
            let faults = Faults::seeded(1);
            faults.add(rule("Op", when, Effect::ResetBefore));
            assert_eq!(pattern(&faults, 5), expected, "{when:?}");
        }
    }

    #[test]
    fn the_same_seed_strikes_the_same_calls() {
        let runs: Vec<_> = (0..2)
            .map(|_| {
                let faults = Faults::seeded(7);
                faults.add(rule("*", When::Probability(0.5), Effect::ResetAfter));
                pattern(&faults, 64)
            })
            .collect();
        assert_eq!(runs[0], runs[1]);
        assert!(runs[0].contains(&true) && runs[0].contains(&false));
    }

    #[test]
    fn latencies_add_up_and_the_first_ending_effect_wins() {
        let faults = Faults::default();
        faults.add(rule(
            "Op",
            When::Always,
            Effect::Latency(Duration::from_millis(2)),
        ));
        faults.add(rule("*", When::Always, Effect::Latency(Duration::from_millis(3))));
        faults.add(rule("Op", When::Next(1), Effect::ResetBefore));
        let last = faults.add(rule("Op", When::Always, Effect::ResetAfter));
        let first = faults.decide("Op");
        assert_eq!(
            first,
            Verdict {
                latency: Duration::from_millis(5),
                effect: Some(Effect::ResetBefore)
            }
        );
        assert_eq!(faults.decide("Op").effect, Some(Effect::ResetAfter));
        assert_eq!(
            faults.decide("Other"),
            Verdict {
                latency: Duration::from_millis(3),
                effect: None
            }
        );
        assert_eq!(
            faults
                .list()
                .iter()
                .find(|fault| fault.id == last)
                .map(|fault| fault.seen),
            Some(1)
        );
    }

    #[test]
    fn hits_outlive_their_rule() {
        let faults = Faults::default();
        let id = faults.add(rule("Op", When::Always, Effect::ResetBefore));
        faults.decide("Op");
        assert!(faults.remove(id));
        assert!(!faults.remove(id));
        assert_eq!(faults.hits(), 1);
        assert_eq!(faults.decide("Op"), Verdict::default());
    }

    #[test]
    fn a_rule_reads_from_json_as_it_is_written() {
        let text =
            r#"{"operation":"Revoke*","when":{"after":{"skip":1,"count":2}},"effect":{"latency_ms":250}}"#;
        let parsed: FaultRule = serde_json::from_str(text).unwrap();
        assert_eq!(parsed.effect, Effect::Latency(Duration::from_millis(250)));
        assert_eq!(serde_json::to_string(&parsed).unwrap(), text);
        let text = r#"{"operation":"*","when":"always","effect":"reset_after"}"#;
        let parsed: FaultRule = serde_json::from_str(text).unwrap();
        assert_eq!(parsed, rule("*", When::Always, Effect::ResetAfter));
    }
}
