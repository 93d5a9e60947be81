//! Counts of values by size, as Prometheus has them: fixed buckets, and a sum.
//!
//! One thread counts, and any other may look at the same time. So a count is a load and a store,
//! without a lock and without an atomic addition. Who looks may see a value in its bucket and not yet
//! in the sum, or one bucket before the other; the next look sees both.
//!
//! Rejected: the histogram of `prometheus-client`, which takes a lock for each value.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// The buckets of a histogram.
#[derive(Debug, PartialEq, Eq)]
pub struct Scale {
    /// The largest value of each bucket, in the unit in which values are counted; what is larger
    /// than all of them has a bucket of its own.
    pub bounds: &'static [u64],
    /// How many of that unit make one of the unit in which they are shown.
    pub per_unit: u64,
}

const SECOND: u64 = 1_000_000;
const MINUTE: u64 = 60 * SECOND;
const HOUR: u64 = 60 * MINUTE;

/// What takes microseconds to seconds: commits and deliveries.
pub static LATENCY: Scale = Scale {
    bounds: &[
        100,
        250,
        500,
        1_000,
        2_500,
        5_000,
        10_000,
        25_000,
        50_000,
        100_000,
        250_000,
        500_000,
        SECOND,
        2_500_000,
        5 * SECOND,
        10 * SECOND,
    ],
    per_unit: SECOND,
};

/// What takes milliseconds to minutes: requests, long polls among them.
pub static REQUEST: Scale = Scale {
    bounds: &[
        500,
        1_000,
        2_500,
        5_000,
        10_000,
        25_000,
        50_000,
        100_000,
        250_000,
        500_000,
        SECOND,
        2_500_000,
        5 * SECOND,
        10 * SECOND,
        30 * SECOND,
        61 * SECOND,
    ],
    per_unit: SECOND,
};

/// What takes seconds to a day: streams. Timeouts of proxies and load balancers, at 30, 60, 75 and
/// 350 s, end a bucket each.
pub static STREAM: Scale = Scale {
    bounds: &[
        SECOND,
        5 * SECOND,
        15 * SECOND,
        31 * SECOND,
        61 * SECOND,
        76 * SECOND,
        2 * MINUTE,
        5 * MINUTE,
        351 * SECOND,
        10 * MINUTE,
        30 * MINUTE,
        HOUR,
        2 * HOUR,
        4 * HOUR,
        8 * HOUR,
        12 * HOUR,
        24 * HOUR,
    ],
    per_unit: SECOND,
};

/// Events of one commit.
pub static COMMIT: Scale =
    Scale { bounds: &[1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 4_096], per_unit: 1 };

/// See the module.
#[derive(Debug)]
pub struct Histogram {
    scale: &'static Scale,
    /// One more than there are bounds.
    counts: Box<[AtomicU64]>,
    sum: AtomicU64,
}

/// What one histogram has counted, or several of the same scale together.
#[derive(Clone, Debug, PartialEq)]
pub struct Counted {
    /// The largest value of each bucket, the last one infinite, and how many are in it.
    pub buckets: Vec<(f64, u64)>,
    /// The sum of all values.
    pub sum: f64,
    /// How many there are.
    pub count: u64,
}

impl Histogram {
    /// Without values.
    pub fn new(scale: &'static Scale) -> Histogram {
        let counts = (0..=scale.bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Histogram { scale, counts, sum: AtomicU64::new(0) }
    }

    /// Counts a value that has come so many times. To be called by one thread alone.
    pub fn observe(&self, value: u64, times: u64) {
        let bucket = self.scale.bounds.partition_point(|bound| *bound < value);
        raise(&self.counts[bucket], times);
        raise(&self.sum, value.saturating_mul(times));
    }
}

/// Adds to what no other thread writes.
pub fn raise(counter: &AtomicU64, by: u64) {
    counter.store(counter.load(Relaxed).wrapping_add(by), Relaxed);
}

impl Counted {
    /// What these have counted together.
    pub fn of<'a>(
        scale: &'static Scale,
        histograms: impl IntoIterator<Item = &'a Histogram>,
    ) -> Counted {
        let bounds = scale.bounds.iter().map(|bound| *bound as f64 / scale.per_unit as f64);
        let mut buckets: Vec<_> = bounds.chain([f64::INFINITY]).map(|bound| (bound, 0)).collect();
        let mut sum = 0;
        for histogram in histograms {
            debug_assert_eq!(histogram.scale, scale);
            for (bucket, count) in buckets.iter_mut().zip(&histogram.counts) {
                bucket.1 += count.load(Relaxed);
            }
            sum += histogram.sum.load(Relaxed);
        }
        let count = buckets.iter().map(|(_, count)| count).sum();
        Counted { buckets, sum: sum as f64 / scale.per_unit as f64, count }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_in_the_first_bucket_that_it_fits() {
        let (one, two) = (Histogram::new(&COMMIT), Histogram::new(&COMMIT));
        for value in 0..=4_097 {
            one.observe(value, 1);
        }
        two.observe(5, 1_000);
        let counted = Counted::of(&COMMIT, [&one, &two]);
        let counts: Vec<u64> = counted.buckets.iter().map(|(_, count)| *count).collect();
        assert_eq!(counts[..4], [2, 1, 1_003, 5]);
        assert_eq!(counts.last(), Some(&1));
        assert_eq!(counted.count, 5_098);
        assert!((counted.sum - f64::from(4_097 * 4_098 / 2 + 5_000)).abs() < 0.5, "{counted:?}");
    }

    #[test]
    fn bounds_go_up() {
        for scale in [&LATENCY, &REQUEST, &STREAM, &COMMIT] {
            assert!(scale.bounds.is_sorted_by(|one, next| one < next), "{scale:?}");
        }
        assert_eq!(STREAM.bounds.last(), Some(&(24 * HOUR)));
    }
}
