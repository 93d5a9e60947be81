//! Streams that the server ends by itself, since it is going down, they have been open for long, or a
//! newer one has taken their place.
//!
//! When the end of a stream is due follows from when it was opened, and from its number: nothing of
//! it is kept. Its one timer fires then at the latest ([`Hub::arm`]). From that time on it is
//! *ending*: as soon as it stands between two frames it is told when to come back, and closed. In
//! the middle of an event an old stream is waited for as long as it takes, and one of a server that
//! goes down, or in whose place there is a newer one, for
//! [`GOODBYE_MS_MAX`](crate::limits::GOODBYE_MS_MAX).

use std::time::Duration;

use super::{
    Hub, Reason,
    delivery::Source,
    subscriber::{Flags, NONE, Outbox, Phase, Subscriber},
    timers::{GOODBYE_TICKS, STARVED_TICKS},
    token::Token,
};
use crate::{timer_wheel::Tick, wire::sse};

/// The server is going down.
#[derive(Clone, Copy, Debug)]
pub(super) struct Drain {
    began: Tick,
    window_ticks: u32,
    retry_ms_max: u32,
}

impl Hub {
    /// Ends every stream, also those that are still to come, spread over the window: each is told to
    /// come back after a time of its own, at most `retry_ms_max`. Until its end it goes on as ever.
    pub fn handle_drain(&mut self, window_ticks: u32, retry_ms_max: u32) {
        let drain = Drain { began: self.now, window_ticks, retry_ms_max };
        self.drain = Some(drain);
        let keys: Vec<u32> = self.subscribers.slab.iter().map(|(key, _)| key as u32).collect();
        for key in keys {
            let subscriber = &mut self.subscribers[key];
            match (subscriber.phase, subscriber.ending) {
                (_, None) => {
                    let deadline = subscriber.links.deadline();
                    self.arm(key, deadline);
                }
                // It takes too little for the event that it is in: now there is an end to that.
                (phase, Some(Reason::Lifetime)) if phase != Phase::Closing => {
                    subscriber.ending = Some(Reason::Drain);
                    let deadline = subscriber.links.deadline().or_before(drain.end(subscriber));
                    self.wheel.arm(&mut self.subscribers, key, deadline);
                }
                (_, Some(_)) => {}
            }
        }
    }

    /// Arms the timer of a subscriber: for this deadline, or for its end if that comes first.
    pub(super) fn arm(&mut self, key: u32, deadline: Tick) {
        let subscriber = &self.subscribers[key];
        let deadline = match self.end_of(subscriber) {
            Some((end, _)) if subscriber.ending.is_none() => deadline.or_before(end),
            _ => deadline,
        };
        self.wheel.arm(&mut self.subscribers, key, deadline);
    }

    /// When a stream is to end by itself, and why.
    pub(super) fn end_of(&self, subscriber: &Subscriber) -> Option<(Tick, Reason)> {
        let old = (self.config.lifetime_ticks > 0).then(|| {
            let end = subscriber.opened.plus(lifetime(subscriber, self.config.lifetime_ticks));
            (end, Reason::Lifetime)
        });
        let drained = self.drain.map(|drain| (drain.end(subscriber), Reason::Drain));
        match (old, drained) {
            (Some(old), Some(drained)) => {
                Some(if old.0.is_reached(drained.0) { old } else { drained })
            }
            (old, drained) => old.or(drained),
        }
    }

    /// The timer of a subscriber has fired: whether that was for its end.
    pub(super) fn handle_end(&mut self, key: u32) -> bool {
        let subscriber = &self.subscribers[key];
        match (subscriber.phase, subscriber.ending) {
            // It has not even taken the goodbye, or what is to come before that.
            (Phase::Closing, Some(reason))
            | (_, Some(reason @ (Reason::Drain | Reason::Limit))) => {
                self.close(key, reason);
                true
            }
            (_, Some(_)) => false,
            (_, None) => match self.end_of(subscriber) {
                Some((end, reason)) if end.is_reached(self.now) => {
                    self.begin_end(key, reason);
                    true
                }
                _ => false,
            },
        }
    }

    fn begin_end(&mut self, key: u32, reason: Reason) {
        let now = self.now;
        let subscriber = &mut self.subscribers[key];
        subscriber.ending = Some(reason);
        if subscriber.flags.has(Flags::BLOCKED) && subscriber.is_between_frames() {
            // It would not take a goodbye.
            self.close(key, reason);
            return;
        }
        let wait = match reason {
            Reason::Drain | Reason::Limit => GOODBYE_TICKS,
            _ if subscriber.flags.has(Flags::STARVED) => STARVED_TICKS,
            _ => self.config.keepalive_ticks,
        };
        self.ready.push_back(key);
        self.wheel.arm(&mut self.subscribers, key, now.plus(wait));
        self.limit_wait(key);
    }

    /// The last that a stream says: when to come back.
    pub(super) fn goodbye(&mut self, key: u32, reason: Reason) -> Source {
        let frame = self.last_words.remove(&key).unwrap_or_else(|| self.retry(reason));
        let outbox = self.outboxes.insert(Outbox::frame(frame)) as u32;
        self.subscribers[key].outbox = outbox;
        self.subscribers.set_phase(key, Phase::Closing);
        // It is closed after this, or when it does not take it.
        self.wheel.arm(&mut self.subscribers, key, self.now.plus(GOODBYE_TICKS));
        Source::Outbox(outbox)
    }

    fn retry(&mut self, reason: Reason) -> Vec<u8> {
        let drain_retry_ms_max = self.drain.map(|drain| drain.retry_ms_max);
        let retry_ms_max = match reason {
            Reason::Drain => drain_retry_ms_max.unwrap_or_default(),
            _ => self.config.lifetime_retry_ms_max,
        };
        let retry_ms = u64::from(self.random_below(retry_ms_max.saturating_add(1)));
        let mut frame = Vec::new();
        sse::retry(&mut frame, Duration::from_millis(retry_ms));
        frame
    }

    /// Ends a stream in whose place there is a newer one, and says what there were too many of. Its
    /// client is to come back after a long time only: it would supersede the other in its turn.
    pub fn handle_superseded(&mut self, token: Token, retry: Duration, what: &str) {
        let Some(key) = self.subscribers.find(token) else { return };
        let subscriber = &self.subscribers[key];
        let is_ending = matches!(subscriber.ending, Some(Reason::Drain | Reason::Limit));
        if subscriber.phase == Phase::Closing || is_ending {
            return;
        }
        let mut frame = Vec::new();
        sse::refused(&mut frame, retry, what);
        self.last_words.insert(key, frame);
        self.begin_end(key, Reason::Limit);
    }
}

impl Drain {
    fn end(self, subscriber: &Subscriber) -> Tick {
        self.began.plus(share(subscriber, self.window_ticks.saturating_add(1)))
    }
}

impl Subscriber {
    fn is_between_frames(&self) -> bool {
        self.outbox == NONE && self.partial == 0
    }
}

/// How long a stream is open, at most: nine to eleven tenths of what is set, so that those who have
/// come together do not go together.
fn lifetime(subscriber: &Subscriber, ticks: u32) -> u32 {
    let tenth = ticks / 10;
    ticks - tenth + share(subscriber, 2 * tenth + 1)
}

/// A number below `bound` that is a subscriber's own. Those who have come one after the other are
/// far apart, and all together are level (Fibonacci hashing).
fn share(subscriber: &Subscriber, bound: u32) -> u32 {
    let hash = subscriber.generation.wrapping_mul(0x9E37_79B9);
    ((u64::from(hash) * u64::from(bound)) >> 32) as u32
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        event::{
            Event, EventId, EventType, Format, Json, Labels, RunId, Scope, Selection, Timestamp,
        },
        hub::{History, HistoryReader, Moment, Peer, Start, Subscribe, ViewSpec},
        journal::{CommittedBatch, CommittedEvent},
    };

    const SUBSCRIBERS: usize = 2_000;

    fn hub(lifetime_ticks: u32) -> Hub {
        let mut hub = Hub::at(EventId(0), lifetime_ticks);
        for _ in 0..SUBSCRIBERS {
            hub.subscribe_probe(Peer(0), false);
        }
        hub
    }

    /// When each is closed, by whatever the hub says it waits for, and what each was told last.
    fn ends(hub: &mut Hub, until: Tick) -> (Vec<u32>, Vec<u64>) {
        let (mut ends, mut waits) = (Vec::new(), Vec::new());
        let mut now = Tick(0);
        while let Some(next) = hub.next_deadline().filter(|next| next.0 <= until.0) {
            now = Tick(next.0.max(now.0));
            hub.handle_time(now, Timestamp(0));
            let mut plan = Vec::new();
            while hub.wants_to_send() {
                hub.poll_sends(128, &mut plan);
                for outgoing in plan.drain(..) {
                    let bytes = hub.bytes(&outgoing);
                    if let Some(wait) = bytes.strip_prefix(b"retry: ") {
                        waits.push(std::str::from_utf8(wait).unwrap().trim().parse().unwrap());
                    }
                    let count = bytes.len();
                    hub.handle_sent(&outgoing, Ok(count));
                }
            }
            while hub.poll_closed().is_some() {
                ends.push(now.0);
            }
        }
        hub.invariants();
        (ends, waits)
    }

    /// That so many tenths of a range have about the same number of values.
    fn assert_level(values: impl Iterator<Item = u64>, from: u64, to: u64) {
        let mut tenths = [0_usize; 10];
        for value in values {
            assert!((from..=to).contains(&value), "{value} is not in {from}..={to}");
            tenths[((value - from) * 10 / (to - from + 1)) as usize] += 1;
        }
        let mean = SUBSCRIBERS / 10;
        assert!(tenths.iter().all(|count| count.abs_diff(mean) < mean / 2), "{tenths:?}");
    }

    #[test]
    fn those_who_have_come_together_grow_old_one_by_one() {
        let (ends, waits) = ends(&mut hub(10_000), Tick(20_000));
        assert_eq!(ends.len(), SUBSCRIBERS);
        assert_level(ends.into_iter().map(u64::from), 9_000, 11_000);
        assert_level(waits.into_iter(), 0, 3_000);
    }

    #[test]
    fn a_drain_is_level_over_its_window_and_so_are_the_returns() {
        let mut hub = hub(0);
        hub.handle_drain(500, 30_000);
        let (ends, waits) = ends(&mut hub, Tick(20_000));
        assert_eq!(ends.len(), SUBSCRIBERS);
        assert_level(ends.into_iter().map(u64::from), 0, 500);
        assert_level(waits.into_iter(), 0, 30_000);
    }

    #[test]
    fn without_a_lifetime_none_ends() {
        let (ends, _) = ends(&mut hub(0), Tick(20_000));
        assert!(ends.is_empty());
    }

    // ---- last words ------------------------------------------------------------------------------

    const RUN: RunId = RunId(1);
    const LIFETIME_TICKS: u32 = 50;

    /// What ends a stream, and how its last word begins.
    type Ending = (fn(&mut Hub, Token), &'static str);

    const ENDINGS: [Ending; 3] = [
        (supersede, "retry: 30000\nevent: stream.refused\ndata: {\"reason\":\"run\"}\n\n"),
        (drain, "retry: "),
        (|hub, _| hub.handle_time(Tick(LIFETIME_TICKS + 5), Timestamp(0)), "retry: "),
    ];

    fn supersede(hub: &mut Hub, token: Token) {
        hub.handle_superseded(token, Duration::from_secs(30), "run");
    }

    fn drain(hub: &mut Hub, _: Token) {
        hub.handle_drain(0, 9);
        hub.handle_time(Tick(1), Timestamp(0));
    }

    /// A stream of the run, from its beginning.
    fn follow(hub: &mut Hub) -> Token {
        let selection = Selection { scope: Scope::Runs([RUN].into()), types: None };
        hub.subscribe(Subscribe {
            peer: Peer(0),
            is_local: false,
            spec: ViewSpec { selection, format: Format::Envelope },
            start: Start::After(EventId(0)),
            greeting: Vec::new(),
            heartbeat: false,
            newest: hub.seen(),
            unended: vec![RUN],
        })
    }

    fn event(id: u64) -> Event {
        Event {
            id: EventId(id),
            run_id: RUN,
            seq: id,
            event_type: EventType::new("A").unwrap(),
            payload: Json::from_trusted(format!("\"{}\"", "x".repeat(1_000))),
            created_at: Timestamp(id),
        }
    }

    fn frame(id: u64) -> Vec<u8> {
        let mut frame = Vec::new();
        sse::event(&mut frame, &event(id).borrowed(), Format::Envelope);
        frame
    }

    /// Sends once, and the socket takes so many bytes at most; gives what it took, and who is to be
    /// told when it takes more.
    fn send(hub: &mut Hub, max: usize) -> (Vec<u8>, Option<Token>) {
        let mut plan = Vec::new();
        hub.poll_sends(1, &mut plan);
        let Some(outgoing) = plan.first() else { return (Vec::new(), None) };
        let mut bytes = hub.bytes(outgoing).to_vec();
        bytes.truncate(max);
        let waits = hub.handle_sent(outgoing, Ok(bytes.len()));
        (bytes, waits)
    }

    /// What comes until the stream ends, which it does. The journal has two events.
    fn rest(hub: &mut Hub) -> Vec<u8> {
        let mut bytes = Vec::new();
        for _ in 0..100 {
            answer_reads(hub);
            bytes.extend(send(hub, usize::MAX).0);
            if hub.poll_closed().is_some() {
                hub.invariants();
                return bytes;
            }
        }
        panic!("it goes on: {}", String::from_utf8_lossy(&bytes));
    }

    fn answer_reads(hub: &mut Hub) {
        while let Some(job) = hub.poll_history() {
            let mut history = History { failed: false, ..History::failed(job.reader) };
            match job.reader {
                // Nobody finds his place in the tail.
                HistoryReader::View { .. } => history.covered_after = job.upto,
                HistoryReader::Chunk { after, .. } => {
                    let ids = after.0 + 1..=2;
                    history.events = ids.clone().count() as u32;
                    history.bytes = ids.flat_map(frame).collect();
                    history.scanned_to = EventId(2);
                }
            }
            hub.handle_history(history);
        }
    }

    /// A stream of a run that had two events before it, which reads the journal.
    fn replaying() -> (Hub, Token) {
        let mut hub = Hub::at(EventId(2), LIFETIME_TICKS);
        let token = follow(&mut hub);
        (hub, token)
    }

    /// A stream that was there when the two events came.
    fn live() -> (Hub, Token) {
        let mut hub = Hub::at(EventId(0), LIFETIME_TICKS);
        let token = follow(&mut hub);
        let labels = Arc::new(Labels { project: None, session: None });
        let events = [1, 2]
            .map(|id| CommittedEvent { event: event(id), labels: Arc::clone(&labels) })
            .into();
        let batch = CommittedBatch { last_id: EventId(2), events, deleted: Vec::new() };
        hub.handle_committed(&batch, Moment::default());
        (hub, token)
    }

    #[test]
    fn who_is_inside_an_event_gets_the_rest_of_it_and_a_last_word() {
        for (end, last_word) in ENDINGS {
            for stream in [live, replaying] {
                let (mut hub, token) = stream();
                answer_reads(&mut hub);
                let (mut bytes, waits) = send(&mut hub, 100);
                assert_eq!((bytes.len(), waits), (100, Some(token)));
                end(&mut hub, token);
                hub.invariants();
                assert_eq!((hub.poll_closed(), send(&mut hub, 100)), (None, (Vec::new(), None)));
                hub.handle_writable(token);
                bytes.extend(rest(&mut hub));
                let frames = [frame(1), frame(2)].concat();
                let said = bytes.strip_prefix(&*frames).expect("both events are whole");
                assert!(said.starts_with(last_word.as_bytes()), "{}", said.escape_ascii());
            }
        }
    }

    #[test]
    fn who_waits_for_history_goes_at_once_with_a_last_word() {
        for (end, last_word) in ENDINGS {
            for has_chunk_coming in [false, true] {
                let (mut hub, token) = replaying();
                if has_chunk_coming {
                    // The view is filled, and the chunk is asked for and does not come.
                    let job = hub.poll_history().expect("the view's");
                    let covered_after = job.upto;
                    let nothing = History::failed(job.reader);
                    hub.handle_history(History { failed: false, covered_after, ..nothing });
                    hub.poll_history().expect("the chunk's");
                }
                end(&mut hub, token);
                let (said, _) = send(&mut hub, usize::MAX);
                assert!(said.starts_with(last_word.as_bytes()), "{}", said.escape_ascii());
                assert_eq!(send(&mut hub, usize::MAX), (Vec::new(), None));
                assert!(hub.poll_closed().is_some());
                hub.invariants();
            }
        }
    }

    #[test]
    fn who_takes_nothing_is_not_waited_for() {
        for (end, _) in &ENDINGS[..2] {
            for stream in [live, replaying] {
                let (mut hub, token) = stream();
                answer_reads(&mut hub);
                send(&mut hub, 100);
                end(&mut hub, token);
                let began = hub.now;
                hub.handle_time(began.plus(GOODBYE_TICKS - 1), Timestamp(0));
                assert_eq!(hub.poll_closed(), None);
                hub.handle_time(began.plus(GOODBYE_TICKS), Timestamp(0));
                assert!(hub.poll_closed().is_some());
                hub.invariants();
            }
        }
    }

    #[test]
    fn one_that_waits_to_go_for_its_age_has_to_hurry_when_a_newer_one_comes() {
        let (mut hub, token) = live();
        send(&mut hub, 100);
        let (grow_old, _) = ENDINGS[2];
        grow_old(&mut hub, token);
        hub.handle_time(hub.now.plus(GOODBYE_TICKS), Timestamp(0));
        assert_eq!(hub.poll_closed(), None);
        supersede(&mut hub, token);
        supersede(&mut hub, token);
        hub.handle_drain(10_000, 9);
        hub.invariants();
        hub.handle_time(hub.now.plus(GOODBYE_TICKS), Timestamp(0));
        assert_eq!(hub.poll_closed().map(|closed| closed.reason), Some(Reason::Limit));
        hub.invariants();
    }
}
