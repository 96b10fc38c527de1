//! A series of measured values and what is told of it.

use serde::Serialize;

/// Measured values, in one unit.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sample(Vec<f64>);

/// What is told of a sample.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Summary {
    /// How many values.
    pub(crate) n: usize,
    /// The median.
    pub(crate) p50: f64,
    /// Nine in ten are not above it.
    pub(crate) p90: f64,
    /// 99 in 100 are not above it.
    pub(crate) p99: f64,
    /// The largest.
    pub(crate) max: f64,
}

impl Sample {
    pub(crate) fn push(&mut self, value: f64) {
        self.0.push(value);
    }

    /// None of an empty sample.
    pub(crate) fn summary(&self) -> Option<Summary> {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        Some(Summary {
            n: sorted.len(),
            p50: percentile(&sorted, 50)?,
            p90: percentile(&sorted, 90)?,
            p99: percentile(&sorted, 99)?,
            max: percentile(&sorted, 100)?,
        })
    }
}

impl Extend<f64> for Sample {
    fn extend<T: IntoIterator<Item = f64>>(&mut self, values: T) {
        self.0.extend(values);
    }
}

/// The smallest value that at least `percent` in 100 of the values are not above (nearest rank): always a value
/// that was measured, never one between two. `sorted` is ascending; none when it is empty.
fn percentile(sorted: &[f64], percent: usize) -> Option<f64> {
    let rank = (sorted.len() * percent.min(100)).div_ceil(100).max(1);
    sorted.get(rank - 1).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summary(values: impl IntoIterator<Item = f64>) -> Option<Summary> {
        let mut sample = Sample::default();
        sample.extend(values);
        sample.summary()
    }

    #[test]
    fn of_a_hundred_values_the_percentiles_are_their_ranks_in_any_order() {
        let all = Summary {
            n: 100,
            p50: 50.0,
            p90: 90.0,
            p99: 99.0,
            max: 100.0,
        };
        assert_eq!(summary((1..=100).map(f64::from)), Some(all));
        assert_eq!(summary((1..=100).rev().map(f64::from)), Some(all));
    }

    #[test]
    fn a_percentile_is_a_measured_value_and_leaves_no_more_above_it_than_it_says() {
        for n in 1..=250_u32 {
            let values: Vec<f64> = (0..n).map(|value| f64::from(value * value)).collect();
            for percent in [1, 50, 90, 99, 100] {
                let found = percentile(&values, percent).unwrap();
                let above = values.iter().filter(|value| **value > found).count();
                let below = values.iter().filter(|value| **value < found).count();
                assert!(values.contains(&found));
                assert!(above * 100 <= values.len() * (100 - percent), "{percent} of {n}");
                assert!(below * 100 < values.len() * percent, "{percent} of {n}");
            }
        }
    }

    #[test]
    fn the_p99_of_few_values_is_the_largest() {
        let two = summary([3.0, 1.0]).unwrap();
        assert_eq!((two.p50, two.p99, two.max), (1.0, 3.0, 3.0));
    }

    #[test]
    fn nothing_is_told_of_no_values() {
        assert_eq!(summary([]), None);
    }
}
