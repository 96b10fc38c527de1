//! The loop's metrics, in Prometheus' terms.

use std::sync::atomic::AtomicU64;

use postern_core::budget::Level;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::{Registry, Unit},
};

/// The cloud and the outcome of a pass.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct PassLabels {
    /// `azure` or `aws`.
    pub cloud: &'static str,
    /// `settled`, `lagging` (what was written does not show yet), `retry`, `gone` or `lost`.
    pub outcome: &'static str,
}

/// The cloud, the verb and the outcome of a change.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ChangeLabels {
    /// `azure` or `aws`.
    pub cloud: &'static str,
    /// See `postern_core::enforcer::Verb`.
    pub verb: &'static str,
    /// `succeeded`, `failed` or `unknown`.
    pub outcome: &'static str,
}

/// The cloud and the code of a finding or an obstacle.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct CodeLabels {
    /// `azure` or `aws`.
    pub cloud: &'static str,
    /// The stable word of the finding or obstacle.
    pub code: String,
}

/// One cloud.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct CloudLabels {
    /// `azure` or `aws`.
    pub cloud: &'static str,
}

/// A call budget.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct BudgetLabels {
    /// The account's scope, such as `/azure/<subscription>` or `/aws/<account>/<region>`.
    pub account: String,
    /// The class of calls: `reads`, `writes`, `deletes` in Azure, the action in AWS.
    pub class: String,
}

/// What the loop counts.
#[derive(Debug)]
pub struct Metrics {
    pub(crate) passes: Family<PassLabels, Counter>,
    pub(crate) changes: Family<ChangeLabels, Counter>,
    pub(crate) findings: Family<CodeLabels, Counter>,
    pub(crate) obstacles: Family<CodeLabels, Counter>,
    pub(crate) discoveries: Family<PassLabels, Counter>,
    pub(crate) open_seconds: Family<CloudLabels, Histogram>,
    pub(crate) close_seconds: Family<CloudLabels, Histogram>,
    pub(crate) overdue: Gauge,
    pub(crate) servers: Family<CloudLabels, Gauge>,
    pub(crate) budget_left: Family<BudgetLabels, Gauge<f64, AtomicU64>>,
    pub(crate) budget_refusals: Family<BudgetLabels, Counter>,
}

fn seconds() -> Histogram {
    Histogram::new(exponential_buckets(0.005, 2.0, 18))
}

impl Metrics {
    /// Makes the metrics and registers them.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            passes: Family::default(),
            changes: Family::default(),
            findings: Family::default(),
            obstacles: Family::default(),
            discoveries: Family::default(),
            open_seconds: Family::new_with_constructor(seconds),
            close_seconds: Family::new_with_constructor(seconds),
            overdue: Gauge::default(),
            servers: Family::default(),
            budget_left: Family::default(),
            budget_refusals: Family::default(),
        };
        registry.register(
            "postern_passes",
            "Passes over enforcement points",
            metrics.passes.clone(),
        );
        registry.register("postern_changes", "Writes to clouds", metrics.changes.clone());
        registry.register(
            "postern_findings",
            "Things noticed about rules in others' hands",
            metrics.findings.clone(),
        );
        registry.register(
            "postern_obstacles",
            "What was wanted and could not be had",
            metrics.obstacles.clone(),
        );
        registry.register(
            "postern_discoveries",
            "Discoveries of accounts",
            metrics.discoveries.clone(),
        );
        registry.register_with_unit(
            "postern_open",
            "From the decision to the confirmed opening",
            Unit::Seconds,
            metrics.open_seconds.clone(),
        );
        registry.register_with_unit(
            "postern_close",
            "From the end of a grant to the confirmed closing",
            Unit::Seconds,
            metrics.close_seconds.clone(),
        );
        registry.register(
            "postern_overdue_closings",
            "Grants that ended and are not confirmed as closed in time",
            metrics.overdue.clone(),
        );
        registry.register(
            "postern_servers",
            "Servers that share the cloud's call budgets, this one included",
            metrics.servers.clone(),
        );
        registry.register(
            "postern_budget_left",
            "Calls that a cloud's API budget has left at once; below zero where calls wait",
            metrics.budget_left.clone(),
        );
        registry.register(
            "postern_budget_refusals",
            "Calls that a cloud refused for their rate",
            metrics.budget_refusals.clone(),
        );
        metrics
    }

    /// Shows what is left of call budgets.
    pub(crate) fn show_budgets(&self, levels: &[Level]) {
        for level in levels {
            let labels = BudgetLabels {
                account: level.account.to_string(),
                class: level.class.to_string(),
            };
            self.budget_left.get_or_create(&labels).set(level.left);
            let refusals = self.budget_refusals.get_or_create(&labels);
            refusals.inc_by(level.refused.saturating_sub(refusals.get()));
        }
    }
}
