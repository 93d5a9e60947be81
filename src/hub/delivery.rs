//! Who is sent what next, and what has come of it.
//!
//! Two queues: subscribers that something happened to, and views with news for all of theirs. A
//! view's round goes over its list with a hand that never starts again from the beginning: new
//! bytes only make the round longer, so a burst of events costs each subscriber one send.

use rustix::io::Errno;

use super::{
    Hub, Reason, reason_of,
    stamps::{self, Moment},
    subscriber::{Flags, NONE, Outbox, Phase},
    token::{Peer, Token},
    view::View,
};
use crate::tail;

/// A send that should be made; [`Hub::bytes`] has what.
#[derive(Clone, Copy, Debug)]
pub struct Outgoing {
    key: u32,
    /// To whom.
    pub peer: Peer,
    source: Source,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Source {
    Outbox(u32),
    Tail { view: u32, offset: u64 },
    Keepalive(&'static [u8]),
}

impl Hub {
    /// Plans up to `max` sends, no more than one to a subscriber.
    pub fn poll_sends(&mut self, max: usize, plan: &mut Vec<Outgoing>) {
        while plan.len() < max {
            let Some(key) = self.next_candidate() else { return };
            if let Some(source) = self.plan(key) {
                let subscriber = &mut self.subscribers[key];
                subscriber.flags.set(Flags::PLANNED, true);
                plan.push(Outgoing { key, peer: subscriber.peer, source });
            }
        }
    }

    /// The bytes of a planned send.
    pub fn bytes(&self, outgoing: &Outgoing) -> &[u8] {
        match outgoing.source {
            Source::Outbox(outbox) => self.outboxes[outbox as usize].unsent(),
            Source::Tail { view, offset } => self.views[view].tail.read(offset),
            Source::Keepalive(bytes) => bytes,
        }
    }

    /// Takes what a planned send has come to. When it gives a token, the socket should be watched
    /// until it takes more ([`Hub::handle_writable`]).
    pub fn handle_sent(&mut self, sent: &Outgoing, result: Result<usize, Errno>) -> Option<Token> {
        let key = sent.key;
        self.subscribers[key].flags.set(Flags::PLANNED, false);
        let count = match result {
            Ok(count) => count,
            Err(Errno::AGAIN | Errno::INTR) => {
                self.block(key);
                return Some(self.subscribers.token(key));
            }
            // Not for want of room in this socket, so no edge tells when it is over.
            Err(Errno::NOBUFS | Errno::NOMEM | Errno::CANCELED) => {
                self.block(key);
                self.starve(key);
                return None;
            }
            Err(errno) => {
                self.close(key, reason_of(Some(errno)));
                return None;
            }
        };
        self.counts.bytes += count as u64;
        let subscriber = &mut self.subscribers[key];
        subscriber.last_sent = self.now;
        subscriber.bytes += count as u64;
        let is_whole = match sent.source {
            Source::Outbox(outbox) => {
                subscriber.flags.set(Flags::KEEPALIVE_DUE, false);
                self.outboxes[outbox as usize].took(count)
            }
            Source::Tail { view, offset } => {
                subscriber.flags.set(Flags::KEEPALIVE_DUE, false);
                self.move_on(key, view, offset, count)
            }
            Source::Keepalive(bytes) => {
                self.counts.keepalives += 1;
                let rest = &bytes[count..];
                if !rest.is_empty() {
                    subscriber.outbox = self.outboxes.insert(Outbox::frame(rest)) as u32;
                }
                rest.is_empty()
            }
        };
        if !is_whole {
            self.block(key);
            return Some(self.subscribers.token(key));
        }
        if let Source::Outbox(_) = sent.source {
            self.finish_outbox(key);
        }
        if self.subscribers.slab.contains(key as usize) && self.has_more(key) {
            self.ready.push_back(key);
        }
        None
    }

    /// Of what lies in the tail at `offset` so many bytes were sent: true if that was all of its
    /// segment.
    fn move_on(&mut self, key: u32, view: u32, offset: u64, count: usize) -> bool {
        let subscriber = &mut self.subscribers[key];
        let View { tail, stamps, .. } = &self.views[view];
        let (from, is_late) = (subscriber.ordinal, subscriber.flags.has(Flags::LATE));
        subscriber.offset = offset + count as u64;
        let (place, is_whole) = if subscriber.offset == tail.end() {
            subscriber.flags.set(Flags::LATE, false);
            let end = tail.end_ordinal();
            (tail::Place { cursor: tail.last_id(), partial: 0, ordinal: end }, true)
        } else {
            (tail.place(subscriber.offset), count == tail.read(offset).len())
        };
        subscriber.cursor = place.cursor;
        subscriber.partial = place.partial;
        subscriber.ordinal = place.ordinal;
        let events = place.ordinal.wrapping_sub(from);
        if tail.is_history(offset) {
            self.note_replayed(key, events);
            return is_whole;
        }
        subscriber.events = subscriber.events.saturating_add(events);
        self.counts.events += u64::from(events);
        if !is_late {
            let unweighed = &mut self.unweighed;
            stamps.weigh(from, place.ordinal, |at, events| stamps::add(unweighed, at, events));
        }
        is_whole
    }

    /// What was sent since the last call was written at `written_at`: tells how many events were so
    /// many microseconds old then. To be called after each slice of sends.
    pub fn poll_latencies(&mut self, written_at: Moment, mut tell: impl FnMut(u32, u32)) {
        for (committed_at, events) in self.unweighed.drain(..) {
            tell(committed_at.until(written_at), events);
        }
    }

    /// The socket takes bytes again.
    pub fn handle_writable(&mut self, token: Token) {
        if let Some(key) = self.subscribers.find(token)
            && !self.subscribers[key].flags.has(Flags::STARVED)
        {
            self.unblock(key);
        }
    }

    /// The kernel could not watch the socket: nothing will tell when it takes bytes again.
    pub fn handle_unwatched(&mut self, token: Token) {
        if let Some(key) = self.subscribers.find(token)
            && self.subscribers[key].flags.has(Flags::BLOCKED)
        {
            self.starve(key);
        }
    }

    /// Whatever it was that kept a subscriber from taking bytes may be over.
    pub(super) fn unblock(&mut self, key: u32) {
        if !self.subscribers[key].flags.has(Flags::BLOCKED) {
            return;
        }
        self.subscribers.set_blocked(key, false);
        let subscriber = &mut self.subscribers[key];
        subscriber.flags.set(Flags::STARVED, false);
        if subscriber.phase == Phase::Stalled {
            self.settle(key);
        }
        self.ready.push_back(key);
    }

    /// The next subscriber that may have something to send.
    pub(super) fn next_candidate(&mut self) -> Option<u32> {
        while let Some(key) = self.ready.pop_front() {
            if self.subscribers.slab.contains(key as usize) {
                return Some(key);
            }
        }
        while let Some(&view_key) = self.sweeps.front() {
            // A view that was removed, and perhaps another in its place: no round is running there,
            // or one is, and then this is as good a time for it.
            if let Some(view) = self.views.slab.get_mut(view_key as usize)
                && view.sweep_left > 0
                && !view.subscribers.is_empty()
            {
                view.sweep_left -= 1;
                view.sweep_at += 1;
                if view.sweep_at as usize >= view.subscribers.len() {
                    view.sweep_at = 0;
                }
                return Some(view.subscribers[view.sweep_at as usize]);
            }
            self.sweeps.pop_front();
        }
        None
    }

    /// What a subscriber would send now.
    pub(super) fn plan(&mut self, key: u32) -> Option<Source> {
        let subscriber = &mut self.subscribers[key];
        if subscriber.flags.has(Flags::BLOCKED) || subscriber.flags.has(Flags::PLANNED) {
            return None;
        }
        if subscriber.outbox != NONE {
            return Some(Source::Outbox(subscriber.outbox));
        }
        if let (Some(reason), 0) = (subscriber.ending, subscriber.partial) {
            if subscriber.phase == Phase::Closing {
                self.close(key, reason);
                return None;
            }
            return Some(self.goodbye(key, reason));
        }
        if subscriber.phase == Phase::Live {
            let view = &self.views[subscriber.view];
            if subscriber.offset < view.tail.start() {
                self.settle(key);
            } else if subscriber.offset < view.tail.end() {
                let (view, offset) = (subscriber.view, subscriber.offset);
                return Some(Source::Tail { view, offset });
            } else if view.has_ended() {
                self.close(key, Reason::RunEnded);
                return None;
            }
        }
        let subscriber = &self.subscribers[key];
        if subscriber.flags.has(Flags::KEEPALIVE_DUE) && subscriber.partial == 0 {
            return Some(self.keepalive(key));
        }
        None
    }

    /// Whether [`Hub::plan`] would have something to do with it.
    pub(super) fn has_more(&self, key: u32) -> bool {
        let subscriber = &self.subscribers[key];
        match subscriber.phase {
            _ if subscriber.outbox != NONE || subscriber.ending.is_some() => true,
            Phase::Live => {
                let view = &self.views[subscriber.view];
                subscriber.offset < view.tail.end() || view.has_ended()
            }
            _ => subscriber.flags.has(Flags::KEEPALIVE_DUE),
        }
    }

    /// An outbox has been sent.
    pub(super) fn finish_outbox(&mut self, key: u32) {
        let subscriber = &mut self.subscribers[key];
        let outbox = std::mem::replace(&mut subscriber.outbox, NONE);
        match self.outboxes.remove(outbox as usize) {
            Outbox::Chunk { chunk, .. } => {
                subscriber.cursor = chunk.scanned_to;
                subscriber.partial = 0;
                self.note_replayed(key, chunk.events);
                self.settle(key);
            }
            // The chunk that came meanwhile had to be given back.
            Outbox::Frame { .. } if subscriber.phase == Phase::Stalled => self.settle(key),
            Outbox::Frame { .. } => {}
        }
    }

    /// Counts events that were read from the journal.
    fn note_replayed(&mut self, key: u32, events: u32) {
        let subscriber = &mut self.subscribers[key];
        subscriber.events = subscriber.events.saturating_add(events);
        self.counts.events += u64::from(events);
        self.counts.replayed += u64::from(events);
    }

    /// Notes that the socket has not taken everything.
    pub(super) fn block(&mut self, key: u32) {
        self.subscribers.set_blocked(key, true);
        let subscriber = &mut self.subscribers[key];
        subscriber.last_sent = self.now;
        subscriber.flags.set(Flags::LATE, true);
        self.limit_wait(key);
        let subscriber = &mut self.subscribers[key];
        if subscriber.phase != Phase::Sending {
            return;
        }
        // A chunk can be read again: it is not kept for as long as somebody else may be slow.
        let outbox = std::mem::replace(&mut subscriber.outbox, NONE);
        let Outbox::Chunk { chunk, sent } = self.outboxes.remove(outbox as usize) else {
            unreachable!("in phase Sending the outbox is a chunk");
        };
        let cut = chunk.cut(subscriber.cursor, sent);
        (subscriber.cursor, subscriber.partial) = (cut.cursor, cut.partial);
        if let Some(end) = cut.rest_ends {
            let rest = Outbox::frame(&chunk.bytes[sent..end]);
            subscriber.outbox = self.outboxes.insert(rest) as u32;
        }
        self.subscribers.set_phase(key, Phase::Stalled);
        self.note_replayed(key, cut.events);
    }
}
