//! `postern sweep`.

use std::sync::Arc;

use postern_core::{
    machine::Cloud,
    time::{Clock, SystemClock},
};

use crate::{
    cli::SweepArgs,
    config::Clouds,
    enforcers,
    exit::{Exit, Failure},
    logging, output,
    sweep::{Found, Report, Status, Sweep},
};

/// Finds the marks of an installation and removes what is overdue where told to.
pub async fn run(args: SweepArgs) -> Result<(), Failure> {
    let clouds = clouds(&args)?;
    logging::start(&clouds.logging.filter, clouds.logging.format)?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let parts = enforcers::by_account(&clouds, &clock).await;
    let sweep = Sweep {
        installation: clouds.installation.name.clone(),
        now: clock.now(),
        apply: args.apply,
    };
    let mut report = sweep.run(parts).await;
    let total = report.marks.len();
    let overdue = report.overdue();
    if !args.all {
        report
            .marks
            .retain(|found| matches!(found.status, Status::Overdue | Status::Removed));
    }
    if args.json {
        output::json(&report)?;
    } else {
        tell(&report, total, overdue)?;
    }
    let failures = report.failures();
    if failures.is_empty() {
        Ok(())
    } else {
        Err(Failure::new(Exit::Failure, failures.join("\n  ")))
    }
}

/// What was asked for: the clouds and accounts of the configuration, or what the command line names.
fn clouds(args: &SweepArgs) -> Result<Clouds, Failure> {
    // A file may be named by the environment; the command line says what is meant.
    if let (Some(installation), Some(cloud)) = (&args.installation, args.cloud) {
        return Ok(Clouds::at_hand(installation, cloud, &args.accounts)?);
    }
    let path = args
        .config
        .as_ref()
        .ok_or_else(|| Failure::new(Exit::Usage, "no configuration is named: use --config"))?;
    let mut clouds = Clouds::load(path)?;
    only(&mut clouds, args.cloud, &args.accounts).map_err(|message| Failure::new(Exit::Usage, message))?;
    Ok(clouds)
}

/// Leaves what is selected. An account that is not there is an error: nobody should believe that it was swept.
fn only(clouds: &mut Clouds, cloud: Option<Cloud>, accounts: &[String]) -> Result<(), String> {
    match cloud {
        Some(Cloud::Azure) => clouds.aws = None,
        Some(Cloud::Aws) => clouds.azure = None,
        None => {}
    }
    if let (Some(cloud), None, None) = (cloud, &clouds.azure, &clouds.aws) {
        return Err(format!("the configuration has no `{cloud}`"));
    }
    if accounts.is_empty() {
        return Ok(());
    }
    let selected = |id: &str| accounts.iter().any(|account| account.eq_ignore_ascii_case(id));
    let mut known: Vec<String> = Vec::new();
    if let Some(azure) = &mut clouds.azure {
        if azure.subscriptions.is_empty() {
            // Every subscription is configured; those that look like one are meant.
            azure.subscriptions = accounts
                .iter()
                .filter(|account| account.contains('-'))
                .cloned()
                .collect();
        }
        azure.subscriptions.retain(|id| selected(id));
        known.extend(azure.subscriptions.iter().cloned());
    }
    if let Some(aws) = &mut clouds.aws {
        aws.accounts.retain(|account| selected(&account.id));
        known.extend(aws.accounts.iter().map(|account| account.id.clone()));
    }
    if let Some(stranger) = accounts
        .iter()
        .find(|account| !known.iter().any(|id| id.eq_ignore_ascii_case(account)))
    {
        return Err(format!("`{stranger}` is not an account of the configuration"));
    }
    if clouds
        .azure
        .as_ref()
        .is_some_and(|azure| azure.subscriptions.is_empty())
    {
        clouds.azure = None;
    }
    Ok(())
}

fn tell(report: &Report, total: usize, overdue: usize) -> Result<(), Failure> {
    if !report.marks.is_empty() {
        let rows = report.marks.iter().map(row);
        output::line(&output::table(
            ["STATUS", "END", "ACCOUNT", "RESOURCE", "MARK"],
            rows,
        ))?;
    }
    let looked = report
        .accounts
        .iter()
        .filter(|looked| looked.error.is_none())
        .count();
    let removed = report
        .marks
        .iter()
        .filter(|found| found.status == Status::Removed)
        .count();
    let hint = if overdue > 0 && !report.applied {
        "; run again with --apply to remove what is overdue"
    } else {
        ""
    };
    output::note(&format!(
        "{} of {} accounts looked at: {total} marks of `{}`, {overdue} overdue, {removed} removed{hint}",
        looked,
        report.accounts.len(),
        report.installation
    ))?;
    Ok(())
}

fn row(found: &Found) -> [String; 5] {
    [
        found.status.as_str().to_owned(),
        output::instant_or_dash(found.end),
        found.account.clone(),
        found.resource.clone(),
        found.mark.clone(),
    ]
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, path::Path};

    use super::*;

    const SUBSCRIPTION: &str = "00000000-0000-0000-0000-00000000000a";

    fn configured(azure: &str) -> Clouds {
        let text = format!(
            "[installation]\nname = \"prod\"\n[azure]\nsubscriptions = {azure}\n\
             [[aws.accounts]]\nid = \"111122223333\"\n[[aws.accounts]]\nid = \"444455556666\"\n"
        );
        Clouds::from_text(Path::new("x"), &text, &BTreeMap::new()).unwrap()
    }

    fn selected(azure: &str, cloud: Option<Cloud>, accounts: &[&str]) -> Result<Vec<String>, String> {
        let mut clouds = configured(azure);
        let accounts: Vec<String> = accounts.iter().map(|id| (*id).to_owned()).collect();
        only(&mut clouds, cloud, &accounts)?;
        let azure = clouds.azure.into_iter().flat_map(|azure| {
            if azure.subscriptions.is_empty() {
                vec!["every subscription".to_owned()]
            } else {
                azure.subscriptions
            }
        });
        let aws = clouds.aws.into_iter().flat_map(|aws| aws.accounts);
        Ok(azure.chain(aws.map(|account| account.id)).collect())
    }

    #[test]
    fn nothing_selected_is_everything_configured() {
        assert_eq!(
            selected("[]", None, &[]).unwrap(),
            ["every subscription", "111122223333", "444455556666"]
        );
    }

    #[test]
    fn a_cloud_or_an_account_leaves_the_others_out() {
        let one = format!("[\"{SUBSCRIPTION}\"]");
        assert_eq!(selected(&one, Some(Cloud::Azure), &[]).unwrap(), [SUBSCRIPTION]);
        assert_eq!(
            selected(&one, None, &["444455556666"]).unwrap(),
            ["444455556666"],
            "and no subscription, which an empty list would mean all of"
        );
        assert_eq!(
            selected("[]", None, &[&SUBSCRIPTION.to_uppercase()]).unwrap(),
            [SUBSCRIPTION.to_uppercase()]
        );
    }

    #[test]
    fn an_account_that_is_not_configured_is_refused() {
        let one = format!("[\"{SUBSCRIPTION}\"]");
        let other = "00000000-0000-0000-0000-00000000000b";
        for (cloud, account) in [
            (None, "999999999999"),
            (None, other),
            (Some(Cloud::Azure), "111122223333"),
        ] {
            let refused = selected(&one, cloud, &[account]).unwrap_err();
            assert!(refused.contains(account), "{refused}");
        }
    }
}
