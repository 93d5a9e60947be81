//! How much of what a journal holds: in all, and of each run.

use std::collections::HashMap;
use std::ops::ControlFlow;

use super::block::Sections;
use super::catalog::Catalog;
use super::codec::{DecodeError, Decoder, Record};
use super::cold::{self, each_row};
use super::store::{Store, StoreError, Table};
use crate::event::{EventId, EventRef, RunId};

/// Events, and what they take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amount {
    /// How many can be read.
    pub events: u64,
    /// Bytes of their types and payloads as they are stored: packed in windows, plain in the log.
    pub bytes: u64,
    /// The first; 0 when there is none.
    pub first_id: EventId,
    /// The last.
    pub last_id: EventId,
}

/// What a journal holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Survey {
    /// In all.
    pub all: Amount,
    /// Of each run that has events.
    pub runs: HashMap<RunId, Amount>,
    /// Of the log alone.
    pub log: Amount,
    /// Values of the log that were not moved.
    pub log_values: u64,
    /// Their bytes.
    pub log_bytes: u64,
    /// Events that are still stored and can no longer be read: of runs that are gone, or too many.
    pub removed_events: u64,
}

impl Amount {
    fn add(&mut self, events: u64, bytes: u64, first_id: EventId, last_id: EventId) {
        if events == 0 {
            return;
        }
        if self.events == 0 || first_id < self.first_id {
            self.first_id = first_id;
        }
        self.last_id = self.last_id.max(last_id);
        self.events += events;
        self.bytes += bytes;
    }
}

/// Reads a journal through; `progress` hears how many bytes were read.
///
/// # Errors
/// When the storage fails, or something is not as it was written.
pub fn survey(
    store: &dyn Store,
    catalog: &Catalog,
    progress: &mut dyn FnMut(u64),
) -> Result<Survey, StoreError> {
    let mut survey = Survey::default();
    for window in catalog.windows() {
        let prefix = cold::key(window.first_id.0);
        each_row(store, Table::Blocks, &prefix, |key, block| {
            let is_of_window = key.starts_with(&prefix);
            if is_of_window {
                progress(block.len() as u64);
                survey.block(catalog, block)?;
            }
            Ok(is_of_window)
        })?;
    }
    let moved_through = catalog.moved_through();
    let mut corrupt = None;
    store.scan(moved_through.next(), &mut |key, value| {
        if key <= moved_through {
            return ControlFlow::Continue(());
        }
        progress(value.len() as u64);
        match survey.value(catalog, value) {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => {
                corrupt = Some(StoreError::Corrupt { key, error });
                ControlFlow::Break(())
            }
        }
    })?;
    corrupt.map_or(Ok(survey), Err)
}

impl Survey {
    fn block(&mut self, catalog: &Catalog, block: &[u8]) -> Result<(), DecodeError> {
        for section in Sections::new(block)? {
            let section = section?;
            let first_seq = catalog.kept(section.run).map_or(u64::MAX, |kept| kept.first_seq);
            if first_seq <= section.first_seq {
                let bytes = section.bytes() as u64;
                self.add(section.run, section.events, bytes, section.first_id, section.last_id);
                continue;
            }
            for event in section.iter() {
                self.event(&event?, first_seq);
            }
        }
        Ok(())
    }

    fn value(&mut self, catalog: &Catalog, value: &[u8]) -> Result<(), DecodeError> {
        self.log_values += 1;
        self.log_bytes += value.len() as u64;
        for record in Decoder::new(value)? {
            if let Record::Event(event) = record? {
                let first_seq = catalog.kept(event.run_id).map_or(u64::MAX, |kept| kept.first_seq);
                if self.event(&event, first_seq) {
                    self.log.add(1, size(&event), event.id, event.id);
                }
            }
        }
        Ok(())
    }

    /// Whether the event can be read.
    fn event(&mut self, event: &EventRef<'_>, first_seq: u64) -> bool {
        let is_kept = event.seq >= first_seq;
        if is_kept {
            self.add(event.run_id, 1, size(event), event.id, event.id);
        } else {
            self.removed_events += 1;
        }
        is_kept
    }

    fn add(&mut self, run: RunId, events: u64, bytes: u64, first_id: EventId, last_id: EventId) {
        self.all.add(events, bytes, first_id, last_id);
        self.runs.entry(run).or_default().add(events, bytes, first_id, last_id);
    }
}

fn size(event: &EventRef<'_>) -> u64 {
    (event.event_type.len() + event.payload.len()) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::fixture::{Journal, shown};
    use crate::journal::model::seeded;

    #[test]
    fn it_counts_what_can_be_read() {
        let mut rng = seeded();
        for _ in 0..30 {
            let journal = Journal::random(&mut rng);
            let catalog = journal.catalog.read().unwrap();
            let found = survey(&journal.store, &catalog, &mut |_| {}).unwrap();
            let events = shown(&journal.store, &catalog);
            assert_eq!(found.all.events, events.len() as u64);
            let first_and_last = (found.all.first_id, found.all.last_id);
            let ends = [events.first(), events.last()];
            let [first, last] = ends.map(|event| event.map(|event| event.id).unwrap_or_default());
            assert_eq!(first_and_last, (first, last));
            for (run, amount) in &found.runs {
                let of_run = events.iter().filter(|event| event.run_id == *run);
                assert_eq!(amount.events, of_run.count() as u64);
                assert!(amount.bytes > 0);
            }
            let in_log = events.iter().filter(|event| event.id > catalog.moved_through());
            assert_eq!(found.log.events, in_log.count() as u64);
        }
    }
}
