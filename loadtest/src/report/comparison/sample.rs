//! A made-up comparison for the tests; the figures are plausible and nobody's.

use std::collections::BTreeMap;

use super::metrics::METRICS;
use super::{BARE_RING, Comparison, Entry, Promise};
use crate::report::sample;

/// Servers of each promise, three rounds, each a few per cent from the others.
pub fn comparison() -> Comparison {
    const UNKNOWN: f64 = f64::NAN;
    Comparison {
        machine: sample::machine(),
        began_at: "2026-11-22T10:00:00Z".into(),
        command_line: "tidewheel-loadtest compare --subscribers 10000 --rounds 3".into(),
        rounds: 3,
        remarks: vec!["Server and load share two cores.".into()],
        entries: vec![
            entry(
                "tidewheel (first)",
                "0.1.0",
                Promise::Durable,
                [
                    412.0, 640.0, 21_300.0, 0.0021, 3.1, 0.42, 0.0121, 0.0234, 0.35, 1_650.0,
                    34_000.0, 0.000_58, 0.0018, 0.000_4,
                ],
            ),
            entry(
                BARE_RING,
                "io_uring",
                Promise::None,
                [
                    96.0, 96.0, 24_800.0, 0.0016, 2.9, 0.31, 0.0102, 0.0201, UNKNOWN, UNKNOWN,
                    UNKNOWN, UNKNOWN, UNKNOWN, 0.000_1,
                ],
            ),
            entry(
                "Memory hub",
                "1.3.7, C module",
                Promise::MemoryOnly,
                [
                    6_300.0, 7_900.0, 15_200.0, 0.0044, 8.2, 4.1, 0.041, 0.083, 1.9, 9_800.0,
                    41_000.0, 0.000_09, 0.0013, 0.001_2,
                ],
            ),
            entry(
                "File hub",
                "0.18, B+ tree",
                Promise::Durable,
                [
                    41_000.0, 83_000.0, 7_400.0, 0.021, 24.0, 19.0, 0.131, 0.402, 12.4, 410.0,
                    1_900.0, 0.0023, 0.033, 0.021,
                ],
            ),
            entry(
                "Log hub",
                "0.2, append only",
                Promise::Durable,
                [
                    38_000.0, 61_000.0, 5_100.0, 0.034, 33.0, 14.0, 0.19, 0.61, 9.1, 890.0,
                    4_700.0, 0.0011, 0.0131, 0.008,
                ],
            ),
            entry(
                "Channel",
                "0.8, broadcast",
                Promise::None,
                [
                    9_800.0, 12_100.0, 18_100.0, 0.0039, 5.6, 1.3, 0.0212, 0.0471, UNKNOWN,
                    21_000.0, 62_000.0, 0.000_045, 0.000_9, 0.000_6,
                ],
            ),
            drifted(),
        ],
    }
}

fn drifted() -> Entry {
    entry(
        "tidewheel (last)",
        "0.1.0",
        Promise::Durable,
        [
            413.0, 645.0, 21_000.0, 0.002_13, 3.15, 0.43, 0.0123, 0.0238, 0.366, 1_630.0, 33_600.0,
            0.000_59, 0.001_82, 0.000_4,
        ],
    )
}

/// A metric whose value is no number is missing.
fn entry(name: &str, version: &str, promise: Promise, values: [f64; 14]) -> Entry {
    let mut figures = BTreeMap::new();
    let mut missing = BTreeMap::new();
    for (metric, value) in METRICS.iter().zip(values) {
        if value.is_nan() {
            let reason =
                if metric.name == "storm_caught_up" { "no resume" } else { "stores nothing" };
            missing.insert(metric.name.to_owned(), reason.to_owned());
        } else {
            figures.insert(metric.name.to_owned(), vec![value, value * 0.97, value * 1.05]);
        }
    }
    let least = figures["delivery_p50"][0] * 0.9e9;
    Entry {
        name: name.into(),
        version: version.into(),
        promise,
        resumes: promise != Promise::None,
        subscribers: 10_000,
        figures,
        missing,
        faults: Vec::new(),
        delivery: Some(sample::latency("delivery", "delivery", least, 0.3)),
    }
}
