//! What a measurement found: figures, latencies, what happened over time, and what was wrong.
//!
//! A [`Report`] is plain data. A scenario fills it, and the terminal's table, the
//! JSON file and the page are each made from it and from nothing else, so that none
//! of them can say something that the others do not know.

pub mod comparison;
pub mod format;
pub mod html;
mod page;
pub mod plot;
#[cfg(test)]
mod sample;
pub mod spread;
pub mod table;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What is said of a run in which every event was looked at and nothing was wrong.
const CLEAN: &str = "every subscriber got every event once, in order";

/// The outcome of one measurement.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    /// The subcommand: `idle`, `fanout`, `append`, `storm`, `slow` or `soak`.
    pub command: String,
    /// The whole command line, as it can be typed again.
    pub command_line: String,
    /// Name and version of the load tester.
    pub tool: String,
    /// When it began, RFC 3339 in UTC.
    pub began_at: String,
    /// How long it took, in seconds.
    pub seconds: f64,
    /// Whether it was stopped before its time, so that the figures cover a part only.
    pub interrupted: bool,
    /// Where the load ran.
    pub machine: Machine,
    /// What was asked for, in the order to be shown: name and value.
    pub parameters: Vec<(String, String)>,
    /// The results, in the order to be shown.
    pub figures: Vec<Figure>,
    /// Histograms, for instance of the delivery latency.
    pub latencies: Vec<Latency>,
    /// What changed over time, for instance connections and memory.
    pub series: Vec<Series>,
    /// Broken promises: a missing, repeated or reordered event. Any of them fails the run.
    pub violations: Vec<Violation>,
    /// Connections and requests that failed, by kind. Any of them fails the run too.
    pub failures: BTreeMap<String, u64>,
    /// What a reader should know before believing a figure, for instance that the load was the
    /// bottleneck.
    pub remarks: Vec<String>,
}

/// The machine that the load ran on; the server's too when it is on loopback.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Machine {
    /// `Linux 6.18.5`, for instance.
    pub kernel: String,
    /// The processor's name.
    pub cpu: String,
    /// Logical processors.
    pub cores: usize,
    /// Main memory in bytes.
    pub memory_bytes: u64,
    /// The most files that one process may have open.
    pub open_files_max: u64,
}

/// One number.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    /// A stable name for programs, lower case with underscores: `memory_per_subscriber`.
    pub name: String,
    /// The same for people: `server memory per subscriber (RssAnon)`.
    pub label: String,
    /// The value in its unit.
    pub value: f64,
    /// What it counts.
    pub unit: Unit,
}

/// What a number counts; says how it is written for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// A plain count.
    Count,
    /// A count a second.
    PerSecond,
    /// Bytes.
    Bytes,
    /// Bytes a second.
    BytesPerSecond,
    /// Seconds.
    Seconds,
    /// Microseconds, for instance of processor time a delivery.
    Microseconds,
    /// A share between 0 and 1, written as per cent.
    Share,
}

/// A histogram of durations.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Latency {
    /// A stable name: `delivery`, `first_byte`, `append`, `catch_up`.
    pub name: String,
    /// The same for people: `delivery, from when the publish was due`.
    pub label: String,
    /// Nanoseconds and how many durations had that value, ascending, values within 0.1 %.
    pub counts: Vec<(u64, u64)>,
}

/// Something measured again and again.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Series {
    /// A stable name: `connections`, `server_memory`, `deliveries`, `latency_p50`, `latency_p99`.
    pub name: String,
    /// The same for people.
    pub label: String,
    /// What it counts.
    pub unit: Unit,
    /// Seconds since the beginning, and the value then.
    pub points: Vec<(f64, f64)>,
}

/// A broken promise, with how often and where first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Violation {
    /// `missing`, `repeated`, `reordered` or `foreign`.
    pub kind: String,
    /// How many events.
    pub count: u64,
    /// The first of them, in words.
    pub examples: Vec<String>,
}

impl Report {
    /// Whether nothing was broken and nothing failed.
    pub fn is_clean(&self) -> bool {
        self.violations.is_empty() && self.failures.is_empty()
    }

    /// The value of a parameter, if it was given.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// The value of a figure, if it was measured.
    pub fn figure(&self, name: &str) -> Option<f64> {
        self.figures.iter().find(|figure| figure.name == name).map(|figure| figure.value)
    }

    /// The histogram of that name, if it was measured.
    pub fn latency(&self, name: &str) -> Option<&Latency> {
        self.latencies.iter().find(|latency| latency.name == name)
    }
}

impl Violation {
    /// In words: `3 events missing`.
    pub fn headline(&self) -> String {
        let events = if self.count == 1 { "event" } else { "events" };
        format!("{} {events} {}", format::format(self.count as f64, Unit::Count), self.kind)
    }
}

impl Latency {
    /// How many durations were recorded.
    pub fn count(&self) -> u64 {
        self.counts.iter().map(|(_, count)| count).sum()
    }

    /// The duration in nanoseconds that `quantile` (0 to 1) of all did not exceed; none without
    /// any.
    pub fn quantile(&self, quantile: f64) -> Option<u64> {
        #[allow(clippy::cast_sign_loss)] // at least 1
        let rank = (quantile.clamp(0.0, 1.0) * self.count() as f64).ceil().max(1.0) as u64;
        let mut below = 0;
        for (value, count) in &self.counts {
            below += count;
            if below >= rank {
                return Some(*value);
            }
        }
        None
    }

    /// The longest in nanoseconds; none without any.
    pub fn max(&self) -> Option<u64> {
        self.counts.last().map(|(value, _)| *value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_is_the_value_at_its_rank() {
        let latency = Latency {
            name: "delivery".into(),
            label: "delivery".into(),
            counts: vec![(10, 50), (20, 49), (1_000, 1)],
        };
        assert_eq!(latency.quantile(0.0), Some(10));
        assert_eq!(latency.quantile(0.5), Some(10));
        assert_eq!(latency.quantile(0.51), Some(20));
        assert_eq!(latency.quantile(0.99), Some(20));
        assert_eq!(latency.quantile(1.0), Some(1_000));
        assert_eq!(latency.max(), Some(1_000));
        let empty = Latency { counts: Vec::new(), ..latency };
        assert_eq!(empty.quantile(0.5), None);
    }
}
