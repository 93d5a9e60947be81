//! A journal in memory that is written to, moved and swept like a real one, a step at a time: for
//! the tests of what looks at journals as a whole.

use std::ops::ControlFlow;
use std::sync::RwLock;

use rand::RngExt;
use rand::rngs::StdRng;

use super::block::Sections;
use super::catalog::Catalog;
use super::codec::{Decoder, Record};
use super::cold;
use super::commit::Committer;
use super::memory::MemoryStore;
use super::model::Model;
use super::store::{Change, Store, Table};
use super::windows::{self, NextWindow};
use super::{IdempotencyKey, IfMatch, Once, Producer, Write};
use crate::event::{
    Event, EventId, EventType, Json, Labels, NewEvent, RunId, RunStatus, Timestamp,
};

/// Keys that it remembers.
pub(crate) const KEYS_MAX: usize = 1_000;

pub(crate) struct Journal {
    pub(crate) store: MemoryStore,
    pub(crate) catalog: RwLock<Catalog>,
    committer: Committer,
    now: u64,
}

impl Journal {
    pub(crate) fn new() -> Journal {
        Journal {
            store: MemoryStore::default(),
            catalog: RwLock::default(),
            committer: Committer::new(KEYS_MAX),
            now: 1_700_000_000_000,
        }
    }

    /// One commit.
    pub(crate) fn write(&mut self, writes: impl IntoIterator<Item = Write>) {
        self.now += 5;
        let catalog = self.catalog.get_mut().unwrap();
        for write in writes {
            self.committer.stage(write, Timestamp(self.now), catalog);
        }
        let values = self.committer.seal();
        self.store.append(values, true).unwrap();
        self.committer.committed(catalog);
    }

    /// What is in the log becomes a window.
    pub(crate) fn make_window(&mut self, bytes_max: usize) {
        let moved_through = self.catalog.get_mut().unwrap().moved_through();
        let next = NextWindow::read(&self.store, moved_through, bytes_max).unwrap();
        if let Some(next) = next {
            let last_id = next.make(&self.store, &self.catalog, KEYS_MAX).unwrap();
            self.store.remove_values(last_id, usize::MAX).unwrap();
        }
    }

    pub(crate) fn drop_oldest(&mut self) {
        if let Some(removal) = windows::drop_oldest(&self.store, &self.catalog).unwrap() {
            removal.finish(&self.store, &self.catalog).unwrap();
        }
    }

    pub(crate) fn sweep(&mut self) {
        let windows = self.catalog.get_mut().unwrap().windows().to_vec();
        for window in windows {
            if let Some(removal) = windows::sweep(&self.store, &self.catalog, window).unwrap() {
                removal.finish(&self.store, &self.catalog).unwrap();
            }
        }
    }

    /// Random writes, with everything that a keeper does in between.
    pub(crate) fn random(rng: &mut StdRng) -> Journal {
        let mut journal = Journal::new();
        let mut model = Model::default();
        if rng.random_bool(0.3) {
            let max = rng.random_range(1..10);
            journal.catalog.get_mut().unwrap().keep_run_events(max);
        }
        for _ in 0..rng.random_range(1..120) {
            let writes: Vec<Write> = (0..rng.random_range(1..6))
                .map(|_| {
                    let write = model.random_write(rng);
                    // What becomes of it is not looked at: the model only knows what to ask for.
                    let _ = model.write(write.clone(), Timestamp(journal.now));
                    write
                })
                .collect();
            journal.write(writes);
            match rng.random_range(0..30) {
                0..5 => journal.make_window(rng.random_range(1..4_000)),
                5 => journal.drop_oldest(),
                6 => journal.sweep(),
                _ => {}
            }
        }
        journal
    }

    /// Two windows and a log: runs 1 (running, with keys), 2 (ended, with a producer), 3 (in the log
    /// only), and in the first window also 4, which is deleted in the log.
    pub(crate) fn small() -> Journal {
        let mut journal = Journal::new();
        let key = |key: &str| IdempotencyKey { key: key.into(), fingerprint: 7 };
        let producer = |seq| Once::Producer(Producer { id: "p".into(), epoch: 1, seq });
        journal.write([create(Some(key("creation"))), create(None), create(None)]);
        journal.write([append(1, 3, Once::Key(key("first"))), append(2, 2, producer(0))]);
        journal.write([append(3, 2, Once::No)]);
        journal.make_window(usize::MAX);
        journal.write([append(1, 2, Once::Key(key("second"))), append(2, 1, producer(1))]);
        journal.write([end(2)]);
        journal.make_window(usize::MAX);
        journal.write([create(None), append(1, 1, Once::Key(key("third")))]);
        journal.write([
            append(4, 2, producer(0)),
            Write::DeleteRun { run: RunId(3), if_match: IfMatch::Any },
        ]);
        journal.write([append(4, 1, Once::No)]);
        journal
    }

    /// A copy whose values, and rows, are what these functions make of them.
    pub(crate) fn copy(
        &self,
        value: impl Fn(EventId, &[u8]) -> Option<(EventId, Vec<u8>)>,
    ) -> MemoryStore {
        let copy = MemoryStore::default();
        let mut values = Vec::new();
        self.store
            .scan(EventId(0), &mut |key, bytes| {
                values.extend(value(key, bytes));
                ControlFlow::Continue(())
            })
            .unwrap();
        values.sort_by_key(|(key, _)| *key);
        copy.append(&values, true).unwrap();
        let mut changes = Vec::new();
        for table in Table::ALL {
            self.store
                .rows(table, &[], &mut |key, row| {
                    let (key, row) = (key.to_vec(), Some(row.to_vec()));
                    changes.push(Change { table, key, row });
                    ControlFlow::Continue(())
                })
                .unwrap();
        }
        copy.change_rows(&changes).unwrap();
        copy
    }
}

pub(crate) fn create(key: Option<IdempotencyKey>) -> Write {
    Write::CreateRun { labels: Labels::default(), metadata: Json::null(), key }
}

pub(crate) fn append(run: u64, count: usize, once: Once) -> Write {
    let event = |at| NewEvent {
        event_type: EventType::new("A").unwrap(),
        payload: Json::from_trusted(format!("{{\"at\":{at}}}")),
    };
    let events = (0..count).map(event).collect();
    Write::Append { run: RunId(run), events, once, if_match: IfMatch::Any }
}

pub(crate) fn end(run: u64) -> Write {
    Write::EndRun {
        run: RunId(run),
        status: RunStatus::Completed,
        payload: Json::null(),
        if_match: IfMatch::Any,
    }
}

/// Every event that a client would see, in order.
pub(crate) fn shown(store: &dyn Store, catalog: &Catalog) -> Vec<Event> {
    let mut events = Vec::new();
    for window in catalog.windows() {
        store
            .rows(Table::Blocks, &cold::key(window.first_id.0), &mut |key, block| {
                if !key.starts_with(&cold::key(window.first_id.0)) {
                    return ControlFlow::Break(());
                }
                for section in Sections::new(block).unwrap() {
                    events.extend(section.unwrap().iter().map(|event| event.unwrap().to_event()));
                }
                ControlFlow::Continue(())
            })
            .unwrap();
    }
    store
        .scan(EventId(0), &mut |_, value| {
            for record in Decoder::new(value).unwrap() {
                if let Record::Event(event) = record.unwrap() {
                    events.push(event.to_event());
                }
            }
            ControlFlow::Continue(())
        })
        .unwrap();
    events
        .retain(|event| catalog.kept(event.run_id).is_some_and(|kept| event.seq >= kept.first_seq));
    events.sort_by_key(|event| event.id);
    events
}
