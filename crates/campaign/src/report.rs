//! What a campaign came to.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::run::Verdict;

/// The totals of a campaign.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Report {
    /// The first run's seed.
    pub seed: u64,
    /// How many runs.
    pub runs: usize,
    /// How many of them found nothing broken.
    pub sound: usize,
    /// How many violations, by invariant: 0 is a run that did not come to its end.
    pub violations: [usize; 6],
    /// The seeds of the runs that found one.
    pub seeds: Vec<u64>,
    /// How many grants there were.
    pub grants: usize,
    /// How many of them were open at some time.
    pub opened: usize,
    /// How many writes reached a cloud.
    pub writes: usize,
    /// How many calls met a fault.
    pub struck: u64,
    /// How many runs had each shape.
    pub shapes: BTreeMap<String, usize>,
}

impl Report {
    /// Counts one run.
    pub fn add(&mut self, verdict: &Verdict) {
        self.runs += 1;
        self.grants += verdict.grants;
        self.opened += verdict.opened;
        self.writes += verdict.writes;
        self.struck += verdict.struck;
        for shape in &verdict.shapes {
            *self.shapes.entry((*shape).to_owned()).or_default() += 1;
        }
        if verdict.violations.is_empty() {
            self.sound += 1;
            return;
        }
        self.seeds.push(verdict.seed);
        self.seeds.sort_unstable();
        for violation in &verdict.violations {
            if let Some(count) = self.violations.get_mut(usize::from(violation.invariant)) {
                *count += 1;
            }
        }
    }
}

/// How many runs had each shape, one in a line.
pub fn shapes(report: &Report) -> String {
    let width = report.shapes.keys().map(String::len).max().unwrap_or_default();
    report
        .shapes
        .iter()
        .map(|(shape, count)| format!("{shape:<width$}  {count:>5} of {} runs", report.runs))
        .collect::<Vec<_>>()
        .join("\n")
}

/// One run in one line.
pub fn line(verdict: &Verdict) -> String {
    let state = if verdict.violations.is_empty() {
        "sound"
    } else {
        "BROKEN"
    };
    format!(
        "seed {:>6}  {state}  {:>5.1} s  {:>2} grants, {:>2} opened, {:>3} writes, {:>3} faults",
        verdict.seed,
        f64::from(u32::try_from(verdict.took_ms).unwrap_or(u32::MAX)) / 1000.0,
        verdict.grants,
        verdict.opened,
        verdict.writes,
        verdict.struck,
    )
}
