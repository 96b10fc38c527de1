//! What the story finds out: steps with their times, invariants that held or did not, latencies per cloud.

use std::{
    collections::BTreeMap,
    io,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::output;

/// The findings of a story. Every step is printed as it ends.
#[derive(Debug)]
pub struct Findings {
    started: Instant,
    step: Instant,
    broken: Vec<String>,
    latencies: BTreeMap<(String, &'static str), Vec<Duration>>,
}

impl Default for Findings {
    /// Nothing yet; the first step begins now.
    fn default() -> Self {
        let now = Instant::now();
        Self {
            started: now,
            step: now,
            broken: Vec::new(),
            latencies: BTreeMap::new(),
        }
    }
}

impl Findings {
    /// An invariant. One that does not hold is told at once and kept; the story goes on.
    pub fn holds(&mut self, invariant: impl Into<String>, does: bool) -> io::Result<()> {
        if does {
            return Ok(());
        }
        let invariant = invariant.into();
        output::line(&format!("  BROKEN: {invariant}"))?;
        self.broken.push(invariant);
        Ok(())
    }

    /// Says what was found in the step, with the time since the one before.
    pub fn step(&mut self, said: &str) -> io::Result<()> {
        let took = self.step.elapsed();
        self.step = Instant::now();
        output::line(&format!(
            "[{:>7.3} s] (+{:.3} s) {said}",
            self.started.elapsed().as_secs_f64(),
            took.as_secs_f64()
        ))
    }

    /// How long something took in a cloud.
    pub fn took(&mut self, cloud: &str, what: &'static str, time: Duration) {
        self.latencies
            .entry((cloud.to_owned(), what))
            .or_default()
            .push(time);
    }

    /// What does not hold.
    pub fn broken(&self) -> &[String] {
        &self.broken
    }

    /// Everything in one document. Latencies are milliseconds.
    pub fn document(&self) -> Value {
        let mut clouds: BTreeMap<&str, BTreeMap<&str, Value>> = BTreeMap::new();
        for ((cloud, what), times) in &self.latencies {
            let millis: Vec<f64> = times
                .iter()
                .map(|time| (time.as_secs_f64() * 1e6).round() / 1e3)
                .collect();
            clouds.entry(cloud).or_default().insert(what, json!(millis));
        }
        let mut document = json!({
            "ok": self.broken.is_empty(),
            "seconds": (self.started.elapsed().as_secs_f64() * 1e3).round() / 1e3,
            "clouds": clouds,
        });
        if let Some(document) = document.as_object_mut()
            && !self.broken.is_empty()
        {
            document.insert("broken".to_owned(), json!(self.broken));
        }
        document
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_broken_invariant_is_enough() {
        let mut findings = Findings::default();
        findings.took("aws", "open_ms", Duration::from_micros(12_345));
        findings.holds("two is two", true).unwrap();
        assert_eq!(findings.document()["ok"], true);
        assert_eq!(findings.document()["clouds"]["aws"]["open_ms"], json!([12.345]));
        findings.holds("two is three", false).unwrap();
        assert_eq!(findings.document()["ok"], false);
        assert_eq!(findings.document()["broken"], json!(["two is three"]));
    }
}
