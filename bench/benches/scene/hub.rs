//! A hub with as many streams as a worker is asked to have, and sockets that are made up: they take
//! every send whole.

use std::{hint::black_box, sync::Arc};

use tidewheel::{
    event::{Event, EventId, EventType, Format, Json, Labels, RunId, Scope, Selection, Timestamp},
    hub::{
        History, Hub, HubConfig, HubLimits, Moment, Outgoing, Peer, Start, Subscribe, Token,
        ViewSpec,
    },
    journal::{CommittedBatch, CommittedEvent},
    limits::{
        CURSOR_LAG_IDS, REPLAY_CHUNKS_MAX, SEND_SLICE_MAX, TAIL_FILL_BYTES, TAILS_BYTES_MAX,
        TICK_MS,
    },
    tail::TailShape,
    timer_wheel::Tick,
    wire::sse,
};

/// Streams of a full worker.
pub const STREAMS: u32 = 20_000;
/// Runs that the streams are divided over, where each is of one run.
pub const RUNS: u32 = 1_000;
/// Events that come while the one before them is still being delivered.
pub const BURST: u32 = 20;
/// Events that are in the tail of everything at first: some segments full.
const EVENTS_BEFORE: u32 = 500;
/// A keepalive of 15 s.
const KEEPALIVE_TICKS: u32 = (15_000 / TICK_MS) as u32;
/// Rounds after which every stream has found its beat.
const ROUNDS_TO_BEAT: u32 = 3;
/// Tails of the views of [`RUNS`]: so small that they are full after a few rounds, and from then on
/// give up their oldest for what comes, as those of an old worker do.
const SMALL_TAILS: HubLimits = HubLimits {
    tail_shape: TailShape { segment_bytes: 4 * 1024, mark_bytes: 1024 },
    tail_bytes_max: 16 * 1024,
    tails_bytes_max: TAILS_BYTES_MAX,
    replay_chunks_max: REPLAY_CHUNKS_MAX,
    cursor_lag_ids: CURSOR_LAG_IDS,
};

/// See the module.
pub struct Streams {
    hub: Hub,
    tokens: Vec<Token>,
    now: Tick,
    plan: Vec<Outgoing>,
    taken: Vec<usize>,
}

impl Streams {
    /// A hub without streams, at the end of a journal of so many events.
    pub fn none(seen: EventId) -> Streams {
        Streams::within(HubLimits::default(), seen)
    }

    fn within(limits: HubLimits, seen: EventId) -> Streams {
        let config = HubConfig {
            keepalive_ticks: KEEPALIVE_TICKS,
            client_timeout_ticks: 2 * KEEPALIVE_TICKS,
            lifetime_ticks: 0,
            lifetime_retry_ms_max: 0,
            seed: 1,
            limits,
        };
        Streams {
            hub: Hub::new(config, Tick(0), seen),
            tokens: Vec::new(),
            now: Tick(0),
            plan: Vec::new(),
            taken: Vec::new(),
        }
    }

    /// All follow everything, and have had everything that is in the tail.
    pub fn of_everything() -> Streams {
        let mut streams = Streams::none(EventId(0));
        streams.subscribe_all(|_| Scope::All, Start::After(EventId(0)));
        let mut batch = batch([RunId(1)]);
        for _ in 0..EVENTS_BEFORE {
            streams.append(&mut batch);
        }
        streams.deliver();
        streams
    }

    /// Each follows one of [`RUNS`], whose tails are full.
    pub fn of_runs() -> Streams {
        let mut streams = Streams::within(SMALL_TAILS, EventId(0));
        streams.subscribe_all(run_of_its_own, Start::After(EventId(0)));
        let mut batch = batch(runs());
        for _ in 0..=SMALL_TAILS.tail_bytes_max / frame(&batch.events[0].event).len() {
            streams.append(&mut batch);
            streams.deliver();
        }
        streams
    }

    /// All follow everything and have found their beat.
    pub fn at_rest() -> Streams {
        let mut streams = Streams::of_everything();
        for _ in 0..ROUNDS_TO_BEAT {
            streams.keep_alive();
        }
        streams
    }

    /// All have come back with cursors of before a restart, spread over the history that is given
    /// with them: as much as a view reads into its tail.
    pub fn come_back() -> (Streams, Vec<u8>) {
        let mut history = Vec::new();
        let mut last = EventId(0);
        loop {
            let mut event = event(RunId(1));
            event.event.id = last.next();
            let frame = frame(&event.event);
            if history.len() + frame.len() > TAIL_FILL_BYTES {
                break;
            }
            history.extend_from_slice(&frame);
            last = last.next();
        }
        let mut streams = Streams::none(last);
        for n in 0..STREAMS {
            let cursor = EventId(u64::from(n) * 7_919 % last.0);
            streams.subscribe(n, Scope::All, Start::After(cursor));
        }
        (streams, history)
    }

    /// Opens all streams at the live end, which each is told of first.
    pub fn come(&mut self, scope: impl Fn(u32) -> Scope) -> u64 {
        self.subscribe_all(scope, Start::Now);
        self.deliver()
    }

    fn subscribe_all(&mut self, scope: impl Fn(u32) -> Scope, start: Start) {
        for n in 0..STREAMS {
            self.subscribe(n, scope(n), start);
        }
    }

    fn subscribe(&mut self, n: u32, scope: Scope, start: Start) {
        let unended = match &scope {
            Scope::Runs(runs) => runs.to_vec(),
            _ => Vec::new(),
        };
        let selection = Selection { scope, types: None };
        let token = self.hub.subscribe(Subscribe {
            peer: Peer(n.cast_signed()),
            is_local: false,
            spec: ViewSpec { selection, format: Format::Envelope },
            start,
            greeting: Vec::new(),
            heartbeat: false,
            newest: self.hub.seen(),
            unended,
        });
        self.tokens.push(token);
    }

    /// Takes the batch in, under the next ids.
    pub fn append(&mut self, batch: &mut CommittedBatch) {
        let mut last = self.hub.seen();
        for event in &mut batch.events {
            last = last.next();
            event.event.id = last;
        }
        batch.last_id = last;
        self.hub.handle_committed(batch, Moment(0));
    }

    /// Sends until nobody has anything to send; how many sends that were.
    pub fn deliver(&mut self) -> u64 {
        let Streams { hub, plan, taken, .. } = self;
        let mut sends = 0;
        while hub.wants_to_send() {
            plan.clear();
            taken.clear();
            hub.poll_sends(SEND_SLICE_MAX, plan);
            taken.extend(plan.iter().map(|send| black_box(hub.bytes(send)).len()));
            for (send, taken) in plan.iter().zip(&*taken) {
                assert_eq!(hub.handle_sent(send, Ok(*taken)), None);
            }
            hub.poll_latencies(Moment(0), |late, events| {
                black_box((late, events));
            });
            sends += plan.len() as u64;
        }
        sends
    }

    /// One keepalive interval passes, tick by tick; how many keepalives were sent.
    pub fn keep_alive(&mut self) -> u64 {
        let mut sends = 0;
        for _ in 0..KEEPALIVE_TICKS {
            self.now = self.now.plus(1);
            let wall = Timestamp(u64::from(self.now.0) * TICK_MS);
            self.hub.handle_time(self.now, wall);
            sends += self.deliver();
        }
        sends
    }

    /// Every client goes, in an order that has nothing to do with that of their coming.
    pub fn hang_up(&mut self) -> u32 {
        let mut closed = 0;
        for n in 0..self.tokens.len() {
            self.hub.handle_hangup(self.tokens[n * 7_919 % self.tokens.len()], None);
            while self.hub.poll_closed().is_some() {
                closed += 1;
            }
        }
        closed
    }

    /// The history that all wait for is read, once, and sent.
    pub fn fill(&mut self, history: Vec<u8>) -> u64 {
        let job = self.hub.poll_history().expect("somebody waits for history");
        self.hub.handle_history(History {
            reader: job.reader,
            events: 1,
            bytes: history,
            covered_after: EventId(0),
            scanned_to: EventId(0),
            truncated: false,
            failed: false,
        });
        self.deliver()
    }
}

/// The scope of a stream that follows one run of [`RUNS`].
pub fn run_of_its_own(n: u32) -> Scope {
    Scope::Runs([RunId(u64::from(n % RUNS) + 1)].into())
}

/// All runs, once.
pub fn runs() -> impl Iterator<Item = RunId> {
    (1..=u64::from(RUNS)).map(RunId)
}

/// One event for each of these runs; [`Streams::append`] gives the ids.
pub fn batch(runs: impl IntoIterator<Item = RunId>) -> CommittedBatch {
    let events = runs.into_iter().map(event).collect();
    CommittedBatch { events, ..CommittedBatch::default() }
}

fn event(run: RunId) -> CommittedEvent {
    let event = Event {
        id: EventId(0),
        run_id: run,
        seq: 678,
        event_type: EventType::new("AGENT_THINKING").expect("a type"),
        payload: Json::from_trusted(format!("{{\"text\":\"{}\"}}", "x".repeat(175))),
        created_at: Timestamp(1_800_000_000_000),
    };
    CommittedEvent { event, labels: Arc::new(Labels::default()) }
}

fn frame(event: &Event) -> Vec<u8> {
    let mut frame = Vec::new();
    sse::event(&mut frame, &event.borrowed(), Format::Envelope);
    frame
}
