//! What time does to a stream: keepalives, probes, and timeouts.
//!
//! A timer is not moved by each write. It fires, finds that something was said meanwhile, and is
//! armed again: a fan-out would otherwise touch three entries for each send. So the timers stay
//! apart too, when something was said to all at once.

use super::{
    Hub, Reason,
    delivery::Source,
    subscriber::{Flags, Outbox, Phase},
};
use crate::{
    event::Timestamp,
    limits::{
        GOODBYE_MS_MAX, KEEPALIVE_LONG_MS, KEEPALIVE_STEP_MS, PROBE_INTERVAL_MS, STARVED_MS,
        TICK_MS,
    },
    timer_wheel::Tick,
    wire::sse,
};

/// The rhythm of the probe stream.
pub(super) const PROBE_TICKS: u32 = (PROBE_INTERVAL_MS / TICK_MS) as u32;

/// How long a goodbye may take.
pub(super) const GOODBYE_TICKS: u32 = (GOODBYE_MS_MAX / TICK_MS) as u32;

/// How long a subscriber is left alone for which the kernel had no memory.
pub(super) const STARVED_TICKS: u32 = (STARVED_MS / TICK_MS) as u32;

/// Keepalives go out at every so many ticks, and those of one step together: for a loop that
/// sleeps between them, most of what a keepalive costs is the waking up. A short interval keeps to
/// single ticks.
fn step(interval: u32) -> u32 {
    const STEP_TICKS: u32 = (KEEPALIVE_STEP_MS / TICK_MS) as u32;
    if interval >= 64 * STEP_TICKS { STEP_TICKS } else { 1 }
}

/// In this part of an interval, one sixteenth, a stream is greeted and hears what it has missed.
const ARRIVAL_PART: u32 = 16;

/// No keepalive comes after a shorter silence than this.
fn silence_least(interval: u32) -> u32 {
    interval.div_ceil(3).next_multiple_of(step(interval))
}

/// How long until the beat of a subscriber: each has one of its own in the interval, and all beats
/// together are level. It is kept as long as nothing else is said.
fn until_beat(key: u32, now: Tick, interval: u32) -> u32 {
    let step = step(interval);
    // Fibonacci hashing: keys that follow each other are far apart.
    let beat = (u64::from(key.wrapping_mul(0x9E37_79B9)) * u64::from(interval / step)) >> 32;
    match (beat as u32 * step + interval - now.0 % interval) % interval {
        0 => interval,
        distance => distance,
    }
}

/// How long until the first keepalive of a stream: until its beat, however near. A long interval is
/// wanted for its silence, and is not broken early for all to be level.
pub(super) fn until_first(key: u32, now: Tick, interval: u32) -> u32 {
    const LONG_TICKS: u32 = (KEEPALIVE_LONG_MS / TICK_MS) as u32;
    if interval > LONG_TICKS {
        return until_next(key, now, interval);
    }
    until_beat(key, now, interval)
}

/// How long from one keepalive to the next: until the beat, or to some point halfway if that is
/// too near.
fn until_next(key: u32, now: Tick, interval: u32) -> u32 {
    let least = silence_least(interval);
    match until_beat(key, now, interval) {
        near if near < least => near + least,
        far => far,
    }
}

impl Hub {
    /// Tells the hub what time it is, without anything becoming due.
    pub fn set_time(&mut self, now: Tick, wall: Timestamp) {
        self.now = now;
        self.wall = wall;
    }

    /// Time has passed.
    pub fn handle_time(&mut self, now: Tick, wall: Timestamp) {
        self.set_time(now, wall);
        let mut due = std::mem::take(&mut self.scratch.due);
        self.wheel.advance(&mut self.subscribers, now, &mut due);
        for key in due.drain(..) {
            self.handle_timer(key);
        }
        self.scratch.due = due;
    }

    pub(super) fn handle_timer(&mut self, key: u32) {
        let now = self.now;
        if self.handle_end(key) {
            return;
        }
        let subscriber = &mut self.subscribers[key];
        if subscriber.flags.has(Flags::STARVED) {
            let is_probe = subscriber.phase == Phase::Probe;
            let wait =
                if is_probe { PROBE_TICKS } else { silence_least(self.config.keepalive_ticks) };
            self.arm(key, now.plus(wait));
            self.unblock(key);
            return;
        }
        let is_stuck = subscriber.flags.has(Flags::BLOCKED)
            && subscriber.flags.has(Flags::LOCAL)
            && subscriber.last_sent.until(now) >= self.config.client_timeout_ticks;
        if is_stuck {
            self.close(key, Reason::Timeout);
            return;
        }
        let wait = if subscriber.phase == Phase::Probe {
            PROBE_TICKS
        } else {
            let interval = self.config.keepalive_ticks;
            let least = silence_least(interval);
            // What was said while it came does not count: its first beat is kept, for all to be level.
            let is_new = subscriber.flags.has(Flags::NEW)
                && subscriber.opened.until(subscriber.last_sent) <= interval / ARRIVAL_PART;
            subscriber.flags.set(Flags::NEW, false);
            if subscriber.last_sent.until(now) < least && !is_new {
                // Something was said not long ago, perhaps to all: each waits on from its own beat,
                // so that they stay apart.
                self.arm(key, now.plus(least));
                self.limit_wait(key);
                return;
            }
            until_next(key, now, interval)
        };
        subscriber.flags.set(Flags::KEEPALIVE_DUE, true);
        self.ready.push_back(key);
        self.arm(key, now.plus(wait));
        self.limit_wait(key);
    }

    /// Has the timer fire when a `unix:` peer that takes nothing has had its time: no kernel ends it.
    pub(super) fn limit_wait(&mut self, key: u32) {
        let subscriber = &self.subscribers[key];
        let flags = subscriber.flags;
        let is_closing = subscriber.phase == Phase::Closing;
        // It is not the peer for which a starved one waits.
        let is_starved = flags.has(Flags::STARVED);
        if !flags.has(Flags::LOCAL) || !flags.has(Flags::BLOCKED) || is_starved || is_closing {
            return;
        }
        let limit = subscriber.last_sent.plus(self.config.client_timeout_ticks);
        let deadline = subscriber.links.deadline().or_before(limit);
        self.wheel.arm(&mut self.subscribers, key, deadline);
    }

    /// The kernel was short of memory, for a send or for a poll: it is tried again after a pause,
    /// since nothing tells when there is some, and a loop that asks again and again has none left.
    pub(super) fn starve(&mut self, key: u32) {
        self.subscribers[key].flags.set(Flags::STARVED, true);
        self.arm(key, self.now.plus(STARVED_TICKS));
    }

    /// What a quiet stream says.
    pub(super) fn keepalive(&mut self, key: u32) -> Source {
        let subscriber = &mut self.subscribers[key];
        subscriber.flags.set(Flags::KEEPALIVE_DUE, false);
        let mut frame = Vec::new();
        if subscriber.phase == Phase::Probe {
            subscriber.cursor = subscriber.cursor.next();
            sse::probe(&mut frame, subscriber.cursor.0, self.wall);
        } else if subscriber.phase == Phase::Live
            && self.seen.0 - subscriber.cursor.0.min(self.seen.0)
                >= self.config.limits.cursor_lag_ids
        {
            // It has everything that it selects up to here, so it may resume from here.
            subscriber.cursor = self.seen;
            sse::cursor(&mut frame, self.seen);
        } else if subscriber.flags.has(Flags::HEARTBEAT) {
            return Source::Keepalive(sse::HEARTBEAT);
        } else {
            return Source::Keepalive(sse::KEEPALIVE);
        }
        subscriber.outbox = self.outboxes.insert(Outbox::frame(frame)) as u32;
        Source::Outbox(subscriber.outbox)
    }

    /// A number below `bound`: xorshift64*, which is random enough to spread timers.
    pub fn random_below(&mut self, bound: u32) -> u32 {
        self.random ^= self.random >> 12;
        self.random ^= self.random << 25;
        self.random ^= self.random >> 27;
        let high = (self.random.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 32) as u32;
        ((u64::from(high) * u64::from(bound)) >> 32) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beats_are_kept_and_level() {
        const INTERVAL: u32 = 1_500;
        const SUBSCRIBERS: u32 = 20_000;
        // Ten ticks are 100 ms.
        let mut beats = [0_u32; (INTERVAL / 10) as usize];
        for key in 0..SUBSCRIBERS {
            // All begin at once, which is the worst.
            let mut now = Tick(7);
            for _ in 0..3 {
                let wait = until_next(key, now, INTERVAL);
                assert!((silence_least(INTERVAL)..=INTERVAL).contains(&wait), "{key}: {wait}");
                now = now.plus(wait);
            }
            assert_eq!(until_next(key, now, INTERVAL), INTERVAL, "{key}");
            beats[(now.0 % INTERVAL / 10) as usize] += 1;
        }
        let mean = SUBSCRIBERS / beats.len() as u32;
        assert!(beats.iter().all(|count| *count < mean * 5 / 4), "{beats:?}");
    }

    #[test]
    fn the_shortest_intervals_have_beats_too() {
        for interval in 1..10 {
            for (key, now) in (0..100).flat_map(|key| (0..20).map(move |now| (key, Tick(now)))) {
                let wait = until_next(key, now, interval);
                assert!((1..=interval).contains(&wait), "{interval}: {wait}");
            }
        }
    }
}
