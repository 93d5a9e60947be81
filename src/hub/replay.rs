//! Where a subscriber goes on: in its view's tail, or in the journal until it gets there.
//!
//! History comes in two shapes: the end of a view's, read once into its tail for everybody, and
//! chunks for those who are further behind. At most so many chunks are in memory at one time
//! ([`Chunks`](super::chunks::Chunks)); who waits for one is a token in a queue.

use std::{rc::Rc, sync::Arc};

use super::{
    Hub, Reason,
    chunks::{Chunk, Place, Wanted},
    subscriber::{Flags, NONE, Outbox, Phase, Subscriber},
    trim,
    view::{Fill, ViewSpec},
};
use crate::{
    event::EventId,
    tail::{self, Beginning},
    wire::sse::Frames,
};

/// History that should be read; the answer goes to [`Hub::handle_history`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HistoryJob {
    /// For whom.
    pub reader: HistoryReader,
    /// Which events, and how they are written.
    pub spec: Arc<ViewSpec>,
    /// Events up to this one, and no later.
    pub upto: EventId,
}

/// Who reads history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HistoryReader {
    /// A view that is being made: the last part of its history.
    View {
        /// Its key.
        view: u32,
        /// Its generation.
        generation: u32,
    },
    /// Subscribers behind the tail: what comes after this event.
    Chunk {
        /// Which of the chunks that are being read.
        number: u32,
        /// The cursor of those who want it.
        after: EventId,
    },
}

/// History that was read.
#[derive(Debug)]
pub struct History {
    /// For whom.
    pub reader: HistoryReader,
    /// Whole frames, in order.
    pub bytes: Vec<u8>,
    /// How many they are.
    pub events: u32,
    /// For a view: where the bytes begin. Every event of it after this one is in them.
    pub covered_after: EventId,
    /// For a chunk: up to where everything was considered.
    pub scanned_to: EventId,
    /// Some of what it was to be, or comes later, was removed by retention.
    pub truncated: bool,
    /// It could not be read.
    pub failed: bool,
}

impl History {
    /// What a reader has to say that could not read.
    pub fn failed(reader: HistoryReader) -> History {
        let nothing = EventId(0);
        History {
            reader,
            bytes: Vec::new(),
            events: 0,
            covered_after: nothing,
            scanned_to: nothing,
            truncated: false,
            failed: true,
        }
    }
}

impl Hub {
    /// Finds out where a subscriber that knows its cursor goes on. One that stands inside an event
    /// that is no more goes nowhere: its stream ends.
    pub(super) fn settle(&mut self, key: u32) {
        if self.has_lost_place(key) {
            self.close(key, Reason::Error);
            return;
        }
        let subscriber = &mut self.subscribers[key];
        let view_key = subscriber.view;
        let view = &mut self.views[view_key];
        if let Some(beginning) = view.tail.offset_after(subscriber.cursor) {
            subscriber.offset = beginning.offset + u64::from(subscriber.partial);
            subscriber.ordinal = beginning.ordinal;
            subscriber.flags.set(Flags::LATE, beginning.ordinal != view.tail.end_ordinal());
            self.subscribers.set_phase(key, Phase::Live);
            return;
        }
        let phase = match view.fill {
            Fill::No => {
                let upto = view.tail.covered_after();
                let reader = HistoryReader::View { view: view_key, generation: view.generation };
                view.fill = Fill::Running(upto);
                let spec = Arc::clone(&view.spec);
                self.jobs.push_back(HistoryJob { reader, spec, upto });
                Phase::Filling
            }
            Fill::Running(_) | Fill::Spoiled => Phase::Filling,
            Fill::Done => {
                self.replay_queue.push_back(self.subscribers.token(key));
                Phase::Queued
            }
        };
        self.subscribers.set_phase(key, phase);
    }

    /// History that should be read.
    pub fn poll_history(&mut self) -> Option<HistoryJob> {
        while let Some(&token) = self.replay_queue.front() {
            let Some(key) = self.subscribers.find(token) else {
                self.replay_queue.pop_front();
                continue;
            };
            let subscriber = &self.subscribers[key];
            if subscriber.phase != Phase::Queued {
                self.replay_queue.pop_front();
                continue;
            }
            if subscriber.flags.has(Flags::BLOCKED) {
                // A keepalive found no room: nor would a chunk.
                self.subscribers.set_phase(key, Phase::Stalled);
                self.replay_queue.pop_front();
                continue;
            }
            let &Subscriber { view, cursor: after, .. } = subscriber;
            let view_generation = self.views[view].generation;
            match self.chunks.want(Place { view, view_generation, after }, token) {
                Wanted::Full => break,
                Wanted::Reading => self.subscribers.set_phase(key, Phase::Reading),
                Wanted::Read(number) => {
                    self.subscribers.set_phase(key, Phase::Reading);
                    let reader = HistoryReader::Chunk { number, after };
                    let spec = Arc::clone(&self.views[view].spec);
                    self.jobs.push_back(HistoryJob { reader, spec, upto: self.seen });
                }
                Wanted::Ready(chunk) => self.handle_chunk(key, &chunk),
            }
            self.replay_queue.pop_front();
        }
        if self.replay_queue.is_empty() {
            self.chunks.rest();
        }
        self.jobs.pop_front()
    }

    /// History was read.
    pub fn handle_history(&mut self, history: History) {
        match history.reader {
            HistoryReader::View { view, generation } => {
                self.handle_fill(view, generation, history);
            }
            HistoryReader::Chunk { number, after } => {
                let History { bytes, scanned_to, events, truncated, failed, .. } = history;
                let chunk =
                    (!failed).then(|| Chunk::new(after, bytes, scanned_to, events, truncated));
                let (waiting, chunk) = self.chunks.handle_read(number, chunk);
                for token in waiting {
                    let Some(key) = self.subscribers.find(token) else { continue };
                    match &chunk {
                        _ if self.subscribers[key].phase != Phase::Reading => {}
                        Some(chunk) => self.handle_chunk(key, chunk),
                        None => self.close(key, Reason::Error),
                    }
                }
            }
        }
    }

    pub(super) fn handle_fill(&mut self, view_key: u32, generation: u32, history: History) {
        let Some(view) = self.views.slab.get_mut(view_key as usize) else { return };
        if view.generation != generation {
            return;
        }
        let upto = match view.fill {
            Fill::Running(upto) => Some(upto),
            Fill::Spoiled => None,
            Fill::No | Fill::Done => unreachable!("a view is filled once"),
        };
        view.fill = Fill::Done;
        // History is put where events were that the tail has dropped: who was there stands nowhere.
        for &key in &view.subscribers {
            let subscriber = &self.subscribers[key];
            if subscriber.phase == Phase::Live && subscriber.offset < view.tail.start() {
                self.subscribers.set_phase(key, Phase::Filling);
            }
        }
        // When the tail has been trimmed meanwhile there would be a hole between the two, and one
        // in history when something was removed while it was read: nobody joins a tail over a hole.
        let is_whole = !history.failed && !history.truncated;
        if is_whole && Some(view.tail.covered_after()) == upto {
            self.tails_bytes += history.bytes.len();
            view.tail.prepend(history.bytes, history.covered_after);
            // What was appended meanwhile may leave no room for it.
            self.tails_bytes -= trim(&mut view.tail, self.config.limits.tail_bytes_max);
        }
        for key in self.views[view_key].subscribers.clone() {
            if self.subscribers[key].phase != Phase::Filling {
                continue;
            }
            self.settle(key);
            self.ready.push_back(key);
        }
        self.trim_tails();
    }

    /// Whether the tail should have the event of which a part was sent, and has not, since its run
    /// was deleted, or retention took it, before history was read.
    pub(super) fn has_lost_place(&self, key: u32) -> bool {
        let &Subscriber { view, cursor, partial, .. } = &self.subscribers[key];
        let tail = &self.views[view].tail;
        let found = tail.offset_after(cursor).filter(|_| partial > 0);
        let Some(Beginning { offset, ordinal }) = found else { return false };
        let inside = offset + u64::from(partial);
        inside >= tail.end() || tail.place(inside) != tail::Place { cursor, partial, ordinal }
    }

    /// What a subscriber waited for is there.
    fn handle_chunk(&mut self, key: u32, chunk: &Rc<Chunk>) {
        let subscriber = &mut self.subscribers[key];
        let skip = subscriber.partial as usize;
        // The event of which a part was sent is gone: its run was deleted, or retention took it.
        let first = Frames::new(&chunk.bytes).next().and_then(|frame| frame.id);
        let lost_place = skip > 0 && first != Some(subscriber.cursor.next());
        if lost_place {
            self.close(key, Reason::Error);
            return;
        }
        if subscriber.outbox != NONE || subscriber.flags.has(Flags::BLOCKED) {
            // A frame of the server's own is still on its way, or was refused for want of room:
            // the chunk is asked for again after that.
            self.subscribers.set_phase(key, Phase::Stalled);
        } else if chunk.bytes.is_empty() {
            subscriber.cursor = chunk.scanned_to;
            self.settle(key);
        } else {
            let chunk = Outbox::Chunk { chunk: Rc::clone(chunk), sent: skip };
            subscriber.outbox = self.outboxes.insert(chunk) as u32;
            self.subscribers.set_phase(key, Phase::Sending);
        }
        self.ready.push_back(key);
    }
}
