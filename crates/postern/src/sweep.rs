//! Closing what is past its end, from the clouds' own marks.
//!
//! Needs cloud credentials and the installation's name, and nothing else: it is for the day on which the server
//! or its database is gone, and for a timer that is there before that day.

use std::sync::Arc;

use postern_core::{
    enforcer::{EnforceError, Enforcer, Marked},
    machine::Account,
    mark::{Installation, Purpose},
    time::Instant,
};
use serde::Serialize;
use tokio::{sync::Semaphore, task::JoinSet};

use crate::enforcers::Part;

/// How many accounts are swept at the same time.
const AT_ONCE: usize = 8;

/// What a sweep is told.
#[derive(Debug, Clone)]
pub struct Sweep {
    /// Whose marks.
    pub installation: Installation,
    /// What ended until then is overdue.
    pub now: Instant,
    /// Whether what is overdue is removed.
    pub apply: bool,
}

/// What a sweep found, and what became of it.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Whose marks.
    pub installation: Installation,
    /// What ended until then was overdue.
    pub now: Instant,
    /// Whether what was overdue was removed.
    pub applied: bool,
    /// What was looked at: a subscription, or an account's region.
    pub accounts: Vec<Looked>,
    /// Every mark of the installation there.
    pub marks: Vec<Found>,
}

/// An account that was looked at.
#[derive(Debug, Serialize)]
pub struct Looked {
    /// Its scope.
    pub account: String,
    /// Why its marks are not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// What a mark says of the rule or group that carries it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Past its end.
    Overdue,
    /// It was past its end, and is gone.
    Removed,
    /// Its end is to come.
    Live,
    /// It has no end of its own: a lockdown or what belongs to one, or a temporary group.
    Standing,
}

impl Status {
    /// The status' word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Overdue => "overdue",
            Self::Removed => "removed",
            Self::Live => "live",
            Self::Standing => "standing",
        }
    }
}

/// A rule or group with a mark.
#[derive(Debug, Serialize)]
pub struct Found {
    /// The scope of its account.
    pub account: String,
    /// Its native id.
    pub resource: String,
    /// The mark.
    pub mark: String,
    /// Until when it may stand; absent for what has no end of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub end: Option<Instant>,
    /// How it stands.
    pub status: Status,
    /// Why it could not be removed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl Report {
    /// Everything that went wrong, one line each.
    pub fn failures(&self) -> Vec<String> {
        let accounts = self
            .accounts
            .iter()
            .filter_map(|looked| Some(format!("{}: {}", looked.account, looked.error.as_ref()?)));
        let marks = self
            .marks
            .iter()
            .filter_map(|found| Some(format!("{}: {}", found.resource, found.error.as_ref()?)));
        accounts.chain(marks).collect()
    }

    /// How many are past their end and still there.
    pub fn overdue(&self) -> usize {
        let overdue = |found: &&Found| found.status == Status::Overdue;
        self.marks.iter().filter(overdue).count()
    }
}

type Swept = (Vec<Looked>, Vec<Found>);

impl Sweep {
    /// Goes through every part. An account or a rule that fails does not keep the others from being swept.
    pub async fn run(self, parts: Vec<Part>) -> Report {
        let gate = Arc::new(Semaphore::new(AT_ONCE));
        let sweep = Arc::new(self);
        let mut tasks = JoinSet::new();
        for (at, part) in parts.into_iter().enumerate() {
            let (sweep, gate) = (Arc::clone(&sweep), Arc::clone(&gate));
            tasks.spawn(async move {
                // The gate is never closed, and without it the sweep goes on all the same.
                let _place = gate.acquire().await;
                (at, sweep.part(&part).await)
            });
        }
        let mut swept: Vec<(usize, Swept)> = Vec::new();
        while let Some(done) = tasks.join_next().await {
            match done {
                Ok(one) => swept.push(one),
                Err(error) => swept.push((usize::MAX, (failed("a part of the sweep", &error), Vec::new()))),
            }
        }
        swept.sort_by_key(|(at, _)| *at);
        let (accounts, marks): (Vec<_>, Vec<_>) = swept.into_iter().map(|(_, swept)| swept).unzip();
        Report {
            installation: sweep.installation.clone(),
            now: sweep.now,
            applied: sweep.apply,
            accounts: accounts.into_iter().flatten().collect(),
            marks: marks.into_iter().flatten().collect(),
        }
    }

    async fn part(&self, part: &Part) -> Swept {
        let enforcer = match &part.enforcer {
            Ok(enforcer) => &**enforcer,
            Err(error) => return (failed(&part.scope, error), Vec::new()),
        };
        let accounts = enforcer.accounts().await;
        let unlisted = accounts.failed.iter();
        let mut looked: Vec<_> = unlisted
            .flat_map(|unlisted| failed(&unlisted.scope, &unlisted.error))
            .collect();
        let mut found = Vec::new();
        for account in accounts.found {
            looked.push(self.account(enforcer, &account, &mut found).await);
        }
        (looked, found)
    }

    async fn account(&self, enforcer: &dyn Enforcer, account: &Account, found: &mut Vec<Found>) -> Looked {
        let mut error = None;
        match enforcer.marked(account, &self.installation).await {
            Ok(marked) => {
                for one in marked {
                    found.push(self.one(enforcer, &one).await);
                }
            }
            Err(failed) => error = Some(failed.to_string()),
        }
        Looked {
            account: account.to_string(),
            error,
        }
    }

    async fn one(&self, enforcer: &dyn Enforcer, one: &Marked) -> Found {
        let (status, end) = self.standing(one);
        let mut swept = Found {
            account: one.account.to_string(),
            resource: one.resource.clone(),
            mark: one.mark.to_string(),
            end,
            status,
            error: None,
        };
        if self.apply && status == Status::Overdue {
            match enforcer.remove(one).await {
                Ok(()) | Err(EnforceError::Gone { .. }) => swept.status = Status::Removed,
                Err(error) => swept.error = Some(error.to_string()),
            }
        }
        swept
    }

    /// Only a grant's rule has an end. A lockdown keeps closed, so that removing it would open something.
    fn standing(&self, one: &Marked) -> (Status, Option<Instant>) {
        match &one.mark.purpose {
            Purpose::Grant { end, .. } if one.mark.installation == self.installation && *end <= self.now => {
                (Status::Overdue, Some(*end))
            }
            Purpose::Grant { end, .. } => (Status::Live, Some(*end)),
            Purpose::Holder | Purpose::Copy { .. } | Purpose::Lockdown { .. } | Purpose::Residual { .. } => {
                (Status::Standing, None)
            }
        }
    }
}

fn failed(scope: &str, error: &impl std::fmt::Display) -> Vec<Looked> {
    vec![Looked {
        account: scope.to_owned(),
        error: Some(error.to_string()),
    }]
}

#[cfg(test)]
mod tests {
    use postern_core::{
        mark::Mark,
        testing::{an_id, at},
    };

    use super::*;

    fn marked(installation: &str, purpose: Purpose) -> Marked {
        Marked {
            mark: Mark {
                installation: installation.parse().unwrap(),
                purpose,
            },
            resource: "sgr-1".to_owned(),
            account: Account::Aws {
                account: "111122223333".to_owned(),
                region: "eu-west-1".to_owned(),
            },
            detail: serde_json::Value::Null,
        }
    }

    #[test]
    fn only_a_grants_rule_of_this_installation_past_its_end_is_overdue() {
        let sweep = Sweep {
            installation: "prod".parse().unwrap(),
            now: at(100),
            apply: false,
        };
        let grant = |end| Purpose::Grant {
            grant: an_id(1),
            end: at(end),
        };
        let status = |one: &Marked| sweep.standing(one).0;
        assert_eq!(status(&marked("prod", grant(100))), Status::Overdue);
        assert_eq!(status(&marked("prod", grant(101))), Status::Live);
        assert_ne!(status(&marked("test", grant(1))), Status::Overdue);
        for purpose in [
            Purpose::Holder,
            Purpose::Lockdown { policy: an_id(2) },
            Purpose::Residual { of: an_id(3) },
        ] {
            assert_eq!(status(&marked("prod", purpose)), Status::Standing);
        }
    }
}
