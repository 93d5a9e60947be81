//! Several servers under the same load, and what each of them promises for it.
//!
//! Servers that promise unlike things are not equals: one that answers an append before it is on
//! disk saves a sync, and loses events for it. So the promise stands beside each name, entries are
//! grouped by it, and appends are set in relation only among those that promise the same.

mod html;
mod markdown;
pub mod metrics;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use html::page;
pub use markdown::markdown;

use super::format::format;
use super::spread::Spread;
use super::{Latency, Machine};
use metrics::{METRICS, Metric, Reference};

/// The name of this project's server; it is measured first and last in each round, as
/// `tidewheel (first)` and `tidewheel (last)`.
pub const TIDEWHEEL: &str = "tidewheel";
/// The name of the server that does nothing but write to sockets, to which CPU time is related.
pub const BARE_RING: &str = "bare ring";

/// All that a comparison found.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Comparison {
    /// Where the servers and the load ran.
    pub machine: Machine,
    /// When it began, RFC 3339 in UTC.
    pub began_at: String,
    /// The whole command line, as it can be typed again.
    pub command_line: String,
    /// How often each server was measured.
    pub rounds: usize,
    /// What a reader should know before believing a figure.
    pub remarks: Vec<String>,
    /// The servers, in the order in which a round measures them.
    pub entries: Vec<Entry>,
}

/// One server.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Entry {
    /// Its name: `bare ring`, `tidewheel (first)`.
    pub name: String,
    /// Its version, and what it is built with where that matters.
    pub version: String,
    /// What holds once it has answered an append.
    pub promise: Promise,
    /// Whether a subscriber that comes back gets what it missed.
    pub resumes: bool,
    /// How many subscribers it had.
    pub subscribers: usize,
    /// Values by the name of their metric, one a round.
    pub figures: BTreeMap<String, Vec<f64>>,
    /// Why a metric has no values, by its name: `no resume`.
    pub missing: BTreeMap<String, String>,
    /// What went wrong: events missing, repeated or out of order, connections that failed.
    #[serde(default)]
    pub faults: Vec<String>,
    /// From publish to delivery, all rounds together.
    pub delivery: Option<Latency>,
}

/// What holds once a server has answered an append; the strongest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Promise {
    /// The event is on disk: it survives a crash of the machine.
    Durable,
    /// The event is kept until the server stops.
    MemoryOnly,
    /// The event is passed on to who is there, and kept by nobody.
    None,
}

/// What stands in a cell of the table.
#[derive(Clone, Debug, PartialEq)]
pub enum Cell {
    /// The rounds, and how many times the reference's median theirs is.
    Measured(Spread, Option<f64>),
    /// Why there is no value.
    Missing(String),
}

impl Promise {
    /// All of them, the strongest first.
    pub const ALL: [Self; 3] = [Self::Durable, Self::MemoryOnly, Self::None];

    /// In a few words, for the column beside the name.
    pub fn words(self) -> &'static str {
        match self {
            Self::Durable => "synced to disk before the answer",
            Self::MemoryOnly => "memory only",
            Self::None => "none",
        }
    }

    /// What a user of such a server may rely on.
    pub fn meaning(self) -> &'static str {
        match self {
            Self::Durable => "An answered append is on disk, and survives a crash.",
            Self::MemoryOnly => {
                "An answered append is in memory. It is lost when the server stops, \
                 and the server is spared the wait for the disk."
            }
            Self::None => {
                "Events go to whoever is connected, and are not kept. Here for scale: what \
                 delivery costs without a promise."
            }
        }
    }
}

impl Entry {
    /// Whether it is this project's server, in whichever position.
    pub fn is_tidewheel(&self) -> bool {
        self.name
            .strip_prefix(TIDEWHEEL)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with(" ("))
    }

    fn spread(&self, metric: &Metric) -> Option<Spread> {
        self.figures.get(metric.name).and_then(|rounds| Spread::of(rounds))
    }
}

impl Comparison {
    /// The entries with that promise, in their order.
    pub fn promising(&self, promise: Promise) -> impl Iterator<Item = &Entry> {
        self.entries.iter().filter(move |entry| entry.promise == promise)
    }

    /// What went wrong, by the name of the entry.
    pub fn faults(&self) -> impl Iterator<Item = String> {
        let named = |entry: &Entry, fault: &String| format!("{}: {fault}", entry.name);
        self.entries
            .iter()
            .flat_map(move |entry| entry.faults.iter().map(move |fault| named(entry, fault)))
    }

    /// All entries, grouped by their promise.
    pub fn grouped(&self) -> impl Iterator<Item = &Entry> {
        Promise::ALL.into_iter().flat_map(|promise| self.promising(promise))
    }

    /// The metrics that at least one entry has values or a reason for.
    pub fn metrics(&self) -> impl Iterator<Item = &'static Metric> {
        METRICS.iter().filter(|metric| {
            self.entries.iter().any(|entry| {
                entry.figures.contains_key(metric.name) || entry.missing.contains_key(metric.name)
            })
        })
    }

    /// What an entry has for a metric.
    pub fn cell(&self, entry: &Entry, metric: &Metric) -> Cell {
        match entry.spread(metric) {
            Some(spread) => Cell::Measured(spread, self.ratio(entry, metric, spread)),
            None => Cell::Missing(
                entry.missing.get(metric.name).map_or("not measured", String::as_str).to_owned(),
            ),
        }
    }

    /// How many times the reference's median this is; none for the reference itself, and among
    /// unlike promises where the promise decides the figure.
    fn ratio(&self, entry: &Entry, metric: &Metric, spread: Spread) -> Option<f64> {
        let is_reference = |other: &&Entry| match metric.reference {
            Reference::BareRing => other.name == BARE_RING,
            Reference::Tidewheel | Reference::TidewheelAmongEquals => other.is_tidewheel(),
        };
        let references: Vec<&Entry> = self.entries.iter().filter(is_reference).collect();
        let equals = references.iter().all(|other| other.promise == entry.promise);
        if is_reference(&entry) || metric.reference == Reference::TidewheelAmongEquals && !equals {
            return None;
        }
        let rounds: Vec<f64> = references
            .iter()
            .filter_map(|other| other.figures.get(metric.name))
            .flatten()
            .copied()
            .collect();
        let reference = Spread::of(&rounds)?.median;
        (reference > 0.0).then(|| spread.median / reference)
    }

    /// How far tidewheel's own figures moved between its first and its last position in a round:
    /// differences of that size say nothing about servers. None without both.
    pub fn drift(&self) -> Option<String> {
        let at = |position: &str| {
            self.entries.iter().find(|entry| entry.name == format!("{TIDEWHEEL} ({position})"))
        };
        let (first, last) = (at("first")?, at("last")?);
        let moved = |metric: &'static Metric| {
            let (first, last) = (first.spread(metric)?.median, last.spread(metric)?.median);
            (first > 0.0).then(|| (metric, first, last, (last / first - 1.0).abs()))
        };
        let (metric, first, last, share) =
            METRICS.iter().filter_map(moved).max_by(|one, other| one.3.total_cmp(&other.3))?;
        Some(format!(
            "tidewheel was measured first and last in each round. Its figures moved by at most \
             {} in between ({}: {} first, {} last), so a difference of that size between two \
             servers says nothing.",
            format(share, super::Unit::Share),
            metric.label,
            format(first, metric.unit),
            format(last, metric.unit),
        ))
    }
}

/// The lowest and the highest round, where they differ as they are written; with their units
/// where these are not the median's, beside which they stand.
fn range(spread: Spread, metric: &Metric) -> Option<String> {
    let written = |value| format(value, metric.unit);
    let (min, max) = (written(spread.min), written(spread.max));
    let (least, unit) = number_and_unit(&min);
    let (most, same) = number_and_unit(&max);
    let median = written(spread.median);
    match () {
        () if min == max => None,
        () if unit == same && unit == number_and_unit(&median).1 => Some(format!("{least}–{most}")),
        () => Some(format!("{min} – {max}")),
    }
}

fn number_and_unit(written: &str) -> (&str, &str) {
    let unit = written.trim_start_matches(|character: char| "0123456789,.".contains(character));
    (&written[..written.len() - unit.len()], unit)
}

#[cfg(test)]
mod sample;

#[cfg(test)]
mod tests {
    use super::*;
    use metrics::metric;

    fn entry<'a>(comparison: &'a Comparison, name: &str) -> &'a Entry {
        comparison.entries.iter().find(|entry| entry.name == name).expect("is compared")
    }

    fn ratio(name: &str, of: &str) -> Option<f64> {
        let comparison = sample::comparison();
        match comparison.cell(entry(&comparison, name), metric(of)) {
            Cell::Measured(_, ratio) => ratio,
            Cell::Missing(reason) => panic!("{name} has no {of}: {reason}"),
        }
    }

    #[test]
    fn cpu_time_is_related_to_the_bare_ring_and_all_else_to_tidewheel() {
        let cpu = ratio("Memory hub", "cpu_per_delivery").expect("has a reference");
        assert!((cpu - 8.2 / 2.9).abs() < 0.05, "{cpu}");
        let memory = ratio("Memory hub", "memory_per_subscriber").expect("has a reference");
        assert!((memory - 6_300.0 / 412.0).abs() < 0.5, "{memory}");
        assert_eq!(ratio(BARE_RING, "cpu_per_delivery"), None);
        assert_eq!(ratio("tidewheel (last)", "memory_per_subscriber"), None);
    }

    #[test]
    fn appends_are_related_only_among_those_that_promise_the_same() {
        assert!(ratio("Log hub", "appends_per_second_1").is_some());
        assert_eq!(ratio("Memory hub", "appends_per_second_1"), None);
    }

    #[test]
    fn a_missing_value_has_its_reason() {
        let comparison = sample::comparison();
        let storm = comparison.cell(entry(&comparison, BARE_RING), metric("storm_caught_up"));
        assert_eq!(storm, Cell::Missing("no resume".into()));
    }

    #[test]
    fn what_went_wrong_is_said_in_every_form() {
        let mut comparison = sample::comparison();
        comparison.entries[1].faults.push("fanout: 3 events missing".into());
        let text = format!("{}: fanout: 3 events missing", comparison.entries[1].name);
        assert!(page(&comparison).contains(&text));
        assert!(markdown(&comparison).contains(&text));
        assert!(!markdown(&sample::comparison()).contains("went wrong"));
    }

    #[test]
    fn a_range_repeats_no_unit() {
        let written =
            |rounds: &[f64]| range(Spread::of(rounds).expect("rounds"), metric("append_p50_1"));
        assert_eq!(written(&[0.002, 0.0031, 0.0044]).as_deref(), Some("2–4.4"));
        assert_eq!(written(&[0.000_9, 0.0011, 0.0044]).as_deref(), Some("900 µs – 4.4 ms"));
        assert_eq!(written(&[0.002, 0.002_000_1]), None);
    }

    #[test]
    fn entries_are_grouped_by_their_promise() {
        let comparison = sample::comparison();
        let promises: Vec<Promise> = comparison.grouped().map(|entry| entry.promise).collect();
        assert!(promises.is_sorted());
        assert_eq!(promises.len(), comparison.entries.len());
    }

    #[test]
    fn the_drift_names_the_figure_that_moved_most() {
        let drift = sample::comparison().drift().expect("has both positions");
        assert!(drift.contains("at most 4.57 %"), "{drift}");
        assert!(drift.contains("time until a reconnect storm has caught up"), "{drift}");
        let mut without = sample::comparison();
        without.entries.retain(|entry| entry.name != "tidewheel (last)");
        assert_eq!(without.drift(), None);
    }

    #[test]
    fn a_name_that_only_begins_alike_is_another_server() {
        let mut other = sample::comparison().entries[0].clone();
        assert!(other.is_tidewheel());
        other.name = "tidewheels".into();
        assert!(!other.is_tidewheel());
    }

    #[test]
    fn a_comparison_survives_json() {
        let comparison = sample::comparison();
        let json = serde_json::to_string(&comparison).expect("plain data");
        let back: Comparison = serde_json::from_str(&json).expect("the same shape");
        assert_eq!(back.entries[1].missing, comparison.entries[1].missing);
        assert!(back.entries[0].figures.keys().eq(comparison.entries[0].figures.keys()));
        assert!(json.contains("\"promise\":\"memory_only\""));
    }
}
