//! Reading windows: the events of one run as they lie there, those of many put together again by the
//! window's order.
//!
//! A run's events of a window are next to each other, so reading them is a range of blocks. Of
//! several runs, a project or all, the order says whose the next ids are; the events are looked up
//! some at a time, sorted by where they lie, so that a block is opened once for all that are wanted
//! of it. What is held meanwhile is one such batch.

use std::ops::ControlFlow;

use super::block::{Order, Sections};
use super::codec::DecodeError;
use super::cold::{Window, block_key, order_key, parse_block_key, parse_order_key};
use super::store::{Store, StoreError, Table};
use crate::event::{EventId, EventRef, RunId, Timestamp};
use crate::limits::{COLD_BATCH_BYTES, COLD_BATCH_EVENTS_MAX};

/// What sees an event of a window.
pub(super) type EventVisitor<'a> =
    &'a mut dyn FnMut(&EventRef<'_>) -> Result<ControlFlow<()>, StoreError>;

/// The windows of a journal.
#[derive(Clone, Copy)]
pub(super) struct ColdReader<'a> {
    pub(super) store: &'a dyn Store,
}

impl ColdReader<'_> {
    /// Shows the events of a run in a window, from this id on, in order, and those before it that
    /// lie in the same block; block by block, as long as `goes_on` says so of the id that the next
    /// block begins at.
    pub(super) fn run_forward(
        &self,
        window: Window,
        run: RunId,
        from: EventId,
        goes_on: &mut dyn FnMut(EventId) -> bool,
        visit: EventVisitor<'_>,
    ) -> Result<ControlFlow<()>, StoreError> {
        let from_key = block_key(window.first_id, run, from);
        // The event may lie in a block that begins before it, with another run even.
        let mut start = from_key.clone();
        self.store.rows_back(Table::Blocks, &from_key, &mut |key, _| {
            if key.starts_with(&window.first_id.0.to_be_bytes()) {
                start = key.to_vec();
            }
            ControlFlow::Break(())
        })?;
        self.blocks(&start, false, |key, block| {
            let (of, first_run, first_id) = parse_block_key(key)?;
            if of != window.first_id || first_run > run {
                return Ok(Ok(ControlFlow::Break(true)));
            }
            let begins = if first_run == run { first_id } else { window.first_id };
            if !goes_on(begins.max(from)) {
                return Ok(Ok(ControlFlow::Break(false)));
            }
            let Some(section) = Sections::new(block)?.find(run)? else {
                return Ok(Ok(ControlFlow::Continue(())));
            };
            for event in section.iter() {
                match visit(&event?) {
                    Ok(ControlFlow::Continue(())) => {}
                    Ok(ControlFlow::Break(())) => return Ok(Ok(ControlFlow::Break(false))),
                    Err(error) => return Ok(Err(error)),
                }
            }
            Ok(Ok(ControlFlow::Continue(())))
        })
    }

    /// Shows the events of a run in a window, up to this id, block by block and backwards; those of
    /// a block in their order.
    pub(super) fn run_back(
        &self,
        window: Window,
        run: RunId,
        upto: EventId,
        visit: &mut dyn FnMut(&[EventRef<'_>]) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>, StoreError> {
        self.blocks(&block_key(window.first_id, run, upto), true, |key, block| {
            let (of, first_run, _) = parse_block_key(key)?;
            if of != window.first_id {
                return Ok(Ok(ControlFlow::Break(true)));
            }
            let mut events = Vec::new();
            if let Some(section) = Sections::new(block)?.find(run)? {
                for event in section.iter() {
                    events.extend(Some(event?).filter(|event| event.id <= upto));
                }
            }
            Ok(Ok(match visit(&events) {
                ControlFlow::Break(()) => ControlFlow::Break(false),
                ControlFlow::Continue(()) if first_run < run => ControlFlow::Break(true),
                ControlFlow::Continue(()) => ControlFlow::Continue(()),
            }))
        })
    }

    /// The first ids of a window from this one on, at most so many, whose runs are admitted; and
    /// where to go on, if the window may have more.
    pub(super) fn order_forward(
        &self,
        window: Window,
        from: EventId,
        max: usize,
        admits: &mut dyn FnMut(RunId) -> bool,
    ) -> Result<Vec<(EventId, RunId)>, StoreError> {
        let from_key = order_key(window.first_id, from);
        let mut start = from_key.clone();
        self.store.rows_back(Table::Order, &from_key, &mut |key, _| {
            if key.starts_with(&window.first_id.0.to_be_bytes()) {
                start = key.to_vec();
            }
            ControlFlow::Break(())
        })?;
        let (mut found, mut next) = (Vec::new(), NextPiece::Has(from));
        self.each(Table::Order, &start, false, |key, piece| {
            let (of, first) = parse_order_key(key)?;
            if of != window.first_id {
                return Ok(ControlFlow::Break(()));
            }
            let order = Order::new(piece)?;
            if order.first_id != first || !next.is(&order) {
                return Err(LOST_PIECE);
            }
            next = NextPiece::BeginsWith(order.after);
            for entry in order {
                let (id, run) = entry?;
                if id >= from && admits(run) {
                    found.push((id, run));
                    if found.len() >= max {
                        return Ok(ControlFlow::Break(()));
                    }
                }
            }
            Ok(ControlFlow::Continue(()))
        })?;
        if found.len() < max && next != NextPiece::BeginsWith(NO_PIECE) {
            let key = order_key(window.first_id, next.id());
            return Err(StoreError::CorruptRow { table: Table::Order, key, error: LOST_PIECE });
        }
        Ok(found)
    }

    /// The last ids of a window up to this one, at most so many, whose runs are admitted; in order.
    pub(super) fn order_back(
        &self,
        window: Window,
        upto: EventId,
        max: usize,
        admits: &mut dyn FnMut(RunId) -> bool,
    ) -> Result<Vec<(EventId, RunId)>, StoreError> {
        let mut found: Vec<(EventId, RunId)> = Vec::new();
        self.each(Table::Order, &order_key(window.first_id, upto), true, |key, piece| {
            if parse_order_key(key)?.0 != window.first_id {
                return Ok(ControlFlow::Break(()));
            }
            let mut before = Vec::new();
            for entry in Order::new(piece)? {
                let (id, run) = entry?;
                if id <= upto && admits(run) {
                    before.push((id, run));
                }
            }
            before.append(&mut found);
            found = before.split_off(before.len().saturating_sub(max));
            Ok(if found.len() < max { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
        })?;
        Ok(found)
    }

    /// The events of a window with these ids, those that are there, in the order of their ids.
    pub(super) fn fetch(
        &self,
        window: Window,
        entries: &[(EventId, RunId)],
    ) -> Result<Batch, StoreError> {
        let mut wanted: Vec<(RunId, EventId)> =
            entries.iter().map(|(id, run)| (*run, *id)).collect();
        wanted.sort_unstable();
        let mut batch = Batch::default();
        let mut wanted = &wanted[..];
        while let Some((run, id)) = wanted.first().copied() {
            let before = wanted.len();
            self.each(Table::Blocks, &block_key(window.first_id, run, id), true, |key, block| {
                if parse_block_key(key)?.0 == window.first_id {
                    batch.take_from(Sections::new(block)?, &mut wanted)?;
                }
                Ok(ControlFlow::Break(()))
            })?;
            if wanted.len() == before {
                // It is not where it would be.
                wanted = &wanted[1..];
            }
        }
        batch.events.sort_unstable_by_key(|event| event.id);
        Ok(batch)
    }

    /// Shows blocks; what `visit` breaks with says whether it was the end of what it looks for.
    fn blocks(
        &self,
        from: &[u8],
        backwards: bool,
        mut visit: impl FnMut(
            &[u8],
            &[u8],
        ) -> Result<Result<ControlFlow<bool>, StoreError>, DecodeError>,
    ) -> Result<ControlFlow<()>, StoreError> {
        let mut outcome = Ok(ControlFlow::Continue(()));
        self.each(Table::Blocks, from, backwards, |key, block| {
            Ok(match visit(key, block)? {
                Ok(ControlFlow::Continue(())) => ControlFlow::Continue(()),
                Ok(ControlFlow::Break(is_end)) => {
                    if !is_end {
                        outcome = Ok(ControlFlow::Break(()));
                    }
                    ControlFlow::Break(())
                }
                Err(error) => {
                    outcome = Err(error);
                    ControlFlow::Break(())
                }
            })
        })?;
        outcome
    }

    fn each(
        &self,
        table: Table,
        from: &[u8],
        backwards: bool,
        mut visit: impl FnMut(&[u8], &[u8]) -> Result<ControlFlow<()>, DecodeError>,
    ) -> Result<(), StoreError> {
        let mut corrupt = None;
        let mut visit = |key: &[u8], row: &[u8]| {
            visit(key, row).unwrap_or_else(|error| {
                corrupt = Some(StoreError::CorruptRow { table, key: key.to_vec(), error });
                ControlFlow::Break(())
            })
        };
        if backwards {
            self.store.rows_back(table, from, &mut visit)?;
        } else {
            self.store.rows(table, from, &mut visit)?;
        }
        corrupt.map_or(Ok(()), Err)
    }
}

const LOST_PIECE: DecodeError = DecodeError::Malformed("a piece of the order is missing");

/// What a piece names when there is none before, or after it.
const NO_PIECE: EventId = EventId(0);

/// Which piece of an order must come next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum NextPiece {
    /// The one in which an id lies, or would lie.
    Has(EventId),
    /// The one that begins with an id.
    BeginsWith(EventId),
}

impl NextPiece {
    fn is(self, piece: &Order<'_>) -> bool {
        match self {
            NextPiece::Has(id) => piece.first_id <= id || piece.before < id,
            NextPiece::BeginsWith(id) => piece.first_id == id,
        }
    }

    fn id(self) -> EventId {
        let (NextPiece::Has(id) | NextPiece::BeginsWith(id)) = self;
        id
    }
}

/// Events of a window, copied out of their blocks.
#[derive(Default)]
pub(super) struct Batch {
    texts: String,
    events: Vec<Copied>,
}

struct Copied {
    id: EventId,
    run: RunId,
    seq: u64,
    created_at: Timestamp,
    at: usize,
    type_end: usize,
    end: usize,
}

impl Batch {
    /// Copies events that are wanted, in the order of run and id, and lets go of each that is found
    /// or passed.
    fn take_from(
        &mut self,
        sections: Sections<'_>,
        wanted: &mut &[(RunId, EventId)],
    ) -> Result<(), DecodeError> {
        for section in sections {
            let section = section?;
            if wanted.first().is_none_or(|(run, _)| *run > section.run) {
                if wanted.is_empty() {
                    break;
                }
                continue;
            }
            for event in section.iter() {
                let event = event?;
                while wanted.first().is_some_and(|next| *next < (event.run_id, event.id)) {
                    *wanted = &wanted[1..];
                }
                if wanted.first() == Some(&(event.run_id, event.id)) {
                    *wanted = &wanted[1..];
                    self.push(&event);
                }
                if wanted.first().is_none_or(|(run, _)| *run > section.run) {
                    break;
                }
            }
        }
        Ok(())
    }

    fn push(&mut self, event: &EventRef<'_>) {
        let at = self.texts.len();
        self.texts.push_str(event.event_type);
        let type_end = self.texts.len();
        self.texts.push_str(event.payload);
        self.events.push(Copied {
            id: event.id,
            run: event.run_id,
            seq: event.seq,
            created_at: event.created_at,
            at,
            type_end,
            end: self.texts.len(),
        });
    }

    /// The events, in the order of their ids.
    pub(super) fn events(&self) -> impl DoubleEndedIterator<Item = EventRef<'_>> {
        self.events.iter().map(|copied| EventRef {
            id: copied.id,
            run_id: copied.run,
            seq: copied.seq,
            event_type: &self.texts[copied.at..copied.type_end],
            payload: &self.texts[copied.type_end..copied.end],
            created_at: copied.created_at,
        })
    }
}

/// How many events are looked up at once: as many as fill a batch, by the size of those before.
#[derive(Clone, Copy, Debug)]
pub(super) struct BatchSize(usize);

impl BatchSize {
    /// Before anything is known of the events: few, since each may be large.
    pub(super) fn first() -> BatchSize {
        BatchSize(8)
    }

    pub(super) fn events(self) -> usize {
        self.0
    }

    /// After a batch was looked at.
    pub(super) fn adapt(&mut self, batch: &Batch) {
        if !batch.events.is_empty() {
            let each = batch.texts.len() / batch.events.len() + 1;
            self.0 = (COLD_BATCH_BYTES / each).clamp(1, COLD_BATCH_EVENTS_MAX);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::block::OrderWriter;
    use crate::journal::cold;
    use crate::journal::memory::MemoryStore;

    /// From each id, and whichever piece is lost: all that is wanted, or an error.
    #[test]
    fn an_order_that_has_lost_a_piece_is_not_read_past_it() {
        let window = Window {
            first_id: EventId(5),
            last_id: EventId(60_000),
            events: 40_000,
            bytes: 0,
            first_time: Timestamp(0),
            last_time: Timestamp(0),
        };
        let ids: Vec<(EventId, RunId)> =
            (0..40_000).map(|nth| (EventId(7 + nth + nth / 10), RunId(1 + nth % 1_000))).collect();
        let mut writer = OrderWriter::default();
        for (id, run) in &ids {
            writer.push(*id, *run);
        }
        let pieces = writer.finish();
        assert!(pieces.len() > 2, "{} pieces", pieces.len());
        for lost in 0..=pieces.len() {
            let store = MemoryStore::default();
            let rows: Vec<_> = (pieces.iter().enumerate())
                .filter(|(at, _)| *at != lost)
                .map(|(_, piece)| cold::order_change(window.first_id, piece.clone()))
                .collect();
            store.change_rows(&rows).unwrap();
            let cold = ColdReader { store: &store };
            let mut outcomes = [0, 0];
            for (at, (id, _)) in ids.iter().enumerate().step_by(997) {
                let found = cold.order_forward(window, *id, usize::MAX, &mut |_| true);
                match found {
                    Ok(found) => assert_eq!(found, ids[at..]),
                    Err(StoreError::CorruptRow { .. }) => {}
                    Err(error) => panic!("{error:?}"),
                }
                outcomes[usize::from(
                    cold.order_forward(window, *id, 10, &mut |_| true).is_ok_and(|found| {
                        assert_eq!(found, ids[at..(at + 10).min(ids.len())]);
                        true
                    }),
                )] += 1;
            }
            assert_eq!(outcomes[0] == 0, lost == pieces.len(), "{outcomes:?}");
        }
    }
}
