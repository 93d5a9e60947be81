//! Times by which something must have happened on a connection that is no stream.
//!
//! The same timer wheel as for streams, over a slab of what to do. A read is never dropped when
//! its time is up: the socket is shut down, which ends the wait for it.

use std::{rc::Rc, sync::Arc, time::Duration};

use rustix::net::Shutdown;
use slab::Slab;

use crate::{
    driver::{Pollable, Promise},
    journal::WriteResult,
    limits::FIRST_REQUEST_MS,
    shared::Shared,
    timer_wheel::{Links, Tick, Timed, TimerWheel},
};

/// What is done when the time is up.
pub enum Deadline {
    /// The client sends too slowly: its input ends, and so does the wait for it.
    Input(Rc<Pollable>),
    /// The client is between two requests: the same, and also when the server drains.
    Idle(Rc<Pollable>),
    /// The client has connected and said nothing: the same, and soon when the server drains.
    First(Rc<Pollable>),
    /// The client is between two lines: the same, and when the server has drained.
    Upload(Rc<Pollable>),
    /// The client takes nothing of its answer: the connection ends.
    Output(Rc<Pollable>),
    /// A long poll: it is answered as it is.
    Poll(Promise<()>),
    /// A write that waits for room in the journal's queue, under this number: it gives up.
    Room(Arc<Shared>, u64, Promise<Option<WriteResult>>),
}

/// See the module.
pub struct Deadlines {
    wheel: TimerWheel,
    entries: Entries,
    due: Vec<u32>,
    drain: Option<Drain>,
}

/// The server is going down.
#[derive(Clone, Copy)]
struct Drain {
    first_requests_end: Tick,
    uploads_end: Tick,
}

#[derive(Default)]
struct Entries(Slab<Entry>);

struct Entry {
    links: Links,
    deadline: Deadline,
}

impl Timed for Entries {
    fn links(&mut self, key: u32) -> &mut Links {
        &mut self.0[key as usize].links
    }
}

impl Deadlines {
    /// None armed.
    pub fn new(now: Tick) -> Deadlines {
        let wheel = TimerWheel::new(now);
        Deadlines { wheel, entries: Entries::default(), due: Vec::new(), drain: None }
    }

    /// When to call [`Deadlines::advance`] next.
    pub fn next(&self) -> Option<Tick> {
        self.wheel.next_deadline()
    }

    /// Arms one; it is to be disarmed with the key that this gives.
    pub fn arm(&mut self, deadline: Deadline, at: Tick) -> usize {
        let at = self.drain.map_or(at, |drain| drain.limit(&deadline, at));
        let key = self.entries.0.insert(Entry { links: Links::default(), deadline });
        self.wheel.arm(&mut self.entries, key as u32, at);
        key
    }

    /// Whether one has struck.
    pub fn has_struck(&self, key: usize) -> bool {
        !self.entries.0[key].links.is_armed()
    }

    /// Disarms one, whether it has struck or not; true if it has.
    pub fn disarm(&mut self, key: usize) -> bool {
        let has_struck = self.has_struck(key);
        self.wheel.disarm(&mut self.entries, key as u32);
        self.entries.0.remove(key);
        has_struck
    }

    /// Strikes every one whose time has come.
    pub fn advance(&mut self, now: Tick) {
        self.wheel.advance(&mut self.entries, now, &mut self.due);
        for key in self.due.drain(..) {
            self.entries.0[key as usize].deadline.strike();
        }
    }

    /// Strikes those of idle connections and of long polls, whenever they are due. Who has not asked
    /// for anything yet has a moment for it, and who uploads has the window.
    pub fn drain(&mut self, now: Tick, window: Duration) {
        let drain = Drain {
            first_requests_end: now.after(Duration::from_millis(FIRST_REQUEST_MS)),
            uploads_end: now.after(window),
        };
        self.drain = Some(drain);
        let mut earlier = Vec::new();
        for (key, entry) in &self.entries.0 {
            if let Deadline::Idle(_) | Deadline::Poll(_) = entry.deadline {
                entry.deadline.strike();
            } else if entry.links.is_armed() {
                let at = entry.links.deadline();
                earlier.push((key as u32, drain.limit(&entry.deadline, at)));
            }
        }
        for (key, at) in earlier {
            self.wheel.arm(&mut self.entries, key, at);
        }
    }

    /// When uploads end, once the server drains.
    pub fn uploads_end(&self) -> Option<Tick> {
        self.drain.map(|drain| drain.uploads_end)
    }
}

impl Drain {
    /// When a deadline strikes while the server drains.
    fn limit(self, deadline: &Deadline, at: Tick) -> Tick {
        match deadline {
            Deadline::First(_) => at.or_before(self.first_requests_end),
            Deadline::Upload(_) => at.or_before(self.uploads_end),
            _ => at,
        }
    }
}

impl Deadline {
    fn strike(&self) {
        match self {
            Deadline::Input(socket)
            | Deadline::Idle(socket)
            | Deadline::First(socket)
            | Deadline::Upload(socket) => {
                let _ = rustix::net::shutdown(socket, Shutdown::Read);
            }
            Deadline::Output(socket) => {
                let _ = rustix::net::shutdown(socket, Shutdown::Both);
            }
            Deadline::Poll(promise) => promise.keep(()),
            Deadline::Room(shared, number, promise) => {
                if shared.journal.withdraw(*number) {
                    promise.keep(None);
                }
            }
        }
    }
}
