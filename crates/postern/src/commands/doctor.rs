//! `postern doctor`.

use std::sync::Arc;

use postern_core::time::{Clock, SystemClock};
use serde_json::json;

use crate::{
    cli::DoctorArgs,
    config::Config,
    doctor::{self, Verdict},
    exit::{Exit, Failure},
    logging, output,
};

/// Makes every check, one line each.
pub async fn run(args: DoctorArgs) -> Result<(), Failure> {
    let config = Config::load(&args.config.config)?;
    // The checks tell what there is to tell.
    logging::start("error", config.logging.format)?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let checks = doctor::examine(&config, &clock, |check| {
        if args.json {
            return Ok(());
        }
        output::line(&format!(
            "{:<8} {}: {}",
            check.verdict.as_str(),
            check.check,
            check.message
        ))
    })
    .await?;
    let failed = checks
        .iter()
        .filter(|check| check.verdict == Verdict::Failed)
        .count();
    if args.json {
        output::json(&json!({ "ok": failed == 0, "checks": checks }))?;
    }
    if failed == 0 {
        Ok(())
    } else {
        Err(Failure::new(
            Exit::Failure,
            format!("{failed} of {} checks failed", checks.len()),
        ))
    }
}
