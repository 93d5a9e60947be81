//! What the subscribers of one process have seen: counts, histograms, and what was wrong.
//!
//! Counts go on from the beginning; histograms are handed over and begin anew, so that the
//! coordinator has those of each moment as well as the sum.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    histogram::{Counts, Histogram},
    report::Violation,
};

/// So many of each kind of violation are described.
const EXAMPLES_MAX: usize = 5;

/// How an order can be broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Broken {
    /// An event never came.
    Missing,
    /// An event came again.
    Repeated,
    /// An event came after a later one.
    Reordered,
    /// An event of another stream came.
    Foreign,
}

impl Broken {
    /// The name in a report.
    pub fn name(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Repeated => "repeated",
            Self::Reordered => "reordered",
            Self::Foreign => "foreign",
        }
    }
}

/// Counts that only grow, but for `open`, `connecting`, `waiting`, `lacking` and the memory.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Counters {
    /// Subscribers that have received their head and are connected.
    pub open: u64,
    /// Subscribers between `connect` and their head.
    pub connecting: u64,
    /// Subscribers that are still to be opened.
    pub waiting: u64,
    /// Heads received.
    pub opened: u64,
    /// Connections that are closed by the load tester itself.
    pub closed: u64,
    /// Subscribers that found their stream ended by the server and came back.
    pub came_back: u64,
    /// Subscribers that stopped reading when they were told to.
    pub stopped: u64,
    /// Those of them whose connection the server ended before they had read on.
    pub cut: u64,
    /// Bytes read, with heads and framing.
    pub bytes: u64,
    /// Events with a mark of this measurement.
    pub events: u64,
    /// Those of them that were published before their subscriber had connected.
    pub replayed: u64,
    /// Those that came later than the stall limit.
    pub late: u64,
    /// Reads that brought a part of an event.
    pub reads: u64,
    /// Comments and heartbeat events.
    pub keepalives: u64,
    /// The most of them in 100 ms; over several processes the sum.
    pub keepalives_peak: u64,
    /// Subscribers that lack something of what is expected, but for those that have failed.
    pub lacking: u64,
    /// Which expectation `lacking` is about.
    pub expectation: u32,
    /// Processor time of the load process, in nanoseconds.
    pub cpu_ns: u64,
    /// Anonymous memory of the load process, in bytes.
    pub memory: u64,
    /// When the last head came; 0 for never.
    pub last_opened_ns: u64,
    /// When the last event came; 0 for never.
    pub last_event_ns: u64,
}

impl Counters {
    /// Adds those of another process, which must be about the same expectation.
    pub fn add(&mut self, other: &Self) {
        self.open += other.open;
        self.connecting += other.connecting;
        self.waiting += other.waiting;
        self.opened += other.opened;
        self.closed += other.closed;
        self.came_back += other.came_back;
        self.stopped += other.stopped;
        self.cut += other.cut;
        self.bytes += other.bytes;
        self.events += other.events;
        self.replayed += other.replayed;
        self.late += other.late;
        self.reads += other.reads;
        self.keepalives += other.keepalives;
        self.keepalives_peak += other.keepalives_peak;
        self.lacking += other.lacking;
        self.expectation = self.expectation.max(other.expectation);
        self.cpu_ns += other.cpu_ns;
        self.memory += other.memory;
        self.last_opened_ns = self.last_opened_ns.max(other.last_opened_ns);
        self.last_event_ns = self.last_event_ns.max(other.last_event_ns);
    }
}

/// All that a process has seen.
#[derive(Debug, Default)]
pub struct Tally {
    /// The counts.
    pub counters: Counters,
    /// From `connect` to the first byte of the answer.
    pub first_byte: Histogram,
    /// From when the publish was due to the read that brought the event.
    pub delivery: Histogram,
    /// From the return of all to the moment at which a subscriber has all that is expected.
    pub catch_up: Histogram,
    failures: BTreeMap<String, u64>,
    violations: BTreeMap<Broken, (u64, Vec<String>)>,
}

/// What a [`Tally`] tells the coordinator.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Tick {
    /// The counts so far.
    pub counters: Counters,
    /// First bytes since the last tick.
    pub first_byte: Counts,
    /// Deliveries since the last tick.
    pub delivery: Counts,
    /// Subscribers that caught up since the last tick.
    pub catch_up: Counts,
    /// Failures so far by kind.
    pub failures: BTreeMap<String, u64>,
    /// Violations so far.
    pub violations: Vec<Violation>,
    /// Whether this is the last tick.
    pub finished: bool,
}

impl Tally {
    /// Counts a failure.
    pub fn fail(&mut self, kind: String) {
        *self.failures.entry(kind).or_default() += 1;
    }

    /// Counts `count` broken events and describes the first of them.
    pub fn violate(&mut self, broken: Broken, count: u64, describe: impl FnOnce() -> String) {
        let (total, examples) = self.violations.entry(broken).or_default();
        *total += count;
        if examples.len() < EXAMPLES_MAX {
            examples.push(describe());
        }
    }

    /// What is to be told now.
    pub fn tick(&mut self, finished: bool) -> Tick {
        Tick {
            counters: self.counters,
            first_byte: self.first_byte.take(),
            delivery: self.delivery.take(),
            catch_up: self.catch_up.take(),
            failures: self.failures.clone(),
            violations: self
                .violations
                .iter()
                .map(|(broken, (count, examples))| Violation {
                    kind: broken.name().into(),
                    count: *count,
                    examples: examples.clone(),
                })
                .collect(),
            finished,
        }
    }
}

/// Adds what failed elsewhere, by kind.
pub fn merge_failures(all: &mut BTreeMap<String, u64>, more: &BTreeMap<String, u64>) {
    for (kind, count) in more {
        *all.entry(kind.clone()).or_default() += count;
    }
}

/// Adds what another process found broken.
pub fn merge_violations(all: &mut Vec<Violation>, more: &[Violation]) {
    for violation in more {
        match all.iter_mut().find(|known| known.kind == violation.kind) {
            Some(known) => {
                known.count += violation.count;
                let room = EXAMPLES_MAX.saturating_sub(known.examples.len());
                known.examples.extend(violation.examples.iter().take(room).cloned());
            }
            None => all.push(violation.clone()),
        }
    }
}
