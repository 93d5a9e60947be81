//! Reading what has been committed: exactly the events that a selection names, in order.
//!
//! What was moved is read from its windows (`cold_history.rs`), the rest from the log, for
//! which the catalog says which values hold events of the selection; each of these is fetched and
//! decoded where it lies, and what does not belong is skipped. All bounds are the caller's.
//!
//! Invariants: the catalog is never locked while the store is read; nothing is seen that the
//! catalog has not taken in yet. These functions wait for the disk: never call them on an event
//! loop.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::RwLock;

use super::RunHead;
use super::catalog::{Catalog, read};
use super::codec::{DecodeError, Decoder, Record};
use super::cold::{Jump, Window, id_after};
use super::cold_history::{BatchSize, ColdReader};
use super::postings::Postings;
use super::store::{Store, StoreError};
use crate::event::{EventId, EventRef, RunId, Scope, Selection};
use crate::limits::{EVENT_OVERHEAD_BYTES, READ_WINDOWS_MAX, REPLAY_CHUNK_VALUES_MAX};

/// What to read, and how much of it.
#[derive(Clone, Debug)]
pub struct HistoryRequest {
    /// Which events.
    pub selection: Selection,
    /// Only those above this id.
    pub after: EventId,
    /// Only those up to this id; what was committed later than the read begins is left out anyway.
    pub upto: EventId,
    /// At most so many of them.
    pub events_max: usize,
    /// No further one when so many bytes have been made of them.
    pub bytes_max: usize,
    /// Journal values that are looked at, at most.
    pub values_max: usize,
}

/// How far a read has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HistoryRead {
    /// Every event up to this id has been considered: where to go on.
    pub scanned_to: EventId,
    /// Nothing is left of what was asked for: `scanned_to` is `upto`, or the end of the journal.
    pub complete: bool,
    /// Events that were visited.
    pub events: usize,
    /// Bytes that were made of them.
    pub bytes: usize,
    /// Journal values, or blocks of windows, that were looked at.
    pub values: usize,
    /// Events after the cursor are gone by retention: the first one that is there, or where the next
    /// one can be.
    pub truncated: Option<EventId>,
}

/// Shows the events with `after < id <= upto` that the selection names, in order, to `visit`,
/// which says how many bytes it made of each. Stops at the first bound that is reached, after one
/// event at least if the values that are looked at hold one.
///
/// # Errors
/// When the store cannot be read, or a value is not as it was written.
pub fn read_forward(
    store: &dyn Store,
    catalog: &RwLock<Catalog>,
    request: &HistoryRequest,
    visit: &mut dyn FnMut(&EventRef<'_>) -> usize,
) -> Result<HistoryRead, StoreError> {
    let scope = &request.selection.scope;
    let plan = {
        let catalog = read(catalog);
        let upto = request.upto.min(catalog.last_id());
        let moved_through = catalog.moved_through();
        let windows = windows_after(catalog.windows(), request.after, upto);
        let in_log_after = request.after.max(moved_through);
        let keys = catalog.postings(scope).map(|lists| {
            // One more than may be looked at: it says how far the others reach.
            let keys_max = request.values_max.max(1).saturating_add(1);
            merge_ascending(&lists, moved_through, in_log_after.next(), upto, keys_max)
        });
        let removed_through = catalog.removed_through(scope);
        let run_end = match scope {
            Scope::Runs(runs) if let [run] = **runs => catalog.head(run),
            _ => None,
        };
        let jumps = catalog.jumps().to_vec();
        Plan { upto, moved_through, windows, keys, jumps, removed_through, run_end }
    };
    let mut reading = Reading {
        filter: Filter::new(&request.selection, catalog),
        request,
        upto: plan.upto,
        next_seq: None,
        begins_run: request.after <= plan.removed_through,
        first: None,
        is_missing: plan.removed_through > request.after && plan.upto > request.after,
        read: HistoryRead {
            scanned_to: request.after,
            complete: false,
            events: 0,
            bytes: 0,
            values: 0,
            truncated: None,
        },
        visit,
    };
    if plan.upto <= request.after {
        reading.read.complete = true;
        return Ok(reading.read);
    }
    let mut outcome = reading.windows(store, &plan)?;
    if outcome.is_continue() {
        outcome = match &plan.keys {
            Some(keys) => reading.values_at(store, keys)?,
            None => reading.all_values(store, &plan)?,
        };
    }
    let Reading { mut read, is_missing, first, next_seq, .. } = reading;
    if outcome.is_continue() {
        read.scanned_to = plan.upto;
        // The last event of a run is always there, unless the run is gone by now.
        if let Some(head) = plan.run_end
            && (request.after < head.last_event_id && head.last_event_id <= plan.upto)
            && removed_through_now(catalog, scope) < head.last_event_id
            && next_seq != Some(head.event_count + 1)
        {
            return Err(missing_in(head.last_event_id, head.last_event_id));
        }
    }
    read.complete = read.scanned_to >= plan.upto;
    read.truncated = is_missing.then(|| first.unwrap_or(read.scanned_to.next()));
    Ok(read)
}

/// Where to look.
struct Plan {
    upto: EventId,
    moved_through: EventId,
    windows: Vec<Window>,
    keys: Option<Vec<EventId>>,
    jumps: Vec<Jump>,
    removed_through: EventId,
    /// Where it stands, if it is a single run.
    run_end: Option<RunHead>,
}

/// The last event of the scope that is gone by now; beyond all when the run is.
fn removed_through_now(catalog: &RwLock<Catalog>, scope: &Scope) -> EventId {
    let catalog = read(catalog);
    match scope {
        Scope::Runs(runs) if runs.iter().any(|run| !catalog.contains(*run)) => EventId(u64::MAX),
        scope => catalog.removed_through(scope),
    }
}

/// The first windows that may hold an id above `after` and up to `upto`: one more than are read.
fn windows_after(windows: &[Window], after: EventId, upto: EventId) -> Vec<Window> {
    let first = windows.partition_point(|window| window.last_id <= after);
    let those = windows[first..].iter().take_while(|window| window.first_id <= upto);
    those.take(READ_WINDOWS_MAX + 1).copied().collect()
}

/// The first event that is kept, or `None` when there is none: the first windows may have nothing
/// but events of deleted runs. When there is much of that, an id below which there is none.
///
/// # Errors
/// As [`read_forward`].
pub fn first_kept(
    store: &dyn Store,
    catalog: &RwLock<Catalog>,
) -> Result<Option<EventId>, StoreError> {
    let request = HistoryRequest {
        selection: Selection { scope: Scope::All, types: None },
        after: EventId(0),
        upto: EventId(u64::MAX),
        events_max: 1,
        bytes_max: usize::MAX,
        values_max: REPLAY_CHUNK_VALUES_MAX,
    };
    let mut first = None;
    let read = read_forward(store, catalog, &request, &mut |event| {
        first.get_or_insert(event.id);
        0
    })?;
    Ok(first.or_else(|| (!read.complete).then(|| read.scanned_to.next())))
}

/// The cursor from which [`read_forward`] gives about the last `bytes_max` bytes of what the
/// selection names up to `upto`: counted as stored, with [`EVENT_OVERHEAD_BYTES`] for each event.
/// Goes back by `values_max` values at most, and never behind an event that retention has removed.
///
/// # Errors
/// When the store cannot be read, or a value is not as it was written.
pub fn read_end_start(
    store: &dyn Store,
    catalog: &RwLock<Catalog>,
    selection: &Selection,
    upto: EventId,
    bytes_max: usize,
    values_max: usize,
) -> Result<EventId, StoreError> {
    let values_max = values_max.max(1);
    let (upto, moved_through, keys, windows, removed_through) = {
        let catalog = read(catalog);
        let upto = upto.min(catalog.last_id());
        let moved_through = catalog.moved_through();
        let keys = catalog.postings(&selection.scope).map(|lists| {
            merge_descending(&lists, moved_through, upto, values_max.saturating_add(1))
        });
        let before = catalog.windows().partition_point(|window| window.first_id <= upto);
        let windows: Vec<Window> =
            catalog.windows()[..before].iter().rev().take(READ_WINDOWS_MAX + 1).copied().collect();
        (upto, moved_through, keys, windows, catalog.removed_through(&selection.scope))
    };
    let mut end = End {
        filter: Filter::new(selection, catalog),
        upto,
        bytes_max,
        values_max,
        sizes: Vec::new(),
        bytes: 0,
        values: 0,
        start: EventId(0),
    };
    let mut outcome = match keys {
        None => end.all_values(store, moved_through)?,
        Some(keys) => end.values_at(store, &keys)?,
    };
    if outcome.is_continue() {
        outcome = end.windows(store, &windows)?;
    }
    let start = if outcome.is_break() { end.start } else { EventId(0) };
    Ok(start.max(removed_through.min(upto)))
}

/// What is being read forwards.
struct Reading<'a> {
    filter: Filter<'a>,
    request: &'a HistoryRequest,
    upto: EventId,
    /// Of a single run: the seq that must come next.
    next_seq: Option<u64>,
    /// Everything up to the cursor is gone, or there was nothing: the first event that is kept must
    /// come first.
    begins_run: bool,
    /// The first event that was there.
    first: Option<EventId>,
    /// Something between the cursor and here is gone.
    is_missing: bool,
    read: HistoryRead,
    visit: &'a mut dyn FnMut(&EventRef<'_>) -> usize,
}

impl Reading<'_> {
    /// Whether it came to the end of what was moved; else `scanned_to` says how far.
    fn windows(&mut self, store: &dyn Store, plan: &Plan) -> Result<ControlFlow<()>, StoreError> {
        let cold = ColdReader { store };
        for (count, window) in plan.windows.iter().enumerate() {
            if count == READ_WINDOWS_MAX {
                self.read.scanned_to =
                    EventId(window.first_id.0 - 1).clamp(self.request.after, self.upto);
                return Ok(ControlFlow::Break(()));
            }
            let outcome = match &self.request.selection.scope {
                Scope::Runs(runs) if let [run] = **runs => {
                    self.run_of_window(cold, *window, run)?
                }
                _ => self.order_of_window(cold, *window)?,
            };
            if outcome.is_break() {
                return Ok(outcome);
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    fn run_of_window(
        &mut self,
        cold: ColdReader<'_>,
        window: Window,
        run: RunId,
    ) -> Result<ControlFlow<()>, StoreError> {
        if !self.filter.admits_run(run) {
            return Ok(ControlFlow::Continue(()));
        }
        let from = self.request.after.next().max(window.first_id);
        let values_max = self.request.values_max.max(1);
        let (mut values, mut ended_at) = (self.read.values, None);
        let mut goes_on = |begins: EventId| {
            if values >= values_max {
                ended_at = Some(EventId(begins.0 - 1));
                return false;
            }
            values += 1;
            true
        };
        let outcome = cold.run_forward(window, run, from, &mut goes_on, &mut |event| {
            self.event(window.first_id, event)
        })?;
        self.read.values = values;
        if let Some(ended_at) = ended_at {
            self.read.scanned_to = ended_at.min(self.upto);
        }
        Ok(outcome)
    }

    fn order_of_window(
        &mut self,
        cold: ColdReader<'_>,
        window: Window,
    ) -> Result<ControlFlow<()>, StoreError> {
        let mut from = self.request.after.next().max(window.first_id);
        let mut size = BatchSize::first();
        loop {
            if self.is_enough_before(from) {
                return Ok(ControlFlow::Break(()));
            }
            self.read.values += 1;
            let filter = &mut self.filter;
            let max = size.events();
            let entries =
                cold.order_forward(window, from, max, &mut |run| filter.admits_run(run))?;
            let Some((last, _)) = entries.last().copied() else {
                return Ok(ControlFlow::Continue(()));
            };
            let wanted = entries.partition_point(|(id, _)| *id <= self.upto);
            let batch = cold.fetch(window, &entries[..wanted])?;
            size.adapt(&batch);
            let mut found = entries[..wanted].iter();
            for event in batch.events() {
                // The one that ends this is the event itself.
                for (id, run) in found.by_ref().take_while(|(id, _)| *id < event.id) {
                    self.missing(window.first_id, *id, *run)?;
                }
                if self.event(window.first_id, &event)?.is_break() {
                    return Ok(ControlFlow::Break(()));
                }
            }
            for (id, run) in found {
                self.missing(window.first_id, *id, *run)?;
            }
            if entries.len() < max || last >= window.last_id.min(self.upto) {
                return Ok(ControlFlow::Continue(()));
            }
            from = last.next();
        }
    }

    /// An event is not where the order says. Rightly so if it was removed since.
    fn missing(&mut self, window: EventId, id: EventId, run: RunId) -> Result<(), StoreError> {
        match read(self.filter.catalog).kept(run) {
            Some(kept) if kept.removed_through < id => Err(missing_in(window, id)),
            Some(_) => {
                self.is_missing = true;
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// Whether it came to the end of the keys; else `scanned_to` says how far.
    fn values_at(
        &mut self,
        store: &dyn Store,
        keys: &[EventId],
    ) -> Result<ControlFlow<()>, StoreError> {
        for key in keys {
            if self.is_enough_before(*key) {
                return Ok(ControlFlow::Break(()));
            }
            let (outcome, _) = get(store, *key, |value| self.value(*key, value))??;
            if outcome.is_break() {
                return Ok(outcome);
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    fn all_values(
        &mut self,
        store: &dyn Store,
        plan: &Plan,
    ) -> Result<ControlFlow<()>, StoreError> {
        let mut outcome = Ok(ControlFlow::Continue(()));
        let from = id_after(self.request.after.max(plan.moved_through), &plan.jumps);
        // No id is left out between two values, so that one that is lost is missed.
        let mut next = from;
        store.scan(from, &mut |key, value| {
            if key <= plan.moved_through {
                return ControlFlow::Continue(());
            }
            if key > self.upto {
                return ControlFlow::Break(());
            }
            if key > next {
                outcome = Err(missing_in(key, next));
                return ControlFlow::Break(());
            }
            outcome = if self.is_enough_before(key) {
                Ok(ControlFlow::Break(()))
            } else {
                self.value(key, value).map(|(flow, end)| {
                    next = id_after(EventId(end.0 - 1), &plan.jumps);
                    flow
                })
            };
            match outcome {
                Ok(ControlFlow::Continue(())) => ControlFlow::Continue(()),
                _ => ControlFlow::Break(()),
            }
        })?;
        if let Ok(ControlFlow::Continue(())) = outcome
            && next <= self.upto
        {
            return Err(missing_in(next, self.upto));
        }
        outcome
    }

    /// Whether no further value may be looked at, of which this is the next.
    fn is_enough_before(&mut self, key: EventId) -> bool {
        let is_enough = self.read.values >= self.request.values_max.max(1);
        if is_enough {
            self.read.scanned_to = EventId(key.0 - 1).clamp(self.request.after, self.upto);
        }
        is_enough
    }

    /// Whether to go on behind a value, and the id that comes after those that were looked at.
    fn value(
        &mut self,
        key: EventId,
        value: &[u8],
    ) -> Result<(ControlFlow<()>, EventId), StoreError> {
        self.read.values += 1;
        let corrupt = |error| StoreError::Corrupt { key, error };
        let mut records = Decoder::new(value).map_err(corrupt)?;
        for record in records.by_ref() {
            if let Record::Event(event) = record.map_err(corrupt)?
                && self.filter.admits_run(event.run_id)
                && self.event(key, &event)?.is_break()
            {
                return Ok((ControlFlow::Break(()), event.id.next()));
            }
        }
        Ok((ControlFlow::Continue(()), records.next_id()))
    }

    /// Whether nothing that is kept lies before an event of its run: now, since more may have been
    /// removed meanwhile.
    fn is_first_kept(&self, event: &EventRef<'_>) -> bool {
        let kept = read(self.filter.catalog).kept(event.run_id);
        kept.is_none_or(|kept| event.seq <= kept.first_seq)
    }

    /// An event of a run that is admitted, from the value or the window that begins at `key`.
    fn event(&mut self, key: EventId, event: &EventRef<'_>) -> Result<ControlFlow<()>, StoreError> {
        if event.id > self.upto {
            // What was looked for is all there.
            return Ok(ControlFlow::Continue(()));
        }
        let is_kept = event.seq >= self.filter.first_seq(event.run_id);
        if is_kept && self.filter.is_one_run {
            let next = self.next_seq.replace(event.seq.saturating_add(1));
            let is_right = match next {
                Some(next) => next == event.seq,
                None => !self.begins_run || self.is_first_kept(event),
            };
            if !is_right {
                return Err(missing_in(key, event.id));
            }
        }
        if event.id <= self.request.after {
            return Ok(ControlFlow::Continue(()));
        }
        if !self.filter.selection.admits_type_name(event.event_type) {
            return Ok(ControlFlow::Continue(()));
        }
        if !is_kept {
            self.is_missing = true;
            return Ok(ControlFlow::Continue(()));
        }
        self.first.get_or_insert(event.id);
        let read = &mut self.read;
        read.bytes += (self.visit)(event);
        read.events += 1;
        if read.events >= self.request.events_max || read.bytes >= self.request.bytes_max {
            read.scanned_to = event.id;
            return Ok(ControlFlow::Break(()));
        }
        Ok(ControlFlow::Continue(()))
    }
}

fn missing_in(key: EventId, id: EventId) -> StoreError {
    log::debug!("the event {id}, or what was before it, is not in the journal");
    StoreError::Corrupt { key, error: DecodeError::Malformed("an event is missing") }
}

/// What is being read backwards: how far to go for so many bytes.
struct End<'a> {
    filter: Filter<'a>,
    upto: EventId,
    bytes_max: usize,
    values_max: usize,
    sizes: Vec<(EventId, u64, RunId, usize)>,
    bytes: usize,
    values: usize,
    /// The last id that is not taken.
    start: EventId,
}

impl End<'_> {
    fn all_values(
        &mut self,
        store: &dyn Store,
        moved_through: EventId,
    ) -> Result<ControlFlow<()>, StoreError> {
        let mut outcome = Ok(ControlFlow::Continue(()));
        store.scan_back(self.upto, &mut |key, value| {
            if key <= moved_through {
                return ControlFlow::Break(());
            }
            outcome = self.value(key, value);
            match outcome {
                Ok(ControlFlow::Continue(())) => ControlFlow::Continue(()),
                _ => ControlFlow::Break(()),
            }
        })?;
        outcome
    }

    fn values_at(
        &mut self,
        store: &dyn Store,
        keys: &[EventId],
    ) -> Result<ControlFlow<()>, StoreError> {
        for key in keys {
            if get(store, *key, |value| self.value(*key, value))??.is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    fn value(&mut self, key: EventId, value: &[u8]) -> Result<ControlFlow<()>, StoreError> {
        if !self.may_look() {
            return Ok(ControlFlow::Break(()));
        }
        let corrupt = |error| StoreError::Corrupt { key, error };
        self.sizes.clear();
        for record in Decoder::new(value).map_err(corrupt)? {
            if let Record::Event(event) = record.map_err(corrupt)?
                && self.filter.admits_run(event.run_id)
            {
                self.size(&event);
            }
        }
        Ok(self.take_sizes(key))
    }

    fn windows(
        &mut self,
        store: &dyn Store,
        windows: &[Window],
    ) -> Result<ControlFlow<()>, StoreError> {
        let cold = ColdReader { store };
        for (count, window) in windows.iter().enumerate() {
            // In case that it is not looked at.
            self.start = window.last_id.min(self.upto);
            if count == READ_WINDOWS_MAX {
                return Ok(ControlFlow::Break(()));
            }
            let outcome = match &self.filter.selection.scope {
                Scope::Runs(runs) if let [run] = **runs => {
                    self.run_of_window(cold, *window, run)?
                }
                _ => self.order_of_window(cold, *window)?,
            };
            if outcome.is_break() {
                return Ok(outcome);
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    fn run_of_window(
        &mut self,
        cold: ColdReader<'_>,
        window: Window,
        run: RunId,
    ) -> Result<ControlFlow<()>, StoreError> {
        if !self.filter.admits_run(run) {
            return Ok(ControlFlow::Continue(()));
        }
        let upto = self.upto;
        cold.run_back(window, run, upto, &mut |events| {
            if !self.may_look() {
                return ControlFlow::Break(());
            }
            self.sizes.clear();
            for event in events {
                self.size(event);
            }
            let first = events.first().map_or(window.first_id, |event| event.id);
            self.take_sizes(first)
        })
    }

    fn order_of_window(
        &mut self,
        cold: ColdReader<'_>,
        window: Window,
    ) -> Result<ControlFlow<()>, StoreError> {
        let mut upto = self.upto.min(window.last_id);
        let mut size = BatchSize::first();
        loop {
            if !self.may_look() {
                return Ok(ControlFlow::Break(()));
            }
            let filter = &mut self.filter;
            let max = size.events();
            let entries = cold.order_back(window, upto, max, &mut |run| filter.admits_run(run))?;
            let Some((first, _)) = entries.first().copied() else {
                return Ok(ControlFlow::Continue(()));
            };
            let batch = cold.fetch(window, &entries)?;
            size.adapt(&batch);
            self.sizes.clear();
            batch.events().for_each(|event| self.size(&event));
            if self.take_sizes(first).is_break() {
                return Ok(ControlFlow::Break(()));
            }
            if entries.len() < max || first == window.first_id {
                return Ok(ControlFlow::Continue(()));
            }
            upto = EventId(first.0 - 1);
        }
    }

    /// Whether one more value may be looked at. Otherwise it is not, and it is the last one before
    /// what was.
    fn may_look(&mut self) -> bool {
        self.values += 1;
        self.values <= self.values_max
    }

    fn size(&mut self, event: &EventRef<'_>) {
        if event.id <= self.upto && self.filter.selection.admits_type_name(event.event_type) {
            let texts = event.event_type.len() + event.payload.len();
            self.sizes.push((event.id, event.seq, event.run_id, texts + EVENT_OVERHEAD_BYTES));
        }
    }

    /// Counts what was found from `first` on.
    fn take_sizes(&mut self, first: EventId) -> ControlFlow<()> {
        for (id, seq, run, size) in self.sizes.iter().rev() {
            // What is before an event that is not kept may be missing.
            if self.bytes + size > self.bytes_max || *seq < self.filter.first_seq(*run) {
                self.start = *id;
                return ControlFlow::Break(());
            }
            self.bytes += size;
        }
        // In case that it is the last that is looked at.
        self.start = EventId(first.0 - 1);
        ControlFlow::Continue(())
    }
}

/// Which runs a selection admits and what they keep, asked of the catalog once for each run that is
/// met.
struct Filter<'a> {
    selection: &'a Selection,
    catalog: &'a RwLock<Catalog>,
    is_one_run: bool,
    /// The first seq that a run keeps; none for one that is not admitted.
    first_seqs: HashMap<RunId, Option<u64>>,
}

impl<'a> Filter<'a> {
    fn new(selection: &'a Selection, catalog: &'a RwLock<Catalog>) -> Filter<'a> {
        let is_one_run = matches!(&selection.scope, Scope::Runs(runs) if runs.len() == 1);
        Filter { selection, catalog, is_one_run, first_seqs: HashMap::new() }
    }

    fn admits_run(&mut self, run: RunId) -> bool {
        if let Scope::Runs(runs) = &self.selection.scope
            && runs.binary_search(&run).is_err()
        {
            return false;
        }
        let (selection, catalog) = (self.selection, self.catalog);
        let first_seq = self.first_seqs.entry(run).or_insert_with(|| {
            // A run that is not there was deleted.
            let catalog = read(catalog);
            let admitted =
                catalog.labels(run).is_some_and(|labels| selection.admits_run(run, labels));
            catalog.kept(run).filter(|_| admitted).map(|kept| kept.first_seq)
        });
        first_seq.is_some()
    }

    /// The first seq that an admitted run keeps.
    fn first_seq(&self, run: RunId) -> u64 {
        self.first_seqs.get(&run).copied().flatten().unwrap_or(1)
    }
}

/// Calls `look` with the value that the catalog says is there.
fn get<T>(store: &dyn Store, key: EventId, look: impl FnOnce(&[u8]) -> T) -> Result<T, StoreError> {
    let mut look = Some(look);
    let mut seen = None;
    store.get(key, &mut |value| seen = look.take().map(|look| look(value)))?;
    let error = DecodeError::Malformed("it is missing");
    seen.ok_or(StoreError::Corrupt { key, error })
}

/// The first keys of values that may hold an id from `from` to `upto`, at most `keys_max` of them.
fn merge_ascending(
    lists: &[&Postings],
    moved_through: EventId,
    from: EventId,
    upto: EventId,
    keys_max: usize,
) -> Vec<EventId> {
    let mut keys: Vec<EventId> = Vec::new();
    for list in lists {
        keys.extend(
            list.ascending(from)
                .skip_while(|key| *key <= moved_through)
                .take_while(|key| *key <= upto)
                .take(keys_max.saturating_add(1)),
        );
    }
    keys.sort_unstable();
    keys.dedup();
    // Each list begins with the last value of its own that does not lie above `from`; of all these
    // only the last one can reach up to it.
    keys.drain(..keys.partition_point(|key| *key <= from).saturating_sub(1));
    keys.truncate(keys_max);
    keys
}

/// The last keys of values that may hold an id up to `upto`, from the last one back.
fn merge_descending(
    lists: &[&Postings],
    moved_through: EventId,
    upto: EventId,
    keys_max: usize,
) -> Vec<EventId> {
    let mut keys: Vec<EventId> = Vec::new();
    for list in lists {
        let in_log = list.descending(upto).take_while(|key| *key > moved_through);
        keys.extend(in_log.take(keys_max));
    }
    keys.sort_unstable_by(|one, other| other.cmp(one));
    keys.dedup();
    keys.truncate(keys_max);
    keys
}

#[cfg(test)]
mod tests {
    use rand::RngExt;
    use rand::rngs::StdRng;

    use super::*;
    use crate::event::{Event, Timestamp};
    use crate::journal::commit::Committer;
    use crate::journal::fixture::{Journal, append, create};
    use crate::journal::memory::MemoryStore;
    use crate::journal::model::{Model, seeded};
    use crate::journal::store::Table;
    use crate::journal::{Once, cold};

    fn random_journal(rng: &mut StdRng) -> (MemoryStore, RwLock<Catalog>, Model) {
        let store = MemoryStore::default();
        let mut committer = Committer::new(1_000);
        let mut catalog = Catalog::default();
        let mut model = Model::default();
        for now in 0..rng.random_range(1..80) {
            for _ in 0..rng.random_range(0..12) {
                let write = model.random_write(rng);
                committer.stage(write.clone(), Timestamp(now), &catalog);
                let _ = model.write(write, Timestamp(now));
            }
            store.append(committer.seal(), true).unwrap();
            committer.committed(&mut catalog);
        }
        (store, RwLock::new(catalog), model)
    }

    /// Against a filter over all events: pages of any bounds, put together, are the whole.
    #[test]
    fn pages_put_together_are_the_whole() {
        let mut rng = seeded();
        for _ in 0..40 {
            let (store, catalog, model) = random_journal(&mut rng);
            for _ in 0..20 {
                let selection = model.random_selection(&mut rng);
                let last = model.last_id();
                let after = EventId(rng.random_range(0..=last.0));
                let upto = EventId(rng.random_range(after.0..=last.0 + 5));
                let mut expected = model.select(&selection);
                expected.retain(|event| event.id > after && event.id <= upto);
                let mut request = HistoryRequest {
                    selection,
                    after,
                    upto,
                    events_max: rng.random_range(0..30),
                    bytes_max: rng.random_range(0..10_000),
                    values_max: rng.random_range(0..10),
                };
                let mut found: Vec<Event> = Vec::new();
                loop {
                    let before = found.len();
                    let read = read_forward(&store, &catalog, &request, &mut |event| {
                        found.push(event.to_event());
                        event.payload.len()
                    })
                    .unwrap();
                    assert_eq!(read.events, found.len() - before);
                    assert!(read.events <= request.events_max.max(1));
                    assert!(read.values <= request.values_max.max(1));
                    assert!(read.scanned_to <= upto);
                    assert!(found.last().is_none_or(|event| event.id <= read.scanned_to));
                    let considered = expected.partition_point(|event| event.id <= read.scanned_to);
                    assert_eq!(found.len(), considered);
                    if read.complete {
                        assert_eq!(read.scanned_to, upto.min(last).max(after));
                        break;
                    }
                    assert!(read.scanned_to > request.after, "a read gets on");
                    request.after = read.scanned_to;
                }
                assert_eq!(found, expected);
            }
        }
    }

    /// Its oldest events lie in a window, whose blocks are lost.
    #[test]
    fn a_run_that_has_lost_its_beginning_is_not_read_from_there() {
        let mut journal = Journal::new();
        journal.write([create(None), append(1, 3, Once::No)]);
        journal.make_window(usize::MAX);
        journal.write([append(1, 2, Once::No)]);
        let mut blocks = Vec::new();
        let mut note = |key: &[u8], _: &[u8]| {
            blocks.push(cold::remove(Table::Blocks, key.to_vec()));
            ControlFlow::Continue(())
        };
        journal.store.rows(Table::Blocks, &[], &mut note).unwrap();
        let seqs = |after: u64| {
            let mut seqs = Vec::new();
            let request = HistoryRequest {
                selection: Selection { scope: Scope::Runs([RunId(1)].into()), types: None },
                after: EventId(after),
                upto: EventId(100),
                events_max: 100,
                bytes_max: 1_000,
                values_max: 100,
            };
            let read = read_forward(&journal.store, &journal.catalog, &request, &mut |event| {
                seqs.push(event.seq);
                1
            });
            read.map(|_| seqs)
        };
        assert_eq!(seqs(0).unwrap(), [1, 2, 3, 4, 5, 6]);
        journal.store.change_rows(&blocks).unwrap();
        assert!(matches!(seqs(0), Err(StoreError::Corrupt { .. })));
        assert_eq!(seqs(4).unwrap(), [5, 6]);
    }

    #[test]
    fn the_end_of_history_is_found_from_behind() {
        let mut rng = seeded();
        for _ in 0..40 {
            let (store, catalog, model) = random_journal(&mut rng);
            for _ in 0..20 {
                let selection = model.random_selection(&mut rng);
                let upto = EventId(rng.random_range(0..=model.last_id().0 + 5));
                let bytes_max = rng.random_range(0..30_000);
                let start = |values_max| {
                    read_end_start(&store, &catalog, &selection, upto, bytes_max, values_max)
                        .unwrap()
                };
                let mut expected = model.select(&selection);
                expected.retain(|event| event.id <= upto);
                let size = |event: &Event| {
                    event.event_type.as_str().len()
                        + event.payload.as_str().len()
                        + EVENT_OVERHEAD_BYTES
                };
                let mut bytes = 0;
                let excluded = expected.iter().rev().find(|event| {
                    bytes += size(event);
                    bytes > bytes_max
                });
                let exact = excluded.map_or(EventId(0), |event| event.id);
                assert_eq!(start(usize::MAX), exact);
                assert!(start(rng.random_range(0..5)) >= exact);
            }
        }
    }

    #[test]
    fn replay_of_a_run_reads_its_own_values_only() {
        let mut rng = seeded();
        let (store, catalog, model) = random_journal(&mut rng);
        for id in model.runs.keys() {
            let scope = Scope::Runs([*id].into());
            let values = catalog.read().unwrap().postings(&scope).unwrap()[0].len();
            let request = HistoryRequest {
                selection: Selection { scope, types: None },
                after: EventId(0),
                upto: EventId(u64::MAX),
                events_max: usize::MAX,
                bytes_max: usize::MAX,
                values_max: 10_000,
            };
            let read = read_forward(&store, &catalog, &request, &mut |_| 0).unwrap();
            assert_eq!(read.values, values);
        }
    }
}
