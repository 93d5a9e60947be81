//! How many events a server takes, and how long a publisher waits for its answer.

use std::time::Duration;

use crate::{
    options::{Options, set_batch},
    publisher::Schedule,
    report::{Report, Unit},
    scenario::{Scenario, Usage, schedule, verify},
    session::{Control, Error, LoadPlan, Session, Size, at_least_one},
    target::Batch,
};

/// Publishes on many connections, without subscribers.
#[derive(Clone, Debug)]
pub struct Append {
    /// How many connections.
    pub connections: usize,
    /// Requests under way on each.
    pub depth: usize,
    /// Events a request.
    pub batch: usize,
    /// How a batch is written; as the preset has it without.
    pub format: Option<Batch>,
    /// How many streams.
    pub runs: usize,
    /// Events a second; as fast as answers come without.
    pub rate: Option<f64>,
    /// How long.
    pub duration: Duration,
    /// Whether to read the streams afterwards and look whether all is there.
    pub verify: bool,
}

impl Append {
    fn schedule(&self) -> Result<Schedule, Error> {
        at_least_one("--connections", self.connections)?;
        at_least_one("--depth", self.depth)?;
        at_least_one("--batch", self.batch)?;
        at_least_one("--runs", self.runs)?;
        let Some(rate) = self.rate else { return Ok(Schedule::Closed { duration: self.duration }) };
        let (every, batches) = schedule("--rate", rate, self.batch, self.duration)?;
        Ok(Schedule::Paced { every, batches })
    }
}

impl Scenario for Append {
    fn run(&self, options: &Options, control: &Control) -> Result<Report, Error> {
        let schedule = self.schedule()?;
        let size = Size::of(0, self.runs);
        let mut session = Session::begin("append", options, size, control)?;
        if let Some(format) = self.format {
            set_batch(&mut session.target, format);
        }
        if self.depth > 1 && !session.target.pipelining {
            return Err(Error::Unsupported(
                "this server takes one request at a time on a connection: --depth must be 1".into(),
            ));
        }
        session.parameter("connections", self.connections);
        session.parameter("requests under way on each", self.depth);
        session.parameter("events a request", self.batch);
        session.parameter("format", format!("{:?}", session.target.batch).to_lowercase());
        session.parameter("runs", self.runs);
        session.parameter("duration", humantime::format_duration(self.duration));

        let before = Usage::of(&session);
        let Self { connections, depth, batch, .. } = *self;
        let outcome =
            session.load("appending", LoadPlan { connections, depth, batch, schedule })?;
        let after = Usage::of(&session);
        let seconds = outcome.seconds.max(f64::MIN_POSITIVE);
        let (requests, events) = (outcome.requests as f64, outcome.events as f64);
        session.figure("requests", "requests answered", Unit::Count, requests);
        session.figure("appends_per_second", "appends", Unit::PerSecond, requests / seconds);
        session.figure("events_per_second", "events appended", Unit::PerSecond, events / seconds);
        if let Some(cpu_ns) = after.cpu_since(&before)
            && events > 0.0
        {
            let label = "server's processor time per event";
            session.figure("cpu_per_event", label, Unit::Microseconds, cpu_ns / 1e3 / events);
        }
        let label = "append, to its answer";
        session.report.latencies.push(outcome.latency.latency("append", label));
        if self.verify && options.preset()?.keeps_all && !session.is_stopped() {
            verify::read_back(&mut session, &outcome.written);
        }
        session.finish()
    }
}
