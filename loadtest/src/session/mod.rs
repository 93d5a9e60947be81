//! A measurement under way: the server looked at, its streams made, the load processes started,
//! and what they tell written down moment by moment.

mod error;
mod prepare;
mod publishing;

use std::{
    collections::BTreeMap,
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant, SystemTime},
};

use self::prepare::{make_streams, probe, processes};
pub use self::{
    error::{Error, above_zero, at_least_one},
    publishing::{Feed, LoadPlan},
};
use crate::{
    clock,
    fleet::Fleet,
    options::Options,
    order::Published,
    process::{self, ServerProcesses},
    progress::Progress,
    protocol::{Assignment, Command},
    publisher::Written,
    report::{Figure, Machine, Report, Series, Unit, Violation},
    tally::{Counters, merge_failures, merge_violations},
    target::Target,
};

/// How often memory is looked at while its peak is wanted.
const WATCH_EVERY: Duration = Duration::from_millis(100);
/// How often counts are written down.
const SAMPLE_EVERY: Duration = Duration::from_millis(500);
/// How long the coordinator listens before it looks around.
const LISTEN: Duration = Duration::from_millis(20);
/// Beside what one connection may take, opening may stand still for so long.
const PATIENCE_BESIDE: Duration = Duration::from_secs(5);
/// When the load took more than this share of its processors, it may have been the bottleneck.
const LOAD_CPU_SHARE_MAX: f64 = 0.9;

/// How many subscribers of how many streams.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Subscribers in all.
    pub subscribers: usize,
    /// Streams that they share.
    pub streams: usize,
    /// Further subscribers, of one further stream: those that are to stop reading.
    pub stalled: usize,
    /// Whether one whose stream the server ended comes back.
    pub come_back: bool,
}

impl Size {
    /// So many subscribers, which all read, and do not come back.
    pub fn of(subscribers: usize, streams: usize) -> Self {
        Self { subscribers, streams, stalled: 0, come_back: false }
    }
}

/// A measurement under way.
#[derive(Debug)]
pub struct Session {
    /// What it was asked for.
    pub options: Options,
    /// How the server is talked to.
    pub target: Target,
    /// The streams' names; that of those who are to stop reading is the last.
    pub streams: Vec<String>,
    /// The load processes.
    pub fleet: Fleet,
    /// Those of the subscribers that are to stop reading: processes of their own, so that nobody
    /// waits for what they read later.
    pub stalled: Fleet,
    /// The server's processes, where they are on this machine and can be seen.
    pub server: Option<ServerProcesses>,
    /// The report so far.
    pub report: Report,
    /// Subscribers in all.
    pub subscribers: usize,
    stop: Arc<AtomicBool>,
    /// Whether it ends before its time because something beside the server went wrong.
    is_given_up: bool,
    /// Whether those whose stream has ended come back by themselves.
    comes_back: bool,
    token: u32,
    quiet: bool,
    began: Instant,
    next_sample: Instant,
    sampled: Sample,
    /// When memory is looked at next, where its peak is wanted.
    next_look: Option<Instant>,
    peak: MemoryPeak,
    /// What was published on each stream so far.
    written: Vec<Written>,
}

#[derive(Clone, Copy, Debug)]
struct Sample {
    at: Instant,
    events: u64,
    server_cpu_ns: u64,
}

/// The most memory that there was since somebody wanted to know, in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct MemoryPeak {
    /// Of the server's processes, anonymous and shared; 0 where they are not known.
    pub server: u64,
    /// Of the kernel for the buffers of TCP sockets, of the whole machine.
    pub tcp: u64,
}

/// Whose events are waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Whose {
    All,
    Stalled,
}

/// What a scenario runs under: whether it shows progress, and how it is stopped.
#[derive(Clone, Debug, Default)]
pub struct Control {
    /// Set when the user wants it to end.
    pub stop: Arc<AtomicBool>,
    /// Whether nothing is shown meanwhile.
    pub quiet: bool,
}

impl Control {
    /// Whether the user wants it to end.
    pub fn is_stopped(&self) -> bool {
        self.stop.load(Relaxed)
    }
}

impl Session {
    /// Looks at the server, makes the streams and starts the load processes.
    ///
    /// # Errors
    /// When an option is wrong, the server does not answer as it should, or a limit of the machine
    /// is too low.
    pub fn begin(
        command: &str,
        options: &Options,
        size: Size,
        control: &Control,
    ) -> Result<Self, Error> {
        let target = options.target()?;
        let Size { subscribers, streams, stalled, come_back } = size;
        at_least_one("--in-flight", options.in_flight)?;
        let readers = processes(subscribers, options.processes)?;
        let others = processes(stalled, None)?;
        let token = (clock::now_ns() / 1_000) as u32 ^ std::process::id().rotate_left(16);
        let all = streams + usize::from(stalled > 0);
        let names = make_streams(&target, token, all, options.timeout, control.quiet)?;
        if subscribers > 0 {
            probe(&target, &names[0], options.timeout)?;
        }
        let address = target.subscribe.url.address;
        let server = if options.server_pids.is_empty() {
            address.ip().is_loopback().then(|| ServerProcesses::listening_at(address)).flatten()
        } else {
            Some(ServerProcesses::of(options.server_pids.clone()))
        };
        let fleet = |subscribers: Range<usize>, streams: Range<usize>, processes: usize| {
            let share = subscribers.len().div_ceil(processes).max(1);
            let assignment = |first: usize| Assignment {
                target: target.clone(),
                token,
                streams: names[streams.clone()].to_vec(),
                first_stream: streams.start as u32,
                first,
                count: share.min(subscribers.end - first),
                sources: options.sources(&target),
                in_flight: options.in_flight.div_ceil(processes),
                timeout: options.timeout,
                stall: options.stall,
                come_back,
            };
            let assignments: Vec<_> = subscribers.clone().step_by(share).map(assignment).collect();
            Fleet::start(&assignments)
        };
        let now = Instant::now();
        let cpu = server.as_ref().map_or(0, ServerProcesses::cpu_ns);
        Ok(Self {
            report: new_report(command, &target, options),
            written: vec![Written::default(); names.len()],
            fleet: fleet(0..subscribers, 0..streams, readers)?,
            stalled: fleet(subscribers..subscribers + stalled, streams..all, others)?,
            options: options.clone(),
            target,
            streams: names,
            server,
            stop: Arc::clone(&control.stop),
            subscribers: subscribers + stalled,
            is_given_up: false,
            comes_back: come_back,
            token,
            quiet: control.quiet,
            began: now,
            next_sample: now,
            sampled: Sample { at: now, events: 0, server_cpu_ns: cpu },
            next_look: None,
            peak: MemoryPeak::default(),
        })
    }

    /// Whether the user wants it to end.
    pub fn is_stopped(&self) -> bool {
        self.stop.load(Relaxed)
    }

    /// Goes on until `done` says how much of `total` is done and that is all of it, until nothing
    /// more has happened for `patience`, or until it is stopped. Says whether all was done.
    ///
    /// # Errors
    /// When a load process fails.
    pub fn wait(
        &mut self,
        what: &str,
        total: u64,
        patience: Option<Duration>,
        done: impl FnMut(&Counters) -> u64,
    ) -> Result<bool, Error> {
        self.wait_for(Whose::All, what, total, patience, done)
    }

    fn wait_for(
        &mut self,
        whose: Whose,
        what: &str,
        total: u64,
        patience: Option<Duration>,
        mut done: impl FnMut(&Counters) -> u64,
    ) -> Result<bool, Error> {
        let mut progress = Progress::begin(what, total, self.quiet);
        let mut last = (0, Instant::now());
        loop {
            let counters = self.step()?;
            let so_far = done(&counters);
            progress.set(so_far, total, &self.remark(&counters));
            if so_far >= total {
                return Ok(true);
            }
            // What comes again is no progress, and neither is who leaves and comes back: that may
            // go on for ever.
            let (events, violations) = match whose {
                Whose::All => (counters.events, self.violations()),
                Whose::Stalled => (self.stalled.counters().events, self.stalled.violations()),
            };
            let again = violations.into_iter().filter(|found| found.kind != "missing");
            let again: u64 = again.map(|found| found.count).sum();
            let signs_of_life = events.saturating_sub(again) + so_far;
            if signs_of_life > last.0 {
                last = (signs_of_life, Instant::now());
            }
            if self.is_stopped() || patience.is_some_and(|patience| last.1.elapsed() > patience) {
                return Ok(false);
            }
        }
    }

    /// Goes on for so long, or until it is stopped.
    ///
    /// # Errors
    /// When a load process fails.
    pub fn hold(&mut self, what: &str, duration: Duration) -> Result<(), Error> {
        let began = Instant::now();
        let total = duration.as_millis() as u64;
        let elapsed = |_: &Counters| began.elapsed().as_millis() as u64;
        self.wait(what, total, None, elapsed).map(drop)
    }

    /// Looks at the server before anything is done to it, so that its figures have a beginning.
    ///
    /// # Errors
    /// When a load process fails.
    pub fn look(&mut self) -> Result<(), Error> {
        self.hold("looking at the server", self.options.settle / 2)
    }

    /// Leaves all alone until memory is what it will stay.
    ///
    /// # Errors
    /// When a load process fails.
    pub fn settle(&mut self) -> Result<(), Error> {
        self.hold("settling", self.options.settle)
    }

    /// Whether nothing is to be shown meanwhile.
    pub fn is_quiet(&self) -> bool {
        self.quiet
    }

    /// Something begins; `total` is how much of it there is.
    pub fn begin_progress(&self, what: &str, total: u64) -> Progress {
        Progress::begin(what, total, self.quiet)
    }

    /// Looks anew which processes listen at the server's port, as after a restart.
    pub fn find_server(&mut self) {
        if self.options.server_pids.is_empty()
            && let Some(server) = ServerProcesses::listening_at(self.target.subscribe.url.address)
        {
            self.server = Some(server);
        }
    }

    /// Opens all subscribers that are closed and waits until each is open or has failed. What is
    /// not opened while nothing happens has failed too.
    ///
    /// # Errors
    /// When a load process fails.
    pub fn open(&mut self, per_second: Option<f64>) -> Result<(), Error> {
        self.fleet.open(per_second)?;
        self.stalled.open(per_second)?;
        let total = self.subscribers as u64;
        let between = per_second.map_or(0.0, |rate| self.fleet.processes() as f64 / rate);
        let between = Duration::try_from_secs_f64(between).unwrap_or(Duration::MAX);
        let patience = self.options.timeout.saturating_add(PATIENCE_BESIDE).saturating_add(between);
        let closed = |counters: &Counters| (counters.waiting + counters.connecting).min(total);
        let are_open = self.wait("opening subscribers", total, Some(patience), |counters| {
            total - closed(counters)
        })?;
        let left = closed(&self.counters());
        // One that comes back by itself has been open, or its failures were counted.
        if !are_open && !self.comes_back && !self.is_stopped() {
            self.add_failures(&BTreeMap::from([("not opened in time".into(), left)]));
        }
        Ok(())
    }

    /// Closes all subscribers.
    ///
    /// # Errors
    /// When a load process fails.
    pub fn cut(&mut self) -> Result<(), Error> {
        self.fleet.tell(&Command::Cut)?;
        self.stalled.tell(&Command::Cut)?;
        let total = self.subscribers as u64;
        self.wait("closing subscribers", total, None, |counters| {
            total - (counters.open + counters.connecting).min(total)
        })?;
        Ok(())
    }

    /// Each subscriber should have by now, or soon, what was published.
    ///
    /// # Errors
    /// When a load process fails.
    pub fn expect(&mut self, since_ns: Option<u64>) -> Result<(), Error> {
        self.expect_of_readers(since_ns)?;
        self.expect_of_stalled(since_ns)
    }

    /// The same of all but those that are to stop reading.
    ///
    /// # Errors
    /// When a load process fails.
    pub fn expect_of_readers(&mut self, since_ns: Option<u64>) -> Result<(), Error> {
        Ok(self.fleet.expect(self.published(), since_ns)?)
    }

    /// The same of those that are to stop reading.
    ///
    /// # Errors
    /// When a load process fails.
    pub fn expect_of_stalled(&mut self, since_ns: Option<u64>) -> Result<(), Error> {
        Ok(self.stalled.expect(self.published(), since_ns)?)
    }

    fn published(&self) -> Vec<Published> {
        self.written.iter().map(Written::published).collect()
    }

    /// Waits until all but those that have failed have what is expected.
    ///
    /// # Errors
    /// When a load process fails.
    pub fn catch_up(&mut self, what: &str, patience: Duration) -> Result<bool, Error> {
        self.catch_up_of(Whose::All, what, patience)
    }

    /// The same while others get events: what these get is no sign that something goes on.
    ///
    /// # Errors
    /// When a load process fails.
    pub fn catch_up_of_stalled(&mut self, what: &str, patience: Duration) -> Result<bool, Error> {
        self.catch_up_of(Whose::Stalled, what, patience)
    }

    fn catch_up_of(&mut self, whose: Whose, what: &str, patience: Duration) -> Result<bool, Error> {
        let total = self.subscribers as u64;
        let done = |counters: &Counters| total - counters.lacking.min(total);
        self.wait_for(whose, what, total, Some(patience), done)
    }

    /// The counts of all subscribers.
    pub fn counters(&self) -> Counters {
        let mut sum = self.fleet.counters();
        sum.add(&self.stalled.counters());
        sum
    }

    fn violations(&self) -> Vec<Violation> {
        let mut all = self.fleet.violations();
        merge_violations(&mut all, &self.stalled.violations());
        all
    }

    /// Names the measurement: it stands in every mark.
    pub fn token(&self) -> u32 {
        self.token
    }

    /// Ends the load processes, and gives the report.
    ///
    /// # Errors
    /// When a load process fails.
    pub fn finish(mut self) -> Result<Report, Error> {
        let interrupted = self.is_stopped() || self.is_given_up;
        if self.subscribers > 0 {
            self.fleet.finish(!interrupted)?;
            self.stalled.finish(!interrupted)?;
        }
        let counters = self.counters();
        for failures in [self.fleet.failures(), self.stalled.failures()] {
            self.add_failures(&failures);
        }
        let violations = self.violations();
        self.add_violations(&violations);
        let processes = self.fleet.processes() + self.stalled.processes();
        if self.stalled.processes() > 0 {
            let broken =
                |fleet: &Fleet| fleet.violations().iter().map(|found| found.count).sum::<u64>();
            let [readers, stalled] = [broken(&self.fleet), broken(&self.stalled)];
            let label = "events broken for those that always read";
            self.figure("broken_of_readers", label, Unit::Count, readers as f64);
            let label = "events broken for those that had stopped reading";
            self.figure("broken_of_stalled", label, Unit::Count, stalled as f64);
        }
        if counters.events > 0 {
            self.figure("events_checked", "events checked", Unit::Count, counters.events as f64);
        }
        if self.subscribers > 0 {
            let memory = counters.memory as f64 / self.subscribers as f64;
            let label = "load tester's own memory per subscriber";
            self.figure("load_memory_per_subscriber", label, Unit::Bytes, memory);
        }
        let seconds = self.began.elapsed().as_secs_f64();
        let available = std::thread::available_parallelism().map_or(1, usize::from);
        let cores = processes.clamp(1, available) as f64;
        if clock::seconds(counters.cpu_ns) / seconds / cores > LOAD_CPU_SHARE_MAX {
            self.report.remarks.push(
                "The load processes were busy nearly all the time: they, not the server, may have \
                 been the limit."
                    .into(),
            );
        }
        if self.server.is_none() {
            self.report.remarks.push(
                "The server's processes are not known (it is on another machine, or hidden): no \
                 figures of its memory and processor time. --server-pid names them."
                    .into(),
            );
        }
        if self.server.as_ref().is_some_and(|server| !server.are_alive()) {
            *self.report.failures.entry("the server has ended".into()).or_default() += 1;
        }
        self.report.interrupted = interrupted;
        self.report.seconds = seconds;
        Ok(self.report)
    }

    /// Something beside the server went wrong, so that the rest makes no sense: the report will say
    /// so, and what has not come by now is not missing.
    pub fn give_up(&mut self, why: String) {
        self.is_given_up = true;
        self.add_failures(&BTreeMap::from([(why, 1)]));
    }

    /// Adds a figure to the report.
    pub fn figure(&mut self, name: &str, label: &str, unit: Unit, value: f64) {
        let (name, label) = (name.to_owned(), label.to_owned());
        self.report.figures.push(Figure { name, label, value, unit });
    }

    /// Adds a parameter to the report.
    pub fn parameter(&mut self, name: &str, value: impl std::fmt::Display) {
        self.report.parameters.push((name.into(), value.to_string()));
    }

    /// Adds what failed elsewhere.
    pub fn add_failures(&mut self, failures: &BTreeMap<String, u64>) {
        merge_failures(&mut self.report.failures, failures);
    }

    /// Adds what was found broken elsewhere.
    pub fn add_violations(&mut self, violations: &[Violation]) {
        merge_violations(&mut self.report.violations, violations);
    }

    /// Memory of the server's processes in bytes: anonymous and shared.
    pub fn memory(&self) -> Option<process::Memory> {
        self.server.as_ref().map(ServerProcesses::memory)
    }

    /// From now on looks often how much memory there is, to find the most.
    pub fn watch_memory(&mut self) {
        self.next_look = Some(Instant::now());
        self.peak = MemoryPeak::default();
    }

    /// The most since [`Self::watch_memory`].
    pub fn memory_peak(&self) -> MemoryPeak {
        self.peak
    }

    /// Processor time of the server's processes in nanoseconds.
    pub fn server_cpu_ns(&self) -> Option<u64> {
        self.server.as_ref().map(ServerProcesses::cpu_ns)
    }

    /// Listens for a moment and writes down what is due.
    ///
    /// # Errors
    /// When a load process fails.
    pub fn step(&mut self) -> Result<Counters, Error> {
        self.fleet.listen(LISTEN)?;
        self.stalled.listen(Duration::ZERO)?;
        if self.next_look.is_some_and(|next| Instant::now() >= next) {
            self.next_look = Some(Instant::now() + WATCH_EVERY);
            let server = self.memory().map_or(0, process::Memory::total);
            self.peak.server = self.peak.server.max(server);
            self.peak.tcp = self.peak.tcp.max(process::system_tcp_memory());
        }
        let counters = self.counters();
        if Instant::now() >= self.next_sample {
            self.next_sample = Instant::now() + SAMPLE_EVERY;
            self.sample(&counters);
        }
        Ok(counters)
    }

    fn sample(&mut self, counters: &Counters) {
        self.point("connections", "open subscribers", Unit::Count, counters.open as f64);
        let elapsed = self.sampled.at.elapsed().as_secs_f64();
        let rate = (counters.events - self.sampled.events) as f64 / elapsed;
        self.point("deliveries", "deliveries", Unit::PerSecond, rate);
        let lately = &self.fleet.delivery_lately;
        if lately.count() > 0 {
            let [p50, p99] = [0.5, 0.99].map(|quantile| clock::seconds(lately.quantile(quantile)));
            self.fleet.delivery_lately.take();
            self.point("latency_p50", "delivery latency, p50", Unit::Seconds, p50);
            self.point("latency_p99", "delivery latency, p99", Unit::Seconds, p99);
        }
        let label = "load tester's memory";
        self.point("load_memory", label, Unit::Bytes, counters.memory as f64);
        self.sampled.events = counters.events;
        self.sample_server();
    }

    fn sample_server(&mut self) {
        let elapsed = self.sampled.at.elapsed().as_secs_f64();
        self.sampled.at = Instant::now();
        let Some(server) = &self.server else { return };
        let (memory, cpu) = (server.memory().anonymous, server.cpu_ns());
        let share = clock::seconds(cpu.saturating_sub(self.sampled.server_cpu_ns)) / elapsed;
        self.sampled.server_cpu_ns = cpu;
        self.point("server_memory", "server's memory (RssAnon)", Unit::Bytes, memory as f64);
        self.point("server_cpu", "server's processor time", Unit::Share, share);
    }

    fn point(&mut self, name: &str, label: &str, unit: Unit, value: f64) {
        let at = (self.began.elapsed().as_secs_f64(), value);
        let series = &mut self.report.series;
        match series.iter_mut().find(|series| series.name == name) {
            Some(series) => series.points.push(at),
            None => series.push(Series {
                name: name.into(),
                label: label.into(),
                unit,
                points: vec![at],
            }),
        }
    }

    /// What to show of the counts meanwhile.
    pub fn remark(&self, counters: &Counters) -> String {
        let failures =
            self.fleet.failures().into_values().chain(self.stalled.failures().into_values());
        let failed: u64 = failures.sum();
        let failed = if failed > 0 { format!(", {failed} failed") } else { String::new() };
        format!("{} open, {} events{failed}", counters.open, counters.events)
    }
}

fn new_report(command: &str, target: &Target, options: &Options) -> Report {
    let parameter = |name: &str, value: String| (name.to_owned(), value);
    Report {
        command: command.into(),
        command_line: std::env::args().collect::<Vec<_>>().join(" "),
        tool: concat!(env!("CARGO_PKG_NAME"), " ", env!("CARGO_PKG_VERSION")).into(),
        began_at: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
        seconds: 0.0,
        interrupted: false,
        machine: Machine::read(),
        parameters: vec![
            parameter("target", target.subscribe.url.text()),
            parameter("preset", options.preset.clone()),
        ],
        figures: Vec::new(),
        latencies: Vec::new(),
        series: Vec::new(),
        violations: Vec::new(),
        failures: BTreeMap::new(),
        remarks: Vec::new(),
    }
}
