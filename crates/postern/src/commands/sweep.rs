//! `postern sweep`: closes what is past its end from the clouds' own marks.
//!
//! Needs cloud credentials and the installation's name, and nothing else: it is for the day on which the server
//! or its database is gone.

use std::sync::Arc;

use postern_core::{
    enforcer::{EnforceError, Enforcer, Marked},
    mark::{Installation, Purpose},
    time::{Clock, Instant, SystemClock},
};
use serde::Serialize;

use crate::{
    cli::SweepArgs,
    config::Config,
    enforcers,
    exit::{Exit, Failure},
    logging, output,
};

/// What was found, and what became of it.
#[derive(Debug, Serialize)]
struct Found {
    account: String,
    resource: String,
    mark: String,
    /// Until when it may stand; absent for what has no end of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    end: Option<Instant>,
    /// `overdue`, `live` (its end is to come), `standing` (a lockdown or what belongs to one, a holder) or
    /// `removed`.
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// Finds the marks of the configured installation and removes what is overdue where told to.
pub async fn run(args: SweepArgs) -> Result<(), Failure> {
    let config = Config::load(&args.config.config)?;
    logging::start(&config.logging.filter, config.logging.format)?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let enforcers = enforcers::all(&config, &clock).await?;
    let (found, errors) = sweep(&enforcers, &config.installation.name, clock.now(), args.apply).await;
    if args.json {
        output::json(&found)?;
    } else {
        let rows = found.iter().map(|one| {
            [
                one.status.to_owned(),
                output::instant_or_dash(one.end),
                one.resource.clone(),
                one.error.clone().unwrap_or_else(|| one.mark.clone()),
            ]
        });
        output::line(&output::table(["STATUS", "END", "RESOURCE", "MARK"], rows))?;
        let overdue = found.iter().filter(|one| one.status == "overdue").count();
        if overdue > 0 && !args.apply {
            output::note(&format!(
                "{overdue} overdue; run again with --apply to remove them"
            ))?;
        }
    }
    if errors.is_empty() {
        Ok(())
    } else {
        Err(Failure::new(Exit::Failure, errors.join("; ")))
    }
}

/// Goes through every account. An account or a rule that fails does not keep the others from being swept.
async fn sweep(
    enforcers: &[Arc<dyn Enforcer>],
    installation: &Installation,
    now: Instant,
    apply: bool,
) -> (Vec<Found>, Vec<String>) {
    let (mut found, mut errors) = (Vec::new(), Vec::new());
    for enforcer in enforcers {
        let accounts = match enforcer.accounts().await {
            Ok(accounts) => accounts,
            Err(error) => {
                errors.push(format!("{}: {error}", enforcer.cloud()));
                continue;
            }
        };
        for account in accounts {
            match enforcer.marked(&account, installation).await {
                Ok(marked) => {
                    for one in marked {
                        let swept = sweep_one(&**enforcer, one, installation, now, apply).await;
                        errors.extend(
                            swept
                                .error
                                .as_ref()
                                .map(|error| format!("{}: {error}", swept.resource)),
                        );
                        found.push(swept);
                    }
                }
                Err(error) => errors.push(format!("{account}: {error}")),
            }
        }
    }
    (found, errors)
}

async fn sweep_one(
    enforcer: &dyn Enforcer,
    one: Marked,
    installation: &Installation,
    now: Instant,
    apply: bool,
) -> Found {
    let (status, end) = standing(&one, installation, now);
    let mut swept = Found {
        account: one.account.to_string(),
        resource: one.resource.clone(),
        mark: one.mark.to_string(),
        end,
        status,
        error: None,
    };
    if apply && status == "overdue" {
        match enforcer.remove(&one).await {
            Ok(()) | Err(EnforceError::Gone { .. }) => swept.status = "removed",
            Err(error) => swept.error = Some(error.to_string()),
        }
    }
    swept
}

/// Only a grant's rule has an end. A lockdown keeps closed, so that removing it would open something.
fn standing(one: &Marked, installation: &Installation, now: Instant) -> (&'static str, Option<Instant>) {
    match &one.mark.purpose {
        Purpose::Grant { end, .. } if one.mark.installation == *installation && *end <= now => {
            ("overdue", Some(*end))
        }
        Purpose::Grant { end, .. } => ("live", Some(*end)),
        Purpose::Holder | Purpose::Lockdown { .. } | Purpose::Residual { .. } => ("standing", None),
    }
}

#[cfg(test)]
mod tests {
    use postern_core::{
        machine::Account,
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
        let ours: Installation = "prod".parse().unwrap();
        let grant = |end| Purpose::Grant {
            grant: an_id(1),
            end: at(end),
        };
        let status = |one: &Marked| standing(one, &ours, at(100)).0;
        assert_eq!(status(&marked("prod", grant(100))), "overdue");
        assert_eq!(status(&marked("prod", grant(101))), "live");
        assert_ne!(status(&marked("test", grant(1))), "overdue");
        for purpose in [
            Purpose::Holder,
            Purpose::Lockdown { policy: an_id(2) },
            Purpose::Residual { of: an_id(3) },
        ] {
            assert_eq!(status(&marked("prod", purpose)), "standing");
        }
    }
}
