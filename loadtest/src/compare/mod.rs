//! Several servers under the same load, one after the other on this machine.
//!
//! The server has one processor and the load another, so that neither takes time from the other.
//! A round measures each server in turn, with a fresh process, and tidewheel first and last: what
//! moves between these two is the machine and not a server.

mod peer;

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use flate2::{Compression, write::GzEncoder};
use rustix::thread::{CpuSet, sched_setaffinity};

pub use self::peer::{PEERS, Peer};
use crate::{
    histogram::Histogram,
    options::Options,
    report::{
        Machine, Report,
        comparison::{self, Comparison, Entry, TIDEWHEEL},
    },
    scenario::{Append, Fanout, Idle, Scenario, Storm},
    session::{Control, Error},
};

/// Events that wait when a burst is sent.
const BURST: usize = 20;
/// Events that those who come back have missed.
const BEHIND: usize = 100;
/// A server may be silent for so long before what it has not delivered counts as missing.
const DRAIN: Duration = Duration::from_secs(20);

/// What `quick` leaves of the time that memory has to settle.
const QUICK_SETTLE: Duration = Duration::from_millis(100);

/// A comparison.
#[derive(Clone, Debug)]
pub struct Compare {
    /// Names of directories of peers; all without.
    pub peers: Vec<String>,
    /// Where these directories are.
    pub peers_directory: PathBuf,
    /// How often each is measured.
    pub rounds: usize,
    /// How many subscribers, where the peer bears them.
    pub subscribers: usize,
    /// The server's processor.
    pub server_core: usize,
    /// The load's.
    pub load_core: usize,
    /// Where the results go.
    pub out: PathBuf,
    /// Whether each measurement takes as little time as it can: no figures to quote.
    pub quick: bool,
}

/// What is measured of a peer, and how long it takes.
struct Measurement {
    /// In the raw reports.
    name: &'static str,
    scenario: Box<dyn Scenario>,
    /// Metrics of the comparison, and the figures or quantiles of the report that they are.
    metrics: &'static [(&'static str, Source)],
    /// Why a peer does not have it.
    missing: Option<&'static str>,
}

/// Where a metric is in a report.
#[derive(Clone, Copy)]
enum Source {
    Figure(&'static str),
    /// The sum of two, of which the second may not be there.
    Sum(&'static str, &'static str),
    /// Seconds of a latency.
    Quantile(&'static str, f64),
}

impl Compare {
    /// Runs it, writes its files, and gives the comparison.
    ///
    /// # Errors
    /// When a peer cannot be installed, or a file cannot be written. A peer that fails under load
    /// is an entry that says so.
    pub fn run(&self, control: &Control) -> Result<Comparison, Error> {
        let peers = self.chosen()?;
        self.pin_load()?;
        fs::create_dir_all(&self.out)?;
        let mut entries = Vec::new();
        for (position, peer) in positions(&peers) {
            eprintln!("installing {} …", peer.name);
            let version = peer.install(&self.peers_directory)?;
            entries.push(self.entry(position, peer, version));
        }
        let mut comparison = Comparison {
            machine: Machine::read(),
            began_at: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
            command_line: std::env::args().collect::<Vec<_>>().join(" "),
            rounds: self.rounds,
            remarks: self.remarks(),
            entries,
        };
        let raw = File::create(self.out.join("reports.jsonl.gz"))?;
        let mut raw = GzEncoder::new(raw, Compression::best());
        let mut deliveries: Vec<Histogram> = Vec::new();
        deliveries.resize_with(comparison.entries.len(), Histogram::default);
        'rounds: for round in 1..=self.rounds {
            for (index, (_, peer)) in positions(&peers).enumerate() {
                let entry = &mut comparison.entries[index];
                eprintln!("round {round} of {}: {}", self.rounds, entry.name);
                self.measure(peer, entry, &mut deliveries[index], &mut raw, round, control)?;
                if control.is_stopped() {
                    let text = format!("Stopped in round {round}, at {}.", entry.name);
                    comparison.remarks.push(text);
                    break 'rounds;
                }
            }
        }
        raw.finish()?;
        self.write(&mut comparison, &deliveries)?;
        Ok(comparison)
    }

    fn chosen(&self) -> Result<Vec<&'static Peer>, Error> {
        let known = || PEERS.iter().map(|peer| peer.directory).collect::<Vec<_>>().join(", ");
        if let Some(unknown) =
            self.peers.iter().find(|name| !PEERS.iter().any(|peer| peer.directory == **name))
        {
            let text = format!("no peer is called `{unknown}`; there are: {}", known());
            return Err(Error::Senseless(text));
        }
        let is_chosen = |peer: &&Peer| {
            self.peers.is_empty() || self.peers.iter().any(|name| name == peer.directory)
        };
        Ok(PEERS.iter().filter(is_chosen).collect())
    }

    /// The load processes inherit the processor.
    fn pin_load(&self) -> io::Result<()> {
        let cores = std::thread::available_parallelism()?.get();
        if cores < 2 || self.server_core == self.load_core {
            eprintln!("server and load share a processor: no figures to quote");
            return Ok(());
        }
        let mut set = CpuSet::new();
        set.set(self.load_core);
        Ok(sched_setaffinity(None, &set)?)
    }

    fn entry(&self, position: Option<&str>, peer: &Peer, version: String) -> Entry {
        let name =
            position.map_or(peer.name.into(), |position| format!("{} ({position})", peer.name));
        Entry {
            name,
            version,
            promise: peer.promise,
            resumes: !peer.is_limit,
            subscribers: self.subscribers.min(peer.subscribers_max),
            figures: BTreeMap::new(),
            missing: BTreeMap::new(),
            faults: Vec::new(),
            delivery: None,
        }
    }

    fn remarks(&self) -> Vec<String> {
        let mut remarks = vec![
            "One worker each, on one processor; the load on another. Keepalives every 15 s, \
             histories of 1,000 events where they are bounded. A fresh process for each server in \
             each round."
                .into(),
            format!(
                "Memory is RssAnon and RssShmem of all the server's processes, less what they had \
                 before the first subscriber. A burst is {BURST} events published at once; a storm \
                 lets all subscribers come back at once with a cursor {BEHIND} events old."
            ),
            "The bare ring accepts and sends through io_uring and does nothing else: no HTTP to \
             speak of, no streams, no history. Its events are as long as tidewheel's. Nothing that \
             sends to one socket at a time can cost less."
                .into(),
        ];
        if self.quick {
            remarks.push(
                "A quick run: each measurement is too short for its figures to count.".into(),
            );
        }
        remarks
    }

    fn measure(
        &self,
        peer: &Peer,
        entry: &mut Entry,
        deliveries: &mut Histogram,
        raw: &mut impl Write,
        round: usize,
        control: &Control,
    ) -> Result<(), Error> {
        let server = match peer.serve(&self.peers_directory, self.server_core) {
            Ok(server) => server,
            Err(error) => {
                eprintln!("{}: {error}", entry.name);
                entry.faults.push(error.to_string());
                return Ok(());
            }
        };
        let options = Options {
            server: format!("http://{}", server.address),
            preset: peer.preset.into(),
            server_pids: vec![server.pid()],
            in_flight: peer.in_flight,
            payload_bytes: peer.payload_bytes,
            settle: if self.quick { QUICK_SETTLE } else { Options::default().settle },
            ..Options::default()
        };
        let mut memory_before = None;
        for measurement in self.measurements(peer, entry.subscribers) {
            if let Some(reason) = measurement.missing {
                for (metric, _) in measurement.metrics {
                    entry.missing.insert((*metric).into(), reason.into());
                }
                continue;
            }
            let control = Control { quiet: true, ..control.clone() };
            let report = match measurement.scenario.run(&options, &control) {
                Ok(report) => report,
                Err(error) => {
                    note(entry, &measurement, &error.to_string());
                    continue;
                }
            };
            let line = serde_json::json!({
                "round": round, "server": entry.name, "measurement": measurement.name,
                "report": report,
            });
            writeln!(raw, "{line}")?;
            if report.interrupted {
                break;
            }
            keep(entry, &report, &measurement);
            if let Some(delivery) = report.latency("delivery")
                && measurement.name == "fanout"
            {
                deliveries.add(&delivery.counts);
            }
            memory_before = memory_before.or_else(|| report.figure("server_memory_before"));
            if let (Some(before), Some(after)) =
                (memory_before, report.figure("server_memory_afterwards"))
                && measurement.name == "burst"
            {
                let memory = (after - before) / entry.subscribers.max(1) as f64;
                push(entry, "memory_per_subscriber_after", memory);
            }
        }
        Ok(())
    }

    /// What is measured, in this order. Appends come last, since they fill the history.
    fn measurements(&self, peer: &Peer, subscribers: usize) -> Vec<Measurement> {
        let seconds = |seconds: u64| Duration::from_secs(if self.quick { 1 } else { seconds });
        let fanout = |events_per_second: f64, batch: usize, duration: Duration| Fanout {
            subscribers,
            streams: 1,
            events_per_second,
            batch,
            duration,
            drain: DRAIN,
        };
        let append = |connections: usize| Append {
            connections,
            depth: 1,
            batch: 1,
            format: None,
            runs: connections,
            rate: None,
            duration: seconds(3),
            verify: true,
        };
        let storm =
            Storm { subscribers, streams: 1, behind: BEHIND, while_cut: None, drain: DRAIN };
        let idle = Idle { subscribers, streams: 1, rate: None, hold: seconds(3) };
        let not_a_server = peer.is_limit.then_some("no history, no promise");
        use Source::{Figure, Quantile, Sum};
        vec![
            Measurement {
                name: "idle",
                scenario: Box::new(idle),
                metrics: &[
                    (
                        "memory_per_subscriber",
                        Sum("memory_per_subscriber", "shared_memory_per_subscriber"),
                    ),
                    ("opened_per_second", Figure("opened_per_second")),
                    ("first_byte_p99", Quantile("first_byte", 0.99)),
                    ("idle_cpu_share", Figure("idle_cpu_share")),
                ],
                missing: None,
            },
            Measurement {
                name: "fanout",
                scenario: Box::new(fanout(4.0, 1, seconds(5))),
                metrics: &[
                    ("cpu_per_delivery", Figure("cpu_per_delivery")),
                    ("delivery_p50", Quantile("delivery", 0.5)),
                    ("delivery_p99", Quantile("delivery", 0.99)),
                ],
                missing: None,
            },
            Measurement {
                name: "burst",
                scenario: Box::new(fanout(BURST as f64 / 2.0, BURST, seconds(6))),
                metrics: &[("cpu_per_delivery_burst", Figure("cpu_per_delivery"))],
                missing: None,
            },
            Measurement {
                name: "storm",
                scenario: Box::new(storm),
                metrics: &[("storm_caught_up", Figure("caught_up_seconds"))],
                missing: not_a_server,
            },
            Measurement {
                name: "append, one client",
                scenario: Box::new(append(1)),
                metrics: &[
                    ("appends_per_second_1", Figure("appends_per_second")),
                    ("append_p50_1", Quantile("append", 0.5)),
                ],
                missing: not_a_server,
            },
            Measurement {
                name: "append, 64 clients",
                scenario: Box::new(append(64)),
                metrics: &[
                    ("appends_per_second_64", Figure("appends_per_second")),
                    ("append_p50_64", Quantile("append", 0.5)),
                ],
                missing: not_a_server,
            },
        ]
    }

    fn write(&self, comparison: &mut Comparison, deliveries: &[Histogram]) -> Result<(), Error> {
        for (entry, delivery) in comparison.entries.iter_mut().zip(deliveries) {
            let label = "delivery, from when the publish was due";
            entry.delivery = (delivery.count() > 0).then(|| delivery.latency("delivery", label));
        }
        let write = |name: &str, text: String| fs::write(self.out.join(name), text);
        let json = serde_json::to_string(comparison).map_err(io::Error::other)?;
        write("comparison.json", json + "\n")?;
        write("comparison.html", comparison::page(comparison))?;
        write("comparison.md", comparison::markdown(comparison))?;
        Ok(())
    }
}

/// The order of a round: tidewheel stands at its beginning and, when there are others, at its end.
fn positions<'a>(
    peers: &'a [&'static Peer],
) -> impl Iterator<Item = (Option<&'static str>, &'static Peer)> + use<'a> {
    let twice = |peer: &Peer| peer.name == TIDEWHEEL && peers.len() > 1;
    let last = peers.iter().find(move |peer| twice(peer));
    let first = peers.iter().map(move |peer| (twice(peer).then_some("first"), *peer));
    first.chain(last.map(|peer| (Some("last"), *peer)))
}

/// Keeps the metrics of a report. Those of a run with faults are kept too, and the fault is named.
fn keep(entry: &mut Entry, report: &Report, measurement: &Measurement) {
    for (metric, source) in measurement.metrics {
        let value = match *source {
            Source::Figure(name) => report.figure(name),
            Source::Sum(one, other) => {
                report.figure(one).map(|value| value + report.figure(other).unwrap_or_default())
            }
            Source::Quantile(name, quantile) => report
                .latency(name)
                .and_then(|latency| latency.quantile(quantile))
                .map(crate::clock::seconds),
        };
        if let Some(value) = value {
            push(entry, metric, value);
        }
    }
    for violation in &report.violations {
        note(entry, measurement, &violation.headline());
    }
    for (kind, count) in &report.failures {
        note(entry, measurement, &format!("{count} times {kind}"));
    }
}

fn note(entry: &mut Entry, measurement: &Measurement, what: &str) {
    let fault = format!("{}: {what}", measurement.name);
    eprintln!("{}: {fault}", entry.name);
    entry.faults.push(fault);
}

fn push(entry: &mut Entry, metric: &str, value: f64) {
    entry.figures.entry(metric.into()).or_default().push(value);
}

/// Where the peers' scripts are, when one stands in the checkout.
pub fn default_peers() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("peers")
}

/// Where a comparison of today goes.
pub fn default_out() -> PathBuf {
    let today = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    Path::new("docs/runs").join(format!("{}-{cores}-core", &today[..10]))
}
