//! Import: events of another journal, line by line, as new runs of this one.
//!
//! A line is an event as pages and exports have it. Runs get new ids, in the order in which they
//! appear first, and seqs from 1; types, payloads and times are kept, and with the payload of
//! `RUN_CREATED` the labels. A run whose beginning is missing gets one.
//!
//! Invariants: a batch is imported whole or not at all; what was imported follows the rules by which
//! a server takes events, so that it opens.

use std::collections::HashMap;
use std::sync::RwLock;
use std::time::UNIX_EPOCH;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::backup::go_on_higher;
use super::catalog::{Catalog, read};
use super::codec::{Encoder, parse_run_created, run_created_payload};
use super::commit::{Committer, Opened};
use super::store::{Store, StoreError};
use super::windows::NextWindow;
use crate::event::{Event, EventId, EventType, Json, Labels, RunId, Timestamp};
use crate::limits::{EVENT_OVERHEAD_BYTES, REMOVE_VALUES, WINDOW_BYTES};

/// Takes events in.
pub struct Importer<'a> {
    store: &'a dyn Store,
    catalog: RwLock<Catalog>,
    keys_max: usize,
    log_bytes: u64,
    /// By their ids where they come from.
    runs: HashMap<u64, Imported>,
    /// Runs that the batch begins or goes on with, as they are after it.
    staged: HashMap<u64, Imported>,
    batch: Vec<Event>,
    batch_bytes: usize,
    next_run: RunId,
    has_begun: bool,
}

/// A run that is being imported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Imported {
    run: RunId,
    events: u64,
    /// The seq of its last line, when lines say it.
    line_seq: Option<u64>,
    time: Timestamp,
    has_ended: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line<'a> {
    #[serde(default, rename = "id")]
    _id: Option<u64>,
    run_id: u64,
    #[serde(default)]
    seq: Option<u64>,
    #[serde(rename = "type")]
    event_type: String,
    #[serde(borrow, default)]
    payload: Option<&'a RawValue>,
    created_at: String,
}

impl Importer<'_> {
    /// Into the journal in this store; ids go on 2^32 higher, once there is an event.
    ///
    /// # Errors
    /// When the storage fails, or the journal is not as it was written.
    pub fn new(store: &dyn Store, keys_max: usize) -> Result<Importer<'_>, StoreError> {
        let Opened { catalog, log_bytes, .. } = Committer::open(store, keys_max)?;
        Ok(Importer {
            store,
            next_run: catalog.next_run(),
            has_begun: false,
            catalog: RwLock::new(catalog),
            keys_max,
            log_bytes,
            runs: HashMap::new(),
            staged: HashMap::new(),
            batch: Vec::new(),
            batch_bytes: 0,
        })
    }

    /// Adds the event in a line to the batch.
    ///
    /// # Errors
    /// What is wrong with the line; the batch is as it was before.
    pub fn line(&mut self, line: &[u8]) -> Result<(), String> {
        let line: Line<'_> = serde_json::from_slice(line).map_err(|error| error.to_string())?;
        let event_type =
            EventType::new(&line.event_type).map_err(|error| format!("type {error}"))?;
        let payload = match line.payload {
            None => Json::null(),
            Some(raw) => Json::from_raw(raw).map_err(|error| format!("payload {error}"))?,
        };
        let time = humantime::parse_rfc3339(&line.created_at)
            .ok()
            .and_then(|time| time.duration_since(UNIX_EPOCH).ok())
            .and_then(|since| u64::try_from(since.as_millis()).ok())
            .map(Timestamp)
            .ok_or("created_at is no time, such as 2026-01-01T00:00:00.000Z")?;
        let is_beginning = event_type == EventType::run_created();
        if is_beginning {
            parse_run_created(payload.as_str())
                .map_err(|_| "the payload of RUN_CREATED has no project, session and metadata")?;
        }
        let known = self.staged.get(&line.run_id).or_else(|| self.runs.get(&line.run_id)).copied();
        let mut run = match known {
            Some(_) if is_beginning => {
                return Err(format!("run {} was created before", line.run_id));
            }
            Some(run) if run.has_ended => {
                return Err(format!("run {} has ended before", line.run_id));
            }
            Some(run) if time < run.time => {
                return Err(
                    "created_at is before that of the event before it in its run".to_owned()
                );
            }
            Some(Imported { line_seq: Some(last), .. })
                if line.seq.is_some_and(|seq| seq != last + 1) =>
            {
                return Err(format!(
                    "seq must be {} in run {}: lines are missing",
                    last + 1,
                    line.run_id
                ));
            }
            Some(run) => run,
            None => self.begin(time, is_beginning),
        };
        run.has_ended = event_type.closes().is_some();
        run.line_seq = line.seq.or(run.line_seq.map(|seq| seq + 1));
        self.push(&mut run, event_type, payload, time);
        self.staged.insert(line.run_id, run);
        Ok(())
    }

    /// A run that has not been seen before.
    fn begin(&mut self, time: Timestamp, is_beginning: bool) -> Imported {
        let run = self.next_run;
        self.next_run = RunId(run.0 + 1);
        let mut run = Imported { run, events: 0, line_seq: None, time, has_ended: false };
        if !is_beginning {
            let payload = run_created_payload(&Labels::default(), &Json::null());
            self.push(&mut run, EventType::run_created(), payload, time);
        }
        run
    }

    fn push(&mut self, run: &mut Imported, event_type: EventType, payload: Json, time: Timestamp) {
        run.events += 1;
        run.time = time;
        self.batch_bytes += payload.as_str().len() + EVENT_OVERHEAD_BYTES;
        self.batch.push(Event {
            // It is known when the batch is written.
            id: EventId(0),
            run_id: run.run,
            seq: run.events,
            event_type,
            payload,
            created_at: time,
        });
    }

    /// Bytes that the batch takes.
    pub fn batch_bytes(&self) -> usize {
        self.batch_bytes
    }

    /// Writes the batch: all of it or nothing. How many events it had.
    ///
    /// # Errors
    /// When the storage fails.
    pub fn flush(&mut self) -> Result<u64, StoreError> {
        if self.batch.is_empty() {
            return Ok(0);
        }
        self.begin_higher()?;
        let first_id = read(&self.catalog).next_id();
        for (event, id) in self.batch.iter_mut().zip(first_id.0..) {
            event.id = EventId(id);
        }
        let mut encoder = Encoder::new(first_id);
        self.batch.iter().for_each(|event| encoder.event(&event.borrowed(), None));
        let values = encoder.finish();
        self.store.append(&values, true)?;
        self.log_bytes += values.iter().map(|(_, value)| value.len() as u64).sum::<u64>();
        let mut keys = values.iter().map(|(key, _)| *key).peekable();
        let mut value = first_id;
        let catalog = self.catalog.get_mut().expect("no one panics while holding the catalog");
        for event in &self.batch {
            while let Some(key) = keys.next_if(|key| *key <= event.id) {
                value = key;
            }
            catalog.apply_event(value, &event.borrowed()).expect("each line was checked");
        }
        self.runs.extend(self.staged.drain());
        self.batch_bytes = 0;
        let count = self.batch.len() as u64;
        self.batch.clear();
        self.make_windows()?;
        Ok(count)
    }

    /// Before the first event that is imported ids go on higher.
    fn begin_higher(&mut self) -> Result<(), StoreError> {
        if !std::mem::replace(&mut self.has_begun, true) {
            go_on_higher(self.store, read(&self.catalog).last_id())?;
            let opened = Committer::open(self.store, self.keys_max)?;
            self.catalog = RwLock::new(opened.catalog);
        }
        Ok(())
    }

    /// The log becomes windows as it does under a server.
    fn make_windows(&mut self) -> Result<(), StoreError> {
        while self.log_bytes >= WINDOW_BYTES {
            let moved_through = read(&self.catalog).moved_through();
            let next = NextWindow::read(self.store, moved_through, WINDOW_BYTES as usize)?;
            let Some(next) = next else { return Ok(()) };
            self.log_bytes = self.log_bytes.saturating_sub(next.bytes());
            let last_id = next.make(self.store, &self.catalog, self.keys_max)?;
            while self.store.remove_values(last_id, REMOVE_VALUES)? == REMOVE_VALUES {}
        }
        Ok(())
    }

    /// Which run each has become, in the order of their new ids.
    pub fn runs(&self) -> Vec<(u64, RunId)> {
        let mut runs: Vec<_> = self.runs.iter().map(|(from, run)| (*from, run.run)).collect();
        runs.sort_unstable_by_key(|(_, run)| *run);
        runs
    }
}
