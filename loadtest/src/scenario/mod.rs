//! The measurements: what each does to a server, and which figures come of it.

mod append;
mod fanout;
mod idle;
mod slow;
mod soak;
mod storm;
mod verify;

pub use self::{append::Append, fanout::Fanout, idle::Idle, slow::Slow, soak::Soak, storm::Storm};

use std::time::Duration;

use crate::{
    options::Options,
    process::{Memory, system_slab},
    report::{Report, Unit},
    session::{Control, Error, Session, above_zero, at_least_one},
    tally::Counters,
};

/// A measurement.
pub trait Scenario {
    /// Runs it and gives its report.
    ///
    /// # Errors
    /// When it cannot begin, or cannot go on.
    fn run(&self, options: &Options, control: &Control) -> Result<Report, Error>;
}

/// When batches are published, at a rate and for so long: from one to the next, and how many.
///
/// # Errors
/// When there is none, or no rate.
fn schedule(
    name: &str,
    per_second: f64,
    batch: usize,
    duration: Duration,
) -> Result<(Duration, u64), Error> {
    at_least_one("--batch", batch)?;
    above_zero(name, per_second)?;
    let seconds = batch as f64 / per_second;
    let every = Duration::try_from_secs_f64(seconds).unwrap_or_default();
    if every.is_zero() {
        let text = format!("{name}: there is no time for {per_second} a second");
        return Err(Error::Senseless(text));
    }
    Ok((every, (duration.as_secs_f64() / seconds).round().max(1.0) as u64))
}

/// What a server uses at a moment.
#[derive(Clone, Copy)]
struct Usage {
    memory: Option<Memory>,
    cpu_ns: Option<u64>,
    slab: u64,
    counters: Counters,
}

impl Usage {
    fn of(session: &Session) -> Self {
        Self {
            memory: session.memory(),
            cpu_ns: session.server_cpu_ns(),
            slab: system_slab(),
            counters: session.counters(),
        }
    }

    /// Nanoseconds of the server's processor time since `before`.
    fn cpu_since(&self, before: &Self) -> Option<f64> {
        Some(self.cpu_ns?.saturating_sub(before.cpu_ns?) as f64)
    }

    /// Growth of anonymous and of shared memory since `before`, in bytes.
    fn memory_since(&self, before: &Self) -> Option<(f64, f64)> {
        let (now, before) = (self.memory?, before.memory?);
        let growth = |now: u64, before: u64| now as f64 - before as f64;
        Some((growth(now.anonymous, before.anonymous), growth(now.shared, before.shared)))
    }
}

/// What opening the subscribers took, and what each costs while it is idle.
fn report_opening(session: &mut Session, before: &Usage, opened: &Usage) {
    let counters = session.counters();
    let first_byte = session.fleet.first_byte.latency("first_byte", "from connect to first byte");
    session.report.latencies.push(first_byte);
    session.figure("opened", "subscribers opened", Unit::Count, counters.opened as f64);
    let count = counters.opened as f64;
    if count == 0.0 {
        return;
    }
    if let Some(memory) = before.memory {
        let label = "server memory before";
        session.figure("server_memory_before", label, Unit::Bytes, memory.total() as f64);
    }
    if let Some((anonymous, shared)) = opened.memory_since(before) {
        let label = "server memory per subscriber (RssAnon)";
        session.figure("memory_per_subscriber", label, Unit::Bytes, anonymous / count);
        let label = "server shared memory per subscriber (RssShmem)";
        session.figure("shared_memory_per_subscriber", label, Unit::Bytes, shared / count);
    }
    let slab = (opened.slab as f64 - before.slab as f64) / count;
    let label = "system slab per subscriber (both ends)";
    session.figure("slab_per_subscriber", label, Unit::Bytes, slab);
}

/// Subscribers opened a second, from the first attempt to the last head.
fn report_opening_rate(session: &mut Session, began_ns: u64) {
    let counters = session.counters();
    let seconds = crate::clock::seconds(counters.last_opened_ns.saturating_sub(began_ns));
    if counters.opened > 0 && seconds > 0.0 {
        let rate = counters.opened as f64 / seconds;
        session.figure("opened_per_second", "new subscribers", Unit::PerSecond, rate);
    }
}
