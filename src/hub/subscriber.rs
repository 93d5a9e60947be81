//! One parked stream: eighty bytes, and no task.

use std::rc::Rc;

use slab::Slab;

use super::{
    Reason,
    chunks::Chunk,
    token::{Peer, Token},
};

use crate::{
    event::EventId,
    timer_wheel::{Links, Tick, Timed},
};

/// Generations wrap around after these many subscribers.
pub(super) const GENERATION_BITS: u32 = 30;

/// Stands for "none" where a slab key is kept.
pub(super) const NONE: u32 = u32::MAX;

/// Where a subscriber gets its next bytes from. An outbox comes before all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// From the tail of its view, at `offset`.
    Live,
    /// From the tail, once its view has read in the end of its history.
    Filling,
    /// From the journal: it waits for its turn to read a chunk.
    Queued,
    /// From the journal: a reader is at it.
    Reading,
    /// From the journal: the chunk is in the outbox.
    Sending,
    /// From the journal: its chunk was given back, since the socket takes nothing.
    Stalled,
    /// Its cursor is ahead of what this worker has seen: another worker was faster.
    Ahead,
    /// From nowhere but the timer.
    Probe,
    /// It is closed when the outbox is empty: that is its goodbye.
    Closing,
}

/// What is true of a subscriber beside its phase.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Flags(u8);

impl Flags {
    /// The socket has taken less than it was given; the ring tells when it takes more, or the
    /// timer if the subscriber is starved.
    pub(super) const BLOCKED: Flags = Flags(1);
    /// A send is planned in the present slice.
    pub(super) const PLANNED: Flags = Flags(1 << 1);
    /// The timer wants something written.
    pub(super) const KEEPALIVE_DUE: Flags = Flags(1 << 2);
    /// Keepalives are heartbeat events.
    pub(super) const HEARTBEAT: Flags = Flags(1 << 3);
    /// A `unix:` peer, for which the kernel has no timeout.
    pub(super) const LOCAL: Flags = Flags(1 << 4);
    /// The kernel was short of something: the timer tries again.
    pub(super) const STARVED: Flags = Flags(1 << 5);
    /// Its first beat is still to come.
    pub(super) const NEW: Flags = Flags(1 << 6);
    /// It has come to its tail late, through no fault of the server's: how late what it gets up to
    /// the end is says nothing.
    pub(super) const LATE: Flags = Flags(1 << 7);

    pub(super) fn has(self, flag: Flags) -> bool {
        self.0 & flag.0 != 0
    }

    pub(super) fn set(&mut self, flag: Flags, on: bool) {
        self.0 = if on { self.0 | flag.0 } else { self.0 & !flag.0 };
    }
}

#[derive(Debug)]
pub(super) struct Subscriber {
    pub(super) peer: Peer,
    pub(super) generation: u32,
    /// Its view, and its place among the subscribers of that.
    pub(super) view: u32,
    pub(super) slot: u32,
    /// Next byte in the tail, while `Live`, and the events that lie wholly before it.
    pub(super) offset: u64,
    pub(super) ordinal: u32,
    /// Events that the kernel has taken whole. It stops at its end.
    pub(super) events: u32,
    /// Bytes that the kernel has taken.
    pub(super) bytes: u64,
    /// Everything up to this event was sent whole, or is not wanted.
    pub(super) cursor: EventId,
    /// Bytes of the event with the next id that were sent.
    pub(super) partial: u32,
    pub(super) outbox: u32,
    pub(super) links: Links,
    /// When the kernel last took something, or began to refuse.
    pub(super) last_sent: Tick,
    pub(super) opened: Tick,
    pub(super) phase: Phase,
    pub(super) flags: Flags,
    /// Why it is closed once it stands between two frames.
    pub(super) ending: Option<Reason>,
}

impl Subscriber {
    /// Whether it waits for history, or for room in its socket, before it gets what is new.
    pub(super) fn is_lagging(&self) -> bool {
        use Phase::{Filling, Queued, Reading, Sending, Stalled};
        let is_behind = matches!(self.phase, Filling | Queued | Reading | Sending | Stalled);
        is_behind || self.flags.has(Flags::BLOCKED)
    }
}

/// Bytes for one subscriber alone.
#[derive(Debug)]
pub(super) enum Outbox {
    /// A frame of the server itself, or the rest of one.
    Frame { bytes: Box<[u8]>, sent: usize },
    /// A piece of history, which others may be sending too. It can be read again, so it need not
    /// be kept while the socket takes nothing.
    Chunk { chunk: Rc<Chunk>, sent: usize },
}

impl Outbox {
    pub(super) fn frame(bytes: impl Into<Box<[u8]>>) -> Outbox {
        Outbox::Frame { bytes: bytes.into(), sent: 0 }
    }

    pub(super) fn unsent(&self) -> &[u8] {
        match self {
            Outbox::Frame { bytes, sent } => &bytes[*sent..],
            Outbox::Chunk { chunk, sent } => &chunk.bytes[*sent..],
        }
    }

    /// Notes that the kernel took `count` bytes; true when nothing is left.
    pub(super) fn took(&mut self, count: usize) -> bool {
        let (Outbox::Frame { sent, .. } | Outbox::Chunk { sent, .. }) = self;
        *sent += count;
        self.unsent().is_empty()
    }
}

/// The subscribers of a worker.
#[derive(Debug, Default)]
pub(super) struct Subscribers {
    pub(super) slab: Slab<Subscriber>,
    generation: u32,
    /// How many of them are lagging.
    pub(super) lagging: usize,
}

impl Subscribers {
    pub(super) fn next_generation(&mut self) -> u32 {
        self.generation = (self.generation + 1) & ((1 << GENERATION_BITS) - 1);
        self.generation
    }

    /// The key of a subscriber that is still there.
    pub(super) fn find(&self, token: Token) -> Option<u32> {
        let found = self.slab.get(token.key as usize)?;
        (found.generation == token.generation).then_some(token.key)
    }

    pub(super) fn token(&self, key: u32) -> Token {
        Token { key, generation: self[key].generation }
    }

    /// Moves one to another phase.
    pub(super) fn set_phase(&mut self, key: u32, phase: Phase) {
        self.change(key, |subscriber| subscriber.phase = phase);
    }

    /// Notes whether its socket takes nothing.
    pub(super) fn set_blocked(&mut self, key: u32, is_blocked: bool) {
        self.change(key, |subscriber| subscriber.flags.set(Flags::BLOCKED, is_blocked));
    }

    /// Takes one out.
    pub(super) fn remove(&mut self, key: u32) -> Subscriber {
        let subscriber = self.slab.remove(key as usize);
        self.lagging -= usize::from(subscriber.is_lagging());
        subscriber
    }

    /// Changes what it may lag by, and counts it.
    fn change(&mut self, key: u32, change: impl FnOnce(&mut Subscriber)) {
        let subscriber = &mut self.slab[key as usize];
        self.lagging -= usize::from(subscriber.is_lagging());
        change(subscriber);
        self.lagging += usize::from(subscriber.is_lagging());
    }
}

impl std::ops::Index<u32> for Subscribers {
    type Output = Subscriber;

    fn index(&self, key: u32) -> &Subscriber {
        &self.slab[key as usize]
    }
}

impl std::ops::IndexMut<u32> for Subscribers {
    fn index_mut(&mut self, key: u32) -> &mut Subscriber {
        &mut self.slab[key as usize]
    }
}

impl Timed for Subscribers {
    fn links(&mut self, key: u32) -> &mut Links {
        &mut self[key].links
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::Hub;

    #[test]
    fn a_subscriber_stays_small() {
        assert!(size_of::<Subscriber>() <= 80, "{}", size_of::<Subscriber>());
    }

    #[test]
    fn where_room_was_set_aside_nobody_moves() {
        const STREAMS: usize = 1_000;
        let mut hub = Hub::at(EventId(0), 0);
        hub.reserve(STREAMS);
        let token = hub.subscribe_probe(Peer(0), false);
        let first = std::ptr::from_ref(&hub.subscribers[token.key]);
        for _ in 1..STREAMS {
            hub.subscribe_probe(Peer(0), false);
        }
        assert_eq!(std::ptr::from_ref(&hub.subscribers[token.key]), first);
    }
}
