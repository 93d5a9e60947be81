//! How many connections may come in a second: a bucket of as many tokens, which fills steadily.
//!
//! Kept as the one moment at which the bucket would be full again (the generic cell rate algorithm,
//! ITU-T I.371): an atomic number that all workers share, and no timer that fills anything.

use std::{
    num::NonZeroU32,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Instant,
};

use crate::limits::ACCEPT_BURST_MS;

const BURST_NANOS: u64 = ACCEPT_BURST_MS * 1_000_000;

/// See the module.
#[derive(Debug)]
pub(super) struct AcceptRate {
    /// Between two tokens, in nanoseconds.
    interval: u64,
    epoch: Instant,
    /// Nanoseconds since `epoch`.
    full_at: AtomicU64,
}

impl AcceptRate {
    /// So many a second, from now on.
    pub(super) fn new(rate: NonZeroU32, epoch: Instant) -> AcceptRate {
        let interval = 1_000_000_000 / u64::from(rate.get());
        AcceptRate { interval: interval.max(1), epoch, full_at: AtomicU64::new(0) }
    }

    /// Takes a token, if there is one.
    pub(super) fn take(&self, now: Instant) -> bool {
        let now = now.saturating_duration_since(self.epoch).as_nanos() as u64;
        let next = |full_at: u64| {
            let full_at = full_at.max(now) + self.interval;
            (full_at - now <= BURST_NANOS).then_some(full_at)
        };
        self.full_at.fetch_update(Relaxed, Relaxed, next).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_burst_and_then_as_many_as_time_allows() {
        for rate in [1, 3, 50, 1_000, 100_000] {
            let epoch = Instant::now();
            let bucket = AcceptRate::new(NonZeroU32::new(rate).unwrap(), epoch);
            let taken = |from: Duration, to: Duration| {
                let mut count = 0;
                let mut now = from;
                while now < to {
                    while bucket.take(epoch + now) {
                        count += 1;
                    }
                    now += Duration::from_millis(10);
                }
                count
            };
            let second = Duration::from_secs(1);
            assert_eq!(taken(Duration::ZERO, Duration::from_millis(10)), rate, "the burst");
            // What is not a whole number of nanoseconds is rounded down.
            let expected = 10 * rate..=10 * rate + rate / 100 + 1;
            let steady = taken(Duration::from_millis(10), 10 * second + Duration::from_millis(10));
            assert!(expected.contains(&steady), "{rate}: {steady}");
            // After a pause a burst again, and no more than that.
            let burst = taken(60 * second, 60 * second + Duration::from_millis(1));
            assert_eq!(burst, rate);
        }
    }
}
