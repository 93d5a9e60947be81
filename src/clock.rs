//! The wall clock. Everything else takes the time as an argument.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::event::Timestamp;

/// A wall clock that never goes backwards: when the system's is set back, this one stands still
/// until it has caught up.
#[derive(Debug, Default)]
pub struct Clock {
    latest: AtomicU64,
}

impl Clock {
    /// A clock that stands at a time of the future.
    #[cfg(test)]
    pub(crate) fn standing(at: Timestamp) -> Clock {
        Clock { latest: AtomicU64::new(at.0) }
    }

    /// What time it is.
    pub fn now(&self) -> Timestamp {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX));
        Timestamp(now.max(self.latest.fetch_max(now, Ordering::Relaxed)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_does_not_go_backwards() {
        let clock = Clock::standing(Timestamp(u64::MAX - 1));
        assert_eq!(clock.now(), Timestamp(u64::MAX - 1));
        let clock = Clock::default();
        assert!(clock.now() <= clock.now());
        assert!(clock.now() > Timestamp(1_700_000_000_000));
    }
}
