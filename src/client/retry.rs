//! How long to wait before the same thing is tried again.
//!
//! Pure: randomness and the state of the attempt come in, a duration comes out.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Waits that double from `base` to `max`, each made longer by up to a half at random, so that
/// clients that lost the same server do not return at the same moment.
#[derive(Clone, Debug)]
pub struct Backoff {
    base: Duration,
    max: Duration,
    attempt: u32,
}

impl Backoff {
    /// Starts at `base`; `max` below `base` is `base`.
    pub fn new(base: Duration, max: Duration) -> Backoff {
        Backoff { base, max: max.max(base), attempt: 0 }
    }

    /// Starts again at `base`.
    pub fn reset(&mut self) {
        self.attempt = 0;
    }

    /// Starts again at another `base`, when it is another.
    pub fn set_base(&mut self, base: Duration) {
        if self.base != base {
            *self = Backoff::new(base, self.max);
        }
    }

    /// The next wait, and never less than the server asked for.
    pub fn next(&mut self, asked: Option<Duration>, random: &mut Random) -> Duration {
        let doubled = self.base.saturating_mul(2_u32.saturating_pow(self.attempt)).min(self.max);
        self.attempt = self.attempt.saturating_add(1);
        let wait = asked.map_or(doubled, |asked| asked.max(doubled));
        wait.saturating_add(random.up_to(wait / 2))
    }
}

/// Random numbers that need not be secret (`SplitMix64`).
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// Seeded by the system, through the keys that the standard library gives its hash maps.
    pub fn from_system() -> Random {
        Random(RandomState::new().build_hasher().finish())
    }

    /// Seeded by the caller.
    pub fn from_seed(seed: u64) -> Random {
        Random(seed)
    }

    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }

    fn up_to(&mut self, most: Duration) -> Duration {
        let most = u64::try_from(most.as_nanos()).unwrap_or(u64::MAX);
        Duration::from_nanos(self.bits() % most.saturating_add(1).max(1))
    }
}

/// A name that no other client has: 128 bits in hexadecimal, from two seeds of the system.
pub fn unique_name() -> String {
    let [high, low] = [(); 2].map(|()| Random::from_system().bits());
    format!("{high:016x}{low:016x}")
}

/// How long a `Retry-After` field asks to wait: seconds, or a date (RFC 9110 §10.2.3).
pub fn retry_after(value: &str, now: SystemTime) -> Option<Duration> {
    let value = value.trim();
    if value.bytes().all(|byte| byte.is_ascii_digit()) {
        return value.parse().ok().map(Duration::from_secs);
    }
    // `Sun, 06 Nov 1994 08:49:37 GMT`, the only form that may be sent.
    let (_, date) = value.split_once(", ")?;
    let [day, month, year, time, "GMT"] = date.split(' ').collect::<Vec<_>>()[..] else {
        return None;
    };
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let month = 1 + MONTHS.iter().position(|name| *name == month)?;
    let time = humantime::parse_rfc3339(&format!("{year}-{month:02}-{day}T{time}Z")).ok()?;
    let since = |time: SystemTime| time.duration_since(UNIX_EPOCH).unwrap_or_default();
    Some(since(time).saturating_sub(since(now)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn waits_double_up_to_the_longest_and_vary_by_a_half() {
        let mut random = Random::from_seed(7);
        let mut backoff = Backoff::new(SECOND, 5 * SECOND);
        for expected in [1, 2, 4, 5, 5] {
            let wait = backoff.next(None, &mut random);
            let shortest = expected * SECOND;
            assert!(wait >= shortest && wait <= shortest * 3 / 2, "{expected}: {wait:?}");
        }
        backoff.reset();
        assert!(backoff.next(None, &mut random) < 2 * SECOND);
    }

    #[test]
    fn a_server_that_asks_for_longer_gets_it() {
        let mut random = Random::from_seed(7);
        let mut backoff = Backoff::new(SECOND, 5 * SECOND);
        let wait = backoff.next(Some(10 * SECOND), &mut random);
        assert!(wait >= 10 * SECOND && wait <= 15 * SECOND, "{wait:?}");
        assert!(backoff.next(Some(Duration::ZERO), &mut random) >= 2 * SECOND);
    }

    #[test]
    fn extremes_do_not_overflow() {
        let mut random = Random::from_seed(7);
        let mut backoff = Backoff::new(Duration::MAX, Duration::ZERO);
        for _ in 0..100 {
            assert_eq!(backoff.next(Some(Duration::MAX), &mut random), Duration::MAX);
        }
        let mut backoff = Backoff::new(Duration::ZERO, Duration::ZERO);
        assert_eq!(backoff.next(None, &mut random), Duration::ZERO);
    }

    #[test]
    fn names_are_unique() {
        let names: std::collections::BTreeSet<String> = (0..1_000).map(|_| unique_name()).collect();
        assert_eq!(names.len(), 1_000);
        assert!(names.iter().all(|name| name.len() == 32));
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = humantime::parse_rfc3339("1994-11-06T08:49:07Z").unwrap();
        let check = |value: &str, seconds: Option<u64>| {
            assert_eq!(retry_after(value, now), seconds.map(Duration::from_secs), "{value}");
        };
        check("0", Some(0));
        check(" 120 ", Some(120));
        check("Sun, 06 Nov 1994 08:49:37 GMT", Some(30));
        check("Sun, 06 Nov 1994 08:00:00 GMT", Some(0));
        for nothing in ["", "soon", "-1", "1.5", "Sun, 06 Nov 1994", "Sun, 99 Foo 1994 1 GMT"] {
            check(nothing, None);
        }
    }
}
