//! Blocks: the events of a window of the journal, packed run by run; and the window's order, which
//! says whose each id is.
//!
//! ```text
//! block   version  section  section  …  checksum        one section a run, in ascending order
//! section run  events  bytes  first id  span  first seq  time   record  record  …
//! order   version  first id  step  step  …  checksum
//! ```
//!
//! `docs/journal-format.md` has every field. The log keeps events in the order of their ids, which
//! is how they come; a block keeps them in the order in which a run is read, so that replaying one
//! run of thousands reads little else. A window's order puts the runs together again.
//!
//! Invariants: the events of a section follow each other in `seq`; ids go up inside a section;
//! sections go up by run. A block is complete by itself.

use super::bytes::{
    Bytes, CHECKSUM_BYTES, checked, put_checksum, put_text, put_varint, unzigzag, zigzag,
};
use super::codec::DecodeError;
use crate::event::{EventId, EventRef, RunId, Timestamp};
use crate::limits::BLOCK_BYTES_TARGET;

/// The format of blocks and orders that this program writes.
const VERSION: u8 = 1;

/// Record: the id after that of the record before.
const NEXT_ID: u8 = 0b0000_0001;
/// Record: the type of the record before in the section.
const SAME_TYPE: u8 = 0b0000_0010;
/// Record: the time of the record before, or of the section.
const SAME_TIME: u8 = 0b0000_0100;

/// Longest head of a section and of a record: varints, at most 10 bytes each.
const SECTION_BYTES_MAX: usize = 70;
const RECORD_BYTES_MAX: usize = 41;

/// A finished block, under the run and the id that it begins with.
pub type KeyedBlock = ((RunId, EventId), Vec<u8>);

/// Packs events, given by run and then by id, into blocks of just under [`BLOCK_BYTES_TARGET`]; an
/// event that is larger than that has a block of its own.
#[derive(Debug, Default)]
pub struct BlockWriter {
    finished: Vec<KeyedBlock>,
    block: Vec<u8>,
    key: (RunId, EventId),
    /// The section that is being filled: its head is written when it is closed.
    records: Vec<u8>,
    section: Option<SectionHead>,
    previous_id: EventId,
    previous_type: std::ops::Range<usize>,
    time: Timestamp,
}

#[derive(Clone, Copy, Debug)]
struct SectionHead {
    run: RunId,
    events: u64,
    first_id: EventId,
    first_seq: u64,
    time: Timestamp,
}

impl BlockWriter {
    /// Adds an event: of a later run than the one before, or of the same and with a later id and
    /// the next seq.
    pub fn push(&mut self, event: &EventRef<'_>) {
        let size = RECORD_BYTES_MAX + event.event_type.len() + event.payload.len();
        let filled = self.block.len() + self.records.len() + 2 * SECTION_BYTES_MAX;
        if !self.is_empty() && filled + size + CHECKSUM_BYTES > BLOCK_BYTES_TARGET {
            self.close_block();
        }
        let goes_on = self.section.is_some_and(|section| {
            section.run == event.run_id && section.first_seq + section.events == event.seq
        });
        if !goes_on {
            self.close_section();
            self.open_section(event);
        }
        self.record(event);
    }

    /// Bytes that are finished but not yet taken.
    pub fn finished_bytes(&self) -> usize {
        self.finished.iter().map(|(_, block)| block.len()).sum()
    }

    /// The blocks that are finished, in the order of their keys.
    pub fn take_finished(&mut self) -> Vec<KeyedBlock> {
        std::mem::take(&mut self.finished)
    }

    /// The blocks that were not taken, and the one that was being filled.
    pub fn finish(mut self) -> Vec<KeyedBlock> {
        self.close_block();
        self.finished
    }

    fn is_empty(&self) -> bool {
        self.block.is_empty() && self.section.is_none()
    }

    fn open_section(&mut self, event: &EventRef<'_>) {
        if self.block.is_empty() {
            self.block.push(VERSION);
            self.key = (event.run_id, event.id);
        }
        self.section = Some(SectionHead {
            run: event.run_id,
            events: 0,
            first_id: event.id,
            first_seq: event.seq,
            time: event.created_at,
        });
        self.previous_id = event.id;
        self.previous_type = 0..0;
        self.time = event.created_at;
    }

    fn record(&mut self, event: &EventRef<'_>) {
        let section = self.section.as_mut().expect("a section is open");
        let is_first = section.events == 0;
        section.events += 1;
        let gap = if is_first { 0 } else { event.id.0 - self.previous_id.0 - 1 };
        let same_type =
            !is_first && &self.records[self.previous_type.clone()] == event.event_type.as_bytes();
        let same_time = self.time == event.created_at;
        let mut tag = 0;
        for (holds, flag) in [(gap == 0, NEXT_ID), (same_type, SAME_TYPE), (same_time, SAME_TIME)] {
            if holds {
                tag |= flag;
            }
        }
        self.records.push(tag);
        if gap > 0 {
            put_varint(&mut self.records, gap);
        }
        if !same_time {
            put_varint(&mut self.records, zigzag(self.time, event.created_at));
        }
        if !same_type {
            put_text(&mut self.records, event.event_type);
            let end = self.records.len();
            self.previous_type = end - event.event_type.len()..end;
        }
        put_text(&mut self.records, event.payload);
        self.previous_id = event.id;
        self.time = event.created_at;
    }

    fn close_section(&mut self) {
        let Some(section) = self.section.take() else { return };
        for number in [
            section.run.0,
            section.events,
            self.records.len() as u64,
            section.first_id.0,
            self.previous_id.0 - section.first_id.0,
            section.first_seq,
            section.time.0,
        ] {
            put_varint(&mut self.block, number);
        }
        self.block.append(&mut self.records);
    }

    fn close_block(&mut self) {
        self.close_section();
        if self.block.is_empty() {
            return;
        }
        let mut block = std::mem::take(&mut self.block);
        put_checksum(&mut block);
        self.finished.push((self.key, block));
    }
}

/// The sections of a block.
#[derive(Clone, Debug)]
pub struct Sections<'a> {
    rest: Bytes<'a>,
    last_run: Option<RunId>,
}

/// The events of one run in a block.
#[derive(Clone, Debug)]
pub struct Section<'a> {
    /// Whose.
    pub run: RunId,
    /// How many.
    pub events: u64,
    /// The seq of the first.
    pub first_seq: u64,
    /// The id of the first.
    pub first_id: EventId,
    /// The id of the last.
    pub last_id: EventId,
    time: Timestamp,
    records: Bytes<'a>,
}

impl<'a> Sections<'a> {
    /// Checks version and checksum of a block.
    ///
    /// # Errors
    /// When one of them does not fit.
    pub fn new(block: &'a [u8]) -> Result<Sections<'a>, DecodeError> {
        Ok(Sections { rest: checked(block, VERSION)?, last_run: None })
    }

    /// The section of this run, if there is one.
    ///
    /// # Errors
    /// When the block is not as it was written.
    pub fn find(self, run: RunId) -> Result<Option<Section<'a>>, DecodeError> {
        for section in self {
            let section = section?;
            if section.run >= run {
                return Ok((section.run == run).then_some(section));
            }
        }
        Ok(None)
    }

    fn section(&mut self) -> Result<Section<'a>, DecodeError> {
        let run = RunId(self.rest.varint()?);
        let events = self.rest.varint()?;
        let length = self.rest.varint()?;
        let first_id = EventId(self.rest.varint()?);
        let last_id = EventId(first_id.0.saturating_add(self.rest.varint()?));
        let first_seq = self.rest.varint()?;
        let time = Timestamp(self.rest.varint()?);
        if self.last_run.replace(run).is_some_and(|last| run <= last) || events == 0 {
            return Err(DecodeError::Malformed("sections out of order"));
        }
        let records = self.rest.take(length)?;
        Ok(Section { run, events, first_seq, first_id, last_id, time, records })
    }
}

impl<'a> Iterator for Sections<'a> {
    type Item = Result<Section<'a>, DecodeError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.0.is_empty() {
            return None;
        }
        let section = self.section();
        if section.is_err() {
            self.rest = Bytes(&[]);
        }
        Some(section)
    }
}

impl<'a> Section<'a> {
    /// The seq after that of the last.
    pub fn next_seq(&self) -> u64 {
        self.first_seq.saturating_add(self.events)
    }

    /// Bytes of its events as they are packed.
    pub fn bytes(&self) -> usize {
        self.records.0.len()
    }

    /// Its events, in order.
    pub fn iter(&self) -> Events<'a> {
        Events {
            run: self.run,
            left: self.events,
            rest: self.records,
            next_id: self.first_id.0,
            seq: self.first_seq,
            time: self.time.0,
            event_type: None,
        }
    }
}

/// The events of a section.
#[derive(Clone, Debug)]
pub struct Events<'a> {
    run: RunId,
    left: u64,
    rest: Bytes<'a>,
    next_id: u64,
    seq: u64,
    time: u64,
    event_type: Option<&'a str>,
}

impl<'a> Events<'a> {
    fn event(&mut self) -> Result<EventRef<'a>, DecodeError> {
        const BEYOND: DecodeError = DecodeError::Malformed("a number beyond 2^64");
        let tag = self.rest.byte()?;
        if tag & !(NEXT_ID | SAME_TYPE | SAME_TIME) != 0 {
            return Err(DecodeError::Malformed("a record of an unknown kind"));
        }
        let gap = if tag & NEXT_ID == 0 { self.rest.varint()? } else { 0 };
        let id = self.next_id.checked_add(gap).ok_or(BEYOND)?;
        if tag & SAME_TIME == 0 {
            self.time = unzigzag(self.time, self.rest.varint()?);
        }
        let event_type = if tag & SAME_TYPE == 0 {
            self.rest.text()?
        } else {
            self.event_type.ok_or(DecodeError::Malformed("no event before the first"))?
        };
        let payload = self.rest.text()?;
        let seq = self.seq;
        self.next_id = id.checked_add(1).ok_or(BEYOND)?;
        self.seq = seq.checked_add(1).ok_or(BEYOND)?;
        self.event_type = Some(event_type);
        Ok(EventRef {
            id: EventId(id),
            run_id: self.run,
            seq,
            event_type,
            payload,
            created_at: Timestamp(self.time),
        })
    }
}

impl<'a> Iterator for Events<'a> {
    type Item = Result<EventRef<'a>, DecodeError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.left == 0 {
            let surplus = !std::mem::replace(&mut self.rest, Bytes(&[])).0.is_empty();
            return surplus.then_some(Err(DecodeError::Malformed("bytes after the last event")));
        }
        self.left -= 1;
        let event = self.event();
        if event.is_err() {
            self.left = 0;
            self.rest = Bytes(&[]);
        }
        Some(event)
    }
}

/// Writes whose each id of a window is, in pieces of just under [`BLOCK_BYTES_TARGET`].
#[derive(Debug, Default)]
pub struct OrderWriter {
    finished: Vec<(EventId, Vec<u8>)>,
    steps: Vec<u8>,
    first_id: EventId,
    /// The last id of the piece before.
    before: EventId,
    next_id: EventId,
    run: RunId,
}

/// Bytes of a piece beside its steps, at most, and of one more step.
const ORDER_OVERHEAD_BYTES: usize = 1 + 3 * 10 + 20 + CHECKSUM_BYTES;

impl OrderWriter {
    /// Adds the next id.
    pub fn push(&mut self, id: EventId, run: RunId) {
        if self.steps.len() + ORDER_OVERHEAD_BYTES > BLOCK_BYTES_TARGET {
            self.close_piece(id);
        }
        if self.steps.is_empty() {
            self.first_id = id;
            self.next_id = id;
            self.run = RunId(0);
        }
        let gap = id.0 - self.next_id.0;
        // Most often one byte: the way to the run, and whether ids were left out before.
        let way = zigzag(Timestamp(self.run.0), Timestamp(run.0));
        put_varint(&mut self.steps, (way << 1) | u64::from(gap > 0));
        if gap > 0 {
            put_varint(&mut self.steps, gap);
        }
        self.next_id = id.next();
        self.run = run;
    }

    /// The pieces, each under the id that it begins with.
    pub fn finish(mut self) -> Vec<(EventId, Vec<u8>)> {
        if !self.steps.is_empty() {
            self.close_piece(EventId(0));
        }
        self.finished
    }

    /// The next one begins with `after`; 0 when there is none.
    fn close_piece(&mut self, after: EventId) {
        let mut piece = vec![VERSION];
        for id in [self.first_id, self.before, after] {
            put_varint(&mut piece, id.0);
        }
        piece.append(&mut self.steps);
        put_checksum(&mut piece);
        self.finished.push((self.first_id, piece));
        self.before = EventId(self.next_id.0 - 1);
    }
}

/// Whose the ids of a piece of order are.
#[derive(Clone, Debug)]
pub struct Order<'a> {
    /// The first of them.
    pub first_id: EventId,
    /// The last id of the piece before it; 0 when it is the first of its window.
    pub before: EventId,
    /// The first id of the piece after it; 0 when it is the last.
    pub after: EventId,
    rest: Bytes<'a>,
    next_id: u64,
    run: u64,
}

impl<'a> Order<'a> {
    /// Checks version and checksum of a piece.
    ///
    /// # Errors
    /// When one of them does not fit.
    pub fn new(piece: &'a [u8]) -> Result<Order<'a>, DecodeError> {
        let mut rest = checked(piece, VERSION)?;
        let (first, before, after) = (rest.varint()?, rest.varint()?, rest.varint()?);
        let [first_id, before, after] = [first, before, after].map(EventId);
        Ok(Order { first_id, before, after, rest, next_id: first, run: 0 })
    }

    fn step(&mut self) -> Result<(EventId, RunId), DecodeError> {
        const BEYOND: DecodeError = DecodeError::Malformed("a number beyond 2^64");
        let step = self.rest.varint()?;
        let gap = if step & 1 == 0 { 0 } else { self.rest.varint()? };
        let id = self.next_id.checked_add(gap).ok_or(BEYOND)?;
        self.run = unzigzag(self.run, step >> 1);
        self.next_id = id.checked_add(1).ok_or(BEYOND)?;
        Ok((EventId(id), RunId(self.run)))
    }
}

impl Iterator for Order<'_> {
    type Item = Result<(EventId, RunId), DecodeError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.0.is_empty() {
            return None;
        }
        let step = self.step();
        if step.is_err() {
            self.rest = Bytes(&[]);
        }
        Some(step)
    }
}

#[cfg(test)]
mod tests {
    use rand::RngExt;

    use super::*;
    use crate::event::Event;
    use crate::journal::model::{random_event, seeded};

    /// Events of some runs, by run and then by id, with ids that leave some out.
    fn random_events(rng: &mut rand::rngs::StdRng) -> Vec<Event> {
        let mut events = Vec::new();
        let mut run = 0;
        for _ in 0..rng.random_range(1..20) {
            run += rng.random_range(1..1_000);
            let first_seq = rng.random_range(1..1_000_000);
            let mut id = rng.random_range(1..1 << 40);
            let mut time = rng.random_range(0..1 << 41);
            for count in 0..rng.random_range(1..60) {
                let new = random_event(rng);
                events.push(Event {
                    id: EventId(id),
                    run_id: RunId(run),
                    seq: first_seq + count,
                    event_type: new.event_type,
                    payload: new.payload,
                    created_at: Timestamp(time),
                });
                id += if rng.random_bool(0.5) { 1 } else { rng.random_range(1..10_000) };
                time += rng.random_range(0..2) * rng.random_range(0..100_000);
            }
        }
        events
    }

    #[test]
    fn blocks_give_back_what_was_packed() {
        let mut rng = seeded();
        for _ in 0..50 {
            let events = random_events(&mut rng);
            let mut writer = BlockWriter::default();
            for event in &events {
                writer.push(&event.borrowed());
            }
            let blocks = writer.finish();
            let mut found = Vec::new();
            let mut before = (RunId(0), EventId(0));
            for (key, block) in &blocks {
                assert!(*key > before, "keys go up");
                before = *key;
                let first = found.len();
                for section in Sections::new(block).unwrap() {
                    let section = section.unwrap();
                    let count = found.len();
                    found.extend(section.iter().map(|event| event.unwrap().to_event()));
                    assert_eq!(found.len() - count, section.events as usize);
                    let again = Sections::new(block).unwrap().find(section.run).unwrap().unwrap();
                    assert_eq!(again.first_id, section.first_id);
                    assert_eq!(found[count].id, section.first_id);
                    assert_eq!(found[found.len() - 1].id, section.last_id);
                }
                assert_eq!((found[first].run_id, found[first].id), *key);
                assert!(block.len() <= BLOCK_BYTES_TARGET || found.len() == first + 1);
            }
            assert_eq!(found, events);
        }
    }

    #[test]
    fn an_event_costs_few_bytes_beside_its_own() {
        let payload = format!("\"{}\"", "x".repeat(198));
        let mut writer = BlockWriter::default();
        for id in 0..10_000 {
            writer.push(&EventRef {
                id: EventId(1 + id * 7),
                run_id: RunId(1 + id / 100),
                seq: 1 + id % 100,
                event_type: "A",
                payload: &payload,
                created_at: Timestamp(1_700_000_000_000 + id * 3),
            });
        }
        let bytes: usize = writer.finish().iter().map(|(_, block)| block.len()).sum();
        assert!(bytes < 10_000 * 206, "{bytes}");
    }

    #[test]
    fn order_gives_back_whose_each_id_is() {
        let mut rng = seeded();
        for _ in 0..50 {
            let mut id = rng.random_range(1..1 << 40);
            let ids: Vec<(EventId, RunId)> = (0..rng.random_range(1..20_000))
                .map(|_| {
                    id += if rng.random_bool(0.9) { 1 } else { rng.random_range(1..1 << 33) };
                    (EventId(id), RunId(rng.random_range(1..100_000)))
                })
                .collect();
            let mut writer = OrderWriter::default();
            for (id, run) in &ids {
                writer.push(*id, *run);
            }
            let mut found: Vec<(EventId, RunId)> = Vec::new();
            let mut next = ids[0].0;
            for (first, piece) in writer.finish() {
                assert!(piece.len() <= BLOCK_BYTES_TARGET);
                let order = Order::new(&piece).unwrap();
                let before = found.last().map_or(EventId(0), |(id, _)| *id);
                assert_eq!((first, order.first_id, order.before), (next, next, before));
                next = order.after;
                let begins = found.len();
                found.extend(order.map(Result::unwrap));
                assert_eq!(found[begins].0, first);
            }
            assert_eq!(next, EventId(0));
            assert_eq!(found, ids);
        }
    }

    #[test]
    fn whatever_the_bytes_are_reading_ends() {
        let mut rng = seeded();
        for _ in 0..200 {
            let mut writer = BlockWriter::default();
            for event in random_events(&mut rng) {
                writer.push(&event.borrowed());
            }
            let (_, mut block) = writer.finish().swap_remove(0);
            let at = rng.random_range(0..block.len());
            block[at] ^= 1 << rng.random_range(0..8);
            assert!(Sections::new(&block).is_err(), "a checksum finds each flipped bit");
            // The same with a checksum that fits.
            block.truncate(block.len() - CHECKSUM_BYTES);
            block[0] = VERSION;
            put_checksum(&mut block);
            for section in Sections::new(&block).unwrap().filter_map(Result::ok) {
                section.iter().for_each(drop);
            }
            if let Ok(order) = Order::new(&block) {
                order.for_each(drop);
            }
        }
    }
}
