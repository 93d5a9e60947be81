//! The recent end of one view, encoded once for all its subscribers.
//!
//! ```text
//!  ids      covered_after ┤  first_id … last_id │ first_id … last_id │ … last_id
//!  bytes              start ┌──── segment ──────┬──── segment ───────┬── segment ──┐ end
//!  offsets  … ────────────▶ base                base                 base          ▶ grows
//! ```
//!
//! A position is an absolute byte offset, so that it stays good while segments come and go on both
//! sides: new events at the end, the oldest segment dropped at the start, and once, when history
//! is read in, a segment put before the start. An ordinal counts the events that lie wholly before
//! a position, so that what was sent between two positions is known without a look at it.
//!
//! Invariants: every event that the view selects with an id greater than `covered_after` is here,
//! in order, until the point that the hub has reached; a segment begins and ends at the boundary
//! of a frame; `end - start` is the sum of the segments' lengths.
//!
//! Rejected: a queue of events for each subscriber (memory grows with the slowest), and an index
//! with an entry for each event (a frame says its id itself, so a sparse index and a short walk
//! along the frames do).

use std::collections::VecDeque;

use crate::{
    event::EventId,
    limits::{TAIL_MARK_BYTES, TAIL_SEGMENT_BYTES},
    wire::sse::Frames,
};

/// How a tail is cut into pieces; the default is what `limits.rs` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TailShape {
    /// Size of a segment; an event larger than this has a segment of its own.
    pub segment_bytes: u32,
    /// Distance between two entries of a segment's index.
    pub mark_bytes: u32,
}

impl Default for TailShape {
    fn default() -> TailShape {
        TailShape { segment_bytes: TAIL_SEGMENT_BYTES as u32, mark_bytes: TAIL_MARK_BYTES as u32 }
    }
}

/// Where a new tail begins: far enough from zero that history can be put before it.
const ORIGIN: u64 = 1 << 48;

/// The ordinal there. Ordinals wrap around, and their differences are what counts.
const ORIGIN_ORDINAL: u32 = 1 << 31;

/// See the module.
#[derive(Debug)]
pub struct Tail {
    shape: TailShape,
    segments: VecDeque<Segment>,
    start: u64,
    end: u64,
    end_ordinal: u32,
    covered_after: EventId,
    last_id: EventId,
}

#[derive(Debug)]
struct Segment {
    /// Offset of its first byte, and how many events lie before it.
    base: u64,
    base_ordinal: u32,
    bytes: Vec<u8>,
    /// The event before its first one.
    after: EventId,
    /// The last event in it.
    last_id: EventId,
    /// Sparse index: where a frame begins, its ordinal, and the id of the event before it. The first
    /// frame is not in it.
    marks: Vec<Mark>,
}

#[derive(Clone, Copy, Debug)]
struct Mark {
    at: u32,
    ordinal: u32,
    after: EventId,
}

/// Where an event begins, or will.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Beginning {
    /// Its offset.
    pub offset: u64,
    /// How many events lie before it, from some origin, wrapping around.
    pub ordinal: u32,
}

/// A place in the byte stream of a view, in terms that outlive the tail.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// Every event up to this one lies wholly before it.
    pub cursor: EventId,
    /// How many bytes of the event with the next id lie before it.
    pub partial: u32,
    /// How many events lie wholly before it, from some origin, wrapping around.
    pub ordinal: u32,
}

impl Segment {
    fn new(base: u64, base_ordinal: u32, after: EventId) -> Segment {
        let (bytes, marks) = (Vec::new(), Vec::new());
        Segment { base, base_ordinal, bytes, after, last_id: after, marks }
    }

    fn end(&self) -> u64 {
        self.base + self.bytes.len() as u64
    }

    /// Puts a frame at the end. Its memory doubles, as that of any vector, but never beyond what a
    /// segment may hold.
    fn extend(&mut self, frame: &[u8], segment_bytes: usize) {
        let (wanted, room) = (self.bytes.len() + frame.len(), self.bytes.capacity());
        if wanted > room {
            let new_room = (2 * room).min(segment_bytes).max(wanted);
            self.bytes.reserve_exact(new_room - self.bytes.len());
        }
        self.bytes.extend_from_slice(frame);
    }

    /// Notes that an event begins here, after `last_id`.
    fn mark(&mut self, at: usize, ordinal: u32, shape: TailShape) {
        let distance = at as u32 - self.marks.last().map_or(0, |mark| mark.at);
        if distance >= shape.mark_bytes {
            self.marks.push(Mark { at: at as u32, ordinal, after: self.last_id });
        }
    }

    /// The frames from the last mark of which `is_before` holds.
    fn frames_from(&self, is_before: impl Fn(&Mark) -> bool) -> impl Iterator<Item = Placed> {
        let index = self.marks.partition_point(is_before);
        let first = Mark { at: 0, ordinal: self.base_ordinal, after: self.after };
        let mark = index.checked_sub(1).map_or(first, |index| self.marks[index]);
        let (at, mut before, mut ordinal) = (mark.at as usize, mark.after, mark.ordinal);
        Frames::new(&self.bytes[at..]).map(move |frame| {
            let id = frame.id.unwrap_or(before);
            let (start, end) = (at + frame.start, at + frame.end);
            let placed = Placed { before, id, ordinal, start, end };
            before = id;
            ordinal = ordinal.wrapping_add(1);
            placed
        })
    }

    fn place(&self, at: usize) -> Place {
        let frame = self
            .frames_from(|mark| mark.at as usize <= at)
            .find(|frame| at < frame.end)
            .expect("an offset before the end of a segment lies in one of its frames");
        let ordinal = frame.ordinal;
        if at == frame.start {
            return Place { cursor: frame.before, partial: 0, ordinal };
        }
        Place { cursor: EventId(frame.id.0 - 1), partial: (at - frame.start) as u32, ordinal }
    }

    /// Where the first event after `cursor` begins, if it is here.
    fn offset_after(&self, cursor: EventId) -> Option<Beginning> {
        let frame =
            self.frames_from(|mark| mark.after <= cursor).find(|frame| frame.id > cursor)?;
        Some(Beginning { offset: self.base + frame.start as u64, ordinal: frame.ordinal })
    }
}

/// A frame in a segment, with its id and the id before it.
struct Placed {
    before: EventId,
    id: EventId,
    ordinal: u32,
    start: usize,
    end: usize,
}

impl Tail {
    /// A tail without bytes, of a view all of whose events up to `covered_after` are elsewhere.
    pub fn new(covered_after: EventId) -> Tail {
        Tail::with_shape(covered_after, TailShape::default())
    }

    /// The same, cut into pieces of other sizes.
    pub fn with_shape(covered_after: EventId, shape: TailShape) -> Tail {
        Tail {
            shape,
            segments: VecDeque::new(),
            start: ORIGIN,
            end: ORIGIN,
            end_ordinal: ORIGIN_ORDINAL,
            covered_after,
            last_id: covered_after,
        }
    }

    /// Offset of the first byte that is kept.
    pub fn start(&self) -> u64 {
        self.start
    }

    /// Offset after the last byte.
    pub fn end(&self) -> u64 {
        self.end
    }

    /// How many events lie before the end, from some origin, wrapping around.
    pub fn end_ordinal(&self) -> u32 {
        self.end_ordinal
    }

    /// Whether what lies at this offset was put before the start, and never appended.
    pub fn is_history(&self, offset: u64) -> bool {
        offset < ORIGIN
    }

    /// Every event of the view after this one is here.
    pub fn covered_after(&self) -> EventId {
        self.covered_after
    }

    /// The last event that was appended, or `covered_after`.
    pub fn last_id(&self) -> EventId {
        self.last_id
    }

    /// Memory that the segments take, in bytes.
    pub fn capacity(&self) -> usize {
        self.segments.iter().map(|segment| segment.bytes.capacity()).sum()
    }

    /// Appends the frame of an event. Ids must go up.
    pub fn append(&mut self, id: EventId, frame: &[u8]) {
        debug_assert!(id > self.last_id, "{id} after {}", self.last_id);
        let segment_bytes = self.shape.segment_bytes as usize;
        let has_room = |segment: &Segment| segment.bytes.len() + frame.len() <= segment_bytes;
        if !self.segments.back().is_some_and(has_room) {
            self.make_room();
            self.segments.push_back(Segment::new(self.end, self.end_ordinal, self.last_id));
        }
        let segment = self.segments.back_mut().expect("one was just pushed if there was none");
        segment.mark(segment.bytes.len(), self.end_ordinal, self.shape);
        segment.extend(frame, segment_bytes);
        segment.last_id = id;
        self.last_id = id;
        self.end += frame.len() as u64;
        self.end_ordinal = self.end_ordinal.wrapping_add(1);
    }

    /// Puts whole frames of history before the start: the events after `covered_after` up to the
    /// old `covered_after`.
    pub fn prepend(&mut self, mut frames: Vec<u8>, covered_after: EventId) {
        debug_assert!(covered_after <= self.covered_after);
        let old = std::mem::replace(&mut self.covered_after, covered_after);
        if frames.is_empty() {
            return;
        }
        self.start -= frames.len() as u64;
        let old_ordinal =
            self.segments.front().map_or(self.end_ordinal, |first| first.base_ordinal);
        let mut segment = Segment::new(self.start, 0, covered_after);
        let mut count = 0;
        for frame in Frames::new(&frames) {
            segment.mark(frame.start, count, self.shape);
            segment.last_id = frame.id.unwrap_or(segment.last_id);
            count += 1;
        }
        segment.base_ordinal = old_ordinal.wrapping_sub(count);
        for mark in &mut segment.marks {
            mark.ordinal = mark.ordinal.wrapping_add(segment.base_ordinal);
        }
        debug_assert!(segment.last_id <= old);
        frames.shrink_to_fit();
        segment.bytes = frames;
        if self.segments.is_empty() {
            self.last_id = old;
        }
        self.make_room();
        self.segments.push_front(segment);
    }

    /// Most tails have a single segment, and a deque would begin with room for four.
    fn make_room(&mut self) {
        if self.segments.is_empty() {
            self.segments.reserve_exact(1);
        }
    }

    /// Forgets the oldest segment; false when there was none.
    pub fn drop_front(&mut self) -> bool {
        let Some(segment) = self.segments.pop_front() else { return false };
        self.start = segment.end();
        self.covered_after = segment.last_id;
        true
    }

    /// The bytes from `offset` to the end of its segment; empty at the end of the tail.
    ///
    /// # Panics
    /// When `offset` lies before the start or after the end.
    pub fn read(&self, offset: u64) -> &[u8] {
        assert!(self.start <= offset && offset <= self.end, "offset {offset} is not in the tail");
        match self.segment_of(offset) {
            Some(segment) => &segment.bytes[(offset - segment.base) as usize..],
            None => &[],
        }
    }

    /// What lies before `offset`, so that a subscriber can be served from the journal instead.
    ///
    /// # Panics
    /// As [`Tail::read`].
    pub fn place(&self, offset: u64) -> Place {
        assert!(self.start <= offset && offset <= self.end, "offset {offset} is not in the tail");
        match self.segment_of(offset) {
            Some(segment) => segment.place((offset - segment.base) as usize),
            None => Place { cursor: self.last_id, partial: 0, ordinal: self.end_ordinal },
        }
    }

    /// Where the first event after `cursor` begins, or will; none when it may be one that is no
    /// longer here.
    pub fn offset_after(&self, cursor: EventId) -> Option<Beginning> {
        if cursor < self.covered_after {
            return None;
        }
        let index = self.segments.partition_point(|segment| segment.last_id <= cursor);
        let there = self.segments.get(index).and_then(|segment| segment.offset_after(cursor));
        Some(there.unwrap_or(Beginning { offset: self.end, ordinal: self.end_ordinal }))
    }

    /// The segment that holds the byte at `offset`; none at the end.
    fn segment_of(&self, offset: u64) -> Option<&Segment> {
        // Whoever keeps up reads what is newest.
        let newest = self.segments.back()?;
        if newest.base <= offset {
            return (offset < newest.end()).then_some(newest);
        }
        let index = self.segments.partition_point(|segment| segment.end() <= offset);
        self.segments.get(index)
    }

    /// Checks what the module promises.
    pub fn invariants(&self) {
        let mut offset = self.start;
        let mut last_id = self.covered_after;
        let mut ordinal =
            self.segments.front().map_or(self.end_ordinal, |first| first.base_ordinal);
        for segment in &self.segments {
            assert_eq!((segment.base, segment.base_ordinal), (offset, ordinal));
            let mut marks = segment.marks.iter().peekable();
            assert!(!segment.bytes.is_empty());
            let mut whole = 0;
            for frame in Frames::new(&segment.bytes) {
                let id = frame.id.expect("a tail holds events only");
                assert!(id > last_id);
                if let Some(mark) = marks.next_if(|mark| mark.at as usize == frame.start) {
                    assert_eq!((mark.after, mark.ordinal), (last_id, ordinal));
                }
                last_id = id;
                whole = frame.end;
                ordinal = ordinal.wrapping_add(1);
            }
            assert!(marks.next().is_none(), "a mark stands where a frame begins");
            assert_eq!(whole, segment.bytes.len(), "a segment ends at the boundary of a frame");
            assert_eq!(segment.last_id, last_id);
            offset = segment.end();
        }
        assert_eq!((offset, ordinal), (self.end, self.end_ordinal));
        assert!(last_id <= self.last_id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(id: u64, size: usize) -> Vec<u8> {
        format!("id: {id}\ndata: \"{}\"\n\n", "x".repeat(size)).into_bytes()
    }

    /// A tail of the odd ids from `first` to `last`, and all its bytes with the id of each.
    fn tail(first: u64, last: u64, size: usize) -> (Tail, Vec<(u64, Vec<u8>)>) {
        let mut tail = Tail::new(EventId(first - 1));
        let mut frames = Vec::new();
        for id in (first..=last).step_by(2) {
            let bytes = frame(id, size + (id as usize * 7) % 50);
            tail.append(EventId(id), &bytes);
            tail.invariants();
            frames.push((id, bytes));
        }
        (tail, frames)
    }

    fn read_all(tail: &Tail, mut offset: u64) -> Vec<u8> {
        let mut all = Vec::new();
        while offset < tail.end() {
            let bytes = tail.read(offset);
            all.extend_from_slice(bytes);
            offset += bytes.len() as u64;
        }
        all
    }

    fn expected(frames: &[(u64, Vec<u8>)], cursor: u64) -> Vec<u8> {
        frames.iter().filter(|(id, _)| *id > cursor).flat_map(|(_, bytes)| bytes.clone()).collect()
    }

    #[test]
    fn every_offset_is_read_to_the_end_of_its_segment() {
        let shape = TailShape { segment_bytes: 200, mark_bytes: 50 };
        let mut tail = Tail::with_shape(EventId(0), shape);
        for id in 1..=20 {
            tail.append(EventId(id), &frame(id, 40));
            for offset in tail.start()..tail.end() {
                let segment = tail.segments.iter().find(|segment| offset < segment.end()).unwrap();
                assert_eq!(tail.read(offset), &segment.bytes[(offset - segment.base) as usize..]);
            }
            assert_eq!(tail.read(tail.end()), b"");
            if id % 7 == 0 {
                tail.drop_front();
            }
        }
        assert!(tail.segments.len() > 2);
    }

    #[test]
    fn every_cursor_finds_exactly_the_events_after_it() {
        let (tail, frames) = tail(101, 1501, 300);
        for cursor in 100..=1502 {
            let offset = tail.offset_after(EventId(cursor)).unwrap().offset;
            assert_eq!(read_all(&tail, offset), expected(&frames, cursor), "after {cursor}");
        }
        assert_eq!(tail.offset_after(EventId(99)), None);
    }

    #[test]
    fn every_offset_has_the_place_from_which_it_can_be_found_again() {
        let (tail, frames) = tail(1, 61, 20);
        let all = expected(&frames, 0);
        for offset in tail.start()..=tail.end() {
            let place = tail.place(offset);
            let rest = expected(&frames, place.cursor.0);
            let at = (offset - tail.start()) as usize;
            assert_eq!(&all[at..], &rest[place.partial as usize..], "at {at}");
            let before = frames.iter().filter(|(id, _)| *id <= place.cursor.0).count();
            let ordinal = place.ordinal.wrapping_sub(ORIGIN_ORDINAL);
            assert_eq!(ordinal as usize, before, "at {at}");
        }
    }

    #[test]
    fn dropping_the_front_forgets_its_events_only() {
        let (mut tail, frames) = tail(1, 2001, 300);
        let last = tail.segments[0].last_id;
        assert!(tail.drop_front());
        tail.invariants();
        assert_eq!(tail.covered_after(), last);
        assert_eq!(tail.offset_after(EventId(last.0 - 1)), None);
        let offset = tail.offset_after(last).unwrap().offset;
        assert_eq!(read_all(&tail, offset), expected(&frames, last.0));
        while tail.drop_front() {}
        assert_eq!(tail.start(), tail.end());
        assert_eq!(tail.offset_after(EventId(2001)).unwrap().offset, tail.end());
    }

    #[test]
    fn history_put_before_the_start_is_read_with_the_rest() {
        let (older, mut frames) = tail(11, 99, 200);
        let history = read_all(&older, older.start());
        let (mut tail, newer) = tail(101, 301, 200);
        tail.prepend(history, EventId(10));
        tail.invariants();
        frames.extend(newer);
        for cursor in 10..=301 {
            let offset = tail.offset_after(EventId(cursor)).unwrap().offset;
            assert_eq!(read_all(&tail, offset), expected(&frames, cursor), "after {cursor}");
            let left = frames.iter().filter(|(id, _)| *id > cursor).count() as u32;
            let ordinal = tail.offset_after(EventId(cursor)).unwrap().ordinal;
            assert_eq!(tail.end_ordinal().wrapping_sub(ordinal), left, "after {cursor}");
            assert_eq!(tail.is_history(offset), cursor < 99, "after {cursor}");
        }
        assert_eq!(tail.offset_after(EventId(9)), None);
    }

    #[test]
    fn an_event_larger_than_a_segment_has_one_of_its_own() {
        let mut tail = Tail::new(EventId(0));
        tail.append(EventId(1), &frame(1, 10));
        tail.append(EventId(2), &frame(2, TAIL_SEGMENT_BYTES * 2));
        tail.append(EventId(3), &frame(3, 10));
        tail.invariants();
        assert_eq!(tail.segments.len(), 3);
    }
}
