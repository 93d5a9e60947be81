//! What happens when all subscribers lose their connections and come back at once, for instance
//! after a proxy was restarted.

use std::{
    process::Command,
    time::{Duration, Instant},
};

use crate::{
    clock,
    options::Options,
    report::{Report, Unit},
    scenario::{Scenario, Usage, report_opening},
    session::{Control, Error, Session, Size, at_least_one},
};

/// How often `while_cut`'s end is looked for.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// So much of the backlog is published at once.
const BATCH_MAX: usize = 20;

/// Cuts all subscribers and lets them come back with their cursors.
#[derive(Clone, Debug)]
pub struct Storm {
    /// How many subscribers.
    pub subscribers: usize,
    /// Streams that they share.
    pub streams: usize,
    /// Events of each stream that they miss meanwhile.
    pub behind: usize,
    /// A shell command that runs while they are away, for instance one that restarts the server.
    pub while_cut: Option<String>,
    /// How long nothing may happen before those that lack something are given up.
    pub drain: Duration,
}

impl Scenario for Storm {
    fn run(&self, options: &Options, control: &Control) -> Result<Report, Error> {
        at_least_one("--subscribers", self.subscribers)?;
        at_least_one("--streams", self.streams)?;
        let size = Size::of(self.subscribers, self.streams);
        if !options.target()?.resumes() {
            return Err(Error::Unsupported(
                "a storm needs a server whose subscribers can come back with a cursor".into(),
            ));
        }
        let mut session = Session::begin("storm", options, size, control)?;
        session.parameter("subscribers", self.subscribers);
        session.parameter("streams", self.streams);
        session.parameter("events behind", self.behind);
        if let Some(command) = &self.while_cut {
            session.parameter("while cut", command);
        }
        session.look()?;
        let before = Usage::of(&session);
        session.open(None)?;
        session.settle()?;
        let opened = Usage::of(&session);
        report_opening(&mut session, &before, &opened);
        // One event, so that each has a cursor.
        self.publish(&mut session, "first events", 1)?;
        session.expect(None)?;
        session.catch_up("waiting for the first", self.drain)?;

        session.cut()?;
        self.publish(&mut session, "events while they are away", self.behind)?;
        if let Some(command) = &self.while_cut
            && let Some(why) = run_shell(&mut session, command)?
        {
            session.give_up(why);
            return session.finish();
        }
        session.fleet.first_byte.take();
        let away = Usage::of(&session);
        let began_ns = clock::now_ns();
        session.expect(Some(began_ns))?;
        session.open(None)?;
        session.catch_up("catching up", self.drain)?;
        let back = Usage::of(&session);
        report_return(&mut session, &away, &back, began_ns);
        // They must be live again, and not only caught up.
        self.publish(&mut session, "last events", 1)?;
        session.expect(None)?;
        session.catch_up("waiting for the last", self.drain)?;
        // What comes once more would come now.
        session.settle()?;
        session.finish()
    }
}

impl Storm {
    /// Publishes so many events on each stream.
    fn publish(&self, session: &mut Session, what: &str, events: usize) -> Result<(), Error> {
        let mut left = events;
        while left > 0 && !session.is_stopped() {
            let batch = left.min(BATCH_MAX);
            let batches = self.streams as u64 * (left / batch) as u64;
            let feed = session.feed(batch, batches, Duration::ZERO);
            session.publish(what, &feed)?;
            left %= batch;
        }
        Ok(())
    }
}

fn report_return(session: &mut Session, away: &Usage, back: &Usage, began_ns: u64) {
    let caught_up = session.fleet.catch_up.count();
    let label = "subscribers that caught up";
    session.figure("caught_up", label, Unit::Count, caught_up as f64);
    let seconds = clock::seconds(back.counters.last_event_ns.saturating_sub(began_ns));
    session.figure("caught_up_seconds", "until the last had caught up", Unit::Seconds, seconds);
    let opened = (back.counters.opened - away.counters.opened) as f64;
    let opening = clock::seconds(back.counters.last_opened_ns.saturating_sub(began_ns));
    if opening > 0.0 {
        session.figure("returned_per_second", "came back", Unit::PerSecond, opened / opening);
    }
    let replayed = (back.counters.replayed - away.counters.replayed) as f64;
    session.figure("replayed", "events replayed", Unit::Count, replayed);
    if let Some(cpu_ns) = back.cpu_since(away)
        && opened > 0.0
    {
        let label = "server's processor time per subscriber that came back";
        session.figure("cpu_per_return", label, Unit::Microseconds, cpu_ns / 1e3 / opened);
    }
    let label = "from the return of all until one has caught up";
    let latency = session.fleet.catch_up.latency("catch_up", label);
    session.report.latencies.push(latency);
}

/// Runs a shell command and goes on meanwhile. Says how it ended, if that was no success.
fn run_shell(session: &mut Session, command: &str) -> Result<Option<String>, Error> {
    let mut shell = Command::new("sh").arg("-c").arg(command).spawn()?;
    let began = Instant::now();
    let status = loop {
        if let Some(status) = shell.try_wait()? {
            break status;
        }
        if session.is_stopped() {
            shell.kill()?;
        }
        session.step()?;
        std::thread::sleep(LOOK_EVERY);
    };
    let seconds = began.elapsed().as_secs_f64();
    session.figure("while_cut_seconds", "the command meanwhile", Unit::Seconds, seconds);
    session.find_server();
    if status.success() || session.is_stopped() {
        return Ok(None);
    }
    Ok(Some(format!("`{command}` ended with {status}")))
}
