//! Who is let in: how many connections there may be, of one address, and streams of one run or
//! session, over all workers.
//!
//! ```text
//!   accepted ──▶ admit: full? ─▶ address? ─▶ rate? ──▶ open ──▶ a stream: admit_stream ──▶ left
//!                  └──────── Refusal ─▶ surplus: one answer, which is no ─────────────────▶ left
//! ```
//!
//! Invariants:
//!
//! - Of whatever has a limit there are never more than it says, and nobody is refused while there are
//!   fewer: a place is looked for and taken in one step.
//! - Every place that was taken is given back once. A connection's is by its worker, in
//!   [`Admissions::leave`]; a stream's by its [`StreamPlace`] when that is dropped.
//! - It is asked when a connection or stream opens and when it closes, never for a delivery; and where
//!   a limit is off, nothing is kept for it.
//!
//! What is refused is answered, since a client that is only cut off comes back at once. The connections
//! on which that happens are bounded too; beyond that bound they are closed without a word.
//!
//! Rejected: to count what the workers say that they have. Two that ask at the same time both see room
//! for one, or neither does.

mod addresses;
mod rate;
#[cfg(test)]
mod simulation;
mod streams;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Instant,
};

pub use self::streams::{StreamKeys, StreamPlace, Superseded};
use self::{addresses::Addresses, rate::AcceptRate, streams::Streams};
use crate::{client_address::AddressKey, config::Settings};

/// Why a connection or a stream is refused for a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// There are `max_connections`.
    Full,
    /// Its address has `max_connections_per_ip`.
    Ip,
    /// Its session has `max_connections_per_session`.
    Session,
    /// Its run has `max_connections_per_run`.
    Run,
    /// There are more new connections than `accept_rate`.
    Rate,
    /// The server is going down.
    Draining,
}

impl Refusal {
    /// Every one, in the order of its number.
    pub const ALL: [Refusal; 6] = [
        Refusal::Full,
        Refusal::Ip,
        Refusal::Session,
        Refusal::Run,
        Refusal::Rate,
        Refusal::Draining,
    ];

    /// As streams, metrics and the log name it.
    pub fn as_str(self) -> &'static str {
        self.problem().0
    }

    /// The type of the problem that says so, and its title.
    pub fn problem(self) -> (&'static str, &'static str) {
        match self {
            Refusal::Full => ("full", "The server holds as many connections as it may"),
            Refusal::Ip => ("ip", "The address has as many connections as it may"),
            Refusal::Session => ("session", "The session has as many streams as it may"),
            Refusal::Run => ("run", "The run has as many streams as it may"),
            Refusal::Rate => ("rate", "There are too many new connections"),
            Refusal::Draining => ("draining", "The server is going down"),
        }
    }

    /// 503 where it is the server that has no room, 429 where it is the client's share that is used up.
    pub fn status(self) -> u16 {
        match self {
            Refusal::Full | Refusal::Draining => 503,
            Refusal::Ip | Refusal::Session | Refusal::Run | Refusal::Rate => 429,
        }
    }
}

/// See the module.
#[derive(Debug)]
pub struct Admissions {
    open: Bounded,
    surplus: Bounded,
    addresses: Option<Addresses>,
    rate: Option<AcceptRate>,
    streams: Option<Streams>,
}

/// How a connection came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// It has a place.
    Open {
        /// What its address is counted by, if it is.
        counted: Option<AddressKey>,
    },
    /// It gets one answer, which is no for this reason.
    Surplus(Refusal),
}

impl Admissions {
    /// Nobody is in yet, and it is `now`.
    pub fn new(
        settings: &Settings,
        connections_max: usize,
        surplus_max: usize,
        now: Instant,
    ) -> Admissions {
        Admissions {
            open: Bounded::new(connections_max),
            surplus: Bounded::new(surplus_max),
            addresses: settings.max_connections_per_ip.map(|max| Addresses::new(max.get())),
            rate: settings.accept_rate.map(|rate| AcceptRate::new(rate, now)),
            streams: Streams::new(settings),
        }
    }

    /// Whether a connection that came in now is taken. `address` is what it is counted by: none for
    /// that of a proxy, which is many clients.
    ///
    /// # Errors
    /// When not even a no can be answered to it: it is to be closed.
    pub fn admit(&self, address: Option<AddressKey>, now: Instant) -> Result<Entry, Refusal> {
        match self.take(address, now) {
            Ok(counted) => Ok(Entry::Open { counted }),
            Err(refusal) if self.surplus.take() => Ok(Entry::Surplus(refusal)),
            Err(refusal) => Err(refusal),
        }
    }

    /// Takes a connection of the administrator, whom no limit keeps out.
    pub fn admit_admin(&self) -> Entry {
        self.open.take_anyway();
        Entry::Open { counted: None }
    }

    fn take(
        &self,
        address: Option<AddressKey>,
        now: Instant,
    ) -> Result<Option<AddressKey>, Refusal> {
        if !self.open.take() {
            return Err(Refusal::Full);
        }
        let counted = address.filter(|_| self.addresses.is_some());
        let refusal = if !self.take_address(counted) {
            Refusal::Ip
        } else if self.rate.as_ref().is_some_and(|rate| !rate.take(now)) {
            // Last, so that nobody who is refused anyway uses up what others may have.
            self.leave_address(counted);
            Refusal::Rate
        } else {
            return Ok(counted);
        };
        self.open.leave();
        Err(refusal)
    }

    /// A connection that was no stream has ended, and its socket is closed.
    pub fn leave(&self, entry: Entry) {
        match entry {
            Entry::Open { counted } => {
                self.open.leave();
                self.leave_address(counted);
            }
            Entry::Surplus(_) => self.surplus.leave(),
        }
    }

    /// A stream has ended, and its socket is closed. What else it had is its [`StreamPlace`]'s.
    pub fn leave_stream(&self) {
        self.open.leave();
    }

    /// Whether a stream may be opened by this worker, and which others make room for it. `forwarded`
    /// is its client's address when that is known from a proxy: on the connection itself it was not
    /// counted. None when no limit says anything about it.
    ///
    /// # Errors
    /// When it may not.
    pub fn admit_stream(
        self: &Arc<Self>,
        worker: usize,
        forwarded: Option<AddressKey>,
        keys: StreamKeys<'_>,
    ) -> Result<(Option<StreamPlace>, Vec<Superseded>), Refusal> {
        let counted = forwarded.filter(|_| self.addresses.is_some());
        if !self.take_address(counted) {
            return Err(Refusal::Ip);
        }
        let taken = self.streams.as_ref().map(|streams| streams.take(worker, keys)).transpose();
        let (number, superseded) =
            taken.inspect_err(|_| self.leave_address(counted))?.unwrap_or_default();
        let place = StreamPlace::new(Arc::clone(self), number, keys.refusal(), counted);
        Ok((place, superseded))
    }

    fn take_address(&self, address: Option<AddressKey>) -> bool {
        match (&self.addresses, address) {
            (Some(addresses), Some(address)) => addresses.take(address),
            _ => true,
        }
    }

    fn leave_address(&self, address: Option<AddressKey>) {
        if let (Some(addresses), Some(address)) = (&self.addresses, address) {
            addresses.leave(address);
        }
    }

    /// That nobody is counted any more.
    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.open.count.load(Relaxed) == 0
            && self.surplus.count.load(Relaxed) == 0
            && self.addresses.as_ref().is_none_or(Addresses::is_empty)
            && self.streams.as_ref().is_none_or(Streams::is_empty)
    }
}

/// A count with a bound.
#[derive(Debug)]
struct Bounded {
    count: AtomicUsize,
    max: usize,
}

impl Bounded {
    fn new(max: usize) -> Bounded {
        Bounded { count: AtomicUsize::new(0), max }
    }

    /// Adds one if there is room. Looking and adding are one step: who adds first and looks then
    /// keeps out another for whom there was room.
    fn take(&self) -> bool {
        let more = |count| (count < self.max).then_some(count + 1);
        self.count.fetch_update(Relaxed, Relaxed, more).is_ok()
    }

    fn take_anyway(&self) {
        self.count.fetch_add(1, Relaxed);
    }

    fn leave(&self) {
        let before = self.count.fetch_sub(1, Relaxed);
        debug_assert!(before > 0, "who leaves has come");
    }
}
