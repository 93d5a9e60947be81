//! A mix of everything for a long time: does memory grow, does latency?

use std::time::{Duration, Instant};

use crate::{
    clock,
    options::Options,
    protocol::Command,
    publisher::Schedule,
    report::{Report, Series, Unit},
    scenario::{Scenario, Usage, fanout, report_opening, schedule},
    session::{Control, Error, LoadPlan, Session, Size, above_zero, at_least_one},
};

/// Subscribers that come and go while events are published.
#[derive(Clone, Debug)]
pub struct Soak {
    /// How many subscribers.
    pub subscribers: usize,
    /// Streams that they share.
    pub streams: usize,
    /// Events a second over all streams.
    pub events_per_second: f64,
    /// Subscribers a second that leave and come back.
    pub churn: f64,
    /// How often a tenth of all leaves and comes back at once.
    pub storm_every: Duration,
    /// Events a second that are appended to other streams meanwhile.
    pub appends_per_second: f64,
    /// How long.
    pub duration: Duration,
    /// How long nothing may happen before those that lack something are given up.
    pub drain: Duration,
}

/// The share of the subscribers that a storm in the middle of a soak takes.
const STORM_SHARE: f64 = 0.1;
/// Streams beside those that are subscribed to.
const OTHER_STREAMS: usize = 16;

impl Scenario for Soak {
    fn run(&self, options: &Options, control: &Control) -> Result<Report, Error> {
        at_least_one("--subscribers", self.subscribers)?;
        at_least_one("--streams", self.streams)?;
        let (every, batches) = schedule("--events", self.events_per_second, 1, self.duration)?;
        if self.churn != 0.0 {
            above_zero("--churn", self.churn)?;
        }
        let beside = self.beside()?;
        let resumes = options.target()?.resumes();
        let size = Size { come_back: resumes, ..Size::of(self.subscribers, self.streams) };
        let mut session = Session::begin("soak", options, size, control)?;
        session.parameter("subscribers", self.subscribers);
        session.parameter("streams", self.streams);
        session.parameter("events a second", self.events_per_second);
        session.parameter("appends a second beside", self.appends_per_second);
        session.parameter("duration", humantime::format_duration(self.duration));
        if resumes {
            session.parameter("subscribers a second that come and go", self.churn);
            session.parameter("storm every", humantime::format_duration(self.storm_every));
        } else {
            let text = "No subscriber comes and goes, since this server has no cursors.";
            session.report.remarks.push(text.into());
        }
        let before = Usage::of(&session);
        session.open(None)?;
        session.settle()?;
        let opened = Usage::of(&session);
        report_opening(&mut session, &before, &opened);
        // One event, so that each has a cursor before it comes and goes.
        let feed = session.feed(1, self.streams as u64, Duration::ZERO);
        let first = session.publish("first events", &feed)?;
        session.expect(None)?;
        session.catch_up("waiting for the first", self.drain)?;
        let began_ns = clock::now_ns();
        let own = session.start_publishing(&session.feed(1, batches, every))?;
        let beside = match beside {
            Some(load) => Some(session.start_load(session.make_streams(OTHER_STREAMS)?, load)?),
            None => None,
        };
        if resumes {
            session.fleet.churn(self.churn)?;
        }
        let mut next_storm = Instant::now() + self.storm_every;
        let mut progress = session.begin_progress("soaking", self.duration.as_secs());
        while !own.is_finished() {
            let counters = session.step()?;
            let seconds = clock::seconds(clock::now_ns() - began_ns) as u64;
            progress.set(seconds, self.duration.as_secs(), &session.remark(&counters));
            if session.is_stopped() {
                own.interrupt();
            }
            if resumes && Instant::now() >= next_storm {
                next_storm = Instant::now() + self.storm_every;
                session.fleet.tell(&Command::Reconnect { share: STORM_SHARE })?;
            }
        }
        drop(progress);
        session.fleet.churn(0.0)?;
        let mut outcome = session.finish_publishing(own)?;
        outcome.events += first.events;
        if let Some(beside) = beside {
            if session.is_stopped() {
                beside.interrupt();
            }
            beside.stop();
            let outcome = beside.join()?;
            session.add_failures(&outcome.failures);
            session.figure(
                "appended",
                "events appended beside",
                Unit::Count,
                outcome.events as f64,
            );
            let label = "append beside, from when it was due to its answer";
            session.report.latencies.push(outcome.latency.latency("append", label));
        }
        session.expect(None)?;
        session.catch_up("waiting for the last", self.drain)?;
        let after = Usage::of(&session);
        // What comes once more would come now.
        session.settle()?;
        fanout::report_deliveries(&mut session, &opened, &after, began_ns);
        fanout::report_publishing(&mut session, &outcome);
        let label = "subscribers that left and came back";
        session.figure("returns", label, Unit::Count, after.counters.closed as f64);
        let label = "streams that the server ended";
        session.figure("ended_by_server", label, Unit::Count, after.counters.came_back as f64);
        report_trend(&mut session);
        session.finish()
    }
}

impl Soak {
    /// The appends to other streams, if there are to be any.
    fn beside(&self) -> Result<Option<LoadPlan>, Error> {
        if self.appends_per_second == 0.0 {
            return Ok(None);
        }
        let (every, batches) = schedule("--appends", self.appends_per_second, 1, self.duration)?;
        let schedule = Schedule::Paced { every, batches };
        Ok(Some(LoadPlan { connections: OTHER_STREAMS, depth: 1, batch: 1, schedule }))
    }
}

/// How memory went on in the second half, when all that grows at first has grown.
fn report_trend(session: &mut Session) {
    let memory = session.report.series.iter().find(|series| series.name == "server_memory");
    let Some(slope) = memory.and_then(slope_of_second_half) else { return };
    let label = "growth of the server's memory in an hour, by the second half";
    session.figure("memory_growth_per_hour", label, Unit::Bytes, slope * 3_600.0);
}

/// The slope of the straight line through the second half, by least squares.
fn slope_of_second_half(series: &Series) -> Option<f64> {
    let points = &series.points[series.points.len() / 2..];
    let count = points.len() as f64;
    let mean_time = points.iter().map(|(time, _)| time).sum::<f64>() / count;
    let mean_value = points.iter().map(|(_, value)| value).sum::<f64>() / count;
    let (mut covariance, mut variance) = (0.0, 0.0);
    for (time, value) in points {
        covariance += (time - mean_time) * (value - mean_value);
        variance += (time - mean_time).powi(2);
    }
    (variance > 0.0).then(|| covariance / variance)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_trend_is_that_of_the_second_half() {
        let rise = |second: usize| if second < 50 { second * 100 } else { 5_000 + 3 * second };
        let series = Series {
            name: "server_memory".into(),
            label: "memory".into(),
            unit: Unit::Bytes,
            points: (0..100).map(|second| (second as f64, rise(second) as f64)).collect(),
        };
        assert!((slope_of_second_half(&series).unwrap() - 3.0).abs() < 1e-6);
        assert_eq!(slope_of_second_half(&Series { points: vec![], ..series }), None);
    }
}
