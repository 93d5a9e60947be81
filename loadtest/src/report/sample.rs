//! Made-up reports for the tests, plausible enough to judge a page by.

use std::collections::BTreeMap;

use super::{Figure, Latency, Machine, Report, Series, Unit, Violation};

/// A fan-out of half a minute in which all went well.
pub fn fanout() -> Report {
    Report {
        command: "fanout".into(),
        command_line: "tidewheel-loadtest fanout --target http://127.0.0.1:8000 \
                       --subscribers 10000 --rate 20"
            .into(),
        tool: "tidewheel-loadtest 0.1.0".into(),
        began_at: "2026-11-22T10:00:00Z".into(),
        seconds: 30.0,
        interrupted: false,
        machine: machine(),
        parameters: vec![
            ("target".into(), "http://127.0.0.1:8000".into()),
            ("subscribers".into(), "10000".into()),
            ("rate".into(), "20/s".into()),
        ],
        figures: figures(),
        latencies: vec![
            latency("delivery", "delivery, from when the publish was due", 1_900_000.0, 0.35),
            latency("append", "append, until its answer", 650_000.0, 0.25),
        ],
        series: series(),
        violations: Vec::new(),
        failures: BTreeMap::new(),
        remarks: vec!["the load used 1.2 of 2 cores, and shared them with the server".into()],
    }
}

/// The same with lost events and refused connections.
pub fn broken() -> Report {
    Report {
        violations: vec![
            Violation {
                kind: "missing".into(),
                count: 3,
                examples: vec![
                    "subscriber 17: no event 4,711 between 4,710 and 4,712".into(),
                    "subscriber 23: no event <9> after 8".into(),
                ],
            },
            Violation { kind: "repeated".into(), count: 1, examples: Vec::new() },
        ],
        failures: BTreeMap::from([("connection refused".into(), 12)]),
        ..fanout()
    }
}

/// Puts a page where a browser can open it.
pub fn write(name: &str, page: &str) {
    let folder = std::env::temp_dir().join("tidewheel-pages");
    std::fs::create_dir_all(&folder).expect("a folder for pages");
    std::fs::write(folder.join(name), page).expect("room for a page");
}

/// The machine of all samples.
pub fn machine() -> Machine {
    Machine {
        kernel: "Linux 6.18.5".into(),
        cpu: "Intel(R) Xeon(R) Processor".into(),
        cores: 2,
        memory_bytes: 24_731_700_000,
        open_files_max: 1_048_576,
    }
}

/// A histogram with a heavy tail: the heavier, the larger `exponent`.
pub fn latency(name: &str, label: &str, least_nanoseconds: f64, exponent: f64) -> Latency {
    const DURATIONS: u32 = 20_000;
    let mut counts: BTreeMap<u64, u64> = BTreeMap::new();
    for rank in 0..DURATIONS {
        let above = 1.0 - (f64::from(rank) + 0.5) / f64::from(DURATIONS);
        let value = least_nanoseconds * (0.6 + 0.4 * above.powf(-exponent));
        // Within 0.1 %, as a histogram has them.
        let step = (value / 1_000.0).max(1.0);
        #[allow(clippy::cast_sign_loss)] // a duration
        let value = ((value / step).round() * step) as u64;
        *counts.entry(value).or_default() += 1;
    }
    Latency { name: name.into(), label: label.into(), counts: counts.into_iter().collect() }
}

fn figures() -> Vec<Figure> {
    let figure = |name: &str, label: &str, value, unit| Figure {
        name: name.into(),
        label: label.into(),
        value,
        unit,
    };
    vec![
        figure("subscribers", "subscribers", 10_000.0, Unit::Count),
        figure("deliveries_per_second", "deliveries a second", 21_314.2, Unit::PerSecond),
        figure(
            "memory_per_subscriber",
            "server memory per subscriber (RssAnon)",
            10_240.0,
            Unit::Bytes,
        ),
        figure("cpu_per_delivery", "server CPU per delivery", 6.851, Unit::Microseconds),
        figure("load_cpu_share", "load tester's CPU, of one core", 0.613, Unit::Share),
        figure("events_checked", "events checked", 6_000_000.0, Unit::Count),
    ]
}

fn series() -> Vec<Series> {
    let series = |name: &str, label: &str, unit, value: &dyn Fn(f64) -> f64| Series {
        name: name.into(),
        label: label.into(),
        unit,
        points: (0..=60).map(|half| f64::from(half) / 2.0).map(|at| (at, value(at))).collect(),
    };
    let opened = |at: f64| (at / 4.0).min(1.0);
    let wave = |at: f64| 1.0 + 0.04 * (at * 2.3).sin();
    vec![
        series("connections", "open connections", Unit::Count, &|at| 10_000.0 * opened(at)),
        series("server_memory", "server (RssAnon)", Unit::Bytes, &|at| {
            8e6 + 4.1e6 * opened(at) + 2e4 * at
        }),
        series("load_memory", "load tester (RssAnon)", Unit::Bytes, &|at| {
            5e6 + 21e6 * opened(at) + 1e5 * at
        }),
        series("deliveries", "deliveries", Unit::PerSecond, &|at| {
            200_000.0 * opened(at) * wave(at)
        }),
        series("latency_p50", "delivery p50", Unit::Seconds, &|at| 0.0021 * wave(at)),
        series("latency_p99", "delivery p99", Unit::Seconds, &|at| 0.0061 * wave(at * 1.7)),
    ]
}
