//! What it costs to send an event to many, and how long they wait for it.

use std::time::Duration;

use crate::{
    clock,
    options::Options,
    publisher::Outcome,
    report::{Report, Unit},
    scenario::{Scenario, Usage, report_opening, report_opening_rate, schedule},
    session::{Control, Error, Session, Size, at_least_one},
};

/// Publishes on a schedule to subscribers that are all there before.
#[derive(Clone, Debug)]
pub struct Fanout {
    /// How many subscribers.
    pub subscribers: usize,
    /// Streams that they share.
    pub streams: usize,
    /// Events a second over all streams.
    pub events_per_second: f64,
    /// Events published at once.
    pub batch: usize,
    /// How long to publish.
    pub duration: Duration,
    /// How long to wait after the last event for those that have come to none.
    pub drain: Duration,
}

impl Scenario for Fanout {
    fn run(&self, options: &Options, control: &Control) -> Result<Report, Error> {
        at_least_one("--subscribers", self.subscribers)?;
        at_least_one("--streams", self.streams)?;
        let (every, batches) =
            schedule("--events", self.events_per_second, self.batch, self.duration)?;
        let size = Size::of(self.subscribers, self.streams);
        let mut session = Session::begin("fanout", options, size, control)?;
        session.parameter("subscribers", self.subscribers);
        session.parameter("streams", self.streams);
        session.parameter("events a second", self.events_per_second);
        session.parameter("events at once", self.batch);
        session.parameter("duration", humantime::format_duration(self.duration));
        session.look()?;
        let before = Usage::of(&session);
        let began_ns = clock::now_ns();
        session.open(None)?;
        report_opening_rate(&mut session, began_ns);
        session.settle()?;
        let opened = Usage::of(&session);
        report_opening(&mut session, &before, &opened);

        let began_ns = clock::now_ns();
        let feed = session.feed(self.batch, batches, every);
        let outcome = session.publish("publishing", &feed)?;
        session.expect(None)?;
        session.catch_up("waiting for the last", self.drain)?;
        let after = Usage::of(&session);
        report_deliveries(&mut session, &opened, &after, began_ns);
        report_publishing(&mut session, &outcome);
        session.settle()?;
        let settled = Usage::of(&session);
        if let Some(memory) = settled.memory {
            let label = "server memory afterwards";
            session.figure("server_memory_afterwards", label, Unit::Bytes, memory.total() as f64);
        }
        if let Some((anonymous, shared)) = settled.memory_since(&before) {
            let count = self.subscribers.max(1) as f64;
            let label = "server memory per subscriber afterwards (RssAnon)";
            session.figure("memory_per_subscriber_after", label, Unit::Bytes, anonymous / count);
            let label = "server shared memory per subscriber afterwards (RssShmem)";
            session.figure(
                "shared_memory_per_subscriber_after",
                label,
                Unit::Bytes,
                shared / count,
            );
        }
        session.finish()
    }
}

pub(super) fn report_deliveries(
    session: &mut Session,
    before: &Usage,
    after: &Usage,
    began_ns: u64,
) {
    let delivery = &session.fleet.delivery;
    let label = "delivery, from when the publish was due";
    let latency = delivery.latency("delivery", label);
    session.report.latencies.push(latency);
    let events = (after.counters.events - before.counters.events) as f64;
    let reads = (after.counters.reads - before.counters.reads) as f64;
    session.figure("deliveries", "deliveries", Unit::Count, events);
    let seconds = clock::seconds(after.counters.last_event_ns.saturating_sub(began_ns));
    if events == 0.0 || seconds <= 0.0 {
        return;
    }
    session.figure("deliveries_per_second", "deliveries", Unit::PerSecond, events / seconds);
    session.figure("events_per_read", "events per read", Unit::Count, events / reads);
    if let Some(cpu_ns) = after.cpu_since(before) {
        let label = "server's processor time per delivery";
        session.figure("cpu_per_delivery", label, Unit::Microseconds, cpu_ns / 1e3 / events);
        let label = "server's processor time meanwhile";
        session.figure("cpu_share", label, Unit::Share, cpu_ns / 1e9 / seconds);
    }
    let late = (after.counters.late - before.counters.late) as f64;
    let stall = humantime::format_duration(session.options.stall);
    let label = format!("deliveries later than {stall}");
    session.figure("late", &label, Unit::Count, late);
    if late > 0.0 {
        let worst = clock::seconds(session.fleet.delivery.quantile(1.0));
        session.report.remarks.push(format!(
            "Stall: {late:.0} deliveries came more than {stall} after they were due, the latest \
             {worst:.2} s."
        ));
    }
}

pub(super) fn report_publishing(session: &mut Session, outcome: &Outcome) {
    session.figure("published", "events published", Unit::Count, outcome.events as f64);
    let label = "publish, from when it was due to its answer";
    session.report.latencies.push(outcome.latency.latency("publish", label));
}
