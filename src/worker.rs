//! What an event loop holds and does: its hub, its ring, and one turn after the other.
//!
//! ```text
//!   eventfd ──▶ wake ──┐                         ┌─▶ mailbox: batches, answers, history
//!   new stream ────────┼─▶ bell ─▶ pump: turn ───┼─▶ ring: hang-ups, writable sockets
//!   timer ─────────────┘             ▲           ├─▶ wheel: keepalives, deadlines
//!                                    └── yield ──┴─▶ one slice of sends, reads, closes
//! ```
//!
//! The pump is one task among those of the requests. It works in turns: between two slices of
//! sends every request that is ready goes first, so a fan-out delays an append by one slice and
//! not by all of it. With nothing due it sleeps, and the loop with it.
//!
//! Invariant: a [`Worker`] never leaves its thread; other threads have its [`Mailbox`] and its
//! [`WorkerStats`] only. What the tasks around it do is in `event_loop.rs` and `exchange/`.

use std::{
    any::Any,
    cell::{Cell, RefCell},
    collections::{HashMap, hash_map::Entry},
    os::fd::OwnedFd,
    rc::Rc,
    sync::{
        Arc, RwLock,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use slab::Slab;

use crate::{
    admission::{Entry as ConnectionEntry, Refusal, StreamPlace, Superseded},
    allocator,
    client_address::ClientAddress,
    deadlines::{Deadline, Deadlines},
    driver::{Doorbell, Promise, yield_now},
    event::{EventId, RunId},
    followers::{ConnectionId, Follower, Followers},
    history_readers::{HistoryJob as ReadJob, HistoryReaders},
    hub::{
        Counts, History, HistoryJob, HistoryReader, Hub, HubConfig, HubLimits, Moment, Outgoing,
        Peer, Token,
    },
    journal::{
        CommittedBatch, Write, WriteError, WriteResult,
        catalog::Catalog,
        store::{Store, StoreError},
    },
    journal_writer::Place,
    limits::{
        GIVE_BACK_CONNECTIONS_MIN, GIVE_BACK_WAIT_MS, READ_BYTES, SEND_SLICE_MAX, SEND_SLICE_MIN,
        STREAMS_RESERVED_MAX, TICK_MS,
    },
    mailbox::Mailbox,
    replay,
    shared::{Shared, WorkerStats, read_catalog},
    stream_ring::{RingEvent, Send as RingSend, SendResult, StreamRing},
    timer_wheel::Tick,
    wire::response::http_date,
};

/// What other threads have for a worker.
pub enum Letter {
    /// A batch is on disk, since this time.
    Committed(Arc<CommittedBatch>, Instant),
    /// The journal has decided on a write.
    Written(Ticket, WriteResult),
    /// A reader has what [`Worker::read`] waits for.
    Read(Ticket, Box<dyn Any + Send>),
    /// A reader has history for a stream.
    History(History),
    /// It could not be read.
    Unreadable(HistoryReader, StoreError),
    /// A newer stream has taken the place of one of this worker's.
    Superseded(Token, Refusal),
    /// The server is going down.
    Drain,
    /// Counts who still turns.
    Ping(Arc<AtomicUsize>),
}

/// What reaches each worker.
pub type Mailboxes = Arc<[Arc<Mailbox<Letter>>]>;

/// A socket that becomes a stream.
pub struct ParkedSocket {
    /// It.
    pub socket: OwnedFd,
    /// Whose it is.
    pub follower: Follower,
    /// Its place in the counts that have a limit.
    pub place: Option<StreamPlace>,
}

/// Says who waits for an answer from another thread.
pub type Ticket = usize;

/// One event loop; see the module.
pub struct Worker {
    /// What it shares with the others.
    pub shared: Arc<Shared>,
    /// How it is doing.
    pub stats: Arc<WorkerStats>,
    /// Requests that have a time by which something must have happened.
    pub deadlines: RefCell<Deadlines>,
    /// Buffer for reads; nothing is kept in it.
    pub read_buffer: RefCell<Vec<u8>>,
    mailbox: Arc<Mailbox<Letter>>,
    /// Those of all workers.
    mailboxes: Mailboxes,
    hub: RefCell<Hub>,
    /// Of the streams that are counted by something that has a limit.
    places: RefCell<HashMap<Token, StreamPlace>>,
    ring: RefCell<StreamRing>,
    followers: RefCell<Followers>,
    connection_count: Cell<u64>,
    id: usize,
    bell: Doorbell,
    /// One of each task that takes connections: it stops.
    stop_accepting: RefCell<Vec<Doorbell>>,
    accepting: Cell<usize>,
    writes: RefCell<Slab<Promise<Option<WriteResult>>>>,
    reads: RefCell<Slab<Promise<Box<dyn Any + Send>>>>,
    polls: RefCell<HashMap<RunId, Vec<Promise<()>>>>,
    is_draining: Cell<bool>,
    /// How many sends the last slice could have, and whether a request has come since.
    slice: Cell<usize>,
    has_request: Cell<bool>,
    /// Whether there is something new in the journal's queue, for which the writer may have to be
    /// woken.
    has_written: Cell<bool>,
    free_memory: Cell<FreeMemory>,
    started: Instant,
    date: RefCell<(u64, Rc<str>)>,
    scratch: RefCell<Scratch>,
}

const GIVE_BACK_TICKS: u64 = GIVE_BACK_WAIT_MS / TICK_MS;

/// Memory that requests have left, and the allocator still has.
#[derive(Clone, Copy, Default)]
struct FreeMemory {
    /// Connections that have come to rest or gone since it was last given back.
    connections: u32,
    /// When to give it back, in ticks since the start.
    due: Option<u64>,
}

/// Buffers of the pump, used again at every turn.
#[derive(Default)]
struct Scratch {
    letters: Vec<Letter>,
    events: Vec<RingEvent>,
    plan: Vec<Outgoing>,
    results: Vec<SendResult>,
}

impl Worker {
    /// A worker without connections, at the end of the journal.
    pub fn new(id: usize, shared: Arc<Shared>, mailboxes: Mailboxes, ring: StreamRing) -> Worker {
        let settings = &shared.settings;
        let hub_config = HubConfig {
            keepalive_ticks: Tick(0).after(settings.keepalive_interval).0,
            client_timeout_ticks: Tick(0).after(settings.client_timeout).0,
            lifetime_ticks: Tick(0).after(settings.max_stream_lifetime).0,
            lifetime_retry_ms_max: settings.retry.as_millis() as u32,
            seed: shared.clock.now().0 ^ ((id as u64) << 32),
            limits: HubLimits::default(),
        };
        // What comes from here on is in the mailbox; what is older is in the catalog.
        let seen = read_catalog(&shared, Catalog::last_id);
        let room = shared.connections_max.min(STREAMS_RESERVED_MAX);
        let mut hub = Hub::new(hub_config, Tick(0), seen);
        hub.reserve(room);
        Worker {
            stats: Arc::clone(&shared.workers[id]),
            deadlines: RefCell::new(Deadlines::new(Tick(0))),
            read_buffer: RefCell::new(vec![0; READ_BYTES]),
            hub: RefCell::new(hub),
            places: RefCell::default(),
            ring: RefCell::new(ring),
            followers: RefCell::new(Followers::new(Arc::clone(&shared.workers[id]), room)),
            connection_count: Cell::new(0),
            id,
            bell: Doorbell::default(),
            stop_accepting: RefCell::default(),
            accepting: Cell::new(0),
            writes: RefCell::default(),
            reads: RefCell::default(),
            polls: RefCell::default(),
            is_draining: Cell::new(false),
            slice: Cell::new(SEND_SLICE_MIN),
            has_request: Cell::new(false),
            has_written: Cell::new(false),
            // Setting up leaves something, too.
            free_memory: Cell::new(FreeMemory { connections: 0, due: Some(GIVE_BACK_TICKS) }),
            started: Instant::now(),
            date: RefCell::new((0, Rc::from(""))),
            scratch: RefCell::default(),
            mailbox: Arc::clone(&mailboxes[id]),
            mailboxes,
            shared,
        }
    }

    /// Counts workers, from 0.
    pub fn id(&self) -> usize {
        self.id
    }

    /// Another thread, or the ring, has something.
    pub fn wake(&self) {
        self.mailbox.hush();
        self.bell.ring();
    }

    /// The time that it is now.
    pub fn now(&self) -> Instant {
        Instant::now()
    }

    /// The tick that it is now.
    pub fn tick(&self) -> Tick {
        Tick(self.ticks() as u32)
    }

    /// Ticks since it was started, which do not wrap around.
    fn ticks(&self) -> u64 {
        self.started.elapsed().as_millis() as u64 / TICK_MS
    }

    /// Time since it was started.
    pub fn uptime(&self) -> Duration {
        self.started.elapsed()
    }

    fn moment(&self, at: Instant) -> Moment {
        Moment(at.saturating_duration_since(self.started).as_micros() as u32)
    }

    /// Whether the server is going down.
    pub fn is_draining(&self) -> bool {
        self.is_draining.get()
    }

    /// The value of a Date header, made once a second.
    pub fn date(&self) -> Rc<str> {
        let now = self.shared.clock.now();
        let (second, date) = &mut *self.date.borrow_mut();
        if *second != now.0 / 1_000 {
            (*second, *date) = (now.0 / 1_000, http_date(now).into());
        }
        Rc::clone(date)
    }

    /// Position of the journal that this worker's streams have reached.
    pub fn seen(&self) -> EventId {
        self.hub.borrow().seen()
    }

    /// Whether those who send events without an end have had their time, since it is going down.
    pub fn has_drained(&self) -> bool {
        let end = self.deadlines.borrow().uploads_end();
        end.is_some_and(|end| end.is_reached(self.tick()))
    }

    /// A task takes connections from now on, until this rings.
    pub fn begin_accepting(&self) -> Doorbell {
        let stop = Doorbell::default();
        self.stop_accepting.borrow_mut().push(stop.clone());
        self.accepting.set(self.accepting.get() + 1);
        stop
    }

    /// It takes none any more.
    pub fn end_accepting(&self) {
        self.accepting.set(self.accepting.get() - 1);
        self.bell.ring();
    }

    /// Arms a deadline; it is looked at when the pump next turns.
    pub fn arm(&self, deadline: Deadline, wait: Duration) -> usize {
        let mut deadlines = self.deadlines.borrow_mut();
        let before = deadlines.next();
        let now = self.tick();
        let at = now.after(wait);
        let key = deadlines.arm(deadline, at);
        if before.is_none_or(|before| now.until(at) < now.until(before)) {
            self.bell.ring();
        }
        key
    }

    /// Has the journal do a write, and waits for its answer; also for room in the journal's queue,
    /// but no longer than `patience`.
    ///
    /// # Errors
    /// `None` when there was no room in that time.
    pub async fn write(&self, write: Write, patience: Option<Duration>) -> Option<WriteResult> {
        let promise = Promise::default();
        let ticket = self.writes.borrow_mut().insert(promise.clone());
        let mailbox = Arc::clone(&self.mailbox);
        let reply = Box::new(move |result| mailbox.post(Letter::Written(ticket, result)));
        let Ok(place) = self.shared.journal.write_without_waking(write, reply) else {
            self.writes.borrow_mut().remove(ticket);
            return Some(Err(WriteError::Closed));
        };
        // The writer is woken by the next turn, when all who are ready have written.
        self.has_written.set(true);
        self.bell.ring();
        let armed = match (place, patience) {
            (Place::Outside(number), Some(patience)) => {
                let deadline = Deadline::Room(Arc::clone(&self.shared), number, promise.clone());
                Some(self.arm(deadline, patience))
            }
            _ => None,
        };
        let result = promise.wait().await;
        if let Some(key) = armed {
            self.deadlines.borrow_mut().disarm(key);
        }
        if result.is_none() {
            self.writes.borrow_mut().remove(ticket);
        }
        result
    }

    /// Has a reader thread find something out, and waits for it; `None` when too many wait.
    pub async fn read<T: Send + 'static>(
        &self,
        job: impl FnOnce(&dyn Store, &RwLock<Catalog>) -> T + Send + 'static,
    ) -> Option<T> {
        self.read_by(HistoryReaders::submit, job).await
    }

    /// The same before all other reads that wait, and however many these are.
    pub async fn read_first<T: Send + 'static>(
        &self,
        job: impl FnOnce(&dyn Store, &RwLock<Catalog>) -> T + Send + 'static,
    ) -> Option<T> {
        self.read_by(HistoryReaders::submit_first, job).await
    }

    async fn read_by<T: Send + 'static>(
        &self,
        submit: fn(&HistoryReaders, ReadJob) -> Result<(), ReadJob>,
        job: impl FnOnce(&dyn Store, &RwLock<Catalog>) -> T + Send + 'static,
    ) -> Option<T> {
        let promise = Promise::default();
        let ticket = self.reads.borrow_mut().insert(promise.clone());
        let mailbox = Arc::clone(&self.mailbox);
        let job = Box::new(move |store: &dyn Store, catalog: &RwLock<Catalog>| {
            mailbox.post(Letter::Read(ticket, Box::new(job(store, catalog))));
        });
        if submit(&self.shared.readers, job).is_err() {
            self.reads.borrow_mut().remove(ticket);
            return None;
        }
        let found = promise.wait().await;
        Some(*found.downcast().expect("a ticket is answered by its own job"))
    }

    /// A promise that is kept when something happens to a run, until it is unwatched.
    pub fn watch_run(&self, run: RunId) -> Promise<()> {
        let promise = Promise::default();
        self.polls.borrow_mut().entry(run).or_default().push(promise.clone());
        promise
    }

    /// Nobody waits for this any more.
    pub fn unwatch_run(&self, run: RunId, promise: &Promise<()>) {
        if let Entry::Occupied(mut waiting) = self.polls.borrow_mut().entry(run) {
            waiting.get_mut().retain(|other| !other.is(promise));
            if waiting.get().is_empty() {
                waiting.remove();
            }
        }
    }

    /// A time up to `longest`, so that those who are told to wait do not come back together.
    pub fn jitter(&self, longest: Duration) -> Duration {
        longest.mul_f64(f64::from(self.hub.borrow_mut().random_below(1 << 16)) / f64::from(1 << 16))
    }

    /// A name for a connection that has come in.
    pub fn next_connection(&self) -> ConnectionId {
        self.connection_count.set(self.connection_count.get() + 1);
        ConnectionId::new(self.id, self.connection_count.get())
    }

    /// Parks a socket: `subscribe` opens its stream, which keeps its place to its end.
    pub fn park(&self, parked: ParkedSocket, subscribe: impl FnOnce(&mut Hub, Peer) -> Token) {
        let mut ring = self.ring.borrow_mut();
        let peer = ring.adopt(parked.socket);
        let hub = &mut *self.hub.borrow_mut();
        // The loop may have slept since the last turn.
        hub.set_time(self.tick(), self.shared.clock.now());
        let token = subscribe(hub, peer);
        ring.watch(peer, token);
        self.followers.borrow_mut().keep(token, parked.follower);
        if let Some(place) = parked.place {
            let parked = place.park(token);
            self.places.borrow_mut().insert(token, place);
            if let Err(refusal) = parked {
                self.close_superseded(hub, token, refusal);
            }
        }
        self.note_rest();
        self.bell.ring();
    }

    /// A request has come, or the answer to one can be written: there may be more soon.
    pub fn note_request(&self) {
        self.has_request.set(true);
    }

    /// How many sends to make before others have their turn: more and more, until somebody comes.
    fn next_slice(&self) -> usize {
        let longer = SEND_SLICE_MAX.min(self.slice.get() * 2);
        self.slice.set(if self.has_request.replace(false) { SEND_SLICE_MIN } else { longer });
        self.slice.get()
    }

    /// A stream was opened with a cursor.
    pub fn note_resumed(&self, follower: Follower, cursor: EventId, last_id: EventId) {
        self.followers.borrow_mut().note_resumed(self.uptime(), follower, cursor, last_id);
    }

    /// A connection that was no stream has ended, and its socket is closed.
    pub fn farewell(&self, entry: ConnectionEntry) {
        self.shared.admissions.leave(entry);
        self.let_go();
        self.bell.ring();
    }

    /// Somebody was refused.
    pub fn note_refusal(&self, refusal: Refusal, client: ClientAddress) {
        self.followers.borrow_mut().note_refusal(self.uptime(), refusal, client);
    }

    /// Somebody wants history that is not to be had.
    pub fn note_unreadable(&self, error: &StoreError) {
        self.followers.borrow_mut().note_unreadable(self.uptime(), error);
        // It may be what was left out that is to be told.
        self.bell.ring();
    }

    /// Has each of these streams closed by its worker.
    pub fn supersede(&self, superseded: Vec<Superseded>) {
        for Superseded { worker, token, refusal } in superseded {
            // Who is not parked yet finds out when it is.
            if let Some(token) = token {
                self.mailboxes[worker].post(Letter::Superseded(token, refusal));
            }
        }
    }

    fn close_superseded(&self, hub: &mut Hub, token: Token, refusal: Refusal) {
        let retry = self.shared.settings.reconnect_backoff_max;
        hub.handle_superseded(token, retry, refusal.as_str());
    }

    /// There is one connection less.
    fn let_go(&self) {
        self.stats.connections.fetch_sub(1, Relaxed);
        self.note_rest();
    }

    /// A connection needs no memory for requests any more. When many do not, and no more come to
    /// rest for a while, it goes back to the system.
    fn note_rest(&self) {
        let mut free = self.free_memory.get();
        free.connections += 1;
        if free.connections >= GIVE_BACK_CONNECTIONS_MIN {
            free.due = Some(self.ticks() + GIVE_BACK_TICKS);
        }
        self.free_memory.set(free);
    }

    /// Gives memory back when it is time.
    fn give_back_due(&self) {
        if self.free_memory.get().due.is_some_and(|due| due <= self.ticks()) {
            self.free_memory.set(FreeMemory::default());
            allocator::give_back();
        }
    }

    /// Turns, and sleeps while there is nothing to turn for; returns when the worker has drained.
    pub async fn pump(&self) {
        loop {
            while self.turn() {
                yield_now().await;
            }
            let has_connections = self.stats.connections.load(Relaxed) > 0;
            if self.is_draining.get() && self.accepting.get() == 0 && !has_connections {
                self.followers.borrow_mut().tell_left_out(Duration::MAX);
                return;
            }
            match self.next_deadline() {
                Some(at) => self.bell.wait_until(at).await,
                None => self.bell.wait().await,
            }
        }
    }

    /// When to turn again, if nothing happens before.
    fn next_deadline(&self) -> Option<Instant> {
        let hub = self.hub.borrow().next_deadline();
        let own = self.deadlines.borrow().next();
        let tick = match (hub, own) {
            (Some(hub), Some(own)) => Some(hub.or_before(own)),
            (hub, own) => hub.or(own),
        };
        let tick = tick.map(|tick| tick.ticks_at(self.ticks()));
        let due = self.free_memory.get().due;
        let to_tell = self.followers.borrow().due().map(|ms| ms.div_ceil(TICK_MS));
        let ticks = tick.into_iter().chain(due).chain(to_tell).min()?;
        Some(self.started + Duration::from_millis(ticks * TICK_MS))
    }

    /// One round of everything; true when it should come round again at once.
    fn turn(&self) -> bool {
        if self.has_written.take() {
            self.shared.journal.wake();
        }
        let scratch = &mut *self.scratch.borrow_mut();
        let (now, wall) = (self.tick(), self.shared.clock.now());
        // The loop may have slept since the last turn, and letters may start timers.
        self.hub.borrow_mut().set_time(now, wall);
        self.deadlines.borrow_mut().advance(now);
        self.give_back_due();
        self.mailbox.drain(&mut scratch.letters);
        for letter in scratch.letters.drain(..) {
            self.open_letter(letter);
        }
        let hub = &mut *self.hub.borrow_mut();
        let ring = &mut *self.ring.borrow_mut();
        hub.handle_time(now, wall);
        ring.poll(&mut scratch.events);
        for event in scratch.events.drain(..) {
            match event {
                RingEvent::Writable(token) => hub.handle_writable(token),
                RingEvent::Unwatched(token) => hub.handle_unwatched(token),
                RingEvent::HangUp(token) => {
                    let error = hub.peer(token).and_then(|peer| ring.take_error(peer));
                    hub.handle_hangup(token, error);
                }
            }
        }
        if hub.wants_to_send() {
            self.send_slice(hub, ring, &mut scratch.plan, &mut scratch.results);
        }
        while let Some(job) = hub.poll_history() {
            self.read_history(hub, job);
        }
        while let Some(closed) = hub.poll_closed() {
            ring.close(closed.peer);
            self.places.borrow_mut().remove(&closed.token);
            self.shared.admissions.leave_stream();
            self.let_go();
            self.followers.borrow_mut().note_ended(self.uptime(), &closed);
        }
        self.followers.borrow_mut().tell_left_out(self.uptime());
        self.stats.streams.store(hub.subscriber_count(), Relaxed);
        self.stats.views.store(hub.view_count(), Relaxed);
        self.stats.tails_bytes.store(hub.tails_bytes(), Relaxed);
        self.stats.lagging.store(hub.lagging_count(), Relaxed);
        let Counts { bytes, events, replayed, keepalives } = hub.counts();
        self.stats.bytes_sent.store(bytes, Relaxed);
        self.stats.events_delivered.store(events, Relaxed);
        self.stats.events_replayed.store(replayed, Relaxed);
        self.stats.keepalives.store(keepalives, Relaxed);
        hub.wants_to_send()
    }

    fn open_letter(&self, letter: Letter) {
        match letter {
            Letter::Committed(batch, at) => {
                self.hub.borrow_mut().handle_committed(&batch, self.moment(at));
                self.wake_polls(&batch);
            }
            Letter::Written(ticket, result) => {
                self.note_request();
                self.writes.borrow_mut().remove(ticket).keep(Some(result));
            }
            Letter::Read(ticket, found) => {
                self.note_request();
                self.reads.borrow_mut().remove(ticket).keep(found);
            }
            Letter::History(history) => self.hub.borrow_mut().handle_history(history),
            Letter::Unreadable(reader, error) => {
                self.note_unreadable(&error);
                self.hub.borrow_mut().handle_history(History::failed(reader));
            }
            Letter::Superseded(token, refusal) => {
                self.close_superseded(&mut self.hub.borrow_mut(), token, refusal);
            }
            Letter::Drain => self.drain(),
            Letter::Ping(answered) => {
                answered.fetch_add(1, Relaxed);
            }
        }
    }

    fn wake_polls(&self, batch: &CommittedBatch) {
        let polls = self.polls.borrow();
        if polls.is_empty() {
            return;
        }
        let runs = batch.events.iter().map(|event| event.event.run_id);
        for run in runs.chain(batch.deleted.iter().copied()) {
            for promise in polls.get(&run).into_iter().flatten() {
                promise.keep(());
            }
        }
    }

    /// Takes no more connections, and ends those that are there in order.
    fn drain(&self) {
        let settings = &self.shared.settings;
        self.is_draining.set(true);
        for stop in &*self.stop_accepting.borrow() {
            stop.ring();
        }
        let window = Tick(0).after(settings.drain_window).0;
        let retry = settings.reconnect_backoff_max.as_millis() as u32;
        self.hub.borrow_mut().handle_drain(window, retry);
        self.deadlines.borrow_mut().drain(self.tick(), settings.drain_window);
        for promise in self.polls.borrow().values().flatten() {
            promise.keep(());
        }
    }

    /// Makes a slice of sends, and reads the clock once for all of them.
    fn send_slice(
        &self,
        hub: &mut Hub,
        ring: &mut StreamRing,
        plan: &mut Vec<Outgoing>,
        results: &mut Vec<SendResult>,
    ) {
        plan.clear();
        results.clear();
        hub.poll_sends(self.next_slice(), plan);
        if plan.is_empty() {
            return;
        }
        let sends = plan.iter().map(|send| RingSend { peer: send.peer, bytes: hub.bytes(send) });
        ring.send(sends, results);
        let written_at = self.moment(Instant::now());
        for (sent, result) in plan.iter().zip(results.iter()) {
            if let Some(token) = hub.handle_sent(sent, *result) {
                ring.watch_writable(sent.peer, token);
            }
        }
        hub.poll_latencies(written_at, |micros, events| {
            self.stats.delivery_latency.observe(micros.into(), events.into());
        });
    }

    /// Has a reader thread read what a stream needs.
    fn read_history(&self, hub: &mut Hub, job: HistoryJob) {
        let mailbox = Arc::clone(&self.mailbox);
        let reader = job.reader;
        let work = move |store: &dyn Store, catalog: &RwLock<Catalog>| {
            mailbox.post(match replay::read(store, catalog, &job) {
                Ok(history) => Letter::History(history),
                Err(error) => Letter::Unreadable(reader, error),
            });
        };
        if self.shared.readers.submit(Box::new(work)).is_err() {
            hub.handle_history(History::failed(reader));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_follower_stays_small() {
        assert!(size_of::<Option<Follower>>() <= 26, "{}", size_of::<Option<Follower>>());
    }
}
