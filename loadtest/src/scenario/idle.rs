//! How many subscribers a server holds, and what one costs that does nothing.

use std::time::Duration;

use crate::{
    clock,
    options::Options,
    report::{Report, Unit},
    scenario::{Scenario, Usage, report_opening, report_opening_rate},
    session::{Control, Error, Session, Size, above_zero, at_least_one},
};

/// Opens subscribers, holds them, closes them.
#[derive(Clone, Debug)]
pub struct Idle {
    /// How many.
    pub subscribers: usize,
    /// Streams that they share.
    pub streams: usize,
    /// How many to open a second; as fast as they are answered without.
    pub rate: Option<f64>,
    /// How long to hold them.
    pub hold: Duration,
}

impl Scenario for Idle {
    fn run(&self, options: &Options, control: &Control) -> Result<Report, Error> {
        self.check()?;
        let size = Size::of(self.subscribers, self.streams);
        let mut session = Session::begin("idle", options, size, control)?;
        session.parameter("subscribers", self.subscribers);
        session.parameter("streams", self.streams);
        session.parameter("hold", humantime::format_duration(self.hold));
        session.look()?;
        let before = Usage::of(&session);
        let began_ns = clock::now_ns();
        session.open(self.rate)?;
        report_opening_rate(&mut session, began_ns);
        session.settle()?;
        let opened = Usage::of(&session);
        report_opening(&mut session, &before, &opened);
        let began_ns = clock::now_ns();
        session.hold("holding", self.hold)?;
        let held = Usage::of(&session);
        let seconds = clock::seconds(clock::now_ns() - began_ns);
        report_holding(&mut session, &opened, &held, seconds);
        let began_ns = clock::now_ns();
        session.cut()?;
        let seconds = clock::seconds(clock::now_ns() - began_ns);
        session.figure("close_seconds", "closing all of them", Unit::Seconds, seconds);
        session.settle()?;
        let closed = Usage::of(&session);
        if let Some((anonymous, _)) = closed.memory_since(&before) {
            let label = "server memory kept after all are closed";
            session.figure("memory_kept", label, Unit::Bytes, anonymous);
        }
        session.finish()
    }
}

impl Idle {
    fn check(&self) -> Result<(), Error> {
        at_least_one("--subscribers", self.subscribers)?;
        at_least_one("--streams", self.streams)?;
        self.rate.map_or(Ok(()), |rate| above_zero("--rate", rate))
    }
}

fn report_holding(session: &mut Session, opened: &Usage, held: &Usage, seconds: f64) {
    let lost = opened.counters.open.saturating_sub(held.counters.open);
    session.figure("lost", "subscribers lost while idle", Unit::Count, lost as f64);
    let keepalives = (held.counters.keepalives - opened.counters.keepalives) as f64;
    session.figure("keepalives", "keepalives while idle", Unit::Count, keepalives);
    let peak = held.counters.keepalives_peak as f64;
    session.figure("keepalives_peak", "most keepalives in 100 ms", Unit::Count, peak);
    if let Some(cpu_ns) = held.cpu_since(opened)
        && seconds > 0.0
    {
        let label = "server's processor time while idle";
        session.figure("idle_cpu_share", label, Unit::Share, cpu_ns / 1e9 / seconds);
    }
}
