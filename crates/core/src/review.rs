//! Reviews: what was opened by breaking the glass stays to be looked at until somebody else has done so.

use serde::{Deserialize, Serialize};

use crate::{
    id::{RequestId, ReviewId},
    principal::PrincipalRef,
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
    #[error("the review was closed at {} by `{}`", .0.at.to_rfc3339(), .0.by)]
    Closed(Verdict),
}

impl Review {
    /// Closed by somebody else, who is a person.
    pub fn close(self, verdict: Verdict) -> Result<Self, CannotClose> {
        if verdict.by.name() == self.requester.name() {
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
    use crate::testing::{an_id, at};

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
        let verdict = |by: &str| Verdict {
            by: by.parse().unwrap(),
            at: at(9),
            note: "was needed".into(),
        };
        let close = |by: &str| review.clone().close(verdict(by));
        assert_eq!(close("user:corp/ada"), Err(CannotClose::Own), "in another guise");
        assert!(matches!(
            close("workload:ci/bot"),
            Err(CannotClose::NotAPerson(_))
        ));
        let closed = close("user:corp/eve").unwrap();
        assert_eq!(
            closed.close(verdict("user:corp/bob")),
            Err(CannotClose::Closed(verdict("user:corp/eve")))
        );
    }
}
