//! Who gets what: views, their tails, and the subscribers that follow them.
//!
//! The hub is a protocol object without I/O: `handle_*` takes what came in, `poll_*` gives what
//! should go out. It knows no socket ([`Peer`] is opaque), no journal, and no clock.
//!
//! ```text
//!              ┌───────────────── the view is filled ─────────────────┐
//!  subscribe ──┼─▶ Filling ──▶ settle ──────────── in the tail ───────┼─▶ Live ─▶ closed
//!              │                 │  ▲                                 │    │
//!              │  before the tail▼  │ sent                            │    │ fell out of the tail
//!              │     Queued ─▶ Reading ─▶ Sending ── blocked ─▶ Stalled ◀──┘
//!              └─▶ Ahead ── seen ──▶ settle
//! ```
//!
//! Invariants:
//!
//! - A subscriber's stream is, byte for byte, the frames of exactly the events of its view with an
//!   id greater than its first cursor. Where retention has removed some of them a frame says so
//!   before the stream goes on. `(cursor, partial)` says how far it is, whatever the phase;
//!   encoding is deterministic, so the rest can always be made again from the journal. While
//!   `partial` is not 0 it is bytes of event `cursor + 1`, so that a reader finds that event first,
//!   and its absence is noticed: when it is gone, the stream cannot go on and is closed.
//! - Nothing is queued for a subscriber: it has a position, and at most one outbox, which holds a
//!   frame of the server itself or one chunk of history. A chunk whose reader is blocked is given
//!   back. Chunks in memory are at most [`REPLAY_CHUNKS_MAX`], tails at most
//!   [`TAILS_BYTES_MAX`] together.
//! - A view's tail holds everything that the view selects from `covered_after` to `seen`: history
//!   in which something is missing is not put before it.
//! - Between [`Hub::poll_sends`] and the [`Hub::handle_sent`] of each planned send nothing else is
//!   called, so the bytes that were planned are the bytes that were sent.
//!
//! Rejected: a task or a channel for each subscriber (1.1 to 1.7 KB each, and a wake-up for every
//! delivery), and a list of events that are queued for slow readers (memory grows with the load).

mod chunks;
mod delivery;
mod ending;
mod replay;
#[cfg(test)]
mod simulation;
mod stamps;
mod subscriber;
mod timers;
mod token;
mod view;

use std::collections::{HashMap, VecDeque};

use rustix::io::Errno;
use slab::Slab;

use self::{
    chunks::Chunks,
    ending::Drain,
    stamps::Unweighed,
    subscriber::{Flags, NONE, Outbox, Phase, Subscriber, Subscribers},
    timers::{PROBE_TICKS, until_first},
    view::{Fill, Views},
};
pub use self::{
    delivery::Outgoing,
    replay::{History, HistoryJob, HistoryReader},
    stamps::Moment,
    token::{Peer, Token},
    view::ViewSpec,
};
use crate::{
    event::{EventId, Format, RunId, Scope, Timestamp},
    journal::{CommittedBatch, CommittedEvent},
    limits::{CURSOR_LAG_IDS, REPLAY_CHUNKS_MAX, TAIL_BYTES_MAX, TAILS_BYTES_MAX},
    tail::{Beginning, Tail, TailShape},
    timer_wheel::{Links, Tick, TimerWheel},
    wire::sse,
};

/// How the hub behaves in time.
#[derive(Clone, Debug)]
pub struct HubConfig {
    /// A stream without other output for this long gets a keepalive.
    pub keepalive_ticks: u32,
    /// A `unix:` subscriber that takes nothing for this long is closed.
    pub client_timeout_ticks: u32,
    /// A stream ends after about this long; 0 for never.
    pub lifetime_ticks: u32,
    /// Longest wait before it comes back that such a stream asks of its client.
    pub lifetime_retry_ms_max: u32,
    /// Seed of what is spread at random.
    pub seed: u64,
    /// How much it may hold.
    pub limits: HubLimits,
}

/// The bounds of a hub; the default is what `limits.rs` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HubLimits {
    /// How tails are cut into pieces.
    pub tail_shape: TailShape,
    /// Bytes in the tail of one view.
    pub tail_bytes_max: usize,
    /// Bytes in all tails.
    pub tails_bytes_max: usize,
    /// Chunks of history in memory.
    pub replay_chunks_max: usize,
    /// How far a quiet stream may fall behind before it says where it is.
    pub cursor_lag_ids: u64,
}

impl Default for HubLimits {
    fn default() -> HubLimits {
        HubLimits {
            tail_shape: TailShape::default(),
            tail_bytes_max: TAIL_BYTES_MAX,
            tails_bytes_max: TAILS_BYTES_MAX,
            replay_chunks_max: REPLAY_CHUNKS_MAX,
            cursor_lag_ids: CURSOR_LAG_IDS,
        }
    }
}

/// A stream that somebody wants.
#[derive(Debug)]
pub struct Subscribe {
    /// Where its bytes go.
    pub peer: Peer,
    /// Whether that is a `unix:` socket.
    pub is_local: bool,
    /// What it is about.
    pub spec: ViewSpec,
    /// Where it begins.
    pub start: Start,
    /// Frames to send before anything else.
    pub greeting: Vec<u8>,
    /// Keepalives are heartbeat events.
    pub heartbeat: bool,
    /// The newest event in the scope, as far as is known: a cursor at or past it misses nothing.
    pub newest: EventId,
    /// For given runs: those that have not ended at [`Hub::seen`].
    pub unended: Vec<RunId>,
}

/// Where a stream begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// After this event.
    After(EventId),
    /// At the live end; the stream says where that is.
    Now,
}

/// Why a stream ended, as the metrics name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The client closed or half-closed, or its connection broke.
    Client,
    /// Its last event was delivered.
    RunEnded,
    /// Its run was deleted.
    RunDeleted,
    /// The client acknowledged nothing for too long.
    Timeout,
    /// Its history could not be read.
    Error,
    /// It has been open for as long as a stream may be.
    Lifetime,
    /// Its run or session has as many streams as it may, and a newer one has come.
    Limit,
    /// The server is going down.
    Drain,
}

impl Reason {
    /// Every one, in the order of their numbers.
    pub const ALL: [Reason; 8] = [
        Reason::Client,
        Reason::RunEnded,
        Reason::RunDeleted,
        Reason::Timeout,
        Reason::Error,
        Reason::Lifetime,
        Reason::Limit,
        Reason::Drain,
    ];

    /// As the metrics and the log name it.
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::Client => "client",
            Reason::RunEnded => "run_ended",
            Reason::RunDeleted => "run_deleted",
            Reason::Timeout => "timeout",
            Reason::Error => "error",
            Reason::Lifetime => "lifetime",
            Reason::Limit => "limit",
            Reason::Drain => "drain",
        }
    }
}

/// A stream that has ended: its socket is to be closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Closed {
    /// Whose.
    pub peer: Peer,
    /// What [`Hub::subscribe`] gave.
    pub token: Token,
    /// Why.
    pub reason: Reason,
    /// How long it was open.
    pub lasted_ticks: u32,
    /// Events that the kernel has taken whole, up to the largest number that fits.
    pub events: u32,
    /// Bytes that it has taken.
    pub bytes: u64,
}

/// What a hub has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Bytes that the kernel has taken for all streams.
    pub bytes: u64,
    /// Events that it has taken whole, each once for each stream.
    pub events: u64,
    /// Those of them that were read from the journal.
    pub replayed: u64,
    /// Keepalives, as comments or as heartbeat events.
    pub keepalives: u64,
}

/// See the module.
#[derive(Debug)]
pub struct Hub {
    config: HubConfig,
    now: Tick,
    wall: Timestamp,
    /// Everything up to here is in the tails, where it is wanted.
    seen: EventId,
    subscribers: Subscribers,
    views: Views,
    outboxes: Slab<Outbox>,
    wheel: TimerWheel,
    /// Subscribers that may have something to send.
    ready: VecDeque<u32>,
    /// Views that have something for all their subscribers.
    sweeps: VecDeque<u32>,
    /// Subscribers that want a chunk of history.
    replay_queue: VecDeque<Token>,
    chunks: Chunks,
    /// Subscribers in phase `Ahead`, at some time at least.
    ahead: Vec<Token>,
    tails_bytes: usize,
    trim_hand: usize,
    jobs: VecDeque<HistoryJob>,
    closed: Vec<Closed>,
    random: u64,
    drain: Option<Drain>,
    /// What those are told that are ending and have to hear more than when to come back.
    last_words: HashMap<u32, Vec<u8>>,
    counts: Counts,
    /// When the batch that is taken in was committed.
    committed_at: Moment,
    unweighed: Unweighed,
    scratch: Scratch,
}

/// Buffers that are used again and again.
#[derive(Debug, Default)]
struct Scratch {
    due: Vec<u32>,
    views: Vec<u32>,
    envelope: Vec<u8>,
    payload: Vec<u8>,
}

impl Hub {
    /// A hub without subscribers, at the end of the journal.
    pub fn new(config: HubConfig, now: Tick, seen: EventId) -> Hub {
        let chunks = Chunks::new(config.limits.replay_chunks_max);
        Hub {
            random: config.seed | 1,
            config,
            now,
            wall: Timestamp::default(),
            seen,
            subscribers: Subscribers::default(),
            views: Views::default(),
            outboxes: Slab::new(),
            wheel: TimerWheel::new(now),
            ready: VecDeque::new(),
            sweeps: VecDeque::new(),
            replay_queue: VecDeque::new(),
            chunks,
            ahead: Vec::new(),
            tails_bytes: 0,
            trim_hand: 0,
            jobs: VecDeque::new(),
            closed: Vec::new(),
            drain: None,
            last_words: HashMap::new(),
            counts: Counts::default(),
            committed_at: Moment::default(),
            unweighed: Unweighed::new(),
            scratch: Scratch::default(),
        }
    }

    /// For tests of a part: one that nobody follows yet, with keepalives each 15 s.
    #[cfg(test)]
    fn at(seen: EventId, lifetime_ticks: u32) -> Hub {
        let config = HubConfig {
            keepalive_ticks: 1_500,
            client_timeout_ticks: 6_000,
            lifetime_ticks,
            lifetime_retry_ms_max: 3_000,
            seed: 1,
            limits: HubLimits::default(),
        };
        Hub::new(config, Tick(0), seen)
    }

    /// Sets room aside for so many streams in all; more of them find room too, by moving.
    pub fn reserve(&mut self, streams: usize) {
        self.subscribers.slab.reserve_exact(streams.saturating_sub(self.subscriber_count()));
    }

    /// Position of the journal that this hub has reached.
    pub fn seen(&self) -> EventId {
        self.seen
    }

    /// How many streams are open.
    pub fn subscriber_count(&self) -> usize {
        self.subscribers.slab.len()
    }

    /// How many views there are.
    pub fn view_count(&self) -> usize {
        self.views.slab.len()
    }

    /// Bytes in all tails.
    pub fn tails_bytes(&self) -> usize {
        self.tails_bytes
    }

    /// What it has done so far.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// How many streams wait for history, or for room in their sockets, before they get what is new.
    pub fn lagging_count(&self) -> usize {
        self.subscribers.lagging
    }

    /// Whether [`Hub::poll_sends`] may have something.
    pub fn wants_to_send(&self) -> bool {
        !self.ready.is_empty() || !self.sweeps.is_empty()
    }

    /// When [`Hub::handle_time`] should be called again at the latest.
    pub fn next_deadline(&self) -> Option<Tick> {
        self.wheel.next_deadline()
    }

    /// Opens a stream.
    pub fn subscribe(&mut self, request: Subscribe) -> Token {
        let Subscribe { peer, is_local, spec, start, greeting, heartbeat, newest, unended } =
            request;
        let view = match self.views.find(&spec) {
            Some(view) => view,
            None => self.views.create(spec, self.config.limits.tail_shape, self.seen, unended),
        };
        let mut flags = Flags::default();
        flags.set(Flags::NEW, true);
        flags.set(Flags::HEARTBEAT, heartbeat);
        flags.set(Flags::LOCAL, is_local);
        let mut greeting = greeting;
        let cursor = match start {
            Start::Now => {
                sse::cursor(&mut greeting, self.seen);
                self.seen
            }
            // Nothing of the scope lies between, whatever the tail covers.
            Start::After(cursor) if cursor >= newest => cursor.max(self.seen),
            Start::After(cursor) => cursor,
        };
        let key = self.insert(peer, view, cursor, Phase::Live, flags, greeting);
        let view = &mut self.views[view];
        self.subscribers[key].slot = view.subscribers.len() as u32;
        view.subscribers.push(key);
        if view.sweep_left > 0 {
            // The round comes by here before it has been where it began.
            view.sweep_left += 1;
        }
        if cursor > self.seen {
            self.subscribers.set_phase(key, Phase::Ahead);
            self.ahead.push(self.subscribers.token(key));
        } else {
            self.settle(key);
        }
        self.ready.push_back(key);
        self.subscribers.token(key)
    }

    /// Opens a probe: an event at once, then one every five seconds.
    pub fn subscribe_probe(&mut self, peer: Peer, is_local: bool) -> Token {
        let mut flags = Flags::default();
        flags.set(Flags::LOCAL, is_local);
        flags.set(Flags::KEEPALIVE_DUE, true);
        let key = self.insert(peer, NONE, EventId(0), Phase::Probe, flags, Vec::new());
        self.arm(key, self.now.plus(PROBE_TICKS));
        self.ready.push_back(key);
        self.subscribers.token(key)
    }

    /// Takes a batch that is on disk, since `committed_at`, into the tails of the views that want it.
    ///
    /// A batch that the hub has seen already is passed over: one that was committed while the
    /// worker was starting.
    pub fn handle_committed(&mut self, batch: &CommittedBatch, committed_at: Moment) {
        if batch.last_id <= self.seen {
            return;
        }
        self.committed_at = committed_at;
        for event in &batch.events {
            self.append(event);
        }
        for run in &batch.deleted {
            self.forget_run(*run);
        }
        if !batch.deleted.is_empty() {
            self.chunks.forget_places();
            self.forget_tails();
        }
        self.seen = self.seen.max(batch.last_id);
        self.trim_tails();
        for token in std::mem::take(&mut self.ahead) {
            match self.subscribers.find(token) {
                Some(key) if self.subscribers[key].phase == Phase::Ahead => {
                    if self.subscribers[key].cursor > self.seen {
                        self.ahead.push(token);
                    } else {
                        self.settle(key);
                        self.ready.push_back(key);
                    }
                }
                _ => {}
            }
        }
    }

    /// The peer has closed, half-closed or vanished: `error` is what the socket says of it.
    pub fn handle_hangup(&mut self, token: Token, error: Option<Errno>) {
        if let Some(key) = self.subscribers.find(token) {
            self.close(key, reason_of(error));
        }
    }

    /// Who belongs to a token, if it is still there.
    pub fn peer(&self, token: Token) -> Option<Peer> {
        self.subscribers.find(token).map(|key| self.subscribers[key].peer)
    }

    /// Sockets to close, with the reason.
    pub fn poll_closed(&mut self) -> Option<Closed> {
        self.closed.pop()
    }

    fn insert(
        &mut self,
        peer: Peer,
        view: u32,
        cursor: EventId,
        phase: Phase,
        flags: Flags,
        greeting: Vec<u8>,
    ) -> u32 {
        let outbox = if greeting.is_empty() {
            NONE
        } else {
            self.outboxes.insert(Outbox::frame(greeting)) as u32
        };
        let generation = self.subscribers.next_generation();
        let key = self.subscribers.slab.insert(Subscriber {
            peer,
            generation,
            view,
            slot: 0,
            offset: 0,
            ordinal: 0,
            events: 0,
            bytes: 0,
            cursor,
            partial: 0,
            outbox,
            links: Links::default(),
            last_sent: self.now,
            opened: self.now,
            phase,
            flags,
            ending: None,
        }) as u32;
        let deadline = self.now.plus(until_first(key, self.now, self.config.keepalive_ticks));
        self.arm(key, deadline);
        key
    }

    /// Ends a stream.
    fn close(&mut self, key: u32, reason: Reason) {
        self.wheel.disarm(&mut self.subscribers, key);
        let token = self.subscribers.token(key);
        let subscriber = self.subscribers.remove(key);
        if subscriber.outbox != NONE {
            self.outboxes.remove(subscriber.outbox as usize);
        }
        if subscriber.ending == Some(Reason::Limit) {
            self.last_words.remove(&key);
        }
        if subscriber.view != NONE {
            self.leave(subscriber.view, subscriber.slot);
        }
        let lasted_ticks = subscriber.opened.until(self.now);
        let Subscriber { peer, events, bytes, .. } = subscriber;
        self.closed.push(Closed { peer, token, reason, lasted_ticks, events, bytes });
    }

    /// Takes the subscriber in this place off a view; the last one moves there.
    fn leave(&mut self, view_key: u32, slot: u32) {
        let view = &mut self.views[view_key];
        view.subscribers.swap_remove(slot as usize);
        if let Some(&moved) = view.subscribers.get(slot as usize) {
            self.subscribers[moved].slot = slot;
            if view.sweep_left > 0 {
                // The round may have passed this place already, and not yet the one it had.
                self.ready.push_back(moved);
            }
        }
        if view.subscribers.is_empty() {
            let view = self.views.remove(view_key);
            self.tails_bytes -= tail_bytes(&view.tail);
        }
    }

    fn append(&mut self, event: &CommittedEvent) {
        let Scratch { views: found, envelope, payload, .. } = &mut self.scratch;
        found.clear();
        self.views.matching(event, found);
        envelope.clear();
        payload.clear();
        for &key in &*found {
            let view = &mut self.views[key];
            let format = view.spec.format;
            let frame = match format {
                Format::Envelope => &mut *envelope,
                Format::Payload => &mut *payload,
            };
            if frame.is_empty() {
                sse::event(frame, &event.event.borrowed(), format);
            }
            if view.sweep_left == 0 {
                view.stamps.clear();
            }
            view.stamps.push(view.tail.end_ordinal(), self.committed_at);
            view.tail.append(event.event.id, frame);
            self.tails_bytes += frame.len();
            self.tails_bytes -= trim(&mut view.tail, self.config.limits.tail_bytes_max);
            if event.event.event_type.closes().is_some() {
                view.unended.retain(|run| *run != event.event.run_id);
            }
            start_sweep(view, key, &mut self.sweeps);
        }
    }

    /// A run is gone: streams of it alone end, others do not wait for its end.
    fn forget_run(&mut self, run: RunId) {
        for key in self.views.naming(run) {
            let view = &mut self.views[key];
            view.unended.retain(|other| *other != run);
            let Scope::Runs(runs) = &view.spec.selection.scope else { continue };
            if runs.len() == 1 {
                for subscriber in view.subscribers.clone() {
                    self.close(subscriber, Reason::RunDeleted);
                }
            } else {
                start_sweep(view, key, &mut self.sweeps);
            }
        }
    }

    /// Runs are gone, and with them their events in the tails of views that have others too: these
    /// tails begin anew, and whoever is not at their end goes on from the journal, which knows
    /// what is left. Deletions are rare enough for that.
    fn forget_tails(&mut self) {
        for (key, view) in &mut self.views.slab {
            if matches!(&view.spec.selection.scope, Scope::Runs(runs) if runs.len() == 1) {
                continue;
            }
            view.fill = match view.fill {
                Fill::Running(_) | Fill::Spoiled => Fill::Spoiled,
                Fill::No | Fill::Done => Fill::No,
            };
            self.tails_bytes -= trim(&mut view.tail, 0);
            start_sweep(view, key as u32, &mut self.sweeps);
        }
    }

    /// Keeps all tails together within their bound: the views give up their oldest in turn.
    fn trim_tails(&mut self) {
        while self.tails_bytes > self.config.limits.tails_bytes_max {
            self.trim_hand = (self.trim_hand + 1) % self.views.slab.capacity();
            let Some(view) = self.views.slab.get_mut(self.trim_hand) else { continue };
            let before = tail_bytes(&view.tail);
            view.tail.drop_front();
            self.tails_bytes -= before - tail_bytes(&view.tail);
        }
    }

    /// Checks what the module promises.
    ///
    /// # Panics
    /// When it does not hold.
    pub fn invariants(&mut self) {
        let limits = self.config.limits;
        let mut frames = 0;
        let all = self.subscribers.slab.iter().map(|(_, subscriber)| subscriber);
        let lagging = all.filter(|subscriber| subscriber.is_lagging()).count();
        assert_eq!(lagging, self.subscribers.lagging);
        for (key, subscriber) in &self.subscribers.slab {
            let outbox = self.outboxes.get(subscriber.outbox as usize);
            assert_eq!(outbox.is_some(), subscriber.outbox != NONE);
            assert!(!subscriber.flags.has(Flags::PLANNED), "a plan outlives its slice");
            assert!(subscriber.links.is_armed(), "every stream has its timer");
            let is_closing = subscriber.phase == Phase::Closing;
            assert!(!is_closing || subscriber.ending.is_some(), "it is closed for a reason");
            if let (Some((end, _)), None) = (self.end_of(subscriber), subscriber.ending) {
                assert!(subscriber.links.deadline().is_reached(end), "its timer ends it");
            }
            match (subscriber.phase, outbox) {
                (Phase::Sending, Some(Outbox::Chunk { .. })) => {}
                (Phase::Sending, _) | (_, Some(Outbox::Chunk { .. })) => {
                    panic!("a chunk is in the outbox in phase Sending, and only then")
                }
                _ => {}
            }
            let is_blocked = subscriber.flags.has(Flags::BLOCKED);
            assert!(!is_blocked || subscriber.phase != Phase::Sending, "its chunk is given back");
            assert!(is_blocked || !subscriber.flags.has(Flags::STARVED), "who is starved, waits");
            let waits = is_blocked || outbox.is_some();
            assert!(waits || subscriber.phase != Phase::Stalled, "somebody wakes it");
            frames += usize::from(outbox.is_some());
            if subscriber.view == NONE {
                continue;
            }
            let view = &self.views[subscriber.view];
            assert_eq!(view.subscribers[subscriber.slot as usize], key as u32);
            let in_tail =
                view.tail.start() <= subscriber.offset && subscriber.offset <= view.tail.end();
            if subscriber.phase == Phase::Live && in_tail && subscriber.cursor <= self.seen {
                assert_eq!(subscriber.partial, view.tail.place(subscriber.offset).partial);
                let whole = subscriber.offset - u64::from(subscriber.partial);
                let whole = Beginning { offset: whole, ordinal: subscriber.ordinal };
                assert_eq!(view.tail.offset_after(subscriber.cursor), Some(whole));
            }
            let is_filling = matches!(view.fill, Fill::Running(_) | Fill::Spoiled);
            assert!(subscriber.phase != Phase::Filling || is_filling);
        }
        assert_eq!(frames, self.outboxes.len(), "no outbox without an owner");
        for key in self.last_words.keys() {
            let Subscriber { ending, phase, .. } = &self.subscribers[*key];
            assert!(*ending == Some(Reason::Limit) && *phase != Phase::Closing);
        }
        self.chunks.invariants(self.outboxes.iter().filter_map(|(_, outbox)| match outbox {
            Outbox::Chunk { chunk, .. } => Some(chunk),
            Outbox::Frame { .. } => None,
        }));
        let mut bytes = 0;
        for (_, view) in &self.views.slab {
            assert!(!view.subscribers.is_empty(), "a view without subscribers is removed");
            assert!(view.tail.covered_after() <= self.seen && view.tail.last_id() <= self.seen);
            assert!(tail_bytes(&view.tail) <= limits.tail_bytes_max);
            view.tail.invariants();
            bytes += tail_bytes(&view.tail);
        }
        assert_eq!(bytes, self.tails_bytes);
        assert!(bytes <= limits.tails_bytes_max);
        self.wheel.invariants(&mut self.subscribers);
    }
}

fn tail_bytes(tail: &Tail) -> usize {
    (tail.end() - tail.start()) as usize
}

/// Drops the oldest segments of a tail that is longer than this, and says how many bytes that is.
fn trim(tail: &mut Tail, bytes_max: usize) -> usize {
    let before = tail_bytes(tail);
    while tail_bytes(tail) > bytes_max {
        tail.drop_front();
    }
    before - tail_bytes(tail)
}

fn start_sweep(view: &mut view::View, key: u32, sweeps: &mut VecDeque<u32>) {
    if view.sweep_left == 0 {
        sweeps.push_back(key);
    }
    view.sweep_left = view.subscribers.len() as u32;
}

fn reason_of(error: Option<Errno>) -> Reason {
    match error {
        Some(Errno::TIMEDOUT | Errno::HOSTUNREACH | Errno::NETUNREACH) => Reason::Timeout,
        Some(Errno::PIPE | Errno::CONNRESET | Errno::NOTCONN) | None => Reason::Client,
        Some(_) => Reason::Error,
    }
}
