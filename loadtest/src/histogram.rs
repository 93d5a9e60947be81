//! Durations, counted within a thousandth of their value.

use crate::report::Latency;

/// The shortest that is told apart, and the longest.
const SHORTEST_NS: u64 = 1_000;
const LONGEST_NS: u64 = 3_600_000_000_000;
const SIGNIFICANT_DIGITS: u8 = 3;

/// Values in nanoseconds with how often each was seen, ascending: how a histogram travels between
/// processes and into a file.
pub type Counts = Vec<(u64, u64)>;

/// A high dynamic range histogram of nanoseconds.
#[derive(Debug)]
pub struct Histogram(hdrhistogram::Histogram<u64>);

impl Default for Histogram {
    fn default() -> Self {
        let histogram =
            hdrhistogram::Histogram::new_with_bounds(SHORTEST_NS, LONGEST_NS, SIGNIFICANT_DIGITS);
        Self(histogram.expect("the bounds are in order"))
    }
}

impl Histogram {
    /// Counts one duration; one beyond an hour counts as an hour.
    pub fn record(&mut self, nanoseconds: u64) {
        self.0.saturating_record(nanoseconds);
    }

    /// How many durations there are.
    pub fn count(&self) -> u64 {
        self.0.len()
    }

    /// The duration in nanoseconds that `quantile` (0 to 1) of all did not exceed; 0 without any.
    pub fn quantile(&self, quantile: f64) -> u64 {
        self.0.value_at_quantile(quantile)
    }

    /// What was counted since the last call.
    pub fn take(&mut self) -> Counts {
        let counts = self.counts();
        self.0.reset();
        counts
    }

    /// Adds what another one took.
    pub fn add(&mut self, counts: &[(u64, u64)]) {
        for &(value, count) in counts {
            self.0.saturating_record_n(value, count);
        }
    }

    /// All of it under a name, for a report.
    pub fn latency(&self, name: &str, label: &str) -> Latency {
        Latency { name: name.into(), label: label.into(), counts: self.counts() }
    }

    fn counts(&self) -> Counts {
        self.0.iter_recorded().map(|at| (at.value_iterated_to(), at.count_at_value())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_travels_is_what_was_recorded() {
        let mut here = Histogram::default();
        for value in (0..100_000).map(|n| 1_000 + n * 977) {
            here.record(value);
        }
        let quantiles = |histogram: &Histogram| {
            [0.0, 0.5, 0.9, 0.99, 0.999, 1.0].map(|quantile| histogram.quantile(quantile))
        };
        let before = quantiles(&here);
        let mut there = Histogram::default();
        there.add(&here.take());
        assert_eq!(quantiles(&there), before);
        assert_eq!((here.count(), there.count()), (0, 100_000));
    }
}
