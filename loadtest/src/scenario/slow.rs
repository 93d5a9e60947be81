//! What subscribers that stop reading do to a server and to those that read.
//!
//! ```text
//! the readers  ── quiet ──┬── events go on ───────────────────┬── events go on ──┬─ last events
//! the stalled     read    │ stop; the bulk is published; hold │ read on          │
//! ```
//!
//! The stalled have a stream and load processes of their own. Not to read is to leave what has come
//! in the socket: the connection stays open, its window closes, and the server has to do something
//! about the rest. Between two phases all that was published to the readers has come, so that each
//! delivery counts for the phase in which it was due.

use std::time::Duration;

use crate::{
    clock,
    options::Options,
    process::tcp_memory_shortages,
    protocol::Command,
    publisher::{Outcome, Publisher},
    report::{Report, Unit},
    scenario::{Scenario, Usage, report_opening, schedule},
    session::{Control, Error, Feed, Session, Size, above_zero, at_least_one},
};

/// A payload of the bulk has room for its mark.
const PAYLOAD_BYTES_MIN: usize = 128;
/// Events of the bulk: their numbers have 32 bits, with some to spare for the others.
const EVENTS_MAX: u64 = u32::MAX as u64 / 2;

/// Lets some subscribers stop reading while much is published to them, and read on later.
#[derive(Clone, Debug)]
pub struct Slow {
    /// How many subscribers read all the time: the readers.
    pub subscribers: usize,
    /// Streams that they share.
    pub streams: usize,
    /// Events a second for them, over all their streams.
    pub events_per_second: f64,
    /// How many further ones stop reading: the stalled. They have a stream of their own.
    pub stalled: usize,
    /// How many bytes are published to the stalled: the bulk.
    pub bytes: u64,
    /// How long a payload of the bulk is, in bytes.
    pub bulk_payload_bytes: usize,
    /// Events of the bulk at once.
    pub bulk_batch: usize,
    /// Bytes of the bulk a second; as fast as answers come without.
    pub bulk_rate: Option<u64>,
    /// How long the readers are measured before the bulk.
    pub quiet: Duration,
    /// How long the stalled still do not read after the bulk.
    pub hold: Duration,
    /// How many of the stalled read on; the rest is closed.
    pub read_on: usize,
    /// How long nothing may happen before those that lack something are given up.
    pub drain: Duration,
}

impl Scenario for Slow {
    fn run(&self, options: &Options, control: &Control) -> Result<Report, Error> {
        let (every, quiet_batches) = self.check()?;
        let size = Size {
            stalled: self.stalled,
            come_back: options.target()?.resumes(),
            ..Size::of(self.subscribers, self.streams)
        };
        let mut session = Session::begin("slow", options, size, control)?;
        self.describe(&mut session);
        session.look()?;
        let before = Usage::of(&session);
        session.open(None)?;
        let first_bytes = session.stalled.first_byte.take();
        session.fleet.first_byte.add(&first_bytes);
        session.settle()?;
        let opened = Usage::of(&session);
        report_opening(&mut session, &before, &opened);
        let shortages = tcp_memory_shortages();
        self.go_through_phases(&mut session, every, quiet_batches)?;
        if tcp_memory_shortages() > shortages {
            let text = "The kernel ran short of memory for TCP (net.ipv4.tcp_mem) and let all \
                        connections of this machine wait, those that publish among them: the \
                        buffers of sockets that nobody reads may have taken it.";
            session.report.remarks.push(text.into());
        }
        session.finish()
    }
}

/// A part of the measurement, as the readers see it.
#[derive(Clone, Copy)]
struct Phase {
    name: &'static str,
    when: &'static str,
}

const QUIET: Phase = Phase { name: "quiet", when: "before the bulk" };
const STALL: Phase = Phase { name: "stall", when: "while some do not read" };
const CATCH_UP: Phase = Phase { name: "catch_up", when: "while those catch up" };

impl Slow {
    /// From one event to the next for the readers, and how many there are in the quiet time.
    fn check(&self) -> Result<(Duration, u64), Error> {
        at_least_one("--subscribers", self.subscribers)?;
        at_least_one("--streams", self.streams)?;
        at_least_one("--stalled", self.stalled)?;
        at_least_one("--bulk-batch", self.bulk_batch)?;
        at_least_one("--bytes", usize::try_from(self.bytes).unwrap_or(usize::MAX))?;
        if self.bulk_payload_bytes < PAYLOAD_BYTES_MIN {
            let text = format!("--bulk-payload must be at least {PAYLOAD_BYTES_MIN} bytes");
            return Err(Error::Senseless(text));
        }
        let events = self.batches().saturating_mul(self.bulk_batch as u64);
        if events > EVENTS_MAX {
            return Err(Error::Senseless(format!("--bytes: {events} events are too many")));
        }
        self.bulk_rate.map_or(Ok(()), |rate| above_zero("--bulk-rate", rate as f64))?;
        schedule("--events", self.events_per_second, 1, self.quiet)
    }

    fn batch_bytes(&self) -> u64 {
        (self.bulk_batch as u64).saturating_mul(self.bulk_payload_bytes as u64)
    }

    fn batches(&self) -> u64 {
        self.bytes.div_ceil(self.batch_bytes())
    }

    fn describe(&self, session: &mut Session) {
        let size = |bytes: u64| bytesize::ByteSize(bytes).display().si().to_string();
        session.parameter("subscribers that read", self.subscribers);
        session.parameter("streams", self.streams);
        session.parameter("events a second", self.events_per_second);
        session.parameter("subscribers that stop reading", self.stalled);
        session.parameter("bulk for them", size(self.bytes));
        session.parameter("payload of the bulk", size(self.bulk_payload_bytes as u64));
        session.parameter("events of the bulk at once", self.bulk_batch);
        if let Some(rate) = self.bulk_rate {
            session.parameter("bulk a second", size(rate));
        }
        session.parameter("quiet before", humantime::format_duration(self.quiet));
        session.parameter("hold after", humantime::format_duration(self.hold));
        session.parameter("read on", self.read_on.min(self.stalled));
    }

    /// Phase after phase; what is stopped in one does not begin the next.
    fn go_through_phases(
        &self,
        session: &mut Session,
        every: Duration,
        quiet_batches: u64,
    ) -> Result<(), Error> {
        // One event, so that each has a cursor.
        self.publish_to_all(session, "first events")?;
        session.fleet.delivery.take();
        let events = Feed { streams: 0..self.streams, ..session.feed(1, quiet_batches, every) };
        let outcome = session.publish("quiet", &events)?;
        self.end_phase(session, QUIET, &outcome)?;
        let events = Feed { batches: u64::MAX, ..events };
        for phase in [Self::stall, Self::read_on] {
            if session.is_stopped() {
                return Ok(());
            }
            phase(self, session, &events)?;
        }
        // They must be live again, and not only caught up.
        self.publish_to_all(session, "last events")?;
        // What comes once more would come now.
        session.settle()?;
        if let Some(memory) = session.memory() {
            let label = "server memory afterwards";
            session.figure("server_memory_afterwards", label, Unit::Bytes, memory.total() as f64);
        }
        let ended = session.fleet.counters().came_back as f64;
        let label = "streams of readers that the server ended";
        session.figure("ended_by_server", label, Unit::Count, ended);
        Ok(())
    }

    fn publish_to_all(&self, session: &mut Session, what: &str) -> Result<(), Error> {
        let feed = session.feed(1, self.streams as u64 + 1, Duration::ZERO);
        session.publish(what, &feed)?;
        session.expect(None)?;
        session.catch_up(&format!("waiting for the {what}"), self.drain)?;
        Ok(())
    }

    /// The readers get the last of what was published to them; what they have got since the last
    /// phase is of this one.
    fn end_phase(
        &self,
        session: &mut Session,
        phase: Phase,
        outcome: &Outcome,
    ) -> Result<(), Error> {
        session.expect_of_readers(None)?;
        session.catch_up("waiting for the readers", self.drain)?;
        let Phase { name, when } = phase;
        let label = format!("events published to readers {when}");
        session.figure(&format!("published_{name}"), &label, Unit::Count, outcome.events as f64);
        let delivery = &mut session.fleet.delivery;
        let latency = delivery.latency(&format!("delivery_{name}"), &format!("delivery {when}"));
        delivery.take();
        let worst = clock::seconds(latency.max().unwrap_or_default());
        if worst > session.options.stall.as_secs_f64() {
            let text = format!("Stall: deliveries {when} came up to {worst:.2} s late.");
            session.report.remarks.push(text);
        }
        session.report.latencies.push(latency);
        let publish = &outcome.latency;
        let latency = publish.latency(&format!("publish_{name}"), &format!("publish {when}"));
        session.report.latencies.push(latency);
        Ok(())
    }

    /// The stalled stop reading, the bulk is published to them, and the readers get their events.
    fn stall(&self, session: &mut Session, events: &Feed) -> Result<(), Error> {
        if let Some(memory) = session.memory() {
            let label = "server memory before the bulk";
            session.figure("server_memory_quiet", label, Unit::Bytes, memory.total() as f64);
        }
        session.watch_memory();
        session.stalled.tell(&Command::StopReading)?;
        let open = session.stalled.counters().open;
        let what = "some stop reading";
        session.wait(what, open, Some(self.drain), |counters| counters.stopped)?;
        let stopped = session.counters().stopped as f64;
        session.figure("stopped", "subscribers that stopped reading", Unit::Count, stopped);

        let events = session.start_publishing(events)?;
        let bulk = session.publish("publishing the bulk", &self.bulk())?;
        session.hold("nobody of them reads", self.hold)?;
        let outcome = end(session, events)?;
        self.report_bulk(session, &bulk);
        report_peak(session, STALL);
        self.end_phase(session, STALL, &outcome)
    }

    /// The bulk: one batch after the other on the last stream.
    fn bulk(&self) -> Feed {
        let every = self.bulk_rate.map_or(0.0, |rate| self.batch_bytes() as f64 / rate as f64);
        Feed {
            streams: self.streams..self.streams + 1,
            batch: self.bulk_batch,
            batches: self.batches(),
            every: Duration::try_from_secs_f64(every).unwrap_or(Duration::MAX),
            payload_bytes: self.bulk_payload_bytes,
        }
    }

    fn report_bulk(&self, session: &mut Session, bulk: &Outcome) {
        let bytes = (bulk.events * self.bulk_payload_bytes as u64) as f64;
        session.figure("bulk_events", "events of the bulk", Unit::Count, bulk.events as f64);
        session.figure("bulk_bytes", "payloads of the bulk", Unit::Bytes, bytes);
        session.figure("bulk_seconds", "publishing the bulk", Unit::Seconds, bulk.seconds);
        if bulk.seconds > 0.0 {
            let rate = bytes / bulk.seconds;
            session.figure("bulk_rate", "bulk published", Unit::BytesPerSecond, rate);
        }
    }

    /// Those of the stalled that are to read on get all that they have missed, and the readers get
    /// their events.
    fn read_on(&self, session: &mut Session, events: &Feed) -> Result<(), Error> {
        let read_on = self.read_on.min(self.stalled);
        session.figure("read_on", "of them read on", Unit::Count, read_on as f64);
        session.watch_memory();
        let events = session.start_publishing(events)?;
        let opened = session.stalled.counters().opened;
        let bytes = session.stalled.counters().bytes;
        let began_ns = clock::now_ns();
        session.expect_of_stalled(Some(began_ns))?;
        session.stalled.tell(&Command::ReadOn { below: self.subscribers + read_on })?;
        session.catch_up_of_stalled("catching up", self.drain)?;
        let after = session.stalled.counters();
        let outcome = end(session, events)?;

        session.figure("cut", "cut off by the server", Unit::Count, after.cut as f64);
        let came_back = (after.opened - opened) as f64;
        session.figure("came_back", "came back with their cursors", Unit::Count, came_back);
        let caught_up = session.stalled.catch_up.count() as f64;
        session.figure("caught_up", "caught up", Unit::Count, caught_up);
        let bytes = (after.bytes - bytes) as f64;
        session.figure("caught_up_bytes", "read by them meanwhile", Unit::Bytes, bytes);
        let seconds = clock::seconds(after.last_event_ns.saturating_sub(began_ns));
        if seconds > 0.0 {
            let label = "until the last had caught up";
            session.figure("caught_up_seconds", label, Unit::Seconds, seconds);
            let label = "read by them";
            session.figure("caught_up_rate", label, Unit::BytesPerSecond, bytes / seconds);
        }
        report_peak(session, CATCH_UP);
        self.end_phase(session, CATCH_UP, &outcome)?;
        let label = "from reading on until one has caught up";
        let latency = session.stalled.catch_up.latency("catch_up", label);
        session.report.latencies.push(latency);
        Ok(())
    }
}

/// Lets the events that go on end, once all that are due are out.
fn end(session: &mut Session, events: Publisher) -> Result<Outcome, Error> {
    events.stop();
    session.follow("events that are due", 0, &events)?;
    session.finish_publishing(events)
}

fn report_peak(session: &mut Session, Phase { name, when }: Phase) {
    let peak = session.memory_peak();
    if peak.server > 0 {
        let label = format!("most server memory {when}");
        session.figure(&format!("server_memory_{name}"), &label, Unit::Bytes, peak.server as f64);
    }
    let label = format!("most memory of the system for TCP {when}");
    session.figure(&format!("tcp_memory_{name}"), &label, Unit::Bytes, peak.tcp as f64);
}
