//! What is told: an audit event as a `CloudEvent` for programs, and as a sentence for people.

use postern_core::{
    audit::{Actor, AuditEvent, Outcome},
    mark::Installation,
    text::is_deceptive,
};
use postern_store::StoredEvent;
use serde_json::{Value, json};

use crate::link::{Link, Links};

/// An event, ready to be told.
#[derive(Debug, Clone)]
pub struct Message {
    /// The event's id, the same in every repetition.
    pub id: String,
    /// The event as structured JSON.
    ///
    /// Source: `CloudEvents` 1.0.2, JSON event format. `data` has what happened, to what and why; not what decided it
    /// nor the state of clouds, which stay in the audit log for those who may read it.
    pub cloud_event: Value,
    /// One line for people.
    pub summary: String,
    /// Where people see it, or decide on it.
    pub link: Option<Link>,
    /// What waits for somebody to decide, if it is about such a thing: its link is where that is done.
    pub undecided: Option<Undecided>,
}

/// What waits for somebody to decide, by its id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Undecided {
    /// A request for access.
    Request(String),
    /// The review of a broken glass.
    Review(String),
}

impl Message {
    /// Of an event of this installation.
    pub fn of(stored: &StoredEvent, installation: &Installation, links: &Links) -> Self {
        let event = &stored.event;
        let subject = &event.subject;
        let data = json!({
            "action": event.action,
            "outcome": event.outcome,
            "actor": actor(&event.actor),
            "scope": event.scope,
            "reason": event.reason,
            "request": subject.request,
            "request_url": links.portal(event),
            "grant": subject.grant,
            "policy": subject.policy,
            "machine": subject.machine,
            "point": subject.point,
            "link": links.api(event),
        });
        let mut cloud_event = json!({
            "specversion": "1.0",
            "id": event.id,
            "source": format!("urn:postern:{installation}"),
            "type": format!("postern.{}", event.action),
            "time": event.at,
            "datacontenttype": "application/json",
            "data": without_nulls(data),
        });
        if let Some(subject) = subject_of(event)
            && let Some(fields) = cloud_event.as_object_mut()
        {
            fields.insert("subject".to_owned(), Value::String(subject));
        }
        Self {
            id: event.id.to_string(),
            cloud_event,
            summary: summary(event),
            link: links.people(event),
            undecided: undecided(event),
        }
    }
}

/// What waits for somebody to decide, if the event says that something does. Whether a request that was just made is
/// granted by its policy at once is told by what it waits for.
pub(crate) fn undecided(event: &AuditEvent) -> Option<Undecided> {
    if matches!(event.action.as_str(), "review.remind" | "review.escalate") {
        let review = event.details.get("review").and_then(Value::as_str);
        return review.map(|review| Undecided::Review(review.to_owned()));
    }
    let waits = event
        .details
        .get("awaits")
        .and_then(Value::as_array)
        .is_some_and(|awaits| !awaits.is_empty());
    (waits && event.outcome == Outcome::Succeeded)
        .then(|| {
            event
                .subject
                .request
                .map(|request| Undecided::Request(request.to_string()))
        })
        .flatten()
}

fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(fields) => {
            Value::Object(fields.into_iter().filter(|(_, value)| !value.is_null()).collect())
        }
        other => other,
    }
}

fn subject_of(event: &AuditEvent) -> Option<String> {
    let subject = &event.subject;
    subject
        .grant
        .map(|id| id.to_string())
        .or_else(|| subject.request.map(|id| id.to_string()))
        .or_else(|| subject.policy.map(|id| id.to_string()))
        .or_else(|| access_review(event).map(str::to_owned))
        .or_else(|| subject.machine.as_ref().map(ToString::to_string))
        .or_else(|| subject.point.clone())
}

/// The access review that the event is of, by its id.
pub(crate) fn access_review(event: &AuditEvent) -> Option<&str> {
    event.details.get("access_review")?.as_str()
}

fn actor(actor: &Actor) -> String {
    match actor {
        Actor::Principal { principal } => principal.to_string(),
        Actor::System { component } => format!("postern ({component})"),
        Actor::Anonymous => "somebody without a valid token".to_owned(),
    }
}

/// What happened, in words.
fn summary(event: &AuditEvent) -> String {
    let did = match (event.action.as_str(), event.outcome) {
        ("access_request.create", Outcome::Succeeded) => "asks for access",
        ("access_request.remind", _) => "reminds of a request that waits for a decision",
        ("access_request.escalate", _) => "escalates a request that nobody has decided on",
        ("access_request.approve", Outcome::Succeeded) => "approved access",
        ("access_request.agree", Outcome::Succeeded) => "agreed to a request that waits for others",
        ("access_request.deny", Outcome::Succeeded) => "denied access",
        ("access_request.withdraw", Outcome::Succeeded) => "withdrew a request for access",
        ("access_request.lapse", Outcome::Succeeded) => "let a request lapse that nobody decided on",
        ("break_glass.use", Outcome::Succeeded) => "BROKE THE GLASS: opened access without approval",
        ("access_review.start", Outcome::Succeeded) => "started an access review",
        ("access_review.start", _) => "COULD NOT START an access review",
        ("access_review.gather", Outcome::Succeeded) => "looked up what was used of an access review",
        ("access_review.remind", _) => "reminds of an access review that waits for decisions",
        ("access_review.complete", Outcome::Succeeded) => "completed an access review",
        ("access_review.cancel", Outcome::Succeeded) => "cancelled an access review",
        ("review.remind", _) => "reminds of a broken glass that nobody has looked at",
        ("review.escalate", _) => "escalates a broken glass that nobody has looked at",
        ("review.close", Outcome::Succeeded) => "closed the review of a broken glass",
        ("freeze.create", Outcome::Succeeded) => "FROZE everything",
        ("freeze.lift", Outcome::Succeeded) => "lifted a freeze",
        ("grant.extend", Outcome::Succeeded) => "extended a grant",
        ("grant.start", Outcome::Succeeded) => "began to open what was asked for later",
        ("grant.open", Outcome::Succeeded) => "opened a port",
        ("grant.end", Outcome::Succeeded) => "ended a grant",
        ("grant.revoke", Outcome::Succeeded) => "revoked a grant",
        ("grant.rule_closed", Outcome::Succeeded) => "closed a port",
        ("grant.overdue", _) => "could not close a port yet",
        ("jit_policy.create", Outcome::Succeeded) => "created a JIT policy",
        ("jit_policy.update", Outcome::Succeeded) => "changed a JIT policy",
        ("jit_policy.delete", Outcome::Succeeded) => "deleted a JIT policy",
        ("point.finding", _) => "found a rule that is not as it should be",
        ("point.obstacle", _) => "found something in the way",
        _ => "",
    };
    let who = actor(&event.actor);
    let what = if did.is_empty() {
        let outcome = match event.outcome {
            Outcome::Denied => "was refused",
            Outcome::Failed => "failed at",
            Outcome::Intended => "is about to do",
            Outcome::Unknown => "does not know what became of",
            Outcome::Succeeded => "did",
        };
        format!("{outcome} {}", event.action)
    } else {
        did.to_owned()
    };
    let whereabouts = event
        .subject
        .machine
        .as_ref()
        .map(ToString::to_string)
        .or_else(|| event.subject.point.clone())
        .unwrap_or_else(|| event.scope.to_string());
    let why = event
        .reason
        .as_deref()
        .map(|reason| format!(": {}", one_line(reason)))
        .unwrap_or_default();
    format!("{who} {what} ({whereabouts}){why}")
}

/// Without line breaks and other characters that are not seen or move others, so that a reason cannot pose as a further
/// line, or as what it is not.
fn one_line(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() || is_deceptive(c) { ' ' } else { c })
        .collect()
}

#[cfg(test)]
mod tests {
    use postern_core::{
        audit::Subject,
        testing::{an_id, at},
    };

    use super::*;

    fn asked() -> StoredEvent {
        StoredEvent {
            seq: 7,
            event: AuditEvent {
                id: an_id(1),
                at: at(0),
                action: "access_request.create".into(),
                outcome: Outcome::Succeeded,
                actor: Actor::Principal {
                    principal: "user:corp/ada".parse().unwrap(),
                },
                scope: "/aws/123456789012".parse().unwrap(),
                reason: Some("disk\nfull".into()),
                decision: Some(json!({ "allowed_by": ["secret"] })),
                details: json!({ "claims": "secret" }),
                subject: Subject {
                    request: Some(an_id(2)),
                    ..Subject::default()
                },
                http_request: None,
            },
        }
    }

    fn below(base: &str) -> Links {
        Links {
            base: Some(base.parse().unwrap()),
            request: None,
        }
    }

    fn told(stored: &StoredEvent, links: &Links) -> Message {
        Message::of(stored, &"prod".parse().unwrap(), links)
    }

    fn message() -> Message {
        told(&asked(), &below("https://postern.example.com/jit"))
    }

    #[test]
    fn a_cloud_event_has_what_the_standard_asks_for() {
        let event = message().cloud_event;
        assert_eq!(event["specversion"], "1.0");
        assert_eq!(event["source"], "urn:postern:prod");
        assert_eq!(event["type"], "postern.access_request.create");
        assert_eq!(event["subject"], json!(an_id::<postern_core::id::RequestKind>(2)));
        assert_eq!(event["time"], "2026-01-01T00:00:00Z");
        assert_eq!(event["data"]["actor"], "user:corp/ada");
        assert!(event["data"].get("grant").is_none(), "{event}");
    }

    #[test]
    fn what_decided_and_further_details_stay_in_the_log() {
        assert!(!message().cloud_event.to_string().contains("secret"));
    }

    #[test]
    fn people_get_one_line_and_a_link_below_the_base() {
        let message = message();
        assert_eq!(
            message.summary,
            "user:corp/ada asks for access (/aws/123456789012): disk full"
        );
        let link = message.link.unwrap();
        let link = link.address();
        assert!(
            link.starts_with("https://postern.example.com/jit/v1/access-requests/"),
            "{link}"
        );
    }

    #[test]
    fn people_are_led_to_the_portal_and_programs_to_the_api_as_well() {
        let links = |base: Option<&str>| Links {
            base: base.map(|base| base.parse().unwrap()),
            request: Some("https://portal.example.com/access/{request}".parse().unwrap()),
        };
        let request = an_id::<postern_core::id::RequestKind>(2);
        let grant = an_id::<postern_core::id::GrantKind>(3);
        let portal = format!("https://portal.example.com/access/{request}");
        let mut opened = asked();
        opened.event.action = "grant.open".into();
        opened.event.subject.grant = Some(grant);
        let mut waiting = opened.clone();
        waiting.event.details = json!({ "awaits": [{ "policy_name": "ssh" }] });
        for (stored, link) in [
            (asked(), format!("access-requests/{request}")),
            (waiting, format!("access-requests/{request}")),
            (opened, format!("grants/{grant}")),
        ] {
            let message = told(&stored, &links(Some("https://postern.example.com/")));
            assert_eq!(message.link, Some(Link::Portal(portal.clone())));
            let data = &message.cloud_event["data"];
            assert_eq!(data["request_url"], portal);
            assert_eq!(data["link"], format!("https://postern.example.com/v1/{link}"));
            // A portal is enough.
            let message = told(&stored, &links(None));
            assert_eq!(message.link, Some(Link::Portal(portal.clone())));
            assert!(message.cloud_event["data"].get("link").is_none());
        }
        assert!(
            message().cloud_event["data"].get("request_url").is_none(),
            "there is no portal"
        );
        // What names no request is seen in the API alone.
        let mut changed = asked();
        changed.event.subject = Subject {
            policy: Some(an_id(4)),
            ..Subject::default()
        };
        let changed = told(&changed, &links(Some("https://postern.example.com/")));
        assert!(matches!(changed.link, Some(Link::Postern(_))), "{changed:?}");
        assert!(changed.cloud_event["data"].get("request_url").is_none());
    }

    #[test]
    fn reviewers_are_told_of_an_access_review_with_a_link_to_it() {
        let mut started = asked();
        started.event.action = "access_review.start".into();
        started.event.subject = Subject::default();
        started.event.reason = Some("`who needs what`".into());
        let review = an_id::<postern_core::id::AccessReviewKind>(4).to_string();
        started.event.details = json!({ "access_review": review, "reviewers": ["user:corp/lea"] });
        let told = told(&started, &below("https://postern.example.com/"));
        assert_eq!(
            told.summary,
            "user:corp/ada started an access review (/aws/123456789012): `who needs what`"
        );
        assert_eq!(told.cloud_event["subject"], review);
        assert!(
            told.link
                .unwrap()
                .address()
                .ends_with(&format!("/v1/access-reviews/{review}"))
        );
        assert!(!told.cloud_event.to_string().contains("user:corp/lea"));
    }

    #[test]
    fn what_waits_for_a_decision_is_told_apart_from_what_does_not() {
        assert_eq!(message().undecided, None, "a policy granted it");
        let mut waiting = asked();
        waiting.event.details = json!({ "awaits": [{ "policy_name": "ssh" }] });
        waiting.event.subject.grant = Some(an_id(3));
        let told = told(&waiting, &below("https://postern.example.com/"));
        let request = an_id::<postern_core::id::RequestKind>(2).to_string();
        assert_eq!(told.undecided, Some(Undecided::Request(request.clone())));
        assert!(
            told.link.unwrap().address().ends_with(&request),
            "where it is decided"
        );
    }

    #[test]
    fn who_is_reminded_of_a_broken_glass_is_told_which_review_to_close() {
        let mut reminded = asked();
        reminded.event.action = "review.remind".into();
        reminded.event.actor = Actor::System {
            component: "reconciler".into(),
        };
        let review = an_id::<postern_core::id::ReviewKind>(5).to_string();
        reminded.event.details = json!({ "review": review, "requester": "user:corp/ada" });
        let links = Links {
            request: Some("https://portal.example.com/access/{request}".parse().unwrap()),
            ..below("https://postern.example.com/")
        };
        let told = told(&reminded, &links);
        assert_eq!(told.undecided, Some(Undecided::Review(review)));
        assert_eq!(
            told.link.unwrap().address(),
            "https://postern.example.com/v1/reviews?status=open"
        );
        assert_eq!(
            told.summary,
            "postern (reconciler) reminds of a broken glass that nobody has looked at (/aws/123456789012): disk full"
        );
        assert_eq!(told.cloud_event["type"], "postern.review.remind");
    }
}
