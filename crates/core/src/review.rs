//! Reviews: what was opened by breaking the glass stays to be looked at until somebody else has done so.

use serde::{Deserialize, Serialize};

use crate::{
    id::{RequestId, ReviewId},
    principal::{Principal, PrincipalRef},
    scope::Scope,
    time::Instant,
};

/// The review of one use of break-glass.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Review {
    /// Its id.
    pub id: ReviewId,
    /// The request that was granted without approval.
    pub request: RequestId,
    /// Who broke the glass.
    pub requester: PrincipalRef,
    /// The scopes of the machines.
    pub scopes: Vec<Scope>,
    /// Why, as they said.
    pub reason: String,
    /// When.
    pub opened_at: Instant,
    /// How it was closed, if it was.
    pub closed: Option<Verdict>,
}

/// What somebody else found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// Who.
    pub by: PrincipalRef,
    /// When.
    pub at: Instant,
    /// What.
    pub note: String,
}

/// How somebody is reminded of a review that nobody has closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reminder {
    /// Whoever may close it hears of it again: half of the time to close it has passed.
    Again,
    /// Others hear of it, too: all of it has, once or more often.
    Escalated,
}

impl Reminder {
    /// The audit event's action, to which subscribers subscribe.
    pub const fn action(self) -> &'static str {
        match self {
            Self::Again => "review.remind",
            Self::Escalated => "review.escalate",
        }
    }

    /// Why, for the audit log.
    pub const fn rule(self) -> &'static str {
        match self {
            Self::Again => "half of the time to close the review has passed",
            Self::Escalated => "the time to close the review has passed, and it is open",
        }
    }
}

/// Why a review is not closed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CannotClose {
    /// Whoever broke the glass, in whatever guise.
    #[error("a review is closed by somebody else than who broke the glass")]
    Own,
    /// A program has no judgement to add.
    #[error("a review is closed by a person, and `{0}` is none")]
    NotAPerson(PrincipalRef),
    /// It was closed before.
    #[error("the review was closed at {} by `{}`", crate::time::written(.0.at), .0.by)]
    Closed(Verdict),
}

impl Review {
    /// Closed by somebody else than `broke`, who broke the glass as their token had them then, and by a person; see
    /// [`Principal::may_be`] for who counts as the same.
    pub fn close(
        self,
        by: &Principal,
        broke: &Principal,
        at: Instant,
        note: String,
    ) -> Result<Self, CannotClose> {
        let verdict = Verdict {
            by: by.reference(),
            at,
            note,
        };
        if verdict.by.name() == self.requester.name() || by.may_be(broke) {
            return Err(CannotClose::Own);
        }
        if !verdict.by.is_person() {
            return Err(CannotClose::NotAPerson(verdict.by));
        }
        match self.closed {
            Some(before) => Err(CannotClose::Closed(before)),
            None => Ok(Self {
                closed: Some(verdict),
                ..self
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        principal::PrincipalKind,
        testing::{a_principal, an_id, at},
    };

    fn principal(kind: PrincipalKind, issuer: &str, subject: &str) -> Principal {
        Principal {
            kind,
            issuer: issuer.into(),
            subject: subject.into(),
            ..a_principal()
        }
    }

    #[test]
    fn a_review_is_closed_once_by_another_person() {
        let review = Review {
            id: an_id(1),
            request: an_id(2),
            requester: "workload:corp/ada".parse().unwrap(),
            scopes: vec![Scope::root()],
            reason: "site down".into(),
            opened_at: at(0),
            closed: None,
        };
        let ada = principal(PrincipalKind::Workload, "corp", "ada");
        let close = |review: Review, kind, issuer, subject| {
            review.close(
                &principal(kind, issuer, subject),
                &ada,
                at(9),
                "was needed".into(),
            )
        };
        for (issuer, subject) in [("corp", "ada"), ("partner", "Ada")] {
            assert_eq!(
                close(review.clone(), PrincipalKind::Human, issuer, subject),
                Err(CannotClose::Own),
                "in another guise"
            );
        }
        assert!(matches!(
            close(review.clone(), PrincipalKind::Workload, "ci", "bot"),
            Err(CannotClose::NotAPerson(_))
        ));
        let closed = close(review, PrincipalKind::Human, "corp", "eve").unwrap();
        let verdict = closed.closed.clone().unwrap();
        assert_eq!(verdict.by.to_string(), "user:corp/eve");
        assert_eq!(
            close(closed, PrincipalKind::Human, "corp", "bob"),
            Err(CannotClose::Closed(verdict))
        );
    }
}
