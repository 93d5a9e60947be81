//! Windows: how the log's values become one, and how retention takes from them.
//!
//! ```text
//! make     read the log's first values ─▶ sort by run ─▶ blocks, a slice at a time ─▶ its row
//! drop     say so in the catalog ─▶ (reads that began before are over) ─▶ its rows go
//! sweep    the same for single events: of deleted runs, and those a run does not keep
//! ```
//!
//! Each step ends in a state that is whole: blocks without the row of their window are nobody's, and
//! are removed before the next window is made. These functions wait for the disk, and are called
//! from one thread.

use std::collections::{BTreeMap, HashMap};
use std::ops::ControlFlow;
use std::sync::{RwLock, RwLockWriteGuard};

use super::block::{BlockWriter, OrderWriter, Sections};
use super::catalog::{Catalog, read};
use super::codec::{DecodeError, Decoder, KeyScope, Record};
use super::cold::{self, Window, each_row, id_after};
use super::once::{KeyState, ProducerState};
use super::store::{Change, Store, StoreError, Table};
use super::{Kept, RunHead};
use crate::event::{EventId, EventRef, RunId, RunStatus, Timestamp};
use crate::limits::{CATALOG_SLICE_RUNS, PRODUCERS_PER_RUN_MAX, SLICE_BYTES, SLICE_ROWS};

/// The log's first values, which become a window.
#[derive(Debug)]
pub struct NextWindow {
    values: Vec<(EventId, Vec<u8>)>,
}

impl NextWindow {
    /// Reads values after the last that was moved, until they have so many bytes. `None` when there
    /// are none.
    ///
    /// # Errors
    /// When the storage fails.
    pub fn read(
        store: &dyn Store,
        moved_through: EventId,
        bytes_max: usize,
    ) -> Result<Option<NextWindow>, StoreError> {
        let mut values = Vec::new();
        let mut bytes = 0;
        store.scan(moved_through.next(), &mut |key, value| {
            if key > moved_through {
                bytes += value.len();
                values.push((key, value.to_vec()));
            }
            if bytes < bytes_max { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
        Ok((!values.is_empty()).then_some(NextWindow { values }))
    }

    /// Bytes of the values.
    pub fn bytes(&self) -> u64 {
        self.values.iter().map(|(_, value)| value.len() as u64).sum()
    }

    /// Makes the window, and tells the catalog when it is there. The log's values up to the id that
    /// this gives may be removed once the reads that have begun are over.
    ///
    /// # Errors
    /// When the storage fails, or a value is not as it was written.
    pub fn make(
        self,
        store: &dyn Store,
        catalog: &RwLock<Catalog>,
        keys_max: usize,
    ) -> Result<EventId, StoreError> {
        remove_strays(store, read(catalog).windows())?;
        let mut content = Content::read(&self.values, store, catalog)?;
        let first_id = self.values[0].0;
        let last_id = EventId(content.next_id.0 - 1);
        let mut window = Window {
            first_id,
            last_id,
            events: content.events.len() as u64,
            bytes: 0,
            first_time: content.first_time,
            last_time: content.last_time,
        };
        let mut order = OrderWriter::default();
        for event in &content.events {
            order.push(event.id, event.run_id);
        }
        // By id they are in order already.
        content.events.sort_by_key(|event| event.run_id);
        let mut writer = BlockWriter::default();
        for event in &content.events {
            writer.push(event);
            if writer.finished_bytes() >= SLICE_BYTES {
                write_blocks(store, &mut window, writer.take_finished())?;
            }
        }
        write_blocks(store, &mut window, writer.finish())?;

        let mut changes = Vec::new();
        for piece in order.finish() {
            window.bytes += piece.1.len() as u64;
            changes.push(cold::order_change(first_id, piece));
        }
        let removed = content.changes(store, &mut changes)?;
        content.key_changes(store, catalog, keys_max, &mut changes)?;
        content.producer_changes(store, &mut changes)?;
        let mut state = read(catalog).state();
        state.moved_through = last_id;
        state.next_run = content.next_run.max(state.next_run);
        for kept in removed.values() {
            state.removed_through = state.removed_through.max(kept.removed_through);
        }
        changes.push(state.change());
        // Nothing is left of it when all of its runs are gone.
        let window = (window.events > 0).then_some(window);
        changes.extend(window.map(|window| window.change()));
        store.change_rows(&changes)?;

        write(catalog).add_window(window, state);
        remove_events(catalog, &removed);
        let runs: Vec<RunId> = content.runs.into_keys().collect();
        for runs in runs.chunks(CATALOG_SLICE_RUNS) {
            write(catalog).forget_moved(runs);
        }
        Ok(last_id)
    }
}

/// What the values of a window hold.
struct Content<'a> {
    /// The events that are kept.
    events: Vec<EventRef<'a>>,
    /// Where the runs stand at the end of it; none for those that it deletes.
    runs: BTreeMap<RunId, Option<MovedRun<'a>>>,
    keys: Vec<(KeyScope, &'a str, KeyState)>,
    producers: BTreeMap<RunId, HashMap<&'a str, ProducerState>>,
    next_id: EventId,
    next_run: RunId,
    first_time: Timestamp,
    last_time: Timestamp,
}

struct MovedRun<'a> {
    /// The payload of its `RUN_CREATED`, if that is in the window.
    created: Option<&'a str>,
    head: RunHead,
    /// As it was before.
    kept: Kept,
    /// The first seq that is kept; beyond all when the run is deleted later.
    first_seq: u64,
    /// The last event that is not kept.
    removed: Option<EventId>,
}

impl<'a> Content<'a> {
    fn read(
        values: &'a [(EventId, Vec<u8>)],
        store: &dyn Store,
        catalog: &RwLock<Catalog>,
    ) -> Result<Content<'a>, StoreError> {
        let mut content = Content {
            events: Vec::new(),
            runs: BTreeMap::new(),
            keys: Vec::new(),
            producers: BTreeMap::new(),
            next_id: EventId(0),
            next_run: RunId(0),
            first_time: Timestamp(u64::MAX),
            last_time: Timestamp(0),
        };
        let (moved_through, jumps) = {
            let catalog = read(catalog);
            (catalog.moved_through(), catalog.jumps().to_vec())
        };
        let mut next = id_after(moved_through, &jumps);
        for (key, value) in values {
            let corrupt = |error| StoreError::Corrupt { key: *key, error };
            let mut records = Decoder::new(value).map_err(corrupt)?;
            if records.first_id() != *key {
                return Err(corrupt(DecodeError::Malformed("it belongs under another key")));
            }
            if *key != next {
                return Err(corrupt(DecodeError::Malformed("it does not follow the one before")));
            }
            for record in records.by_ref() {
                content.take(record.map_err(corrupt)?, *key, store, catalog)?;
            }
            content.next_id = records.next_id();
            next = id_after(EventId(content.next_id.0 - 1), &jumps);
        }
        content.first_time = content.first_time.min(content.last_time);
        Ok(content)
    }

    fn take(
        &mut self,
        record: Record<'a>,
        value: EventId,
        store: &dyn Store,
        catalog: &RwLock<Catalog>,
    ) -> Result<(), StoreError> {
        match record {
            Record::Event(event) => {
                self.first_time = self.first_time.min(event.created_at);
                self.last_time = self.last_time.max(event.created_at);
                if !self.runs.contains_key(&event.run_id) {
                    let run = MovedRun::before(&event, store, catalog)?;
                    self.next_run = self.next_run.max(RunId(event.run_id.0.saturating_add(1)));
                    self.runs.insert(event.run_id, run);
                }
                let Some(Some(run)) = self.runs.get_mut(&event.run_id) else {
                    let error = DecodeError::Malformed("an event of a run that was not created");
                    return Err(StoreError::Corrupt { key: value, error });
                };
                if run.take(&event) {
                    self.events.push(event);
                }
            }
            Record::RunDeleted { run, .. } => {
                self.runs.insert(run, None);
                self.producers.remove(&run);
            }
            Record::Key { scope, run, key, fingerprint, first_id, count, time } => {
                // It stands before the events that it is about.
                let events = match self.runs.get(&run) {
                    Some(moved) => moved.as_ref().map_or(0, |moved| moved.head.event_count),
                    None => cold::head(store, run)?.map_or(0, |(head, _)| head.event_count),
                };
                let first_seq = events + 1;
                let state = KeyState { run, fingerprint, first_id, first_seq, count, time };
                self.keys.push((scope, key, state));
            }
            Record::Producer { run, id, epoch, seq, first_id } => {
                let state = ProducerState { epoch, last_seq: seq, heard: first_id };
                self.producers.entry(run).or_default().insert(id, state);
            }
        }
        Ok(())
    }

    /// The rows of the runs. What was not kept of each.
    fn changes(
        &self,
        store: &dyn Store,
        changes: &mut Vec<Change>,
    ) -> Result<BTreeMap<RunId, Kept>, StoreError> {
        let mut removed = BTreeMap::new();
        for (id, run) in &self.runs {
            let Some(run) = run else {
                cold::forget_run(store, *id, changes)?;
                continue;
            };
            if let Some(created) = run.created {
                changes.push(cold::run_change(*id, created));
            }
            let mut kept = run.kept;
            // Events of a run that is deleted later go with it, and nobody misses them.
            if let Some(last) = run.removed.filter(|_| run.first_seq < u64::MAX) {
                kept = Kept { first_seq: run.first_seq, removed_through: last };
                removed.insert(*id, kept);
            }
            changes.push(cold::head_change(*id, &run.head, &kept));
        }
        Ok(removed)
    }

    /// The rows of idempotency keys: those that came, without those that are too old or too many,
    /// or whose run is gone.
    fn key_changes(
        &self,
        store: &dyn Store,
        catalog: &RwLock<Catalog>,
        keys_max: usize,
        changes: &mut Vec<Change>,
    ) -> Result<(), StoreError> {
        if self.keys.is_empty() {
            return Ok(());
        }
        let catalog = |run| read(catalog).contains(run);
        let mut left = keys_max;
        let mut counts = |state: &KeyState| {
            let counts = left > 0 && !state.is_expired(self.last_time) && catalog(state.run);
            left -= usize::from(counts);
            counts
        };
        for (scope, key, state) in self.keys.iter().rev() {
            if counts(state) {
                changes.push(cold::key_change(*scope, key, state));
            }
        }
        let mut corrupt = None;
        store.rows_back(Table::Keys, &[u8::MAX; 8], &mut |key, row| {
            match cold::parse_key(key, row) {
                Ok((_, _, state)) if counts(&state) => {}
                Ok(_) => changes.push(cold::remove(Table::Keys, key.to_vec())),
                Err(error) => {
                    let key = key.to_vec();
                    corrupt = Some(StoreError::CorruptRow { table: Table::Keys, key, error });
                    return ControlFlow::Break(());
                }
            }
            ControlFlow::Continue(())
        })?;
        corrupt.map_or(Ok(()), Err)
    }

    /// The rows of producers: those that were heard of, without those that are too many.
    fn producer_changes(
        &self,
        store: &dyn Store,
        changes: &mut Vec<Change>,
    ) -> Result<(), StoreError> {
        for (run, heard) in &self.producers {
            let mut known = cold::producers(store, *run)?;
            known.retain(|(id, _)| !heard.contains_key(id.as_str()));
            known.sort_by_key(|(_, state)| std::cmp::Reverse(state.heard));
            let mut latest: Vec<_> = heard.iter().collect();
            latest.sort_by_key(|(_, state)| std::cmp::Reverse(state.heard));
            latest.truncate(PRODUCERS_PER_RUN_MAX);
            for (id, state) in &latest {
                changes.push(cold::producer_change(*run, id, state));
            }
            for (id, _) in known.iter().skip(PRODUCERS_PER_RUN_MAX - latest.len()) {
                changes.push(cold::forget_producer(*run, id));
            }
        }
        Ok(())
    }
}

impl<'a> MovedRun<'a> {
    /// A run as it stood before this event, which is the first of it in the window.
    fn before(
        event: &EventRef<'a>,
        store: &dyn Store,
        catalog: &RwLock<Catalog>,
    ) -> Result<Option<MovedRun<'a>>, StoreError> {
        let first_seq = read(catalog).kept(event.run_id).map_or(u64::MAX, |kept| kept.first_seq);
        if event.seq == 1 && event.event_type == "RUN_CREATED" {
            let head = RunHead {
                status: RunStatus::Running,
                created_at: event.created_at,
                updated_at: event.created_at,
                last_event_id: event.id,
                event_count: 0,
            };
            let (created, kept) = (Some(event.payload), Kept::default());
            return Ok(Some(MovedRun { created, head, kept, first_seq, removed: None }));
        }
        let before = cold::head(store, event.run_id)?;
        Ok(before.map(|(head, kept)| MovedRun {
            created: None,
            head,
            kept,
            first_seq,
            removed: None,
        }))
    }

    /// Takes in the next event; whether it is kept.
    fn take(&mut self, event: &EventRef<'_>) -> bool {
        if !self.head.status.has_ended()
            && let Some(status) = RunStatus::after(event.event_type)
        {
            self.head.status = status;
        }
        self.head.updated_at = event.created_at;
        self.head.last_event_id = event.id;
        self.head.event_count = event.seq;
        let is_kept = event.seq >= self.first_seq;
        if !is_kept {
            self.removed = Some(event.id);
        }
        is_kept
    }
}

fn write(catalog: &RwLock<Catalog>) -> RwLockWriteGuard<'_, Catalog> {
    catalog.write().expect("no one panics while holding the catalog")
}

/// Tells the catalog what is gone of these runs. Those that went with it.
fn remove_events(catalog: &RwLock<Catalog>, removed: &BTreeMap<RunId, Kept>) -> Vec<RunId> {
    let mut vanished = Vec::new();
    let mut removed = removed.iter().peekable();
    while removed.peek().is_some() {
        let mut catalog = write(catalog);
        for (run, kept) in removed.by_ref().take(CATALOG_SLICE_RUNS) {
            if catalog.remove_events(*run, *kept) {
                vanished.push(*run);
            }
        }
    }
    vanished
}

fn write_blocks(
    store: &dyn Store,
    window: &mut Window,
    blocks: Vec<super::block::KeyedBlock>,
) -> Result<(), StoreError> {
    if blocks.is_empty() {
        return Ok(());
    }
    window.bytes += blocks.iter().map(|(_, block)| block.len() as u64).sum::<u64>();
    let changes: Vec<Change> =
        blocks.into_iter().map(|block| cold::block_change(window.first_id, block)).collect();
    store.change_rows(&changes)
}

/// Removes blocks and order of windows that are not there: of one whose making, or whose going, was
/// broken off.
///
/// # Errors
/// When the storage fails.
pub fn remove_strays(store: &dyn Store, windows: &[Window]) -> Result<(), StoreError> {
    // Between the first window and the last every block belongs to one.
    let first = windows.first().map_or(u64::MAX, |window| window.first_id.0);
    let after = windows.last().map_or(0, |window| window.first_id.0.saturating_add(1));
    for table in [Table::Blocks, Table::Order] {
        for (from, upto) in [(0, first), (after, u64::MAX)] {
            erase(store, table, from, upto)?;
        }
    }
    Ok(())
}

/// Removes rows of windows from this one on, and below that one.
fn erase(store: &dyn Store, table: Table, from: u64, below: u64) -> Result<(), StoreError> {
    loop {
        let mut changes = Vec::new();
        each_row(store, table, &cold::key(from), |key, _| {
            let is_in = key < &cold::key(below)[..];
            if is_in {
                changes.push(cold::remove(table, key.to_vec()));
            }
            Ok(is_in && changes.len() < SLICE_ROWS)
        })?;
        if changes.is_empty() {
            return Ok(());
        }
        store.change_rows(&changes)?;
    }
}

/// What retention takes away: it has been said in the catalog, and is still there.
#[derive(Debug, Default)]
pub struct Removal {
    /// The window that goes as a whole.
    window: Option<Window>,
    /// Blocks that are replaced, or removed.
    blocks: Vec<(Vec<u8>, Option<Vec<u8>>)>,
    /// A window of which less is left.
    rest: Option<Window>,
    /// What is left of these runs.
    kept: BTreeMap<RunId, Kept>,
    /// Runs that end with it: subscribers should be told.
    pub vanished: Vec<RunId>,
}

/// Removes the oldest window from the catalog, with all of its events: nothing in it is read from
/// now on. [`Removal::finish`] should follow once the reads that have begun are over.
///
/// # Errors
/// When the storage fails, or a block is not as it was written.
pub fn drop_oldest(
    store: &dyn Store,
    catalog: &RwLock<Catalog>,
) -> Result<Option<Removal>, StoreError> {
    let Some(window) = read(catalog).windows().first().copied() else { return Ok(None) };
    let mut kept = BTreeMap::new();
    each_block(store, window, |_, sections| {
        for section in sections {
            let section = section?;
            let (first_seq, removed_through) = (section.next_seq(), section.last_id);
            kept.insert(section.run, Kept { first_seq, removed_through });
        }
        Ok(())
    })?;
    let vanished = remove_events(catalog, &kept);
    write(catalog).drop_window(window.first_id);
    Ok(Some(Removal { window: Some(window), kept, vanished, ..Removal::default() }))
}

/// Looks for events in a window that are kept no longer: those of deleted runs, and those that their
/// run has too many of. Where they are a quarter of a block or more the catalog is told, and what
/// is left of the block is packed anew. `None` when there is nothing to do.
///
/// # Errors
/// When the storage fails, or a block is not as it was written.
pub fn sweep(
    store: &dyn Store,
    catalog: &RwLock<Catalog>,
    window: Window,
) -> Result<Option<Removal>, StoreError> {
    let mut removal = Removal::default();
    let mut rest = Window { events: 0, bytes: 0, ..window };
    each_block(store, window, |key, sections| {
        let sections: Vec<_> = sections.collect::<Result<_, _>>()?;
        let first_seqs: Vec<u64> = {
            let catalog = read(catalog);
            let first = |run| catalog.kept(run).map_or(u64::MAX, |kept| kept.first_seq);
            sections.iter().map(|section| first(section.run)).collect()
        };
        let cut = sections.iter().zip(&first_seqs);
        let (mut events, mut gone, mut bytes) = (0, 0, 0);
        for (section, first_seq) in cut.clone() {
            events += section.events;
            gone += first_seq.saturating_sub(section.first_seq).min(section.events);
            bytes += section.bytes() as u64;
        }
        if gone * 4 < events || gone == 0 {
            rest.events += events;
            rest.bytes += bytes;
            return Ok(());
        }
        let mut writer = BlockWriter::default();
        for (section, first_seq) in cut {
            for event in section.iter() {
                let event = event?;
                if event.seq >= *first_seq {
                    writer.push(&event);
                    rest.events += 1;
                } else if *first_seq < u64::MAX {
                    let (first_seq, removed_through) = (event.seq + 1, event.id);
                    removal.kept.insert(event.run_id, Kept { first_seq, removed_through });
                }
            }
        }
        let block = writer.finish().pop().map(|(_, block)| block);
        rest.bytes += block.as_ref().map_or(0, |block| block.len() as u64);
        removal.blocks.push((key.to_vec(), block));
        Ok(())
    })?;
    if removal.blocks.is_empty() {
        return Ok(None);
    }
    removal.vanished = remove_events(catalog, &removal.kept);
    if rest.events > 0 {
        write(catalog).shrink_window(rest);
        removal.rest = Some(rest);
    } else {
        write(catalog).drop_window(window.first_id);
        removal.window = Some(window);
    }
    Ok(Some(removal))
}

impl Removal {
    /// Removes what was said to be gone, a slice at a time.
    ///
    /// # Errors
    /// When the storage fails, or a row is not as it was written.
    pub fn finish(self, store: &dyn Store, catalog: &RwLock<Catalog>) -> Result<(), StoreError> {
        let mut changes = vec![read(catalog).state().change()];
        for (run, kept) in &self.kept {
            if let Some((head, before)) = cold::head(store, *run)? {
                let kept = Kept {
                    first_seq: kept.first_seq.max(before.first_seq),
                    removed_through: kept.removed_through.max(before.removed_through),
                };
                changes.push(cold::head_change(*run, &head, &kept));
            }
        }
        for run in &self.vanished {
            cold::forget_run(store, *run, &mut changes)?;
        }
        if let Some(rest) = self.rest {
            changes.push(rest.change());
        }
        if let Some(window) = self.window {
            changes.push(cold::remove(Table::Windows, cold::key(window.first_id.0)));
            store.change_rows(&changes)?;
            let first = window.first_id.0;
            erase(store, Table::Blocks, first, first + 1)?;
            return erase(store, Table::Order, first, first + 1);
        }
        for (key, row) in self.blocks {
            changes.push(Change { table: Table::Blocks, key, row });
            if changes.len() >= SLICE_ROWS {
                store.change_rows(&std::mem::take(&mut changes))?;
            }
        }
        store.change_rows(&changes)
    }
}

/// Shows every block of a window.
fn each_block(
    store: &dyn Store,
    window: Window,
    mut visit: impl FnMut(&[u8], Sections<'_>) -> Result<(), DecodeError>,
) -> Result<(), StoreError> {
    each_row(store, Table::Blocks, &cold::key(window.first_id.0), |key, row| {
        let (of, ..) = cold::parse_block_key(key)?;
        if of != window.first_id {
            return Ok(false);
        }
        visit(key, Sections::new(row)?).map(|()| true)
    })
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use rand::RngExt;
    use rand::rngs::StdRng;

    use super::*;
    use crate::event::{Event, Scope, Selection};
    use crate::journal::commit::{Committer, Opened};
    use crate::journal::history::{HistoryRequest, read_end_start, read_forward};
    use crate::journal::memory::MemoryStore;
    use crate::journal::model::{Model, done, seeded};

    const KEYS_MAX: usize = 1_000;

    /// A journal whose parts are moved and removed, and what should be left of it.
    struct World {
        store: MemoryStore,
        committer: Committer,
        catalog: RwLock<Catalog>,
        model: Model,
        /// The first seq of each run that retention has left.
        first_seqs: HashMap<RunId, u64>,
        run_events_max: u64,
        now: u64,
    }

    impl World {
        fn new(run_events_max: u64) -> World {
            let mut world = World {
                store: MemoryStore::default(),
                committer: Committer::new(KEYS_MAX),
                catalog: RwLock::default(),
                model: Model::default(),
                first_seqs: HashMap::new(),
                run_events_max,
                now: 1_000,
            };
            world.reopen();
            world
        }

        fn reopen(&mut self) {
            let Opened { committer, mut catalog, .. } =
                Committer::open(&self.store, KEYS_MAX).unwrap();
            catalog.keep_run_events(self.run_events_max);
            assert_eq!(catalog.last_id(), self.model.last_id());
            self.committer = committer;
            self.catalog = RwLock::new(catalog);
        }

        fn write_group(&mut self, rng: &mut StdRng) {
            self.now += rng.random_range(0..1_000);
            let mut expected = Vec::new();
            for _ in 0..rng.random_range(1..15) {
                let write = self.model.random_write(rng);
                self.committer.stage(write.clone(), Timestamp(self.now), &read(&self.catalog));
                expected.push(self.model.write(write, Timestamp(self.now)));
            }
            self.store.append(self.committer.seal(), true).unwrap();
            let committed = self.committer.committed(&mut write(&self.catalog));
            let answers: Vec<_> = committed.answers.into_iter().map(done).collect();
            assert_eq!(answers, expected);
            for (id, run) in &self.model.runs {
                let first = (run.events.len() as u64 + 1).saturating_sub(self.run_events_max);
                let known = self.first_seqs.entry(*id).or_insert(1);
                *known = first.max(*known);
            }
        }

        fn move_window(&mut self, bytes: usize, removes: bool) {
            let moved_through = read(&self.catalog).moved_through();
            let next = NextWindow::read(&self.store, moved_through, bytes).unwrap();
            let Some(next) = next else { return };
            let last_id = next.make(&self.store, &self.catalog, KEYS_MAX).unwrap();
            assert_eq!(last_id, read(&self.catalog).moved_through());
            if removes {
                self.store.remove_values(last_id, usize::MAX).unwrap();
            }
        }

        fn drop_oldest(&mut self) {
            let Some(oldest) = read(&self.catalog).windows().first().copied() else { return };
            let removal = drop_oldest(&self.store, &self.catalog).unwrap().unwrap();
            let mut vanished = Vec::new();
            for (id, run) in &self.model.runs {
                let gone = run.events.partition_point(|event| event.id <= oldest.last_id) as u64;
                let first_seq = self.first_seqs.get_mut(id).unwrap();
                *first_seq = (gone + 1).max(*first_seq);
                if run.status.has_ended() && gone == run.events.len() as u64 {
                    vanished.push(*id);
                }
            }
            // The model's runs are gone when the writer hears of it.
            assert_eq!(removal.vanished, vanished);
            for id in vanished {
                self.model.vanish(id);
            }
            removal.finish(&self.store, &self.catalog).unwrap();
        }

        fn sweep(&mut self, rng: &mut StdRng) {
            let windows = read(&self.catalog).windows().to_vec();
            let Some(window) = windows.get(rng.random_range(0..windows.len().max(1))) else {
                return;
            };
            if let Some(removal) = sweep(&self.store, &self.catalog, *window).unwrap() {
                assert!(removal.vanished.is_empty());
                removal.finish(&self.store, &self.catalog).unwrap();
            }
        }

        fn is_left(&self, event: &Event) -> bool {
            self.first_seqs.get(&event.run_id).is_none_or(|first| event.seq >= *first)
        }

        /// Reads in pages, and compares with what is left; no hole without a word.
        fn check_reads(&self, rng: &mut StdRng) {
            let last = self.model.last_id();
            for _ in 0..6 {
                let selection = self.model.random_selection(rng);
                let mut after = EventId(rng.random_range(0..=last.0));
                let upto = EventId(rng.random_range(after.0..=last.0 + 5));
                let named = self.model.select(&selection);
                let one_run = matches!(&selection.scope, Scope::Runs(runs) if runs.len() == 1);
                loop {
                    let request = HistoryRequest {
                        selection: selection.clone(),
                        after,
                        upto,
                        events_max: rng.random_range(0..60),
                        bytes_max: rng.random_range(0..40_000),
                        values_max: rng.random_range(0..10),
                    };
                    let mut found = Vec::new();
                    let read = read_forward(&self.store, &self.catalog, &request, &mut |event| {
                        found.push(event.to_event());
                        event.payload.len()
                    })
                    .unwrap();
                    let considered: Vec<&Event> = named
                        .iter()
                        .filter(|event| event.id > after && event.id <= read.scanned_to)
                        .collect();
                    let left: Vec<&Event> =
                        considered.iter().copied().filter(|event| self.is_left(event)).collect();
                    assert!(found.iter().eq(left.iter().copied()));
                    let is_missing = left.len() < considered.len();
                    if is_missing {
                        assert!(read.truncated.is_some(), "a hole without a word");
                    }
                    if let Some(first) = read.truncated {
                        let expected =
                            found.first().map_or(read.scanned_to.next(), |event| event.id);
                        assert_eq!(first, expected);
                        let removed =
                            named.iter().any(|event| event.id > after && !self.is_left(event));
                        assert!(
                            removed || !one_run || selection.types.is_some(),
                            "nothing is gone"
                        );
                    }
                    if read.complete {
                        break;
                    }
                    assert!(read.scanned_to > after, "a read gets on");
                    after = read.scanned_to;
                }
                self.check_end(rng, &selection, upto);
            }
        }

        fn check_end(&self, rng: &mut StdRng, selection: &Selection, upto: EventId) {
            let bytes_max = rng.random_range(0..30_000);
            let values_max = if rng.random_bool(0.5) { usize::MAX } else { 3 };
            let start =
                read_end_start(&self.store, &self.catalog, selection, upto, bytes_max, values_max)
                    .unwrap();
            let mut bytes = 0;
            for event in self.model.select(selection) {
                if event.id > start && event.id <= upto {
                    assert!(self.is_left(&event), "the end of history has a hole");
                    bytes += event.event_type.as_str().len()
                        + event.payload.as_str().len()
                        + crate::limits::EVENT_OVERHEAD_BYTES;
                }
            }
            assert!(bytes <= bytes_max);
        }
    }

    /// Against [`Model`]: wherever events lie, and whatever has become of their neighbours, a read
    /// gives those that are left, and says so where some are not.
    #[test]
    fn history_is_the_same_wherever_it_lies() {
        let mut rng = seeded();
        let worlds = std::env::var("SIMULATIONS").map_or(25, |count| count.parse().unwrap());
        for _ in 0..worlds {
            let run_events_max =
                if rng.random_bool(0.5) { u64::MAX } else { rng.random_range(1..20) };
            let keeps_all = rng.random_bool(0.4);
            let mut world = World::new(run_events_max);
            for _ in 0..60 {
                match rng.random_range(0..20) {
                    0..10 => world.write_group(&mut rng),
                    10..14 => {
                        let removes = rng.random_bool(0.8);
                        world.move_window(rng.random_range(1..100_000), removes);
                    }
                    14 => world.sweep(&mut rng),
                    15 if !keeps_all => world.drop_oldest(),
                    16 => world.reopen(),
                    _ => world.check_reads(&mut rng),
                }
                read(&world.catalog).invariants();
            }
            world.check_reads(&mut rng);
            check_no_strays(&world);
        }
    }

    /// Every block and every piece of order belongs to a window that is there.
    fn check_no_strays(world: &World) {
        let catalog = read(&world.catalog);
        let windows: HashSet<u64> =
            catalog.windows().iter().map(|window| window.first_id.0).collect();
        for table in [Table::Blocks, Table::Order] {
            each_row(&world.store, table, &[], |key, _| {
                assert!(windows.contains(&u64::from_be_bytes(*key.first_chunk().unwrap())));
                Ok(true)
            })
            .unwrap();
        }
    }
}
