//! Reading what has been committed: exactly the events that a selection names, in order.
//!
//! The catalog says which journal values hold events of the selection; each of these is fetched
//! and decoded where it lies, and what does not belong is skipped. All bounds are the caller's.
//!
//! Invariants: the catalog is never locked while the store is read; nothing is seen that the
//! catalog has not taken in yet. These functions wait for the disk: never call them on an event
//! loop.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::RwLock;

use super::catalog::{Catalog, read};
use super::codec::{DecodeError, Decoder, Record};
use super::postings::Postings;
use super::store::{Store, StoreError};
use crate::event::{EventId, EventRef, RunId, Scope, Selection};
use crate::limits::EVENT_OVERHEAD_BYTES;

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
    /// Journal values that were looked at.
    pub values: usize,
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
    let (upto, keys) = {
        let catalog = read(catalog);
        let upto = request.upto.min(catalog.last_id());
        let keys = catalog.postings(&request.selection.scope).map(|lists| {
            // One more than may be looked at: it says how far the others reach.
            merge_ascending(
                &lists,
                request.after.next(),
                upto,
                request.values_max.max(1).saturating_add(1),
            )
        });
        (upto, keys)
    };
    let mut reading = Reading {
        filter: Filter::new(&request.selection, catalog),
        request,
        upto,
        read: HistoryRead {
            scanned_to: request.after,
            complete: false,
            events: 0,
            bytes: 0,
            values: 0,
        },
    };
    if upto <= request.after {
        reading.read.complete = true;
        return Ok(reading.read);
    }
    let outcome = match keys {
        Some(keys) => reading.values_at(store, &keys, visit)?,
        None => reading.all_values(store, visit)?,
    };
    if outcome.is_continue() {
        reading.read.scanned_to = upto;
    }
    reading.read.complete = reading.read.scanned_to >= upto;
    Ok(reading.read)
}

/// The cursor from which [`read_forward`] gives about the last `bytes_max` bytes of what the
/// selection names up to `upto`: counted as stored, with [`EVENT_OVERHEAD_BYTES`] for each event.
/// Goes back by `values_max` values at most.
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
    let (upto, keys) = {
        let catalog = read(catalog);
        let upto = upto.min(catalog.last_id());
        let keys = catalog
            .postings(&selection.scope)
            .map(|lists| merge_descending(&lists, upto, values_max.saturating_add(1)));
        (upto, keys)
    };
    let mut filter = Filter::new(selection, catalog);
    let mut sizes = Vec::new();
    let mut bytes = 0;
    let mut values = 0;
    let mut start = EventId(0);
    let mut look = |key: EventId, value: &[u8]| -> Result<ControlFlow<()>, StoreError> {
        if values == values_max {
            // This value is not looked at, and it is the last one before what was.
            return Ok(ControlFlow::Break(()));
        }
        values += 1;
        sizes.clear();
        filter.each_event(key, value, &mut |event| {
            if event.id <= upto {
                let texts = event.event_type.len() + event.payload.len();
                sizes.push((event.id, texts + EVENT_OVERHEAD_BYTES));
            }
            ControlFlow::Continue(())
        })?;
        for (id, size) in sizes.iter().rev() {
            if bytes + size > bytes_max {
                start = *id;
                return Ok(ControlFlow::Break(()));
            }
            bytes += size;
        }
        // In case that it is the last one that is looked at.
        start = EventId(key.0 - 1);
        Ok(ControlFlow::Continue(()))
    };
    let outcome = match keys {
        None => {
            let mut outcome = Ok(ControlFlow::Continue(()));
            store.scan_back(upto, &mut |key, value| {
                outcome = look(key, value);
                if matches!(outcome, Ok(ControlFlow::Continue(()))) {
                    ControlFlow::Continue(())
                } else {
                    ControlFlow::Break(())
                }
            })?;
            outcome?
        }
        Some(keys) => {
            let mut outcome = ControlFlow::Continue(());
            for key in keys {
                outcome = get(store, key, |value| look(key, value))??;
                if outcome.is_break() {
                    break;
                }
            }
            outcome
        }
    };
    Ok(if outcome.is_break() { start } else { EventId(0) })
}

struct Reading<'a> {
    filter: Filter<'a>,
    request: &'a HistoryRequest,
    upto: EventId,
    read: HistoryRead,
}

impl Reading<'_> {
    /// Whether it came to the end of the keys; else `scanned_to` says how far.
    fn values_at(
        &mut self,
        store: &dyn Store,
        keys: &[EventId],
        visit: &mut dyn FnMut(&EventRef<'_>) -> usize,
    ) -> Result<ControlFlow<()>, StoreError> {
        for key in keys {
            if self.is_enough_before(*key) {
                return Ok(ControlFlow::Break(()));
            }
            let outcome = get(store, *key, |value| self.value(*key, value, visit))??;
            if outcome.is_break() {
                return Ok(outcome);
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    fn all_values(
        &mut self,
        store: &dyn Store,
        visit: &mut dyn FnMut(&EventRef<'_>) -> usize,
    ) -> Result<ControlFlow<()>, StoreError> {
        let mut outcome = Ok(ControlFlow::Continue(()));
        store.scan(self.request.after.next(), &mut |key, value| {
            if key > self.upto {
                return ControlFlow::Break(());
            }
            outcome = if self.is_enough_before(key) {
                Ok(ControlFlow::Break(()))
            } else {
                self.value(key, value, visit)
            };
            match outcome {
                Ok(ControlFlow::Continue(())) => ControlFlow::Continue(()),
                _ => ControlFlow::Break(()),
            }
        })?;
        outcome
    }

    /// Whether no further value may be looked at, of which this is the next.
    fn is_enough_before(&mut self, key: EventId) -> bool {
        let is_enough = self.read.values >= self.request.values_max.max(1);
        if is_enough {
            self.read.scanned_to = EventId(key.0 - 1);
        }
        is_enough
    }

    fn value(
        &mut self,
        key: EventId,
        value: &[u8],
        visit: &mut dyn FnMut(&EventRef<'_>) -> usize,
    ) -> Result<ControlFlow<()>, StoreError> {
        let Reading { filter, request, upto, read } = self;
        read.values += 1;
        filter.each_event(key, value, &mut |event| {
            if event.id <= request.after {
                return ControlFlow::Continue(());
            }
            if event.id > *upto {
                return ControlFlow::Break(());
            }
            read.bytes += visit(event);
            read.events += 1;
            if read.events >= request.events_max || read.bytes >= request.bytes_max {
                read.scanned_to = event.id;
                return ControlFlow::Break(());
            }
            ControlFlow::Continue(())
        })?;
        let is_enough = read.events >= request.events_max || read.bytes >= request.bytes_max;
        // An event was visited: a bound of 0 does not stop a read before its first event.
        let is_enough = is_enough && read.events > 0;
        Ok(if is_enough { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    }
}

/// Which runs a selection admits, asked of the catalog once for each run that is met.
struct Filter<'a> {
    selection: &'a Selection,
    catalog: &'a RwLock<Catalog>,
    admitted: HashMap<RunId, bool>,
}

impl<'a> Filter<'a> {
    fn new(selection: &'a Selection, catalog: &'a RwLock<Catalog>) -> Filter<'a> {
        Filter { selection, catalog, admitted: HashMap::new() }
    }

    /// Shows the events of a value that the selection names, until told to stop.
    fn each_event(
        &mut self,
        key: EventId,
        value: &[u8],
        visit: &mut dyn FnMut(&EventRef<'_>) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        let corrupt = |error| StoreError::Corrupt { key, error };
        for record in Decoder::new(value).map_err(corrupt)? {
            if let Record::Event(event) = record.map_err(corrupt)?
                && self.admits_run(event.run_id)
                && self.selection.admits_type_name(event.event_type)
                && visit(&event).is_break()
            {
                break;
            }
        }
        Ok(())
    }

    fn admits_run(&mut self, run: RunId) -> bool {
        if let Scope::Runs(runs) = &self.selection.scope
            && runs.binary_search(&run).is_err()
        {
            return false;
        }
        *self.admitted.entry(run).or_insert_with(|| {
            // A run that is not there was deleted.
            let catalog = read(self.catalog);
            catalog.labels(run).is_some_and(|labels| self.selection.admits_run(run, labels))
        })
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
    from: EventId,
    upto: EventId,
    keys_max: usize,
) -> Vec<EventId> {
    let mut keys: Vec<EventId> = Vec::new();
    for list in lists {
        keys.extend(
            list.ascending(from).take_while(|key| *key <= upto).take(keys_max.saturating_add(1)),
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
fn merge_descending(lists: &[&Postings], upto: EventId, keys_max: usize) -> Vec<EventId> {
    let mut keys: Vec<EventId> = Vec::new();
    for list in lists {
        keys.extend(list.descending(upto).take(keys_max));
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
    use crate::journal::memory::MemoryStore;
    use crate::journal::model::{Model, seeded};

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
