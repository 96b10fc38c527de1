//! Invariants 3 to 5, from the audit log, the grants and the truth logs.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};
use postern_api::{audit_event::AuditEvent, grant::Grant};
use postern_sim::truth::Change;
use serde::Serialize;
use serde_json::Value;

use crate::{clouds::is_foreign, gate::PARENT};

/// A broken invariant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Violation {
    /// The invariant's number in the design; 0 where the run itself did not come to its end.
    pub invariant: u8,
    /// What happened.
    pub what: String,
}

impl Violation {
    /// A violation.
    pub fn new(invariant: u8, what: impl Into<String>) -> Self {
        Self {
            invariant,
            what: what.into(),
        }
    }
}

/// How the servers' clocks may differ from the truth.
#[derive(Debug, Clone, Copy)]
pub struct Skew {
    /// By how much the one that is furthest behind is ahead of the truth (negative: behind).
    pub least: TimeDelta,
    /// By how much the one that is furthest ahead is.
    pub most: TimeDelta,
}

impl Skew {
    /// From the servers' offsets in milliseconds.
    pub fn of(ahead_ms: [i64; 2]) -> Self {
        let [a, b] = ahead_ms;
        Self {
            least: TimeDelta::milliseconds(a.min(b)),
            most: TimeDelta::milliseconds(a.max(b)),
        }
    }

    /// The earliest true instant that a server can have called `told`.
    pub fn earliest(self, told: DateTime<Utc>) -> DateTime<Utc> {
        told - self.most
    }

    /// The latest.
    pub fn latest(self, told: DateTime<Utc>) -> DateTime<Utc> {
        told - self.least
    }
}

struct Window<'a> {
    point: &'a str,
    from: DateTime<Utc>,
    to: Option<DateTime<Utc>>,
}

/// Invariant 3: every change that our credentials made lies between an intent for that point and its outcome, and
/// every intent has an outcome.
pub fn writes_were_intended(changes: &[Change], events: &[AuditEvent], skew: Skew) -> Vec<Violation> {
    let mut windows: BTreeMap<&str, Window<'_>> = BTreeMap::new();
    let mut violations = Vec::new();
    for event in events.iter().filter(|event| event.action == "change.apply") {
        let text = |member: &str| event.subject.get(member).and_then(Value::as_str);
        let Some(change) = text("change") else {
            violations.push(Violation::new(3, format!("a change without a name: {event:?}")));
            continue;
        };
        if event.outcome == "intended" {
            let window = Window {
                point: text("point").unwrap_or_default(),
                from: skew.earliest(event.at),
                to: None,
            };
            windows.insert(change, window);
        } else {
            match windows.get_mut(change) {
                Some(window) if window.to.is_none() => window.to = Some(skew.latest(event.at)),
                Some(_) => violations.push(Violation::new(3, format!("two outcomes: {event:?}"))),
                None => violations.push(Violation::new(3, format!("an outcome without intent: {event:?}"))),
            }
        }
    }
    for (change, window) in windows.iter().filter(|(_, window)| window.to.is_none()) {
        violations.push(Violation::new(
            3,
            format!("{change} at {} was intended and has no outcome", window.point),
        ));
    }
    for change in changes.iter().filter(|change| !is_foreign(&change.caller)) {
        let covered = windows.values().any(|window| {
            concerns(window.point, change)
                && window.from <= change.at
                && window
                    .to
                    .is_none_or(|to| change.at <= to + TimeDelta::milliseconds(2))
        });
        if !covered {
            violations.push(Violation::new(
                3,
                format!(
                    "{} on {} at {} was not announced",
                    change.operation, change.resource, change.at
                ),
            ));
        }
    }
    violations
}

/// Whether a change can belong to a pass over the point. Where that is an EC2 instance, any group or interface of the
/// account may be written for it.
fn concerns(point: &str, change: &Change) -> bool {
    if let Some(group) = point.strip_prefix("aws:security-group:") {
        let id = group.rsplit('/').next().unwrap_or(group);
        return change.resource.ends_with(id);
    }
    if change.cloud == "aws" {
        return point.starts_with("aws:instance:");
    }
    let resource = change.resource.to_ascii_lowercase();
    let mut parts = resource.trim_start_matches('/').split('/');
    let (Some(subscription), Some(group), Some(kind), Some(name)) =
        (parts.nth(1), parts.nth(1), parts.nth(2), parts.next())
    else {
        return false;
    };
    let kind = match kind {
        "networksecuritygroups" => "nsg",
        "azurefirewalls" => "firewall",
        "firewallpolicies" => "firewall-policy",
        _ => return false,
    };
    let point = point.to_ascii_lowercase();
    let of = |name: &str| point == format!("azure:{kind}:{subscription}/{group}/{name}");
    // What somebody copied into a policy that is inherited is closed with those that inherit it.
    of(name) || name.strip_suffix(PARENT).is_some_and(of)
}

/// Invariant 4: every decision names what decided it.
pub fn decisions_name_what_decided(events: &[AuditEvent]) -> Vec<Violation> {
    const DECIDED: [&str; 6] = [
        "access_request.",
        "grant.revoke",
        "grant.end",
        "jit_policy.",
        "role_assignment.",
        "role.",
    ];
    events
        .iter()
        .filter(|event| DECIDED.iter().any(|prefix| event.action.starts_with(prefix)))
        .filter(|event| event.decision.as_ref().is_none_or(Value::is_null))
        .map(|event| Violation::new(4, format!("not said what decided it: {event:?}")))
        .collect()
}

/// Invariant 4, the other way round: every grant stands on a decision in the log that allowed it.
pub fn grants_were_decided(grants: &[Grant], events: &[AuditEvent]) -> Vec<Violation> {
    grants
        .iter()
        .filter(|grant| {
            !events.iter().any(|event| {
                matches!(
                    event.action.as_str(),
                    "access_request.create" | "access_request.approve"
                ) && event.outcome == "succeeded"
                    && event.subject.get("request").and_then(Value::as_str) == Some(grant.request_id.as_str())
            })
        })
        .map(|grant| Violation::new(4, format!("no event decided it: {grant:?}")))
        .collect()
}

/// Invariant 5: every grant closes.
pub fn grants_closed(grants: &[Grant]) -> Vec<Violation> {
    grants
        .iter()
        .filter(|grant| grant.status != "closed")
        .map(|grant| Violation::new(5, format!("never closed: {grant:?}")))
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn at(second: i64) -> DateTime<Utc> {
        DateTime::UNIX_EPOCH + TimeDelta::seconds(second)
    }

    fn event(action: &str, outcome: &str, second: i64, subject: &Value) -> AuditEvent {
        serde_json::from_value(json!({
            "seq": 1, "id": "evt_1", "at": at(second), "action": action, "outcome": outcome,
            "actor": {}, "scope": "/", "subject": subject, "details": {},
        }))
        .unwrap()
    }

    fn change(second: i64, resource: &str, caller: &str) -> Change {
        Change {
            seq: 1,
            at: at(second),
            cloud: "azure".to_owned(),
            operation: "SecurityRules.CreateOrUpdate".to_owned(),
            resource: resource.to_owned(),
            before: None,
            after: None,
            request_id: "r".to_owned(),
            caller: caller.to_owned(),
        }
    }

    const US: &str = postern::demo::fleet::CLIENT_ID;
    const NSG: &str = "/subscriptions/s/resourcegroups/g/providers/microsoft.network/networksecuritygroups/a";
    const RULE: &str = "/subscriptions/s/resourcegroups/g/providers/microsoft.network/networksecuritygroups/a/securityrules/r";
    const GROUP: &str = "/subscriptions/s/resourcegroups/g/providers/microsoft.network/firewallpolicies/a/rulecollectiongroups/r";
    const OTHER: &str =
        "/subscriptions/s/resourcegroups/g/providers/microsoft.network/networksecuritygroups/b";

    fn announced() -> Vec<AuditEvent> {
        let subject = json!({ "change": "chg_1", "point": "azure:nsg:s/g/a" });
        vec![
            event("change.apply", "intended", 10, &subject),
            event("change.apply", "succeeded", 12, &subject),
        ]
    }

    #[test]
    fn a_write_outside_its_intent_is_noticed_and_one_inside_is_not() {
        let skew = Skew::of([0, 0]);
        let of = |change: Change| writes_were_intended(&[change], &announced(), skew);
        assert_eq!(of(change(11, RULE, US)), []);
        assert_eq!(of(change(9, RULE, "fleet")), []);
        for (second, resource) in [(9, NSG), (13, NSG), (11, OTHER)] {
            assert_eq!(of(change(second, resource, US)).len(), 1, "{second} {resource}");
        }
    }

    #[test]
    fn a_write_at_a_policys_group_belongs_to_the_policys_point_alone() {
        let write = change(11, GROUP, US);
        assert!(concerns("azure:firewall-policy:s/g/a", &write));
        assert!(!concerns("azure:firewall:s/g/a", &write));
        assert!(!concerns("azure:nsg:s/g/a", &write));
        let above = change(11, &GROUP.replace("/a/", "/a-above/"), US);
        assert!(
            concerns("azure:firewall-policy:s/g/a", &above),
            "what it inherits"
        );
        assert!(!concerns("azure:firewall-policy:s/g/b", &above));
    }

    #[test]
    fn clocks_that_differ_widen_the_window() {
        let skew = Skew::of([-1000, 2000]);
        let of = |second| writes_were_intended(&[change(second, NSG, US)], &announced(), skew);
        assert_eq!((of(8).len(), of(13).len()), (0, 0));
        assert_eq!((of(7).len(), of(14).len()), (1, 1));
    }

    #[test]
    fn an_intent_without_outcome_and_an_outcome_without_intent_are_noticed() {
        let both = announced();
        for event in &both {
            let found = writes_were_intended(&[], std::slice::from_ref(event), Skew::of([0, 0]));
            assert_eq!(found.len(), 1, "{event:?}");
        }
    }

    #[test]
    fn a_decision_without_its_reason_is_noticed() {
        let mut decided = event("grant.revoke", "succeeded", 1, &json!({}));
        assert_eq!(
            decisions_name_what_decided(std::slice::from_ref(&decided)).len(),
            1
        );
        decided.decision = Some(json!({ "decided_by": "lifecycle" }));
        assert_eq!(decisions_name_what_decided(&[decided]), []);
    }
}
