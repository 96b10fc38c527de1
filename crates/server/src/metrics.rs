//! The server's own metrics, in the registry that the process shares.

use std::time::Duration;

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::Registry,
};

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    method: String,
    route: String,
    status: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RouteLabels {
    route: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DecisionLabels {
    action: String,
    allowed: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabels {
    outcome: &'static str,
}

/// What is counted.
#[derive(Debug)]
pub(crate) struct Metrics {
    requests: Family<RequestLabels, Counter>,
    durations: Family<RouteLabels, Histogram>,
    failed_authentications: Counter,
    decisions: Family<DecisionLabels, Counter>,
    cloud_roles: Family<OutcomeLabels, Counter>,
    guardrails: Gauge,
    guardrails_replaced: Counter,
    guardrails_refused: Gauge,
    pub(crate) access_requests_under_way: Gauge,
}

fn durations() -> Histogram {
    // 1 ms to 16 s.
    Histogram::new(exponential_buckets(0.001, 2.0, 15))
}

impl Metrics {
    /// Registers everything under `postern_http`.
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            requests: Family::default(),
            durations: Family::new_with_constructor(durations),
            failed_authentications: Counter::default(),
            decisions: Family::default(),
            cloud_roles: Family::default(),
            guardrails: Gauge::default(),
            guardrails_replaced: Counter::default(),
            guardrails_refused: Gauge::default(),
            access_requests_under_way: Gauge::default(),
        };
        let registry = registry.sub_registry_with_prefix("postern_http");
        registry.register("requests", "Answered HTTP requests", metrics.requests.clone());
        registry.register(
            "request_duration_seconds",
            "How long requests took",
            metrics.durations.clone(),
        );
        registry.register(
            "failed_authentications",
            "Tokens that were not accepted",
            metrics.failed_authentications.clone(),
        );
        registry.register(
            "decisions",
            "Access decisions by action",
            metrics.decisions.clone(),
        );
        registry.register(
            "cloud_roles",
            "Second looks at what requesters may do in the clouds, by outcome; `unknown` is a cloud that did not answer",
            metrics.cloud_roles.clone(),
        );
        registry.register(
            "guardrails",
            "Guardrails that decisions go by",
            metrics.guardrails.clone(),
        );
        registry.register(
            "guardrails_replaced",
            "Changes of the guardrails since the start",
            metrics.guardrails_replaced.clone(),
        );
        registry.register(
            "guardrails_refused",
            "1 while the files hold guardrails that are refused, so that those of before stay",
            metrics.guardrails_refused.clone(),
        );
        registry.register(
            "access_requests_under_way",
            "Access requests that are being made; from the fourth on they share transactions",
            metrics.access_requests_under_way.clone(),
        );
        metrics
    }

    /// A request was answered.
    pub(crate) fn answered(&self, method: &str, route: &str, status: u16, took: Duration) {
        // Methods are free text on the wire; only those with an endpoint get a label of their own.
        let method = match method {
            "GET" | "POST" | "PUT" | "DELETE" | "HEAD" => method,
            _ => "other",
        };
        self.requests
            .get_or_create(&RequestLabels {
                method: method.to_owned(),
                route: route.to_owned(),
                status,
            })
            .inc();
        self.durations
            .get_or_create(&RouteLabels {
                route: route.to_owned(),
            })
            .observe(took.as_secs_f64());
    }

    /// A token was not accepted.
    pub(crate) fn authentication_failed(&self) {
        self.failed_authentications.inc();
    }

    /// Something was decided.
    pub(crate) fn decided(&self, action: &str, allowed: bool) {
        self.decisions
            .get_or_create(&DecisionLabels {
                action: action.to_owned(),
                allowed: allowed.to_string(),
            })
            .inc();
    }

    /// A cloud, or what it said a moment ago, had the second say about a requester.
    pub(crate) fn cloud_decided(&self, outcome: &'static str) {
        self.cloud_roles.get_or_create(&OutcomeLabels { outcome }).inc();
    }

    /// Decisions go by so many guardrails, which are those of the files.
    pub(crate) fn guardrails_hold(&self, count: usize) {
        self.guardrails.set(i64::try_from(count).unwrap_or(i64::MAX));
        self.guardrails_refused.set(0);
    }

    /// The guardrails were replaced by others.
    pub(crate) fn guardrails_replaced(&self) {
        self.guardrails_replaced.inc();
    }

    /// The files hold guardrails that are refused.
    pub(crate) fn guardrails_refused(&self) {
        self.guardrails_refused.set(1);
    }
}
