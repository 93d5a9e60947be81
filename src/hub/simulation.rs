//! The hub against random worlds: its tails, its wheel and its subscribers, with a clock, a ring
//! and a journal that are made up here, from one seed.
//!
//! A world commits events, delivers them to the hub later, answers its reads of history late and
//! out of order, and plays the kernel and the clients: sockets that take little or nothing, that
//! break, that hang up, and come back. Beside each stream runs its obvious twin ([`Twin`]), which
//! knows all events and says of every byte whether it may come now.
//!
//! What is promised, and checked:
//!
//! - a stream is the frames of the server itself, between whole frames of exactly the events of its
//!   view after its first cursor, in order, each once. Only an event whose run had been deleted by
//!   then may be left out; it may come as well, and a stream that was inside it may break off;
//! - the same is true of what retention has removed, but that is never left out without a word: a
//!   `stream.truncated` stands before it, after which the next event comes, and no false one does;
//! - a cursor that the server names leaves nothing behind;
//! - who is open when the world has come to rest has everything; who was told that the runs have
//!   ended had everything; nobody waits for an end that has been;
//! - the hub counts what each stream has got, and what all have: no event, byte or keepalive more
//!   or less;
//! - a stream whose socket takes bytes is never silent for longer than the keepalive interval, and
//!   no keepalive but the first comes within a third of it;
//! - no stream whose socket takes bytes is older than it may be, and none ends for its age in the
//!   middle of an event.
//!
//! `SEED=… cargo test simulation` has one world again, `SIMULATIONS=…` says how many there are.

mod journal;
mod twin;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};

use self::journal::{Journal, Run, Stored};
use self::twin::Twin;
use super::timers::{GOODBYE_TICKS, STARVED_TICKS};
use super::*;
use crate::event::{EventType, Label, Labels, Selection};

/// Worlds in one run of the test, unless `SIMULATIONS` says otherwise.
const SIMULATIONS: u64 = 1_000;
/// What happens at random in one of them.
const STEPS: usize = 250;
/// After so many rounds without new events everybody should have everything.
const REST_ROUNDS: usize = 20_000;
/// Every so many steps the invariants are checked, on average.
const INVARIANTS_EVERY: u32 = 12;
const TYPES: [&str; 4] = ["A", "B", "C", "D"];
const LABELS: [&str; 3] = ["x", "y", "z"];

#[test]
fn every_stream_is_what_its_obvious_twin_says() {
    if let Ok(seed) = std::env::var("SEED") {
        World::new(seed.parse().unwrap()).live();
        return;
    }
    let count = std::env::var("SIMULATIONS").map_or(SIMULATIONS, |count| count.parse().unwrap());
    let first: u64 = rand::random();
    let mut coverage = Coverage::default();
    for seed in (0..count).map(|index| first.wrapping_add(index)) {
        let printed = PrintedSeed(seed);
        let mut world = World::new(seed);
        world.live();
        coverage.add(&world.coverage);
        std::mem::forget(printed);
    }
    println!("{coverage:?}");
}

/// Says which world failed.
struct PrintedSeed(u64);

impl Drop for PrintedSeed {
    fn drop(&mut self) {
        println!("SEED={}", self.0);
    }
}

/// What the worlds have come across: a simulation that meets nothing proves nothing.
#[derive(Clone, Copy, Debug, Default)]
struct Coverage {
    events: u64,
    streams: u64,
    closed: u64,
    chunks: u64,
    chunks_inside_an_event: u64,
    chunks_shared: u64,
    chunks_full: u64,
    fills: u64,
    failed: u64,
    ahead: u64,
    left_out: u64,
    lost_places: u64,
    removals: u64,
    truncated: u64,
    truncated_fills: u64,
    keepalives: u64,
    cursors: u64,
    starved: u64,
    weighed: u64,
    grown_old: u64,
    grown_old_inside_an_event: u64,
    superseded: u64,
    superseded_with_a_word: u64,
    superseded_inside_with_a_word: u64,
}

impl Coverage {
    fn add(&mut self, other: &Coverage) {
        self.events += other.events;
        self.streams += other.streams;
        self.closed += other.closed;
        self.chunks += other.chunks;
        self.chunks_inside_an_event += other.chunks_inside_an_event;
        self.chunks_shared += other.chunks_shared;
        self.chunks_full += other.chunks_full;
        self.fills += other.fills;
        self.failed += other.failed;
        self.ahead += other.ahead;
        self.left_out += other.left_out;
        self.lost_places += other.lost_places;
        self.removals += other.removals;
        self.truncated += other.truncated;
        self.truncated_fills += other.truncated_fills;
        self.keepalives += other.keepalives;
        self.cursors += other.cursors;
        self.superseded += other.superseded;
        self.superseded_with_a_word += other.superseded_with_a_word;
        self.superseded_inside_with_a_word += other.superseded_inside_with_a_word;
        self.starved += other.starved;
        self.weighed += other.weighed;
        self.grown_old += other.grown_old;
        self.grown_old_inside_an_event += other.grown_old_inside_an_event;
    }
}

/// The other end of a stream, and the socket between.
#[derive(Debug)]
struct Client {
    token: Token,
    twin: Twin,
    capacity: usize,
    filled: usize,
    /// Bytes it reads in a tick.
    rate: usize,
    stalled_until: Option<Tick>,
    error: Option<Errno>,
    /// Since when the hub waits: for a writable edge, or for a pause to end.
    blocked: Option<Tick>,
    /// Since when the kernel has had no memory for it, and tells no edge.
    starved: Option<Tick>,
    has_starved: bool,
    silent_since: Tick,
    opened: Tick,
    /// When a newer stream took its place, and whether it stood inside an event then.
    superseded: Option<(Tick, bool)>,
}

#[derive(Debug)]
struct World {
    rng: StdRng,
    hub: Hub,
    now: Tick,
    journal: Journal,
    undelivered: VecDeque<CommittedBatch>,
    jobs: Vec<HistoryJob>,
    /// What was read, and has not arrived.
    answers: Vec<History>,
    clients: BTreeMap<i32, Client>,
    next_peer: i32,
    stale: Vec<Token>,
    payload_bytes_max: usize,
    chunk_bytes: usize,
    fill_bytes: usize,
    /// Of so many events one is a deletion.
    deletes_every: u32,
    /// Of so many steps, and reads, one is a removal.
    removes_every: u32,
    /// Where most streams begin.
    prefers: u32,
    is_draining: bool,
    /// What the clients got that are gone.
    gone: Counts,
    coverage: Coverage,
}

impl World {
    fn new(seed: u64) -> World {
        let mut rng = StdRng::seed_from_u64(seed);
        let is_full_size = rng.random_bool(0.01);
        let segment_bytes = 1 << rng.random_range(7..13);
        let tail_bytes_max = segment_bytes * rng.random_range(1..8);
        let (limits, unit) = if is_full_size {
            (HubLimits::default(), 64 * 1024)
        } else {
            let limits = HubLimits {
                tail_shape: TailShape {
                    segment_bytes: segment_bytes as u32,
                    mark_bytes: rng.random_range(1..segment_bytes as u32),
                },
                tail_bytes_max,
                tails_bytes_max: tail_bytes_max * rng.random_range(1..6),
                replay_chunks_max: rng.random_range(1..8),
                cursor_lag_ids: rng.random_range(1..60),
            };
            (limits, segment_bytes)
        };
        let start = [0, 1_000_000, u32::MAX - 700, (1 << 31) - 700];
        let now = Tick(*start.choose(&mut rng).unwrap());
        let config = HubConfig {
            keepalive_ticks: rng.random_range(2..300),
            client_timeout_ticks: rng.random_range(1..600),
            lifetime_ticks: if rng.random_bool(0.5) { 0 } else { rng.random_range(1..3_000) },
            lifetime_retry_ms_max: rng.random_range(0..9),
            seed: rng.random(),
            limits,
        };
        let first = EventId(*[0, 0, 1 << 32].choose(&mut rng).unwrap());
        World {
            hub: Hub::new(config, now, first),
            now,
            journal: Journal { end: first, ..Journal::default() },
            undelivered: VecDeque::new(),
            jobs: Vec::new(),
            answers: Vec::new(),
            clients: BTreeMap::new(),
            next_peer: 10,
            stale: Vec::new(),
            payload_bytes_max: *[30, unit / 2, unit * 3].choose(&mut rng).unwrap(),
            chunk_bytes: rng.random_range(1..unit * 2),
            fill_bytes: rng.random_range(0..unit * 4),
            deletes_every: *[u32::MAX, 60, 10].choose(&mut rng).unwrap(),
            removes_every: *[u32::MAX, 60, 10].choose(&mut rng).unwrap(),
            prefers: rng.random_range(0..8),
            is_draining: false,
            gone: Counts::default(),
            coverage: Coverage::default(),
            rng,
        }
    }

    fn live(&mut self) {
        let drains_at = self.rng.random_bool(0.2).then(|| self.rng.random_range(0..STEPS));
        for step in 0..STEPS {
            if Some(step) == drains_at {
                let (window, retry) = (self.rng.random_range(0..400), self.rng.random_range(0..9));
                self.hub.handle_drain(window, retry);
                self.is_draining = true;
            }
            self.step();
            if self.chance(1, INVARIANTS_EVERY) {
                self.hub.invariants();
                self.counts_are_right();
            }
        }
        self.rest();
    }

    /// What the hub counts for all is what the clients got.
    fn counts_are_right(&self) {
        let Counts { bytes, events, keepalives, .. } = self.gone;
        let twins = || self.clients.values().map(|client| &client.twin);
        let bytes = bytes + twins().map(|twin| twin.bytes).sum::<u64>();
        let events = events + twins().map(|twin| u64::from(twin.events)).sum::<u64>();
        let counts = self.hub.counts();
        assert_eq!((counts.bytes, counts.events), (bytes, events));
        // One that was begun is counted, and heard only when it is whole.
        let begun = twins().filter(|twin| !twin.pending.is_empty()).count() as u64 + keepalives;
        let heard = self.coverage.keepalives;
        assert!((heard..=heard + begun).contains(&counts.keepalives), "{counts:?} {heard}");
        assert!(counts.replayed + self.coverage.weighed <= counts.events);
    }

    /// What the hub says of a stream that has ended is what its client got.
    fn note_gone(&mut self, closed: Closed, twin: &Twin) {
        assert_eq!((closed.events, closed.bytes), (twin.events, twin.bytes));
        self.gone.events += u64::from(twin.events);
        self.gone.bytes += twin.bytes;
        self.gone.keepalives += u64::from(!twin.pending.is_empty());
    }

    fn chance(&mut self, count: u32, of: u32) -> bool {
        self.rng.random_ratio(count, of)
    }

    fn step(&mut self) {
        match self.rng.random_range(0..100) {
            0..15 => self.commit(),
            15..32 => self.deliver(),
            32..40 => self.subscribe(),
            40 => self.subscribe_probe(),
            41 => self.hang_up(),
            42 => self.supersede(),
            43..45 => self.disturb(),
            45..60 => match self.rng.random_range(0..40) {
                0 => self.pass_at_once(10_000),
                1..8 => self.pass_at_once(200),
                8..12 => self.pass(200),
                _ => self.pass(12),
            },
            60..80 => {
                let max = if self.chance(1, 3) { self.rng.random_range(1..4) } else { 128 };
                self.send(max);
            }
            80..90 => self.answer_one(),
            90..99 => self.edges(false),
            _ => self.poll_history(),
        }
        if self.chance(3, 4) {
            self.poll_history();
        }
        self.remove_at_times();
        self.reap();
    }

    // ---- the journal --------------------------------------------------------------------------

    fn payload(&mut self) -> String {
        let max = if self.chance(1, 3) { self.payload_bytes_max } else { 40 };
        let size = self.rng.random_range(0..=max);
        let letter = self.rng.random_range(b'a'..=b'z') as char;
        format!("\"{}\"", letter.to_string().repeat(size))
    }

    fn commit(&mut self) {
        let mut batch = CommittedBatch::default();
        let count = if self.chance(1, 4) { self.rng.random_range(1..40) } else { 2 };
        for _ in 0..count {
            let alive: Vec<RunId> = self.runs(|run| run.ended.is_none() && run.deleted.is_none());
            let present: Vec<RunId> = self.runs(|run| run.deleted.is_none());
            let kind = self.rng.random_range(0..60);
            if alive.is_empty() || (kind < 2 && alive.len() < 8) {
                let mut label = || {
                    let name = LABELS.choose(&mut self.rng)?;
                    self.rng.random_bool(0.8).then(|| Label::new(name).unwrap())
                };
                let labels = Arc::new(Labels { project: label(), session: label() });
                let newest = EventId(0);
                self.journal.runs.push(Run { labels, seq: 0, newest, ended: None, deleted: None });
                let run = RunId(self.journal.runs.len() as u64);
                self.journal.append(run, "RUN_CREATED", "{}".into(), &mut batch);
            } else if self.rng.random_ratio(1, self.deletes_every) {
                let run = *present.choose(&mut self.rng).unwrap();
                self.journal.delete(run, &mut batch);
            } else {
                let run = *alive.choose(&mut self.rng).unwrap();
                let closing = ["RUN_COMPLETED", "RUN_FAILED", "RUN_CANCELLED"];
                let names = if kind == 3 { &closing[..] } else { &TYPES[..] };
                let event_type = *names.choose(&mut self.rng).unwrap();
                let payload = self.payload();
                self.journal.append(run, event_type, payload, &mut batch);
            }
        }
        self.coverage.events += batch.events.len() as u64;
        self.journal.tell_vanished(&mut batch);
        self.undelivered.push_back(batch);
    }

    /// Retention comes by: everything up to some event goes, or all but the last events of a run.
    fn remove_at_times(&mut self) {
        if !self.rng.random_ratio(1, self.removes_every) || self.journal.events.is_empty() {
            return;
        }
        self.coverage.removals += 1;
        if self.chance(1, 2) {
            let count = self.journal.events.len();
            let last = if self.chance(1, 4) { count } else { count.div_ceil(2) };
            let upto = self.journal.events[self.rng.random_range(0..last)].id();
            self.journal.remove_through(upto);
        } else {
            let run = RunId(self.rng.random_range(1..=self.journal.runs.len() as u64));
            let count = self.rng.random_range(1..6);
            self.journal.keep_last(run, count);
        }
    }

    fn runs(&self, wanted: impl Fn(&Run) -> bool) -> Vec<RunId> {
        let runs = self.journal.runs.iter().enumerate().filter(|(_, run)| wanted(run));
        runs.map(|(index, _)| RunId(index as u64 + 1)).collect()
    }

    fn deliver(&mut self) {
        let count = if self.chance(1, 3) { 3 } else { 1 };
        for _ in 0..count {
            let Some(batch) = self.undelivered.pop_front() else { return };
            let at = Moment(self.now.0.wrapping_mul(10_000));
            self.hub.handle_committed(&batch, at);
            if self.chance(1, 20) {
                // The same once more, as while a worker is starting.
                self.hub.handle_committed(&batch, at);
            }
        }
    }

    fn poll_history(&mut self) {
        while let Some(job) = self.hub.poll_history() {
            self.jobs.push(job);
        }
        self.coverage.chunks_full +=
            u64::from(self.hub.chunks.len() == self.hub.config.limits.replay_chunks_max);
    }

    /// History is read, and arrives now or later.
    fn answer_one(&mut self) {
        if !self.answers.is_empty() && (self.jobs.is_empty() || self.chance(1, 2)) {
            let index = self.rng.random_range(0..self.answers.len());
            let history = self.answers.swap_remove(index);
            self.hand_over(history);
            return;
        }
        if self.jobs.is_empty() {
            return;
        }
        let index = self.rng.random_range(0..self.jobs.len());
        let job = self.jobs.swap_remove(index);
        let history = if self.chance(1, 100) {
            self.coverage.failed += 1;
            History::failed(job.reader)
        } else {
            self.read(&job)
        };
        self.remove_at_times();
        if self.chance(1, 4) {
            self.answers.push(history);
        } else {
            self.hand_over(history);
        }
    }

    fn hand_over(&mut self, history: History) {
        if let (true, HistoryReader::Chunk { number, .. }) = (history.failed, history.reader) {
            let waiting = self.hub.chunks.waiting(number);
            let clients = self.clients.values_mut();
            clients.filter(|client| waiting.contains(&client.token)).for_each(|client| {
                client.twin.has_failed = true;
            });
        }
        self.hub.handle_history(history);
    }

    fn read(&mut self, job: &HistoryJob) -> History {
        let mut history = History { failed: false, ..History::failed(job.reader) };
        let format = job.spec.format;
        match job.reader {
            HistoryReader::View { .. } => {
                self.coverage.fills += 1;
                let all = self.journal.read(&job.spec, EventId(0), job.upto);
                let mut size = 0;
                let before = all.iter().rev().find(|stored| {
                    size += stored.frame(format).len();
                    size > self.fill_bytes
                });
                let removed = self.journal.removed_through(&job.spec).min(job.upto);
                history.covered_after =
                    before.map_or(EventId(0), |stored| stored.id()).max(removed);
                if self.rng.random_ratio(1, 4) {
                    // It has looked at enough.
                    let range = history.covered_after.0..=job.upto.0;
                    history.covered_after = EventId(self.rng.random_range(range));
                }
                // It looks twice, and something may happen between the two.
                self.remove_at_times();
                for stored in self.journal.read(&job.spec, history.covered_after, job.upto) {
                    history.events += 1;
                    history.bytes.extend_from_slice(stored.frame(format));
                }
                history.truncated = self.seems_truncated(job, history.covered_after, job.upto);
                self.coverage.truncated_fills += u64::from(history.truncated);
            }
            HistoryReader::Chunk { number, after } => {
                self.coverage.chunks += 1;
                let waiting = self.hub.chunks.waiting(number);
                self.coverage.chunks_shared += u64::from(waiting.len() > 1);
                let mut keys = waiting.iter().filter_map(|token| self.hub.subscribers.find(*token));
                let is_inside = keys.any(|key| self.hub.subscribers[key].partial > 0);
                self.coverage.chunks_inside_an_event += u64::from(is_inside);
                assert!(after < job.upto, "there is something to read");
                history.scanned_to = job.upto;
                let events = self.journal.read(&job.spec, after, job.upto);
                let first = events.first().map_or(job.upto, |stored| EventId(stored.id().0 - 1));
                if first > after.next() && self.rng.random_ratio(1, 4) {
                    // A filter that matches nothing.
                    let range = after.0 + 1..=first.0;
                    history.scanned_to = EventId(self.rng.random_range(range));
                } else {
                    for stored in events {
                        history.events += 1;
                        history.bytes.extend_from_slice(stored.frame(format));
                        if history.bytes.len() >= self.chunk_bytes || self.rng.random_ratio(1, 20) {
                            history.scanned_to = stored.id();
                            break;
                        }
                    }
                }
                history.truncated = self.seems_truncated(job, after, history.scanned_to);
            }
        }
        history
    }

    /// Whether a reader of what is between the two finds that something is gone: when something is,
    /// and perhaps when something comes later.
    fn seems_truncated(&mut self, job: &HistoryJob, after: EventId, upto: EventId) -> bool {
        let may_be = self.journal.removed_through(&job.spec) > after && self.chance(1, 2);
        may_be || self.journal.is_truncated(&job.spec, after, upto)
    }

    // ---- clients ------------------------------------------------------------------------------

    fn subscribe(&mut self) {
        if self.is_draining || self.clients.len() >= 14 {
            return;
        }
        let Some(spec) = self.spec() else { return };
        let (seen, end) = (self.hub.seen(), self.journal.end);
        let mut greeting = Vec::new();
        if self.chance(1, 2) {
            sse::retry(&mut greeting, std::time::Duration::from_secs(3));
        }
        let kind = if self.chance(1, 2) { self.prefers } else { self.rng.random_range(0..8) };
        let start = match kind {
            0..2 => Start::After(EventId(0)),
            2 => {
                sse::reset(&mut greeting);
                Start::After(EventId(0))
            }
            3 => Start::Now,
            4 => Start::After(end),
            5 => Start::After(EventId(self.rng.random_range(seen.0..=end.0))),
            6 => {
                // What was there when the world began has no events.
                let first = self.journal.events.first().map_or(end, Stored::id);
                Start::After(EventId(self.rng.random_range(first.0..=end.0)))
            }
            _ => Start::After(EventId(end.0.saturating_sub(self.rng.random_range(0..20)))),
        };
        let newest = match &spec.selection.scope {
            Scope::Runs(runs) => {
                runs.iter().map(|run| self.journal.run(*run).newest).max().unwrap()
            }
            _ => self.newest(&spec),
        };
        let unended = match &spec.selection.scope {
            Scope::Runs(runs) => {
                let has_ended =
                    |run: &RunId| self.journal.run(*run).ended.is_some_and(|id| id <= seen);
                runs.iter().copied().filter(|run| !has_ended(run)).collect()
            }
            _ => Vec::new(),
        };
        let cursor = match start {
            Start::Now => seen,
            Start::After(cursor) => cursor,
        };
        let mut twin = self.twin(Some(spec.clone()), &greeting, cursor);
        if start == Start::Now {
            let mut named = Vec::new();
            sse::cursor(&mut named, seen);
            twin.greeting.extend(named);
        }
        let heartbeat = self.chance(1, 4);
        if heartbeat {
            twin.keepalive = sse::HEARTBEAT;
        }
        let peer = Peer(self.next_peer);
        let token = self.hub.subscribe(Subscribe {
            peer,
            is_local: twin.is_local,
            spec,
            start,
            greeting,
            heartbeat,
            newest,
            unended,
        });
        self.coverage.ahead += u64::from(self.hub.subscribers[token.key].phase == Phase::Ahead);
        self.connect(token, twin);
    }

    /// The newest event in a scope that there ever was, or something later.
    fn newest(&mut self, spec: &ViewSpec) -> EventId {
        if self.chance(1, 2) {
            return self.journal.end;
        }
        let events = self.journal.events.iter().rev();
        events.filter(|stored| stored.is_in_scope(spec)).map(Stored::id).next().unwrap_or_default()
    }

    /// What somebody else wants too, or something new.
    fn spec(&mut self) -> Option<ViewSpec> {
        if self.chance(1, 2)
            && let Some(peer) = self.any_client()
            && let Some(spec) = &self.clients[&peer].twin.spec
            && !matches!(&spec.selection.scope, Scope::Runs(runs)
                if runs.iter().any(|run| self.journal.run(*run).deleted.is_some()))
        {
            return Some(spec.clone());
        }
        let scope = self.scope()?;
        let types = self.chance(1, 3).then(|| {
            let mut types: Vec<EventType> = TYPES.map(|name| EventType::new(name).unwrap()).into();
            types.retain(|_| self.rng.random_bool(0.4));
            types.into()
        });
        let format = if self.chance(1, 3) { Format::Payload } else { Format::Envelope };
        Some(ViewSpec { selection: Selection { scope, types }, format })
    }

    fn scope(&mut self) -> Option<Scope> {
        let label = Label::new(LABELS.choose(&mut self.rng)?).unwrap();
        Some(match self.rng.random_range(0..8) {
            0 => Scope::All,
            1 => Scope::Project(label),
            2 => Scope::Session(label),
            kind => {
                let runs = self.runs(|run| run.deleted.is_none());
                let wanted = if kind == 3 { self.rng.random_range(1..5) } else { 1 };
                let mut runs: Vec<RunId> =
                    (0..wanted).filter_map(|_| runs.choose(&mut self.rng).copied()).collect();
                runs.sort_unstable();
                runs.dedup();
                if runs.is_empty() {
                    return None;
                }
                Scope::Runs(runs.into())
            }
        })
    }

    fn subscribe_probe(&mut self) {
        if self.is_draining {
            return;
        }
        let twin = self.twin(None, &[], EventId(0));
        let token = self.hub.subscribe_probe(Peer(self.next_peer), twin.is_local);
        self.connect(token, twin);
    }

    fn twin(&mut self, spec: Option<ViewSpec>, greeting: &[u8], cursor: EventId) -> Twin {
        Twin {
            spec,
            keepalive: sse::KEEPALIVE,
            is_local: self.chance(1, 4),
            greeting: greeting.iter().copied().collect(),
            cursor,
            probes: 0,
            pending: Vec::new(),
            last_output: self.now,
            quiet_ticks_min: 0,
            said_goodbye: false,
            has_failed: false,
            told_of: 0,
            bytes: 0,
            events: 0,
        }
    }

    fn connect(&mut self, token: Token, twin: Twin) {
        assert_eq!(self.hub.peer(token), Some(Peer(self.next_peer)));
        let capacity = match self.rng.random_range(0..3) {
            0 => 1 << 24,
            1 => self.rng.random_range(1..100),
            _ => self.rng.random_range(1..self.payload_bytes_max * 4),
        };
        let rate = if self.chance(1, 2) { capacity } else { self.rng.random_range(1..=capacity) };
        let client = Client {
            token,
            twin,
            capacity,
            filled: 0,
            rate,
            stalled_until: None,
            error: None,
            blocked: None,
            starved: None,
            has_starved: false,
            silent_since: self.now,
            opened: self.now,
            superseded: None,
        };
        self.coverage.streams += 1;
        self.clients.insert(self.next_peer, client);
        self.next_peer += 1;
    }

    fn any_client(&mut self) -> Option<i32> {
        let peers: Vec<i32> = self.clients.keys().copied().collect();
        peers.choose(&mut self.rng).copied()
    }

    fn hang_up(&mut self) {
        let Some(peer) = self.any_client() else { return };
        let error = [None, Some(Errno::CONNRESET), Some(Errno::TIMEDOUT)];
        let error = *error.choose(&mut self.rng).unwrap();
        let client = &self.clients[&peer];
        let token = client.token;
        self.hub.handle_hangup(token, error);
        let reason = if error == Some(Errno::TIMEDOUT) { Reason::Timeout } else { Reason::Client };
        let closed = self.hub.poll_closed().expect("a hang-up closes at once");
        assert_eq!((closed.peer, closed.reason), (Peer(peer), reason));
        let client = self.clients.remove(&peer).expect("it was there");
        self.note_gone(closed, &client.twin);
        self.stale.push(token);
    }

    /// A newer stream has taken the place of one.
    fn supersede(&mut self) {
        let Some(peer) = self.any_client() else { return };
        let client = self.clients.get_mut(&peer).unwrap();
        client.superseded.get_or_insert((self.now, !client.twin.pending.is_empty()));
        self.hub.handle_superseded(client.token, std::time::Duration::from_secs(30), "run");
        self.reap();
    }

    /// What may happen to a socket, or be said of one, at any time.
    fn disturb(&mut self) {
        let errors = [Errno::PIPE, Errno::CONNRESET, Errno::TIMEDOUT];
        let error = *errors.choose(&mut self.rng).unwrap();
        let until = self.now.plus(self.rng.random_range(0..2_000));
        let kind = self.rng.random_range(0..4);
        if kind == 0
            && let Some(token) = self.stale.choose(&mut self.rng)
        {
            let before = self.hub.subscriber_count();
            self.hub.handle_writable(*token);
            self.hub.handle_hangup(*token, None);
            self.hub.handle_superseded(*token, std::time::Duration::ZERO, "run");
            assert_eq!((self.hub.peer(*token), self.hub.subscriber_count()), (None, before));
        }
        let Some(peer) = self.any_client() else { return };
        let client = self.clients.get_mut(&peer).unwrap();
        match kind {
            0 => {}
            1 => client.error = Some(error),
            2 => client.stalled_until = Some(until),
            _ => {
                // An edge that nobody waits for, or for which there is no reason.
                let token = client.token;
                if client.starved.is_none() {
                    client.unblock(self.now);
                }
                self.hub.handle_writable(token);
            }
        }
    }

    /// Sockets that take bytes again are reported; not all of them at once.
    fn edges(&mut self, all: bool) {
        for client in self.clients.values_mut() {
            let is_writable = client.filled < client.capacity;
            let waits = client.blocked.is_some() && client.starved.is_none();
            if waits && is_writable && (all || self.rng.random_bool(0.7)) {
                if self.rng.random_ratio(1, 50) {
                    (client.starved, client.has_starved) = (Some(self.now), true);
                    self.hub.handle_unwatched(client.token);
                    continue;
                }
                client.unblock(self.now);
                self.hub.handle_writable(client.token);
                if self.rng.random_ratio(1, 10) {
                    self.hub.handle_writable(client.token);
                }
            }
        }
    }

    /// Up to so many ticks, as they go by.
    fn pass(&mut self, ticks_max: u32) {
        let ticks = self.rng.random_range(0..=ticks_max);
        self.pass_exactly(ticks);
    }

    fn pass_exactly(&mut self, ticks: u32) {
        let end = self.now.plus(ticks);
        while self.now != end {
            // A deadline of this very tick is one of those that came late.
            let next = self.hub.next_deadline().filter(|next| *next != self.now);
            let next = next.filter(|next| self.now.until(*next) < self.now.until(end));
            self.set_clock(next.unwrap_or(end));
            self.send_all();
            self.reap();
        }
        self.read_sockets(ticks);
    }

    /// The same without a look at anything in between: the worker was held up.
    fn pass_at_once(&mut self, ticks_max: u32) {
        let ticks = self.rng.random_range(0..=ticks_max);
        self.set_clock(self.now.plus(ticks));
        self.read_sockets(ticks);
    }

    fn set_clock(&mut self, now: Tick) {
        self.now = now;
        self.hub.handle_time(now, Timestamp(u64::from(now.0)));
        for client in self.clients.values_mut() {
            let Some(since) = client.starved else { continue };
            let key = self.hub.subscribers.find(client.token);
            if key.is_none_or(|key| !self.hub.subscribers[key].flags.has(Flags::STARVED)) {
                let waited = since.until(now);
                assert!(key.is_none() || waited >= STARVED_TICKS, "after {waited} ticks");
                client.unblock(now);
            }
        }
    }

    fn read_sockets(&mut self, ticks: u32) {
        for client in self.clients.values_mut() {
            if client.stalled_until.is_some_and(|until| !until.is_reached(self.now)) {
                continue;
            }
            client.stalled_until = None;
            let read = client.rate.saturating_mul(ticks as usize);
            client.filled = client.filled.saturating_sub(read);
        }
    }

    // ---- the ring -----------------------------------------------------------------------------

    fn send(&mut self, max: usize) -> bool {
        let mut plan = Vec::new();
        self.hub.poll_sends(max, &mut plan);
        assert!(plan.len() <= max);
        let sent: Vec<Vec<u8>> = plan.iter().map(|send| self.hub.bytes(send).to_vec()).collect();
        for (outgoing, bytes) in plan.iter().zip(&sent) {
            assert!(!bytes.is_empty());
            let client =
                self.clients.get_mut(&outgoing.peer.0).expect("only who is there is sent to");
            assert!(client.blocked.is_none(), "nothing is sent to who takes nothing");
            let result = client.take(bytes, &mut self.rng);
            if let Ok(count) = result {
                client.silent_since = self.now;
                let keepalives = self.coverage.keepalives;
                client.twin.hear(&bytes[..count], self.now, &self.journal, &mut self.coverage);
                if self.coverage.keepalives > keepalives {
                    // The first may come at any time, all others after some silence.
                    client.twin.quiet_ticks_min = self.hub.config.keepalive_ticks / 3;
                }
            }
            let is_starved = matches!(result, Err(Errno::NOBUFS | Errno::NOMEM | Errno::CANCELED));
            let watched = self.hub.handle_sent(outgoing, result);
            assert!(watched.is_none_or(|token| token == client.token && !is_starved));
            if is_starved {
                (client.starved, client.has_starved) = (Some(self.now), true);
                self.coverage.starved += 1;
            }
            if watched.is_some() || is_starved {
                client.blocked = Some(self.now);
            }
        }
        let coverage = &mut self.coverage;
        self.hub.poll_latencies(Moment(self.now.0.wrapping_mul(10_000)), |_, events| {
            coverage.weighed += u64::from(events);
        });
        !plan.is_empty()
    }

    /// Sends until there is nothing to send; then nobody may have been silent for too long.
    fn send_all(&mut self) {
        while self.send(128) || self.hub.wants_to_send() {}
        self.nobody_is_forgotten();
        let interval = self.hub.config.keepalive_ticks;
        let lifetime = self.hub.config.lifetime_ticks;
        // Who is being ended has its time for that.
        let may_be_ending = self.is_draining || lifetime > 0;
        let limit =
            self.hub.config.client_timeout_ticks + if may_be_ending { GOODBYE_TICKS } else { 0 };
        for client in self.clients.values() {
            let interval = if client.twin.spec.is_none() { PROBE_TICKS } else { interval };
            if let Some((superseded, _)) = client.superseded {
                let is_open = self.hub.peer(client.token).is_some();
                // So long for the event that it is in, and so long for its last word.
                let is_late = superseded.until(self.now) > 2 * GOODBYE_TICKS + STARVED_TICKS;
                assert!(!(is_open && is_late), "superseded, and still there: {client:?}");
                continue;
            }
            if let Some(blocked) = client.blocked {
                let is_open = self.hub.peer(client.token).is_some();
                let is_stuck = client.starved.is_none() && blocked.until(self.now) > limit;
                assert!(!(is_open && is_stuck && client.twin.is_local), "stuck: {client:?}");
                continue;
            }
            if !client.twin.pending.is_empty() {
                continue;
            }
            let silent = client.silent_since.until(self.now);
            let is_open = self.hub.peer(client.token).is_some();
            assert!(!is_open || silent <= interval, "silent for {silent} of {interval} ticks");
            let age = client.opened.until(self.now);
            let is_old = lifetime > 0 && age > lifetime + lifetime / 10;
            assert!(!(is_open && is_old), "open for {age} of {lifetime} ticks");
        }
    }

    /// With nothing left to send, nobody who takes bytes has any to come.
    fn nobody_is_forgotten(&self) {
        let subscribers = self.hub.subscribers.slab.iter().map(|(_, subscriber)| subscriber);
        for subscriber in subscribers.filter(|other| !other.flags.has(Flags::BLOCKED)) {
            assert!(subscriber.outbox == NONE && !matches!(subscriber.phase, Phase::Closing));
            if subscriber.phase == Phase::Live {
                let view = &self.hub.views[subscriber.view];
                assert!(subscriber.offset == view.tail.end() && !view.has_ended());
            }
        }
    }

    /// Takes what was closed, each for a reason.
    fn reap(&mut self) {
        while let Some(closed) = self.hub.poll_closed() {
            let client = self.clients.remove(&closed.peer.0).expect("a peer is closed once");
            assert_eq!(self.hub.peer(client.token), None);
            self.stale.push(client.token);
            self.note_gone(closed, &client.twin);
            self.coverage.closed += 1;
            let twin = &client.twin;
            let runs: &[RunId] = match &twin.spec {
                Some(ViewSpec {
                    selection: Selection { scope: Scope::Runs(runs), .. }, ..
                }) => runs,
                _ => &[],
            };
            match closed.reason {
                Reason::Client => {
                    assert!(matches!(client.error, Some(Errno::PIPE | Errno::CONNRESET)));
                }
                Reason::Timeout => {
                    let limit = self.hub.config.client_timeout_ticks;
                    let silent = twin.last_output.until(self.now);
                    let is_stuck = twin.is_local && client.blocked.is_some() && silent >= limit;
                    assert!(is_stuck || client.error == Some(Errno::TIMEDOUT));
                }
                Reason::RunEnded => {
                    let seen = self.hub.seen();
                    let has_ended = |run: &RunId| {
                        let run = self.journal.run(*run);
                        let is_seen = |id: Option<EventId>| id.is_some_and(|id| id <= seen);
                        is_seen(run.ended) || is_seen(run.deleted)
                    };
                    assert!(!runs.is_empty() && runs.iter().all(has_ended));
                    assert!(twin.pending.is_empty() && twin.greeting.is_empty());
                    assert_eq!(twin.missing(&self.journal, self.journal.end), None);
                }
                Reason::RunDeleted => {
                    assert!(runs.len() == 1 && self.journal.run(runs[0]).deleted.is_some());
                }
                Reason::Error => {
                    let lost_place = twin.is_inside_removed(&self.journal);
                    self.coverage.lost_places += u64::from(lost_place);
                    assert!(twin.has_failed || lost_place);
                }
                Reason::Lifetime => {
                    let lifetime = self.hub.config.lifetime_ticks;
                    let age = client.opened.until(self.now);
                    assert!(lifetime > 0 && age >= lifetime - lifetime / 10, "{age} {lifetime}");
                    // Between two frames, but for a goodbye that was not taken.
                    let rest = &twin.pending;
                    let is_goodbye = rest.starts_with(b"retry: ") || b"retry: ".starts_with(rest);
                    assert!(twin.greeting.is_empty() && is_goodbye, "{client:?}");
                    self.coverage.grown_old += 1;
                    let is_late = age > lifetime + lifetime / 10 + GOODBYE_TICKS;
                    self.coverage.grown_old_inside_an_event += u64::from(is_late);
                }
                Reason::Limit => {
                    let (superseded, was_inside) = client.superseded.expect("by somebody");
                    let has_waited = superseded.until(self.now) >= GOODBYE_TICKS;
                    let takes_nothing = client.blocked.is_some() || client.has_starved;
                    // A local peer that has taken nothing for long has had its time.
                    let is_cut_off = takes_nothing || twin.is_local;
                    assert!(twin.said_goodbye || has_waited || is_cut_off, "{client:?}");
                    self.coverage.superseded += 1;
                    let said = u64::from(twin.said_goodbye);
                    self.coverage.superseded_with_a_word += said;
                    self.coverage.superseded_inside_with_a_word += said * u64::from(was_inside);
                }
                Reason::Drain => assert!(self.is_draining),
            }
        }
    }

    // ---- the end ------------------------------------------------------------------------------

    /// Nothing new comes; what is under way arrives, and everybody reads.
    fn rest(&mut self) {
        for client in self.clients.values_mut() {
            client.stalled_until = None;
            client.capacity = client.capacity.max(self.payload_bytes_max * 2 + 500);
            client.rate = client.capacity;
        }
        for round in 0.. {
            assert!(round < REST_ROUNDS, "the world does not come to rest: {self:#?}");
            self.deliver();
            self.poll_history();
            while !(self.jobs.is_empty() && self.answers.is_empty()) && self.chance(3, 4) {
                self.answer_one();
            }
            self.edges(true);
            self.send_all();
            self.reap();
            let is_quiet = self.undelivered.is_empty()
                && self.jobs.is_empty()
                && self.answers.is_empty()
                && self.hub.replay_queue.is_empty()
                && self.clients.values().all(|client| client.blocked.is_none());
            if is_quiet && !self.hub.wants_to_send() && self.hub.jobs.is_empty() {
                break;
            }
            self.pass_exactly(1);
        }
        self.poll_history();
        self.hub.invariants();
        self.counts_are_right();
        assert_eq!(self.hub.lagging_count(), 0);
        assert_eq!(self.hub.seen(), self.journal.end);
        assert_eq!(self.hub.subscriber_count(), self.clients.len());
        assert_eq!(self.hub.chunks.len(), 0, "no chunk is left");
        for client in self.clients.values() {
            let twin = &client.twin;
            assert!(twin.greeting.is_empty());
            assert!(twin.pending.is_empty(), "inside a frame: {client:?}");
            if twin.said_goodbye {
                continue;
            }
            let missing = twin.missing(&self.journal, self.journal.end);
            assert_eq!(missing, None, "{client:#?} {:#?}", self.hub.subscribers[client.token.key]);
            if let Some(ViewSpec {
                selection: Selection { scope: Scope::Runs(runs), .. }, ..
            }) = &twin.spec
            {
                let is_open = |run: &RunId| {
                    let run = self.journal.run(*run);
                    run.ended.is_none() && run.deleted.is_none()
                };
                assert!(runs.iter().any(is_open), "its runs have ended: {client:?}");
            }
        }
        if self.is_draining {
            for _ in 0..10 {
                self.pass_exactly(400);
                self.edges(true);
                self.send_all();
                self.reap();
            }
            assert_eq!(self.hub.subscriber_count(), 0, "drained");
        }
        // Everybody leaves.
        while !self.clients.is_empty() {
            self.hang_up();
        }
        self.hub.invariants();
        assert_eq!((self.hub.view_count(), self.hub.tails_bytes()), (0, 0));
    }
}

impl Client {
    fn unblock(&mut self, now: Tick) {
        if self.blocked.take().is_some() {
            self.silent_since = now;
        }
        self.starved = None;
    }

    /// What the kernel says to a send.
    fn take(&mut self, bytes: &[u8], rng: &mut StdRng) -> Result<usize, Errno> {
        if let Some(error) = self.error {
            return Err(error);
        }
        if rng.random_ratio(1, 100) {
            let passing = [Errno::NOBUFS, Errno::NOMEM, Errno::CANCELED, Errno::INTR];
            return Err(*passing.choose(rng).unwrap());
        }
        let mut count = bytes.len().min(self.capacity - self.filled);
        if count == 0 {
            return Err(Errno::AGAIN);
        }
        if rng.random_ratio(1, 20) {
            count = rng.random_range(1..=count);
        }
        self.filled += count;
        Ok(count)
    }
}
