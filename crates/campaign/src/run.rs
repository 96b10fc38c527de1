//! One run from its seed to its verdict.

use std::{collections::BTreeSet, path::Path, time::Duration};

use anyhow::Context as _;
use chrono::TimeDelta;
use serde::Serialize;
use serde_json::json;

use crate::{
    additions::With,
    isolation,
    judge::{self, Docket, Logs, Times},
    play::{Stage, directory},
    script::Script,
    shapes,
    trail::{self, Skew, Violation},
};

/// The longest that a run may take; one that takes longer hangs.
const HARD: Duration = Duration::from_secs(200);

/// How a run went.
#[derive(Debug, Clone, Serialize)]
pub struct Verdict {
    /// Its seed.
    pub seed: u64,
    /// What was broken; nothing, if all is well.
    pub violations: Vec<Violation>,
    /// How long it took, in milliseconds.
    pub took_ms: u128,
    /// How many grants there were.
    pub grants: usize,
    /// How many of them were open at some time.
    pub opened: usize,
    /// How many writes reached a cloud.
    pub writes: usize,
    /// How many calls met a fault.
    pub struck: u64,
    /// Which shapes it had.
    pub shapes: BTreeSet<&'static str>,
}

impl Verdict {
    /// Of a run that has not come to its end.
    fn new(seed: u64) -> Self {
        Self {
            seed,
            violations: Vec::new(),
            took_ms: 0,
            grants: 0,
            opened: 0,
            writes: 0,
            struck: 0,
            shapes: BTreeSet::new(),
        }
    }

    /// Of a run that broke off.
    pub fn broke_off(seed: u64, why: &str) -> Self {
        let violations = vec![Violation::new(0, format!("the run broke off: {why}"))];
        Self {
            violations,
            ..Self::new(seed)
        }
    }
}

/// Makes one run. Its files stay in `scratch` when something was broken, or with `keep`.
pub async fn run(
    seed: u64,
    with: &With,
    template: &Path,
    scratch: &Path,
    keep: bool,
    sabotage: Option<String>,
) -> Verdict {
    let begun = std::time::Instant::now();
    let script = Script::draw(seed, with);
    let directory = directory(scratch, seed);
    let mut verdict = Verdict::new(seed);
    verdict.shapes = shapes::drawn(&script);
    let played =
        tokio::time::timeout(HARD, play(&script, template, &directory, sabotage, &mut verdict)).await;
    match played {
        Ok(Ok(())) => {}
        Ok(Err(error)) => verdict
            .violations
            .push(Violation::new(0, format!("the run broke off: {error:#}"))),
        Err(_) => verdict
            .violations
            .push(Violation::new(0, format!("not over after {HARD:?}"))),
    }
    verdict.took_ms = begun.elapsed().as_millis();
    if verdict.violations.is_empty() && !keep {
        // A directory that stays is only untidy.
        let _ = std::fs::remove_dir_all(&directory);
    } else {
        let _ = std::fs::remove_dir_all(directory.join("database"));
    }
    verdict
}

async fn play(
    script: &Script,
    template: &Path,
    directory: &Path,
    sabotage: Option<String>,
    verdict: &mut Verdict,
) -> anyhow::Result<()> {
    // Who ran this seed before is in the way.
    let _ = std::fs::remove_dir_all(directory);
    std::fs::create_dir_all(directory).with_context(|| directory.display().to_string())?;
    let write = |name: &str, text: String| std::fs::write(directory.join(name), text);
    write("script.json", serde_json::to_string_pretty(script)?)?;
    let mut stage = Stage::set(script, template, directory, sabotage).await?;
    stage.play().await;
    verdict.shapes.extend(&stage.shapes);
    let left = stage.come_to_rest().await;
    let (grants, events) = (stage.grants().await?, stage.audit_log().await?);
    let requests = stage.requests().await?;
    stage.strike().await;

    let skew = Skew::of(script.skew_ms);
    let milliseconds = |millis: u64| i64::try_from(millis).map(TimeDelta::milliseconds);
    let times = Times {
        skew,
        disturbances: &stage.disturbances,
        lag: milliseconds(script.describe_lag_ms + script.operation_ms + 50)?,
        firewall: milliseconds(script.firewall.as_ref().map_or(0, |plan| plan.write_ms))?,
    };
    let docket = Docket::new(&grants, &requests, &times)?;
    let (arm, ec2) = (stage.real.arm.truth(), stage.real.ec2.truth());
    let mut violations: Vec<Violation> = left
        .into_iter()
        .map(|left| {
            let invariant = match left.split_once(':') {
                Some(("rules", _)) => 2,
                Some(("grant", _)) => 5,
                Some(("intents", _)) => 3,
                _ => 0,
            };
            Violation::new(invariant, format!("at the end, {left}"))
        })
        .collect();
    violations.extend(judge::azure(
        &Logs {
            real: arm,
            twin: stage.twin.arm.truth(),
            machines: &stage.real.built.vms,
        },
        &docket,
    ));
    violations.extend(judge::aws(
        &Logs {
            real: ec2,
            twin: stage.twin.ec2.truth(),
            machines: &stage.real.built.instances,
        },
        &docket,
    ));
    let changes: Vec<_> = arm.all().into_iter().chain(ec2.all()).collect();
    violations.extend(trail::writes_were_intended(&changes, &events, skew));
    violations.extend(trail::decisions_name_what_decided(&events));
    violations.extend(trail::grants_were_decided(&grants, &events));
    violations.extend(trail::grants_closed(&grants));
    violations.extend(isolation::others_are_left_alone(
        script,
        &stage.real.built.instances,
        &changes,
    ));
    verdict.shapes.extend(shapes::happened(&grants, &changes));

    verdict.grants = grants.len();
    verdict.opened = grants.iter().filter(|grant| grant.opened_at.is_some()).count();
    verdict.writes = changes
        .iter()
        .filter(|change| !crate::clouds::is_foreign(&change.caller))
        .count();
    verdict.struck =
        stage.real.arm.faults().hits() + stage.real.arm.completions().hits() + stage.real.ec2.faults().hits();
    write("history.txt", stage.history.join("\n"))?;
    let evidence =
        json!({ "violations": violations, "grants": grants, "events": events, "changes": changes });
    write("evidence.json", serde_json::to_string_pretty(&evidence)?)?;
    verdict.violations = violations;
    Ok(())
}
