//! What a measurement publishes: on the streams of its subscribers, who are to get it, and on others.

use std::{
    ops::Range,
    sync::atomic::Ordering::Relaxed,
    time::{Duration, Instant},
};

use super::{Error, LISTEN, SAMPLE_EVERY, Session, make_streams};
use crate::{
    progress::Progress,
    publisher::{Outcome, Plan, Publisher, Schedule},
    report::Unit,
    target::Batch,
};

/// Publishing on more connections than this gains nothing.
const PUBLISHERS_MAX: usize = 64;
/// Requests under way on a connection that publishes on a schedule.
const PUBLISH_DEPTH: usize = 16;

/// What is published on some of the subscribers' streams, which take turns.
#[derive(Clone, Debug)]
pub struct Feed {
    /// Which of them, by their places.
    pub streams: Range<usize>,
    /// Events at once.
    pub batch: usize,
    /// How many times.
    pub batches: u64,
    /// From one time to the next; as fast as answers come when it is zero.
    pub every: Duration,
    /// How long a payload is, in bytes.
    pub payload_bytes: usize,
}

/// Load without subscribers.
#[derive(Clone, Copy, Debug)]
pub struct LoadPlan {
    /// How many connections publish.
    pub connections: usize,
    /// Requests under way on each.
    pub depth: usize,
    /// Events a request.
    pub batch: usize,
    /// When to publish.
    pub schedule: Schedule,
}

impl Session {
    /// Batches on all of the subscribers' streams, one each `every`.
    pub fn feed(&self, batch: usize, batches: u64, every: Duration) -> Feed {
        let payload_bytes = self.options.payload_bytes;
        Feed { streams: 0..self.streams.len(), batch, batches, every, payload_bytes }
    }

    /// Publishes, and goes on meanwhile.
    ///
    /// # Errors
    /// When the server does not take the connections, or a load process fails.
    pub fn publish(&mut self, what: &str, feed: &Feed) -> Result<Outcome, Error> {
        let publisher = self.start_publishing(feed)?;
        let requests = if self.target.batch == Batch::Single { feed.batch as u64 } else { 1 };
        self.follow(what, feed.batches * requests, &publisher)?;
        self.finish_publishing(publisher)
    }

    /// Goes on until something is published, in `total` requests.
    ///
    /// # Errors
    /// When a load process fails.
    pub fn follow(&mut self, what: &str, total: u64, publisher: &Publisher) -> Result<(), Error> {
        let mut progress = Progress::begin(what, total, self.quiet);
        while !publisher.is_finished() {
            let counters = self.step()?;
            if self.is_stopped() {
                publisher.interrupt();
            }
            let done = publisher.progress().requests.load(Relaxed);
            progress.set(done, total, &self.remark(&counters));
        }
        Ok(())
    }

    /// Begins to publish on the subscribers' streams.
    ///
    /// # Errors
    /// When the server does not take the connections.
    pub fn start_publishing(&self, feed: &Feed) -> Result<Publisher, Error> {
        let Feed { streams, batch, batches, every, payload_bytes } = feed.clone();
        let written = &self.written[streams.clone()];
        let load = LoadPlan {
            connections: streams.len().min(PUBLISHERS_MAX),
            depth: if self.target.pipelining { PUBLISH_DEPTH } else { 1 },
            batch,
            schedule: Schedule::Paced { every, batches },
        };
        start(Plan {
            first_stream: streams.start as u32,
            numbers_before: written.iter().map(|written| written.last).collect(),
            payload_bytes,
            ..self.plan(self.streams[streams].to_vec(), load)
        })
    }

    /// Waits for the end of what [`Self::start_publishing`] began, and keeps what the subscribers
    /// are to have then.
    ///
    /// # Errors
    /// When publishing failed on this side.
    pub fn finish_publishing(&mut self, publisher: Publisher) -> Result<Outcome, Error> {
        let outcome = publisher.join()?;
        for more in &outcome.written {
            let written = &mut self.written[more.stream as usize];
            written.last = more.last;
            written.unknown.extend_from_slice(&more.unknown);
        }
        self.add_failures(&outcome.failures);
        Ok(outcome)
    }

    /// Begins to publish on streams that nobody of this measurement subscribes to.
    ///
    /// # Errors
    /// When the server does not take the connections.
    pub fn start_load(&self, streams: Vec<String>, load: LoadPlan) -> Result<Publisher, Error> {
        // Their marks tell them apart from the subscribers' own streams.
        start(Plan { first_stream: self.streams.len() as u32, ..self.plan(streams, load) })
    }

    /// Makes further streams.
    ///
    /// # Errors
    /// When the server does not make them.
    pub fn make_streams(&self, count: usize) -> Result<Vec<String>, Error> {
        make_streams(&self.target, !self.token, count, self.options.timeout, true)
    }

    fn plan(&self, streams: Vec<String>, load: LoadPlan) -> Plan {
        let LoadPlan { connections, depth, batch, schedule } = load;
        Plan {
            target: self.target.clone(),
            token: self.token,
            streams,
            first_stream: 0,
            numbers_before: Vec::new(),
            connections,
            depth,
            batch,
            payload_bytes: self.options.payload_bytes,
            timeout: self.options.timeout,
            schedule,
        }
    }

    /// Publishes without subscribers, and goes on meanwhile.
    ///
    /// # Errors
    /// As [`Self::start_publishing`].
    pub fn load(&mut self, what: &str, load: LoadPlan) -> Result<Outcome, Error> {
        let schedule = load.schedule;
        let publisher = start(self.plan(self.streams.clone(), load))?;
        let began = Instant::now();
        let total = match schedule {
            Schedule::Closed { duration } => duration,
            Schedule::Paced { every, batches } => every * batches as u32,
        }
        .as_millis() as u64;
        let mut progress = Progress::begin(what, total, self.quiet);
        let mut before = (Instant::now(), 0);
        while !publisher.is_finished() {
            std::thread::sleep(LISTEN);
            if self.is_stopped() {
                publisher.interrupt();
            }
            let events = publisher.progress().events.load(Relaxed);
            if before.0.elapsed() >= SAMPLE_EVERY {
                let rate = (events - before.1) as f64 / before.0.elapsed().as_secs_f64();
                before = (Instant::now(), events);
                self.point("appended", "events appended", Unit::PerSecond, rate);
                self.sample_server();
            }
            let remark = format!("{events} events");
            progress.set(began.elapsed().as_millis() as u64, total, &remark);
        }
        let outcome = publisher.join()?;
        self.add_failures(&outcome.failures);
        Ok(outcome)
    }
}

fn start(plan: Plan) -> Result<Publisher, Error> {
    let url = plan.target.publish.url.text();
    Publisher::start(plan).map_err(|error| Error::Unreachable { url, error })
}
