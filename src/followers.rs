//! Who follows the streams of a worker: what is counted and logged of them when a stream is resumed
//! or ends, and of those who are refused, or ask for what cannot be read.
//!
//! The hub knows no client, so this lies beside it, by the place of a stream's token. Clients can cause
//! any number of these lines, so each kind of them has a budget.

use std::{fmt, sync::Arc, time::Duration};

use crate::{
    admission::Refusal,
    client_address::ClientAddress,
    event::EventId,
    histogram::raise,
    hub::{Closed, Reason, Token},
    journal::store::StoreError,
    limits::TICK_MS,
    logging::{Budgets, Kind},
    route::{TEMPLATES, template_number},
    shared::WorkerStats,
};

/// See the module.
pub struct Followers {
    /// By the place of the token; none where there is no stream.
    streams: Vec<Option<Follower>>,
    budgets: Budgets,
    stats: Arc<WorkerStats>,
}

/// Names a connection in the log: the number of its worker, and a count. Packed, since beside an
/// address, which is bytes, it would be followed by six that say nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(Rust, packed)]
pub struct ConnectionId(u64);

impl ConnectionId {
    /// Bits of the count: at a million connections a second it begins anew after nine years.
    const COUNT_BITS: u32 = 48;

    /// The connection of this number that came to this worker.
    pub fn new(worker: usize, count: u64) -> ConnectionId {
        let count = count & ((1 << ConnectionId::COUNT_BITS) - 1);
        ConnectionId(((worker as u64) << ConnectionId::COUNT_BITS) | count)
    }
}

impl fmt::Display for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.0 & ((1 << ConnectionId::COUNT_BITS) - 1);
        write!(f, "{}-{count}", self.0 >> ConnectionId::COUNT_BITS)
    }
}

/// Who follows a stream, for the log. There is one for each stream, so it is kept small.
#[derive(Clone, Copy, Debug)]
pub struct Follower {
    id: ConnectionId,
    client: ClientAddress,
    /// Its place in [`TEMPLATES`].
    route: u8,
}

impl Follower {
    /// This connection, of this client, that asked for a route of this template.
    pub fn new(id: ConnectionId, client: ClientAddress, template: &str) -> Follower {
        Follower { id, client, route: template_number(template) as u8 }
    }

    fn route(&self) -> &'static str {
        TEMPLATES[usize::from(self.route)]
    }
}

impl Followers {
    /// Nobody, counted here, and room for so many streams.
    pub fn new(stats: Arc<WorkerStats>, room: usize) -> Followers {
        Followers { streams: Vec::with_capacity(room), budgets: Budgets::default(), stats }
    }

    /// A stream has begun.
    pub fn keep(&mut self, token: Token, follower: Follower) {
        let place = token.key as usize;
        if self.streams.len() <= place {
            self.streams.resize(place + 1, None);
        }
        self.streams[place] = Some(follower);
    }

    /// It was opened with a cursor.
    pub fn note_resumed(
        &mut self,
        uptime: Duration,
        follower: Follower,
        cursor: EventId,
        last_id: EventId,
    ) {
        raise(&self.stats.reconnects, 1);
        if self.may_log(uptime, Kind::Resumed) {
            let (Follower { id, client, .. }, route) = (follower, follower.route());
            let distance = last_id.0.saturating_sub(cursor.0);
            log::info!(conn:% = id, client:%, route, cursor = cursor.0, distance; "stream resumed");
        }
    }

    /// A stream has ended.
    pub fn note_ended(&mut self, uptime: Duration, closed: &Closed) {
        let Closed { token, reason, lasted_ticks, events, bytes, .. } = *closed;
        let lasted_ms = u64::from(lasted_ticks) * TICK_MS;
        raise(&self.stats.disconnects[reason as usize], 1);
        self.stats.stream_durations.observe(lasted_ms * 1_000, 1);
        let follower = self.streams[token.key as usize].take();
        let follower = follower.expect("who is parked has a follower");
        let (Follower { id, client, .. }, route) = (follower, follower.route());
        if reason == Reason::Timeout && self.may_log(uptime, Kind::Timeout) {
            log::warn!(conn:% = id, client:%; "keepalive timeout");
        }
        if self.may_log(uptime, Kind::Ended) {
            log::info!(
                conn:% = id,
                client:%,
                route,
                reason = reason.as_str(),
                duration_ms = lasted_ms,
                events,
                bytes;
                "stream ended"
            );
        }
    }

    /// Somebody was refused.
    pub fn note_refusal(&mut self, uptime: Duration, refusal: Refusal, client: ClientAddress) {
        self.stats.note_refusal(refusal);
        if self.may_log(uptime, Kind::Refused) {
            log::warn!(client:%, reason = refusal.as_str(); "connection refused");
        }
    }

    /// Somebody wants history that is not to be had.
    pub fn note_unreadable(&mut self, uptime: Duration, error: &StoreError) {
        if self.may_log(uptime, Kind::Unreadable) {
            log::error!("history cannot be read: {error}");
        }
    }

    /// When to call [`Followers::tell_left_out`], in milliseconds of uptime.
    pub fn due(&self) -> Option<u64> {
        self.budgets.due()
    }

    /// Says how many lines were left out, when there is room for a line again.
    pub fn tell_left_out(&mut self, uptime: Duration) {
        self.budgets.tell(milliseconds(uptime), |kind, lines| {
            log::warn!(kind = kind.message(), lines; "log lines left out");
        });
    }

    /// Whether a line of which a client can cause any number may be logged.
    fn may_log(&mut self, uptime: Duration, kind: Kind) -> bool {
        self.budgets.take(kind, milliseconds(uptime))
    }
}

fn milliseconds(uptime: Duration) -> u64 {
    u64::try_from(uptime.as_millis()).unwrap_or(u64::MAX)
}
