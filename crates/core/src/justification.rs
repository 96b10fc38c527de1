//! What a policy asks of a request's reason and ticket.

use std::fmt;

use regex::{Regex, RegexBuilder};
use serde::{Deserialize, Serialize};

/// The longest pattern, in characters.
pub const MAX_PATTERN: usize = 200;
/// The longest ticket, in characters.
pub const MAX_TICKET: usize = 100;
/// The most memory that a compiled pattern may take, in bytes. Patterns have no back-references, so that matching takes
/// time in proportion to the text.
const MAX_COMPILED: usize = 256 * 1024;

/// What a policy asks of a request's reason and ticket. Patterns are those of the `regex` crate, and match the whole.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Justification {
    /// What a reason looks like.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason_pattern: Option<String>,
    /// Whether there must be a ticket.
    #[serde(default)]
    pub ticket_required: bool,
    /// What a ticket looks like.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ticket_pattern: Option<String>,
    /// Whether the ticket system is asked for the ticket, and what holds when it does not answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ticket_check: Option<WhenUnanswered>,
}

/// What holds when the ticket system does not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WhenUnanswered {
    /// The request is refused: fail closed.
    Refuse,
    /// The request goes on, and the audit log says so: fail open.
    Allow,
}

/// What the ticket system says to a ticket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "verdict")]
pub enum TicketVerdict {
    /// It knows the ticket, as one that counts.
    Confirmed,
    /// It knows of no such ticket, or of one that does not count.
    Refused {
        /// Why.
        reason: String,
    },
    /// It did not say.
    Unanswered {
        /// What happened.
        reason: String,
    },
}

/// Why a pattern is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{field}` is a regular expression of at most {MAX_PATTERN} characters: {problem}")]
pub struct InvalidPattern {
    /// Which field.
    pub field: &'static str,
    /// What is wrong with it.
    pub problem: String,
}

/// Why a reason or ticket does not do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotJustified {
    /// The reason is not what the policy asks for.
    #[error("policy `{policy}` asks for a reason that matches `{pattern}`")]
    Reason {
        /// The policy's name.
        policy: String,
        /// The pattern.
        pattern: String,
    },
    /// There is no ticket.
    #[error("policy `{policy}` asks for a ticket")]
    NoTicket {
        /// The policy's name.
        policy: String,
    },
    /// The ticket is not what the policy asks for.
    #[error("policy `{policy}` asks for a ticket that matches `{pattern}`")]
    Ticket {
        /// The policy's name.
        policy: String,
        /// The pattern.
        pattern: String,
    },
    /// The ticket system says no.
    #[error("the ticket system does not take the ticket: {reason}")]
    Refused {
        /// Why.
        reason: String,
    },
    /// The ticket system does not say, and the policy refuses then.
    #[error("the ticket system did not confirm the ticket, and policy `{policy}` refuses then: {reason}")]
    Unanswered {
        /// The policy's name.
        policy: String,
        /// What happened.
        reason: String,
    },
}

fn whole(field: &'static str, pattern: &str) -> Result<Regex, InvalidPattern> {
    let invalid = |problem: &dyn fmt::Display| InvalidPattern {
        field,
        problem: problem.to_string(),
    };
    if pattern.is_empty() || pattern.chars().count() > MAX_PATTERN {
        return Err(invalid(&"it is empty or too long"));
    }
    // By itself first: a pattern such as `)(` must not become one by what is put around it.
    let compile = |text: &str| RegexBuilder::new(text).size_limit(MAX_COMPILED).build();
    compile(pattern).map_err(|error| invalid(&error))?;
    compile(&format!("^(?:{pattern})$")).map_err(|error| invalid(&error))
}

impl Justification {
    /// Checks that the patterns are patterns.
    pub fn validate(&self) -> Result<(), InvalidPattern> {
        if let Some(pattern) = &self.reason_pattern {
            whole("reason_pattern", pattern)?;
        }
        if let Some(pattern) = &self.ticket_pattern {
            whole("ticket_pattern", pattern)?;
        }
        Ok(())
    }

    /// Whether the reason and the ticket do. `verdict` is what the ticket system said; without one it was not asked. A
    /// ticket is held against the pattern and the ticket system also where none is required.
    pub fn check(
        &self,
        policy: &str,
        reason: &str,
        ticket: Option<&str>,
        verdict: Option<&TicketVerdict>,
    ) -> Result<(), NotJustified> {
        // A stored pattern was one when it was stored; one that is none any more lets nothing through.
        let fits = |field, pattern: &str, text: &str| {
            whole(field, pattern).is_ok_and(|pattern| pattern.is_match(text))
        };
        let policy = || policy.to_owned();
        if let Some(pattern) = &self.reason_pattern
            && !fits("reason_pattern", pattern, reason.trim())
        {
            return Err(NotJustified::Reason {
                policy: policy(),
                pattern: pattern.clone(),
            });
        }
        let Some(ticket) = ticket else {
            return if self.ticket_required {
                Err(NotJustified::NoTicket { policy: policy() })
            } else {
                Ok(())
            };
        };
        if let Some(pattern) = &self.ticket_pattern
            && !fits("ticket_pattern", pattern, ticket)
        {
            return Err(NotJustified::Ticket {
                policy: policy(),
                pattern: pattern.clone(),
            });
        }
        let Some(unanswered) = self.ticket_check else {
            return Ok(());
        };
        match (verdict, unanswered) {
            (Some(TicketVerdict::Refused { reason }), _) => Err(NotJustified::Refused {
                reason: reason.clone(),
            }),
            (Some(TicketVerdict::Confirmed), _)
            | (Some(TicketVerdict::Unanswered { .. }) | None, WhenUnanswered::Allow) => Ok(()),
            (Some(TicketVerdict::Unanswered { reason }), WhenUnanswered::Refuse) => {
                Err(NotJustified::Unanswered {
                    policy: policy(),
                    reason: reason.clone(),
                })
            }
            (None, WhenUnanswered::Refuse) => Err(NotJustified::Unanswered {
                policy: policy(),
                reason: "it was not asked".to_owned(),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asks(change: impl FnOnce(&mut Justification)) -> Justification {
        let mut justification = Justification::default();
        change(&mut justification);
        justification
    }

    #[test]
    fn a_pattern_matches_the_whole_and_cannot_break_out_of_it() {
        let asks = asks(|one| one.ticket_pattern = Some("OPS-[0-9]+|INC".into()));
        for (ticket, fits) in [
            ("OPS-1", true),
            ("INC", true),
            ("xOPS-1", false),
            ("OPS-1 ", false),
            ("INC2", false),
        ] {
            assert_eq!(asks.check("p", "r", Some(ticket), None).is_ok(), fits, "{ticket}");
        }
        for pattern in ["a)(b", "(", "[", "\\", "", &"a".repeat(201), "(a{1000}){1000}"] {
            let bad = Justification {
                reason_pattern: Some(pattern.into()),
                ..Justification::default()
            };
            assert!(bad.validate().is_err(), "{pattern}");
            assert!(
                bad.check("p", "anything", None, None).is_err(),
                "lets nothing through"
            );
        }
    }

    #[test]
    fn a_missing_ticket_is_refused_only_where_one_is_required() {
        let required = asks(|one| one.ticket_required = true);
        assert!(matches!(
            required.check("p", "r", None, None),
            Err(NotJustified::NoTicket { .. })
        ));
        assert_eq!(required.check("p", "r", Some("OPS-1"), None), Ok(()));
        assert_eq!(Justification::default().check("p", "r", None, None), Ok(()));
    }

    #[test]
    fn a_ticket_system_that_does_not_answer_counts_as_the_policy_says_and_one_that_says_no_always() {
        let unanswered = TicketVerdict::Unanswered {
            reason: "timed out".into(),
        };
        let no = TicketVerdict::Refused {
            reason: "closed".into(),
        };
        for (when, open) in [(WhenUnanswered::Refuse, false), (WhenUnanswered::Allow, true)] {
            let asks = asks(|one| one.ticket_check = Some(when));
            let check = |verdict: Option<&TicketVerdict>| asks.check("p", "r", Some("OPS-1"), verdict);
            assert_eq!(check(Some(&unanswered)).is_ok(), open);
            assert_eq!(check(None).is_ok(), open);
            assert!(matches!(check(Some(&no)), Err(NotJustified::Refused { .. })));
            assert_eq!(check(Some(&TicketVerdict::Confirmed)), Ok(()));
        }
    }
}
