//! Chunks of history in memory: each is read once for everybody who stands at the same place.
//!
//! ```text
//!   place ──▶ being read: who waits for it ──▶ ready: shared by those who send it ──▶ given back
//!                          ▲ others join                ▲ others take it
//! ```
//!
//! Subscribers that were cut together, or stopped reading together, replay together: a thousand of
//! them cost one read a chunk, as long as they stay near each other. A chunk that nobody sends is
//! kept until its room is wanted, or until nobody replays any more.
//!
//! Invariant: those that are read and those that are ready are together at most as many as
//! [`Chunks::new`] was told.

use std::{collections::VecDeque, rc::Rc};

use super::token::Token;
use crate::{
    event::EventId,
    wire::sse::{self, Frames},
};

/// Frames of history, whole ones, with everything up to `scanned_to` considered.
#[derive(Debug)]
pub(super) struct Chunk {
    pub(super) bytes: Vec<u8>,
    pub(super) scanned_to: EventId,
    /// How many events are in it.
    pub(super) events: u32,
}

/// What to do about a chunk of which only a part was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cut {
    /// Everything up to here was sent, or is not there.
    pub(super) cursor: EventId,
    /// Bytes of event `cursor + 1` that were sent.
    pub(super) partial: u32,
    /// Where a frame of the server itself ends of which a part was sent. It cannot be made again.
    pub(super) rest_ends: Option<usize>,
    /// Events that were sent whole.
    pub(super) events: u32,
}

impl Chunk {
    /// The events after this one that are there, up to `scanned_to`. If some are not, since
    /// retention has removed them, the chunk says so where the first of them may have been: before
    /// the first event whose id does not follow from the one before.
    pub(super) fn new(
        after: EventId,
        mut bytes: Vec<u8>,
        scanned_to: EventId,
        events: u32,
        is_truncated: bool,
    ) -> Chunk {
        if is_truncated && let Some((at, before, next)) = first_gap(&bytes, after, scanned_to) {
            let mut notice = Vec::new();
            sse::truncated(&mut notice, before, next);
            bytes.splice(at..at, notice);
        }
        Chunk { bytes, scanned_to, events }
    }

    /// Where somebody stands of whom the chunk was taken back after so many bytes, and who stood at
    /// `cursor` before.
    pub(super) fn cut(&self, cursor: EventId, sent: usize) -> Cut {
        let mut cut = Cut { cursor, partial: 0, rest_ends: None, events: 0 };
        let mut frames = Frames::new(&self.bytes).peekable();
        while let Some(frame) = frames.next().filter(|frame| frame.start < sent) {
            let is_whole = frame.end <= sent;
            match frame.id {
                Some(id) if is_whole => {
                    cut.cursor = id;
                    cut.events += 1;
                }
                Some(id) => {
                    cut.cursor = EventId(id.0 - 1);
                    cut.partial = (sent - frame.start) as u32;
                }
                // What is missing is said once: from here on it goes on with what is there.
                None => {
                    let next = frames.peek().and_then(|next| next.id);
                    cut.cursor = next.map_or(self.scanned_to, |next| EventId(next.0 - 1));
                    cut.rest_ends = (!is_whole).then_some(frame.end);
                }
            }
        }
        cut
    }
}

/// The first place in these frames where an event may be missing: its offset, the event before it,
/// and the one after it, or the first id that was not looked at.
fn first_gap(
    bytes: &[u8],
    after: EventId,
    scanned_to: EventId,
) -> Option<(usize, EventId, EventId)> {
    let mut before = after;
    for frame in Frames::new(bytes) {
        let id = frame.id.expect("history is events only");
        if id > before.next() {
            return Some((frame.start, before, id));
        }
        before = id;
    }
    (scanned_to > before).then(|| (bytes.len(), before, scanned_to.next()))
}

/// Where a chunk begins: after this event of this view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) view: u32,
    pub(super) view_generation: u32,
    pub(super) after: EventId,
}

/// What there is for somebody who wants a chunk.
#[derive(Debug)]
pub(super) enum Wanted {
    /// The chunk.
    Ready(Rc<Chunk>),
    /// It is being read, and who asked waits for it.
    Reading,
    /// It should be read: this is its number, and who asked waits for it.
    Read(u32),
    /// There is no room. Who asked should ask again.
    Full,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Chunks {
    max: usize,
    last_number: u32,
    reading: Vec<Reading>,
    /// The oldest first.
    ready: VecDeque<(Option<Place>, Rc<Chunk>)>,
}

#[derive(Debug)]
struct Reading {
    number: u32,
    /// None when what is read may be out of date: nobody else is to have it.
    place: Option<Place>,
    waiting: Vec<Token>,
}

impl Chunks {
    pub(super) fn new(max: usize) -> Chunks {
        Chunks { max, last_number: 0, reading: Vec::new(), ready: VecDeque::new() }
    }

    /// How many are being read or ready.
    pub(super) fn len(&self) -> usize {
        self.reading.len() + self.ready.len()
    }

    /// Finds the chunk at a place for somebody.
    pub(super) fn want(&mut self, place: Place, token: Token) -> Wanted {
        if let Some((_, chunk)) = self.ready.iter().rev().find(|(at, _)| *at == Some(place)) {
            return Wanted::Ready(Rc::clone(chunk));
        }
        if let Some(reading) = self.reading.iter_mut().find(|other| other.place == Some(place)) {
            reading.waiting.push(token);
            return Wanted::Reading;
        }
        if self.len() >= self.max && !self.drop_oldest_unused() {
            return Wanted::Full;
        }
        self.last_number = self.last_number.wrapping_add(1);
        let number = self.last_number;
        self.reading.push(Reading { number, place: Some(place), waiting: vec![token] });
        Wanted::Read(number)
    }

    /// A chunk was read, or could not be: says who waits for it, and shares it out.
    pub(super) fn handle_read(
        &mut self,
        number: u32,
        chunk: Option<Chunk>,
    ) -> (Vec<Token>, Option<Rc<Chunk>>) {
        let index = self.reading.iter().position(|reading| reading.number == number);
        let reading = self.reading.swap_remove(index.expect("what is asked for is answered once"));
        let chunk = chunk.map(Rc::new);
        if let Some(chunk) = &chunk {
            self.ready.push_back((reading.place, Rc::clone(chunk)));
        }
        (reading.waiting, chunk)
    }

    /// Runs are gone: what was read before is for those who have it already.
    pub(super) fn forget_places(&mut self) {
        self.reading.iter_mut().for_each(|reading| reading.place = None);
        self.ready.iter_mut().for_each(|(place, _)| *place = None);
        self.ready.retain(|(_, chunk)| is_used(chunk));
    }

    /// Gives everything back if nobody has or awaits any of it.
    pub(super) fn rest(&mut self) {
        if self.reading.is_empty() && !self.ready.iter().any(|(_, chunk)| is_used(chunk)) {
            self.ready = VecDeque::new();
        }
    }

    fn drop_oldest_unused(&mut self) -> bool {
        let unused = self.ready.iter().position(|(_, chunk)| !is_used(chunk));
        unused.and_then(|index| self.ready.remove(index)).is_some()
    }

    /// Who waits for a chunk that is being read.
    #[cfg(test)]
    pub(super) fn waiting(&self, number: u32) -> &[Token] {
        let reading = self.reading.iter().find(|reading| reading.number == number);
        reading.map_or(&[], |reading| &reading.waiting)
    }

    /// Checks what the module promises, and that this is where each chunk that is sent belongs.
    pub(super) fn invariants<'a>(&self, sent: impl Iterator<Item = &'a Rc<Chunk>>) {
        assert!(self.len() <= self.max);
        let mut users = 0;
        for chunk in sent {
            assert!(self.ready.iter().any(|(_, ready)| Rc::ptr_eq(ready, chunk)));
            users += 1;
        }
        let shared: usize = self.ready.iter().map(|(_, chunk)| Rc::strong_count(chunk) - 1).sum();
        assert_eq!(shared, users, "no chunk is kept by anybody else");
        let places = |place: &Option<Place>| {
            let reading = self.reading.iter().map(|reading| &reading.place);
            reading.chain(self.ready.iter().map(|(place, _)| place)).filter(|p| *p == place).count()
        };
        for (place, _) in &self.ready {
            assert!(place.is_none() || places(place) == 1, "each is read once");
        }
    }
}

fn is_used(chunk: &Rc<Chunk>) -> bool {
    Rc::strong_count(chunk) > 1
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLACE: Place = Place { view: 1, view_generation: 1, after: EventId(7) };

    fn token(key: u32) -> Token {
        Token { key, generation: 1 }
    }

    fn frames(ids: &[u64]) -> Vec<u8> {
        ids.iter().flat_map(|id| format!("id: {id}\ndata: 1\n\n").into_bytes()).collect()
    }

    fn chunk() -> Chunk {
        Chunk { bytes: b"id: 8\ndata: 1\n\n".to_vec(), scanned_to: EventId(8), events: 1 }
    }

    /// Asks for a chunk that nobody has, and says its number.
    fn begin(chunks: &mut Chunks, place: Place, token: Token) -> u32 {
        match chunks.want(place, token) {
            Wanted::Read(number) => number,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_chunk_is_read_once_for_all_who_want_it() {
        let mut chunks = Chunks::new(2);
        let number = begin(&mut chunks, PLACE, token(1));
        assert!(matches!(chunks.want(PLACE, token(2)), Wanted::Reading));
        let (waiting, read) = chunks.handle_read(number, Some(chunk()));
        assert_eq!(waiting, [token(1), token(2)]);
        let Wanted::Ready(taken) = chunks.want(PLACE, token(3)) else { panic!("it is there") };
        let read = read.unwrap();
        assert!(Rc::ptr_eq(&taken, &read));
        chunks.invariants([&taken, &read].into_iter());
    }

    #[test]
    fn room_is_made_by_what_nobody_sends() {
        let mut chunks = Chunks::new(1);
        let number = begin(&mut chunks, PLACE, token(1));
        let next = Place { after: EventId(8), ..PLACE };
        assert!(matches!(chunks.want(next, token(2)), Wanted::Full));
        let (_, sent) = chunks.handle_read(number, Some(chunk()));
        assert!(matches!(chunks.want(next, token(2)), Wanted::Full));
        drop(sent);
        begin(&mut chunks, next, token(2));
        assert_eq!(chunks.len(), 1);
    }

    #[test]
    fn who_comes_after_a_deletion_gets_nothing_that_was_read_before() {
        let mut chunks = Chunks::new(4);
        let number = begin(&mut chunks, PLACE, token(1));
        chunks.forget_places();
        let second = begin(&mut chunks, PLACE, token(2));
        let (waiting, old) = chunks.handle_read(number, Some(chunk()));
        assert_eq!(waiting, [token(1)]);
        assert!(matches!(chunks.want(PLACE, token(3)), Wanted::Reading));
        let (waiting, new) = chunks.handle_read(second, Some(chunk()));
        assert_eq!(waiting, [token(2), token(3)]);
        chunks.forget_places();
        begin(&mut chunks, PLACE, token(4));
        chunks.invariants([&old.unwrap(), &new.unwrap()].into_iter());
    }

    #[test]
    fn nothing_is_kept_when_nobody_replays() {
        let mut chunks = Chunks::new(4);
        let number = begin(&mut chunks, PLACE, token(1));
        let (_, sent) = chunks.handle_read(number, Some(chunk()));
        chunks.rest();
        assert_eq!(chunks.len(), 1);
        drop(sent);
        chunks.rest();
        assert_eq!(chunks.len(), 0);
    }

    /// The text of a chunk, with numbers in place of what stands around them.
    fn made(after: u64, ids: &[u64], scanned_to: u64) -> String {
        let count = ids.len() as u32;
        let chunk = Chunk::new(EventId(after), frames(ids), EventId(scanned_to), count, true);
        String::from_utf8(chunk.bytes)
            .unwrap()
            .replace("event: stream.truncated\ndata: {\"requested_after_id\":", "(")
            .replace(",\"first_available_id\":", "..")
            .replace("}\n\n", ")")
            .replace("id: ", "")
            .replace("\ndata: 1\n\n", ",")
    }

    #[test]
    fn a_chunk_says_where_the_first_event_may_be_missing() {
        assert_eq!(made(0, &[7, 8, 12], 12), "(0..7)7,8,12,");
        assert_eq!(made(6, &[7, 8, 12, 14], 20), "7,8,(8..12)12,14,");
        assert_eq!(made(6, &[7, 8], 20), "7,8,(8..21)");
        assert_eq!(made(6, &[], 20), "(6..21)");
        // What is missing comes after all this.
        assert_eq!(made(6, &[7, 8], 8), "7,8,");
        let whole = Chunk::new(EventId(0), frames(&[7]), EventId(9), 1, false);
        assert_eq!(whole.bytes, frames(&[7]));
    }

    #[test]
    fn whoever_has_a_part_of_a_chunk_stands_somewhere() {
        for (ids, next) in [(&[7, 12, 14][..], 11), (&[7][..], 20)] {
            let count = ids.len() as u32;
            let chunk = Chunk::new(EventId(6), frames(ids), EventId(20), count, true);
            let seven = frames(&[7]).len();
            let notice = chunk.bytes.len() - frames(ids).len();
            for sent in 0..chunk.bytes.len() {
                let cut = chunk.cut(EventId(6), sent);
                let (cursor, partial, rest_ends) = match sent {
                    _ if sent < seven => (6, sent, None),
                    _ if sent == seven => (7, 0, None),
                    _ if sent < seven + notice => (next, 0, Some(seven + notice)),
                    _ if sent < seven + notice + frames(&[12]).len() => {
                        (11, sent - seven - notice, None)
                    }
                    _ => (
                        if sent == chunk.bytes.len() - frames(&[14]).len() { 12 } else { 13 },
                        sent - seven - notice - frames(&[12]).len(),
                        None,
                    ),
                };
                let ends = Frames::new(&chunk.bytes).filter(|frame| frame.id.is_some());
                let events = ends.filter(|frame| frame.end <= sent).count() as u32;
                let (cursor, partial) = (EventId(cursor), partial as u32);
                let expected = Cut { cursor, partial, rest_ends, events };
                assert_eq!(cut, expected, "{sent} of {ids:?}");
            }
        }
    }
}
