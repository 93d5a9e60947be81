//! A journal in some store, and publishers whose appends come together.

use tidewheel::event::{Json, Labels, RunId, Timestamp};
use tidewheel::journal::catalog::Catalog;
use tidewheel::journal::commit::{Committer, Opened};
use tidewheel::journal::store::Store;
use tidewheel::journal::{IfMatch, Once, Write};
use tidewheel::limits::IDEMPOTENCY_KEYS;

#[path = "event.rs"]
mod appended;

pub use appended::event;

const NOW: Timestamp = Timestamp(1_800_000_000_000);

/// See the module.
pub struct Journal<S> {
    /// What it is kept in.
    pub store: S,
    committer: Committer,
    /// What is known of its runs.
    pub catalog: Catalog,
    runs: u64,
    next_run: u64,
}

impl<S: Store> Journal<S> {
    /// A new journal with so many runs.
    pub fn open(store: S, runs: u64) -> Journal<S> {
        let Opened { committer, catalog, .. } = Committer::open(&store, IDEMPOTENCY_KEYS).unwrap();
        let mut journal = Journal { store, committer, catalog, runs, next_run: 0 };
        let create =
            || Write::CreateRun { labels: Labels::default(), metadata: Json::null(), key: None };
        journal.commit((0..runs).map(|_| create()).collect());
        journal
    }

    /// So many appends of one event, to one run after the other.
    pub fn appends(&mut self, events: usize) -> Vec<Write> {
        (0..events)
            .map(|_| {
                self.next_run = self.next_run % self.runs + 1;
                Write::Append {
                    run: RunId(self.next_run),
                    events: vec![event()],
                    once: Once::No,
                    if_match: IfMatch::Any,
                }
            })
            .collect()
    }

    /// Decides the writes, stores them and takes them in, as one group; how many answers it has.
    pub fn commit(&mut self, writes: Vec<Write>) -> usize {
        for write in writes {
            self.committer.stage(write, NOW, &self.catalog);
        }
        self.store.append(self.committer.seal(), true).unwrap();
        self.committer.committed(&mut self.catalog).answers.len()
    }
}
