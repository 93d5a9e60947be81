//! The thread that looks after what the journal writer has written.
//!
//! ```text
//! the log is large, or old ─▶ make a window ─▶ wait for reads ─▶ remove its part of the log
//! too much, or too old     ─▶ drop a window ─▶ wait for reads ─▶ remove its rows
//! runs deleted, or too long ─▶ sweep a window ─▶ wait for reads ─▶ pack what is left anew
//! ```
//!
//! It works in slices and at a low priority, so that neither a commit nor a worker waits for it
//! long. What it does is in [`journal::windows`](crate::journal::windows); here is when.
//!
//! Invariant: nothing is removed while a read is under way that may look for it.

use std::io;
use std::sync::{
    Arc, Condvar, Mutex, MutexGuard, OnceLock, RwLock, RwLockReadGuard,
    atomic::{AtomicU64, Ordering::Relaxed},
};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::clock::Clock;
use crate::event::{EventId, Timestamp};
use crate::journal::catalog::{self, Catalog};
use crate::journal::store::{Store, StoreError};
use crate::journal::windows::{self, NextWindow, Removal};
use crate::limits::{
    HELD_LOG_BYTES_MAX, KEEPER_HELD_PAUSE, KEEPER_NICENESS, KEEPER_PAUSE, KEEPER_RETRY,
    KEEPER_WAIT_MAX, LOG_WINDOWS_MAX, REMOVE_VALUES, SWEEP_PAUSE, WINDOW_AGE_MAX, WINDOW_AGE_MIN,
    WINDOW_BYTES,
};

/// How much is kept, and in what pieces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// The log becomes a window when it has so many bytes.
    pub window_bytes: u64,
    /// Events that are older than this go; zero keeps them.
    pub max_age: Duration,
    /// The oldest go when there are more bytes of them than this; zero keeps them.
    pub max_bytes: u64,
    /// A run keeps so many of its events; zero keeps all.
    pub max_events_per_run: u64,
}

impl Default for Retention {
    /// Everything is kept.
    fn default() -> Retention {
        Retention {
            window_bytes: WINDOW_BYTES,
            max_age: Duration::ZERO,
            max_bytes: 0,
            max_events_per_run: 0,
        }
    }
}

impl Retention {
    /// When the log becomes a window: a tenth of what is kept at most, since whole windows go.
    fn window_bytes(&self) -> u64 {
        match self.max_bytes {
            0 => self.window_bytes,
            max => (max / 10).clamp(1, self.window_bytes),
        }
    }

    /// The same for the age of its first event.
    fn window_age(&self) -> Option<Duration> {
        (!self.max_age.is_zero()).then(|| (self.max_age / 10).clamp(WINDOW_AGE_MIN, WINDOW_AGE_MAX))
    }
}

/// The reads of the store that are under way.
#[derive(Debug, Default)]
pub struct Reads(RwLock<()>);

impl Reads {
    /// A read is under way for as long as this is held: for milliseconds.
    pub fn begin(&self) -> RwLockReadGuard<'_, ()> {
        self.0.read().expect("no one panics while holding the lock")
    }

    /// Returns when all reads that have begun are over.
    pub fn wait(&self) {
        drop(self.0.write().expect("no one panics while holding the lock"));
    }
}

/// What the keeper looks after.
pub struct Kept {
    /// Where the journal is.
    pub store: Arc<dyn Store>,
    /// What is known of it.
    pub catalog: Arc<RwLock<Catalog>>,
    /// Who reads it.
    pub reads: Arc<Reads>,
    /// The wall clock.
    pub clock: Arc<Clock>,
    /// Where the first failure is said: from then on nothing is written.
    pub failure: Arc<OnceLock<String>>,
    /// Idempotency keys that are kept, at most.
    pub keys_max: usize,
    /// How much is kept.
    pub retention: Retention,
}

/// The keeper. Dropping it ends its thread, after the slice that it is at.
pub struct JournalKeeper {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// Tells the keeper what was written.
#[derive(Clone)]
pub struct KeeperHandle {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    /// Bytes of the log that were not moved.
    log_bytes: AtomicU64,
    window_bytes: u64,
    state: Mutex<State>,
    changed: Condvar,
    /// A window was made.
    moved: Condvar,
}

/// The keeper rests while this is held: nothing is moved, and nothing removed.
///
/// For backups, which copy what lies there in many short reads. New events only make the log longer;
/// when it is [`HELD_LOG_BYTES_MAX`] long the keeper goes back to work, and the hold is broken.
pub struct Hold {
    shared: Arc<Shared>,
    /// Holds that are older than this were broken.
    generation: u64,
}

impl Hold {
    /// Whether the keeper has come to rest. It finishes what it is at first.
    pub fn has_begun(&self) -> bool {
        !self.shared.state().is_at_work
    }

    /// Whether the keeper could not rest any longer.
    pub fn is_broken(&self) -> bool {
        self.shared.state().generation != self.generation
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut state = self.shared.state();
        if state.generation == self.generation {
            state.holds -= 1;
        }
        drop(state);
        self.shared.changed.notify_one();
    }
}

#[derive(Default)]
struct State {
    /// Who wants the keeper to rest.
    holds: usize,
    /// Goes up when holds are broken.
    generation: u64,
    is_at_work: bool,
    /// When the first event of the log was taken that was not moved.
    log_since: Option<Timestamp>,
    /// Runs were deleted since this was last looked at.
    deleted: bool,
    closed: bool,
}

impl KeeperHandle {
    /// Bytes of the log that were not moved.
    pub fn log_bytes(&self) -> u64 {
        self.shared.log_bytes.load(Relaxed)
    }

    /// Has the keeper rest until the hold is dropped.
    pub fn hold(&self) -> Hold {
        let mut state = self.shared.state();
        state.holds += 1;
        Hold { shared: Arc::clone(&self.shared), generation: state.generation }
    }

    /// A commit has added values of so many bytes.
    pub fn written(&self, bytes: u64, deletes: bool, now: Timestamp) {
        let before = self.shared.log_bytes.fetch_add(bytes, Relaxed);
        let is_due =
            before < self.shared.window_bytes && before + bytes >= self.shared.window_bytes;
        if before > 0 && !deletes && !is_due {
            return;
        }
        let mut state = self.shared.state();
        state.log_since.get_or_insert(now);
        let wakes = is_due || (deletes && !state.deleted);
        state.deleted |= deletes;
        drop(state);
        if wakes {
            self.shared.changed.notify_one();
        }
    }

    /// Waits while the log is much larger than a window: the writer is faster than its keeper. Not
    /// long, since a commit waits with it.
    pub fn wait_if_behind(&self) {
        // A keeper that is held catches up afterwards.
        let is_behind = |state: &mut State| {
            state.holds == 0
                && self.shared.log_bytes.load(Relaxed) > LOG_WINDOWS_MAX * self.shared.window_bytes
        };
        let mut state = self.shared.state();
        if is_behind(&mut state) {
            let wait = self.shared.moved.wait_timeout_while(state, KEEPER_WAIT_MAX, is_behind);
            drop(wait.expect("no one panics while holding the lock"));
        }
    }
}

impl JournalKeeper {
    /// Starts its thread.
    ///
    /// # Errors
    /// When the system refuses a thread.
    pub fn start(keeper: Keeper) -> io::Result<JournalKeeper> {
        let shared = Arc::clone(&keeper.shared);
        let thread = std::thread::Builder::new()
            .name("journal-keeper".into())
            .spawn(move || keeper.work())?;
        Ok(JournalKeeper { shared, thread: Some(thread) })
    }
}

impl Drop for JournalKeeper {
    fn drop(&mut self) {
        self.shared.state().closed = true;
        self.shared.changed.notify_one();
        if let Some(thread) = self.thread.take() {
            // If it has panicked it has told so on standard error.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no one panics while holding the lock")
    }

    fn is_closed(&self) -> bool {
        self.state().closed
    }

    fn is_held(&self) -> bool {
        self.state().holds > 0
    }

    /// Waits until nobody holds the keeper, or the log is too long for that. Whether there is still
    /// something to do.
    fn begin_turn(&self) -> bool {
        let mut state = self.state();
        while state.holds > 0 && !state.closed {
            if self.log_bytes.load(Relaxed) >= HELD_LOG_BYTES_MAX {
                log::warn!("the journal's log is too long for a backup to go on");
                state.holds = 0;
                state.generation += 1;
                break;
            }
            let waited = self.changed.wait_timeout(state, KEEPER_HELD_PAUSE);
            state = waited.expect("no one panics while holding the lock").0;
        }
        state.is_at_work = !state.closed;
        state.is_at_work
    }

    fn end_turn(&self) {
        self.state().is_at_work = false;
    }

    /// Waits until something was written that matters, or so long.
    fn wait(&self, wait: Option<Duration>) {
        let state = self.state();
        let is_idle = |state: &mut State| {
            !state.closed && !state.deleted && self.log_bytes.load(Relaxed) < self.window_bytes
        };
        match wait {
            None => drop(self.changed.wait_while(state, is_idle)),
            Some(wait) => drop(self.changed.wait_timeout_while(state, wait, is_idle)),
        }
    }

    /// Waits so long, unless it is closed.
    fn pause(&self, pause: Duration) {
        let until = |state: &mut State| !state.closed;
        drop(self.changed.wait_timeout_while(self.state(), pause, until));
    }
}

/// What the thread owns.
pub struct Keeper {
    kept: Kept,
    shared: Arc<Shared>,
    /// Windows that are still to be swept, the last first.
    sweep: Vec<EventId>,
}

impl Keeper {
    /// One for a log that has so many bytes now.
    pub fn new(kept: Kept, log_bytes: u64) -> Keeper {
        let state = State {
            // How old it is is not known: it is moved soon, if age matters.
            log_since: (log_bytes > 0).then_some(Timestamp(0)),
            ..State::default()
        };
        let shared = Arc::new(Shared {
            log_bytes: AtomicU64::new(log_bytes),
            window_bytes: kept.retention.window_bytes(),
            state: Mutex::new(state),
            changed: Condvar::new(),
            moved: Condvar::new(),
        });
        Keeper { kept, shared, sweep: Vec::new() }
    }

    /// Who tells it what was written.
    pub fn handle(&self) -> KeeperHandle {
        KeeperHandle { shared: Arc::clone(&self.shared) }
    }

    fn work(mut self) {
        // Where the system refuses that it competes with the others, which is slower for them.
        let thread = Some(rustix::thread::gettid());
        let _ = rustix::process::setpriority_process(thread, KEEPER_NICENESS);
        while !self.shared.is_closed() {
            if !self.shared.begin_turn() {
                return;
            }
            let done = self.turn();
            self.shared.end_turn();
            match done {
                Ok(wait) => self.shared.wait(wait),
                Err(StoreError::DiskFull) => {
                    log::warn!("the disk is full: the journal's log is not moved");
                    self.shared.pause(KEEPER_RETRY);
                }
                Err(error) => {
                    log::error!("the journal has failed, and takes no more writes: {error}");
                    let _ = self.kept.failure.set(error.to_string());
                    return;
                }
            }
        }
    }

    /// Does what is due; how long there is nothing more.
    pub(crate) fn turn(&mut self) -> Result<Option<Duration>, StoreError> {
        if self.window_is_due() {
            self.move_window()?;
            if self.kept.retention.max_events_per_run > 0 {
                self.plan_sweep();
            }
        }
        while self.oldest_must_go() && self.goes_on() {
            self.drop_oldest()?;
        }
        if self.window_is_due() {
            return Ok(Some(Duration::ZERO));
        }
        if std::mem::take(&mut self.shared.state().deleted) {
            self.plan_sweep();
        }
        if let Some(first_id) = self.sweep.pop() {
            self.sweep_window(first_id)?;
            return Ok(Some(SWEEP_PAUSE));
        }
        Ok(self.kept.retention.window_age().map(|age| age / 2))
    }

    /// Whether nobody waits for the end of this turn.
    fn goes_on(&self) -> bool {
        !self.shared.is_closed() && !self.shared.is_held()
    }

    fn catalog(&self) -> RwLockReadGuard<'_, Catalog> {
        catalog::read(&self.kept.catalog)
    }

    fn age(&self, time: Timestamp) -> Duration {
        Duration::from_millis(self.kept.clock.now().0.saturating_sub(time.0))
    }

    fn window_is_due(&self) -> bool {
        let bytes = self.shared.log_bytes.load(Relaxed);
        let since = self.shared.state().log_since;
        let is_old = |age| since.is_some_and(|since| self.age(since) >= age);
        bytes >= self.shared.window_bytes
            || (bytes > 0 && self.kept.retention.window_age().is_some_and(is_old))
    }

    pub(crate) fn move_window(&self) -> Result<(), StoreError> {
        let Kept { store, catalog, keys_max, .. } = &self.kept;
        let started = Instant::now();
        let moved_through = self.catalog().moved_through();
        // Whoever is behind takes more at once.
        let behind = self.shared.log_bytes.load(Relaxed) / 2;
        let window_bytes = self.shared.window_bytes;
        let bytes_max = behind.clamp(window_bytes, WINDOW_BYTES.max(window_bytes)) as usize;
        let next = NextWindow::read(&**store, moved_through, bytes_max)?;
        let Some(next) = next else {
            // What was counted at the start had been moved already.
            self.shared.log_bytes.store(0, Relaxed);
            return Ok(());
        };
        let bytes = next.bytes();
        let last_id = next.make(&**store, catalog, *keys_max)?;
        log::debug!("moved {bytes} bytes of the log up to {last_id} in {:?}", started.elapsed());
        self.moved(bytes);
        self.kept.reads.wait();
        while store.remove_values(last_id, REMOVE_VALUES)? == REMOVE_VALUES {
            // The writer has its turn in between.
            self.shared.pause(KEEPER_PAUSE);
        }
        // What was removed without a sync is used again after the next one, and the writer may have
        // been told to make none.
        store.append(&[], true)
    }

    fn moved(&self, bytes: u64) {
        let mut state = self.shared.state();
        let before = self.shared.log_bytes.fetch_sub(bytes, Relaxed);
        let last = self.catalog().windows().last().map(|window| window.last_time);
        state.log_since = last.filter(|_| before > bytes);
        drop(state);
        self.shared.moved.notify_all();
    }

    fn oldest_must_go(&self) -> bool {
        let Retention { max_age, max_bytes, .. } = self.kept.retention;
        let catalog = self.catalog();
        let Some(oldest) = catalog.windows().first() else { return false };
        let bytes: u64 = catalog.windows().iter().map(|window| window.bytes).sum();
        let is_too_much = max_bytes > 0 && bytes + self.shared.log_bytes.load(Relaxed) > max_bytes;
        let is_too_old = !max_age.is_zero() && self.age(oldest.last_time) > max_age;
        is_too_much || is_too_old
    }

    fn drop_oldest(&self) -> Result<(), StoreError> {
        let removal = windows::drop_oldest(&*self.kept.store, &self.kept.catalog)?;
        removal.map_or(Ok(()), |removal| self.finish(removal))
    }

    /// Every window is looked at once.
    fn plan_sweep(&mut self) {
        let windows = self.catalog().windows().iter().map(|window| window.first_id).collect();
        self.sweep = windows;
    }

    fn sweep_window(&self, first_id: EventId) -> Result<(), StoreError> {
        let window =
            self.catalog().windows().iter().find(|window| window.first_id == first_id).copied();
        let Some(window) = window else { return Ok(()) };
        let removal = windows::sweep(&*self.kept.store, &self.kept.catalog, window)?;
        removal.map_or(Ok(()), |removal| self.finish(removal))
    }

    fn finish(&self, removal: Removal) -> Result<(), StoreError> {
        self.kept.reads.wait();
        removal.finish(&*self.kept.store, &self.kept.catalog)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::atomic::AtomicBool;
    use std::sync::mpsc;

    use super::*;
    use crate::config::Durability;
    use crate::event::{EventType, Json, Labels, NewEvent, RunId, Scope, Selection};
    use crate::journal::history::{HistoryRequest, read_forward};
    use crate::journal::store::Table;
    use crate::journal::{IfMatch, Once, Write, WriteResult, Written};
    use crate::journal_writer::{JournalWriter, OpenJournal};

    const RUNS: u64 = 5;
    const ROUNDS: u64 = 300;

    fn open(directory: &Path, retention: Retention) -> (JournalWriter, Arc<Reads>) {
        let journal = OpenJournal::open(directory, 100).unwrap();
        let reads = Arc::clone(journal.reads());
        let writer =
            journal.start(Arc::default(), Durability::None, retention, Vec::new()).unwrap();
        (writer, reads)
    }

    fn write(writer: &JournalWriter, write: Write) -> WriteResult {
        let (sender, receiver) = mpsc::channel();
        let reply = Box::new(move |answer| drop(sender.send(answer)));
        writer.write(write, reply).unwrap();
        receiver.recv().unwrap()
    }

    fn append(writer: &JournalWriter, run: u64) -> EventId {
        let payload = Json::from_trusted(format!("\"{}\"", "x".repeat(198)));
        let event = NewEvent { event_type: EventType::new("A").unwrap(), payload };
        let (run, events) = (RunId(run), vec![event; 10]);
        let appended = Write::Append { run, events, once: Once::No, if_match: IfMatch::Any };
        match write(writer, appended) {
            Ok(Written::Appended { batch, .. }) => batch.last_id,
            other => panic!("{other:?}"),
        }
    }

    /// Fails with these words when it does not come to hold, even on a disk that stands still.
    fn wait_until(what: &str, holds: &dyn Fn() -> bool) {
        let started = Instant::now();
        while !holds() {
            assert!(started.elapsed() < Duration::from_mins(1), "{what}");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    fn create(writer: &JournalWriter) {
        let labels = Labels::default();
        let create = Write::CreateRun { labels, metadata: Json::null(), key: None };
        assert!(matches!(write(writer, create), Ok(Written::Created(_))));
    }

    #[test]
    fn nothing_is_moved_while_a_backup_holds_it() {
        let directory = tempfile::tempdir().unwrap();
        let retention = Retention { max_bytes: 100_000, ..Retention::default() };
        let (writer, _) = open(directory.path(), retention);
        create(&writer);
        let windows = || catalog::read(writer.catalog()).windows().to_vec();
        let hold = writer.hold();
        let second = writer.hold();
        wait_until("it comes to rest", &|| hold.has_begun());
        for _ in 0..60 {
            append(&writer, 1);
        }
        drop(second);
        std::thread::sleep(2 * KEEPER_HELD_PAUSE);
        // Many times as much as becomes a window.
        assert!(writer.log_bytes() > 100_000);
        assert_eq!(windows(), []);
        assert!(hold.has_begun() && !hold.is_broken());
        drop(hold);
        wait_until("it goes on", &|| writer.log_bytes() < 20_000);
        assert!(!windows().is_empty());
    }

    /// Reads a run to its end: how many events it gave, and whether some were said to be gone. None
    /// is missing that is not said to be.
    fn read_run(
        store: &dyn Store,
        catalog: &RwLock<Catalog>,
        reads: &Reads,
        run: u64,
    ) -> (u64, bool) {
        let scope = Scope::Runs([RunId(run)].into());
        let mut request = HistoryRequest {
            selection: Selection { scope, types: None },
            after: EventId(0),
            upto: EventId(u64::MAX),
            events_max: 37,
            bytes_max: usize::MAX,
            values_max: 100,
        };
        let (mut count, mut last_seq, mut truncated) = (0, 0, false);
        loop {
            let mut seqs = Vec::new();
            let read = {
                let _under_way = reads.begin();
                read_forward(store, catalog, &request, &mut |event| {
                    seqs.push(event.seq);
                    1
                })
                .unwrap()
            };
            for seq in &seqs {
                assert!(
                    *seq == last_seq + 1 || read.truncated.is_some(),
                    "a hole after {last_seq}"
                );
                last_seq = *seq;
            }
            count += seqs.len() as u64;
            truncated |= read.truncated.is_some();
            if read.complete {
                return (count, truncated);
            }
            request.after = read.scanned_to;
        }
    }

    /// Under load, with readers that go over everything all the time: the files stay as large as
    /// they are, and nobody misses an event without being told.
    #[test]
    fn a_steady_load_keeps_a_steady_journal() {
        let directory = tempfile::tempdir().unwrap();
        let retention = Retention { max_bytes: 400_000, ..Retention::default() };
        let (writer, reads) = open(directory.path(), retention);
        (0..RUNS).for_each(|_| create(&writer));
        let done = AtomicBool::new(false);
        let mut last = EventId(0);
        let (early, late) = std::thread::scope(|threads| {
            for reader in 0..2 {
                let (writer, reads, done) = (&writer, &reads, &done);
                threads.spawn(move || {
                    while !done.load(Relaxed) {
                        read_run(&**writer.store(), writer.catalog(), reads, 1 + reader);
                    }
                });
            }
            let mut early = 0;
            for round in 0..ROUNDS {
                (1..=RUNS).for_each(|run| last = append(&writer, run));
                if round == ROUNDS / 4 {
                    early = writer.store().disk_bytes().unwrap();
                }
            }
            done.store(true, Relaxed);
            (early, writer.store().disk_bytes().unwrap())
        });
        assert!(late <= 2 * early, "{early} {late}");
        assert_eq!(last, EventId(RUNS + ROUNDS * RUNS * 10));
        assert!(!writer.has_failed());
        let (count, truncated) = read_run(&**writer.store(), writer.catalog(), &reads, 1);
        assert!(truncated && count < ROUNDS * 5, "{count}");
        drop(writer);
        // What is left is there after a restart, and not more of it.
        let (writer, reads) = open(directory.path(), retention);
        let (again, truncated) = read_run(&**writer.store(), writer.catalog(), &reads, 1);
        assert!(truncated && again <= count && again > 0, "{again} {count}");
        let first = catalog::read(writer.catalog()).windows()[0].first_id;
        assert!(first > EventId(1_000));
    }

    #[test]
    fn what_is_too_old_goes_although_nothing_is_written() {
        let directory = tempfile::tempdir().unwrap();
        let retention = Retention { max_age: Duration::from_secs(1), ..Retention::default() };
        let (writer, reads) = open(directory.path(), retention);
        create(&writer);
        append(&writer, 1);
        wait_until("the events go", &|| {
            let (count, truncated) = read_run(&**writer.store(), writer.catalog(), &reads, 1);
            assert!(count > 0 || truncated);
            count == 0
        });
        // The run goes on.
        let id = append(&writer, 1);
        assert_eq!(id, EventId(21));
        assert_eq!(catalog::read(writer.catalog()).head(RunId(1)).unwrap().event_count, 21);
    }

    #[test]
    fn the_space_of_deleted_runs_is_used_again() {
        let directory = tempfile::tempdir().unwrap();
        let retention = Retention { max_bytes: 4_000_000, ..Retention::default() };
        let (writer, _) = open(directory.path(), retention);
        let blocks = || {
            let mut bytes = 0;
            let visit = &mut |_: &[u8], block: &[u8]| {
                bytes += block.len();
                std::ops::ControlFlow::Continue(())
            };
            writer.store().rows(Table::Blocks, &[], visit).unwrap();
            bytes
        };
        let mut sizes = Vec::new();
        for run in 1..=12 {
            create(&writer);
            (0..200).for_each(|_| {
                append(&writer, run);
            });
            wait_until("the log is moved", &|| writer.log_bytes() < retention.window_bytes());
            assert!(blocks() > 0);
            let delete = Write::DeleteRun { run: RunId(run), if_match: IfMatch::Any };
            assert_eq!(write(&writer, delete), Ok(Written::Deleted));
            wait_until("what was deleted is swept", &|| blocks() == 0);
            sizes.push(writer.store().disk_bytes().unwrap());
        }
        assert!(sizes[11] <= sizes[5] * 2, "{sizes:?}");
    }
}
