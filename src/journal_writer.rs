//! The thread that writes the journal.
//!
//! ```text
//! write() ─▶ queue ─▶ drain ─▶ stage ─▶ seal ─▶ store, sync ─▶ catalog ─▶ listeners ─▶ replies
//! ```
//!
//! Group commit: everything that has come while the disk was busy goes into the next transaction.
//! Nothing waits for company, so a lone append costs one sync and no more. But a worker wakes the
//! writer only when all requests that are ready have written, and after each commit the workers
//! go first: a commit costs what many events cost, so it should have many.
//!
//! Invariants: the catalog, then every listener, have a batch before any of its writes is
//! answered, so that whoever is told "it is there" finds it there. After a failed write or sync
//! every further write is refused. The queue is bounded in events and in bytes; see `queue.rs`.

mod queue;

#[cfg(test)]
mod damage;
#[cfg(test)]
mod found;
#[cfg(test)]
mod power_cuts;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, RwLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

pub use self::queue::Place;
use self::queue::{Queue, Waiting};
use crate::clock::Clock;
use crate::config::Durability;
use crate::event::Timestamp;
use crate::histogram::{COMMIT, Histogram, LATENCY};
use crate::journal::catalog::{self, Catalog};
use crate::journal::commit::{Committer, Opened};
use crate::journal::redb::RedbStore;
use crate::journal::store::{OpenError, Store, StoreError};
use crate::journal::{CommittedBatch, Write, WriteError, WriteResult};
use crate::journal_keeper::{self, Hold, JournalKeeper, Keeper, KeeperHandle, Reads, Retention};

/// Hears the answer to a write, on the writer's thread: it should only pass it on.
pub type Reply = Box<dyn FnOnce(WriteResult) + Send>;

/// Hears of every batch that was committed, on the writer's thread.
pub trait Listener: Send {
    /// A batch is on disk. It should only be passed on, and nobody be woken for it yet: who is woken
    /// now may take the processor from the writer, which still has the answers.
    fn tell(&self, batch: &Arc<CommittedBatch>);

    /// All that came of a commit has been passed on.
    fn wake(&self) {}
}

impl<F: Fn(&Arc<CommittedBatch>) + Send> Listener for F {
    fn tell(&self, batch: &Arc<CommittedBatch>) {
        self(batch);
    }
}

/// A journal that has been read, before anything is written to it.
pub struct OpenJournal {
    store: Arc<dyn Store>,
    catalog: Arc<RwLock<Catalog>>,
    committer: Committer,
    log_bytes: u64,
    keys_max: usize,
    reads: Arc<Reads>,
}

/// The journal's writer. Dropping it closes it.
pub struct JournalWriter {
    shared: Arc<Shared>,
    store: Arc<dyn Store>,
    catalog: Arc<RwLock<Catalog>>,
    durability: Durability,
    keeper: KeeperHandle,
    threads: Mutex<Option<(JoinHandle<()>, JournalKeeper)>>,
}

/// Writes are no longer taken: the server is going down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the journal is closed")]
pub struct Closed;

/// How the writer is doing.
#[derive(Clone, Debug, PartialEq)]
pub struct WriterStatus {
    /// What an answer means.
    pub durability: Durability,
    /// Nothing can be written any more.
    pub failed: bool,
    /// Events in the queue.
    pub queued_events: usize,
    /// Their bytes, with [`EVENT_OVERHEAD_BYTES`](crate::limits::EVENT_OVERHEAD_BYTES) for each.
    pub queued_bytes: usize,
    /// Writes that wait for room in it.
    pub waiting_for_room: usize,
    /// When something was last committed; 0 if nothing was since the start.
    pub last_commit_at: Timestamp,
    /// Events in it.
    pub last_commit_events: u64,
    /// How long it took, from staging to the end of the sync.
    pub last_commit_duration: Duration,
    /// Events that were appended since the start.
    pub appended_events: u64,
    /// Bytes of the log that were not moved.
    pub log_bytes: u64,
}

impl OpenJournal {
    /// Opens the journal in this directory, or makes one there, and reads it through.
    ///
    /// # Errors
    /// See [`OpenError`]: its text says what to do.
    pub fn open(directory: &Path, keys_max: usize) -> Result<OpenJournal, OpenError> {
        let store = RedbStore::open(directory)?;
        let path: PathBuf = store.path().into();
        OpenJournal::with_store(Arc::new(store), keys_max)
            .map_err(|error| OpenError::from_store(path, error))
    }

    /// Reads the journal that is in this store. At most `keys_max` idempotency keys are remembered.
    ///
    /// # Errors
    /// When it cannot be read, or is not as it was written.
    pub fn with_store(store: Arc<dyn Store>, keys_max: usize) -> Result<OpenJournal, StoreError> {
        let Opened { committer, catalog, log_bytes } = Committer::open(&*store, keys_max)?;
        let catalog = Arc::new(RwLock::new(catalog));
        let reads = Arc::default();
        Ok(OpenJournal { store, catalog, committer, log_bytes, keys_max, reads })
    }

    /// Where the values are.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// What is known of every run.
    pub fn catalog(&self) -> &Arc<RwLock<Catalog>> {
        &self.catalog
    }

    /// Where those who read the store say so.
    pub fn reads(&self) -> &Arc<Reads> {
        &self.reads
    }

    /// Starts the writer's thread, which tells these listeners of every batch, and the keeper's.
    ///
    /// # Errors
    /// When the system refuses a thread.
    pub fn start(
        self,
        clock: Arc<Clock>,
        durability: Durability,
        retention: Retention,
        listeners: Vec<Box<dyn Listener>>,
    ) -> io::Result<JournalWriter> {
        let (writer, keeper) = self.parts(clock, durability, retention, listeners);
        let keeper_handle = writer.keeper.clone();
        let keeper = JournalKeeper::start(keeper)?;
        let shared = Arc::clone(&writer.shared);
        let (store, catalog) = (Arc::clone(&writer.store), Arc::clone(&writer.catalog));
        let thread = std::thread::Builder::new()
            .name("journal-writer".into())
            .spawn(move || writer.work())?;
        let threads = Mutex::new(Some((thread, keeper)));
        Ok(JournalWriter { shared, store, catalog, durability, keeper: keeper_handle, threads })
    }

    /// What the threads own.
    fn parts(
        self,
        clock: Arc<Clock>,
        durability: Durability,
        retention: Retention,
        listeners: Vec<Box<dyn Listener>>,
    ) -> (Writer, Keeper) {
        let OpenJournal { store, catalog, committer, log_bytes, keys_max, reads } = self;
        let shared = Arc::new(Shared::default());
        if retention.max_events_per_run > 0 {
            let mut catalog = catalog.write().expect("no one panics while holding the catalog");
            catalog.keep_run_events(retention.max_events_per_run);
        }
        let kept = journal_keeper::Kept {
            store: Arc::clone(&store),
            catalog: Arc::clone(&catalog),
            reads,
            clock: Arc::clone(&clock),
            failure: Arc::clone(&shared.failure),
            keys_max,
            retention,
        };
        let keeper = Keeper::new(kept, log_bytes);
        let writer = Writer {
            shared,
            store,
            catalog,
            committer,
            clock,
            durability,
            listeners,
            keeper: keeper.handle(),
            unsynced_since: None,
        };
        (writer, keeper)
    }
}

impl JournalWriter {
    /// Takes a write; `reply` hears its answer.
    ///
    /// # Errors
    /// When it is closed.
    pub fn write(&self, write: Write, reply: Reply) -> Result<Place, Closed> {
        let place = self.write_without_waking(write, reply)?;
        self.wake();
        Ok(place)
    }

    /// The same for one of many writes that come together: a writer that sleeps sleeps on, until
    /// [`JournalWriter::wake`] is called after the last of them.
    ///
    /// # Errors
    /// When it is closed.
    pub fn write_without_waking(&self, write: Write, reply: Reply) -> Result<Place, Closed> {
        let waiting = Waiting::new(write, reply);
        let mut inbox = self.shared.inbox();
        if inbox.closed {
            return Err(Closed);
        }
        Ok(inbox.queue.push(waiting))
    }

    /// Wakes the writer if it sleeps and there is something to write: all that came together
    /// becomes one commit.
    pub fn wake(&self) {
        let mut inbox = self.shared.inbox();
        // Waking a thread is a system call, which a busy writer does not need.
        if !inbox.queue.is_empty() && std::mem::take(&mut inbox.writer_sleeps) {
            drop(inbox);
            self.shared.arrived.notify_one();
        }
    }

    /// Gives up waiting for room in the queue. False when there was some in the meantime: then the
    /// write will be answered, and else nobody hears of it.
    pub fn withdraw(&self, number: u64) -> bool {
        // What it holds is dropped without the lock.
        let withdrawn = self.shared.inbox().queue.withdraw(number);
        withdrawn.is_some()
    }

    /// Where the values are.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// What is known of every run.
    pub fn catalog(&self) -> &Arc<RwLock<Catalog>> {
        &self.catalog
    }

    /// Has the journal stay where it is while a backup is made of it.
    pub fn hold(&self) -> Hold {
        self.keeper.hold()
    }

    /// Bytes of the log that were not moved.
    pub fn log_bytes(&self) -> u64 {
        self.keeper.log_bytes()
    }

    /// Whether nothing can be written any more, until the server is restarted.
    pub fn has_failed(&self) -> bool {
        self.shared.failure.get().is_some()
    }

    /// How the writer is doing.
    pub fn status(&self) -> WriterStatus {
        let (queued_events, queued_bytes, waiting_for_room) = {
            let inbox = self.shared.inbox();
            (inbox.queue.events(), inbox.queue.bytes(), inbox.queue.outside())
        };
        let figures = &self.shared.figures;
        let load = |figure: &AtomicU64| figure.load(Ordering::Relaxed);
        WriterStatus {
            durability: self.durability,
            failed: self.has_failed(),
            queued_events,
            queued_bytes,
            waiting_for_room,
            last_commit_at: Timestamp(load(&figures.last_commit_at)),
            last_commit_events: load(&figures.last_commit_events),
            last_commit_duration: Duration::from_nanos(load(&figures.last_commit_nanos)),
            appended_events: load(&figures.appended_events),
            log_bytes: self.keeper.log_bytes(),
        }
    }

    /// How long commits took, in microseconds, from staging to the end of the sync.
    pub fn commit_durations(&self) -> &Histogram {
        &self.shared.figures.commit_durations
    }

    /// How many events they had.
    pub fn commit_events(&self) -> &Histogram {
        &self.shared.figures.commit_events
    }

    /// Takes no more writes, does those that wait, syncs, and ends the thread.
    pub fn close(&self) {
        self.shared.inbox().closed = true;
        self.shared.arrived.notify_one();
        let threads = self.threads.lock().expect("no one panics while holding the lock").take();
        if let Some((writer, keeper)) = threads {
            // If it has panicked it has told so on standard error.
            let _ = writer.join();
            drop(keeper);
            if !self.has_failed()
                && let Err(error) = self.store.close()
            {
                log::warn!("the journal was not closed in order: {error}");
            }
        }
    }
}

impl Drop for JournalWriter {
    fn drop(&mut self) {
        self.close();
    }
}

#[derive(Default)]
struct Shared {
    inbox: Mutex<Inbox>,
    arrived: Condvar,
    /// What the first failure said: from then on nothing is written.
    failure: Arc<OnceLock<String>>,
    figures: Figures,
}

#[derive(Default)]
struct Inbox {
    queue: Queue,
    closed: bool,
    writer_sleeps: bool,
}

struct Figures {
    last_commit_at: AtomicU64,
    last_commit_events: AtomicU64,
    last_commit_nanos: AtomicU64,
    appended_events: AtomicU64,
    commit_durations: Histogram,
    commit_events: Histogram,
}

impl Default for Figures {
    fn default() -> Figures {
        Figures {
            last_commit_at: AtomicU64::default(),
            last_commit_events: AtomicU64::default(),
            last_commit_nanos: AtomicU64::default(),
            appended_events: AtomicU64::default(),
            commit_durations: Histogram::new(&LATENCY),
            commit_events: Histogram::new(&COMMIT),
        }
    }
}

impl Shared {
    fn inbox(&self) -> MutexGuard<'_, Inbox> {
        self.inbox.lock().expect("no one panics while holding the lock")
    }

    /// Waits for something to do.
    fn next(&self, sync_due: Option<Instant>) -> Next {
        let mut inbox = self.inbox();
        loop {
            if !inbox.queue.is_empty() {
                return Next::Group(inbox.queue.take_group());
            }
            if inbox.closed {
                return Next::Close;
            }
            let wait = sync_due.map(|due| due.saturating_duration_since(Instant::now()));
            if wait == Some(Duration::ZERO) {
                return Next::Sync;
            }
            inbox.writer_sleeps = true;
            inbox = match wait {
                None => self.arrived.wait(inbox).expect("no one panics while holding the lock"),
                Some(wait) => {
                    let woken = self.arrived.wait_timeout(inbox, wait);
                    woken.expect("no one panics while holding the lock").0
                }
            };
            inbox.writer_sleeps = false;
        }
    }
}

enum Next {
    Group(Vec<Waiting>),
    Sync,
    Close,
}

/// What the thread owns.
struct Writer {
    shared: Arc<Shared>,
    store: Arc<dyn Store>,
    catalog: Arc<RwLock<Catalog>>,
    committer: Committer,
    clock: Arc<Clock>,
    durability: Durability,
    listeners: Vec<Box<dyn Listener>>,
    keeper: KeeperHandle,
    /// Since when there is something in the store that may not be on disk.
    unsynced_since: Option<Instant>,
}

impl Writer {
    fn work(mut self) {
        loop {
            match self.shared.next(self.sync_due()) {
                Next::Group(group) => {
                    self.commit(group);
                    // Who was answered may have more: with that the next commit is larger, and
                    // where the workers share this processor they would wait for it otherwise.
                    std::thread::yield_now();
                }
                Next::Sync => self.sync(),
                Next::Close => {
                    self.sync();
                    return;
                }
            }
        }
    }

    /// When what is in the store must be synced, even if nothing more is written.
    fn sync_due(&self) -> Option<Instant> {
        match self.durability {
            Durability::Interval(interval) => Some(self.unsynced_since? + interval),
            Durability::Immediate | Durability::None => None,
        }
    }

    fn sync(&mut self) {
        if self.unsynced_since.take().is_some()
            && let Err(error) = self.store.append(&[], true)
        {
            self.fail(&error);
        }
    }

    fn fail(&self, error: &StoreError) {
        log::error!("the journal has failed, and takes no more writes: {error}");
        let _ = self.shared.failure.set(error.to_string());
    }

    fn commit(&mut self, group: Vec<Waiting>) {
        let started = Instant::now();
        let now = self.clock.now();
        let mut replies = Vec::with_capacity(group.len());
        if let Some(failure) = self.shared.failure.get() {
            for waiting in group {
                (waiting.reply)(Err(WriteError::JournalFailed(failure.clone())));
            }
            return;
        }
        {
            let catalog = catalog::read(&self.catalog);
            for waiting in group {
                self.committer.stage(waiting.write, now, &catalog);
                replies.push(waiting.reply);
            }
        }
        let answers = match self.store() {
            Ok(bytes) => self.publish(started, now, bytes),
            Err(error) => {
                let error = match error {
                    StoreError::DiskFull => WriteError::DiskFull,
                    error => {
                        self.fail(&error);
                        WriteError::JournalFailed(error.to_string())
                    }
                };
                self.committer.failed(&error)
            }
        };
        debug_assert_eq!(answers.len(), replies.len());
        for (reply, answer) in replies.into_iter().zip(answers) {
            reply(answer);
        }
        self.listeners.iter().for_each(|listener| listener.wake());
        self.keeper.wait_if_behind();
    }

    /// Stores what is staged: so many bytes.
    fn store(&mut self) -> Result<u64, StoreError> {
        let sync = match self.durability {
            Durability::Immediate => true,
            Durability::Interval(_) => self.sync_due().is_some_and(|due| due <= Instant::now()),
            Durability::None => false,
        };
        let values = self.committer.seal();
        if values.is_empty() {
            return Ok(0);
        }
        let bytes = values.iter().map(|(_, value)| value.len() as u64).sum();
        self.store.append(values, sync)?;
        if sync {
            self.unsynced_since = None;
        } else {
            self.unsynced_since.get_or_insert_with(Instant::now);
        }
        Ok(bytes)
    }

    /// What is stored becomes visible.
    fn publish(&mut self, started: Instant, now: Timestamp, bytes: u64) -> Vec<WriteResult> {
        let took = started.elapsed();
        let committed = {
            let mut catalog =
                self.catalog.write().expect("no one panics while holding the catalog");
            self.committer.committed(&mut catalog)
        };
        let batch = &committed.batch;
        if !batch.events.is_empty() || !batch.deleted.is_empty() {
            self.shared.figures.note(batch.events.len() as u64, took, now);
            self.keeper.written(bytes, !batch.deleted.is_empty(), now);
            for listener in &self.listeners {
                listener.tell(batch);
            }
        }
        committed.answers
    }
}

impl Figures {
    fn note(&self, events: u64, took: Duration, now: Timestamp) {
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.last_commit_at.store(now.0, Ordering::Relaxed);
        self.last_commit_events.store(events, Ordering::Relaxed);
        self.last_commit_nanos.store(nanos, Ordering::Relaxed);
        self.appended_events.fetch_add(events, Ordering::Relaxed);
        self.commit_durations.observe(u64::try_from(took.as_micros()).unwrap_or(u64::MAX), 1);
        self.commit_events.observe(events, 1);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;
    use std::sync::mpsc;

    use super::*;
    use crate::event::{EventId, EventType, Json, Labels, NewEvent, RunId};
    use crate::journal::memory::MemoryStore;
    use crate::journal::model::{Model, done, seeded};
    use crate::journal::store::{Change, RowVisitor, Table, ValueVisitor};
    use crate::journal::{IfMatch, Once, Written};
    use crate::limits::WRITE_QUEUE_BYTES_MAX;
    use rand::RngExt;
    use std::collections::VecDeque;

    /// A store in memory that does as it is told, once each: fail, or wait.
    #[derive(Default)]
    struct FaultyStore {
        memory: MemoryStore,
        faults: Mutex<VecDeque<StoreError>>,
        /// While it is held every append waits.
        gate: Mutex<()>,
        appends: AtomicUsize,
        syncs: AtomicUsize,
    }

    impl Store for FaultyStore {
        fn append(&self, values: &[(EventId, Vec<u8>)], sync: bool) -> Result<(), StoreError> {
            drop(self.gate.lock().unwrap());
            if let Some(fault) = self.faults.lock().unwrap().pop_front() {
                return Err(fault);
            }
            self.appends.fetch_add(usize::from(!values.is_empty()), Ordering::SeqCst);
            self.syncs.fetch_add(usize::from(sync), Ordering::SeqCst);
            self.memory.append(values, sync)
        }

        fn get(&self, key: EventId, visit: &mut dyn FnMut(&[u8])) -> Result<bool, StoreError> {
            self.memory.get(key, visit)
        }

        fn scan(&self, from: EventId, visit: ValueVisitor<'_>) -> Result<(), StoreError> {
            self.memory.scan(from, visit)
        }

        fn scan_back(&self, upto: EventId, visit: ValueVisitor<'_>) -> Result<(), StoreError> {
            self.memory.scan_back(upto, visit)
        }

        fn disk_bytes(&self) -> Result<u64, StoreError> {
            self.memory.disk_bytes()
        }

        fn remove_values(&self, upto: EventId, max: usize) -> Result<usize, StoreError> {
            self.memory.remove_values(upto, max)
        }

        fn removed_through(&self) -> Result<EventId, StoreError> {
            self.memory.removed_through()
        }

        fn change_rows(&self, changes: &[Change]) -> Result<(), StoreError> {
            self.memory.change_rows(changes)
        }

        fn rows(&self, table: Table, from: &[u8], visit: RowVisitor<'_>) -> Result<(), StoreError> {
            self.memory.rows(table, from, visit)
        }

        fn rows_back(
            &self,
            table: Table,
            from: &[u8],
            visit: RowVisitor<'_>,
        ) -> Result<(), StoreError> {
            self.memory.rows_back(table, from, visit)
        }
    }

    fn start(store: &Arc<FaultyStore>, durability: Durability) -> JournalWriter {
        let store: Arc<dyn Store> = Arc::clone(store) as Arc<dyn Store>;
        OpenJournal::with_store(store, 100)
            .unwrap()
            .start(Arc::default(), durability, Retention::default(), Vec::new())
            .unwrap()
    }

    fn submit(writer: &JournalWriter, write: Write) -> mpsc::Receiver<WriteResult> {
        let (sender, receiver) = mpsc::channel();
        let reply: Reply = Box::new(move |answer| drop(sender.send(answer)));
        writer.write(write, reply).unwrap();
        receiver
    }

    /// Longer than this no disk stands still.
    const DEADLINE: Duration = Duration::from_mins(1);

    fn wait(receiver: &mpsc::Receiver<WriteResult>) -> WriteResult {
        receiver.recv_timeout(DEADLINE).expect("every write is answered")
    }

    fn write(writer: &JournalWriter, write: Write) -> WriteResult {
        wait(&submit(writer, write))
    }

    fn create() -> Write {
        Write::CreateRun { labels: Labels::default(), metadata: Json::null(), key: None }
    }

    fn append(bytes: usize) -> Write {
        let payload = Json::from_trusted(format!("\"{}\"", "x".repeat(bytes)));
        let events = vec![NewEvent { event_type: EventType::new("A").unwrap(), payload }];
        Write::Append { run: RunId(1), events, once: Once::No, if_match: IfMatch::Any }
    }

    #[test]
    fn listeners_and_catalog_have_a_batch_before_it_is_answered() {
        let store: Arc<dyn Store> = Arc::new(MemoryStore::default());
        let journal = OpenJournal::with_store(store, 100).unwrap();
        let heard = Arc::new(AtomicU64::new(0));
        let listener: Box<dyn Listener> = {
            let (heard, catalog) = (Arc::clone(&heard), Arc::clone(journal.catalog()));
            Box::new(move |batch: &Arc<CommittedBatch>| {
                assert_eq!(catalog.read().unwrap().last_id(), batch.last_id);
                heard.store(batch.last_id.0, Ordering::SeqCst);
            })
        };
        let writer = journal
            .start(Arc::default(), Durability::Immediate, Retention::default(), vec![listener])
            .unwrap();
        write(&writer, create()).unwrap();
        for id in 2..100 {
            let Ok(Written::Appended { batch, range }) = write(&writer, append(1)) else {
                panic!()
            };
            assert_eq!(batch.events[range][0].event.id, EventId(id));
            assert_eq!(heard.load(Ordering::SeqCst), id);
        }
        let status = writer.status();
        assert_eq!((status.queued_events, status.queued_bytes), (0, 0));
        assert_eq!(status.appended_events, 99);
        assert!(status.last_commit_at > Timestamp(0));
    }

    #[test]
    fn what_came_during_a_commit_is_committed_together() {
        let store = Arc::new(FaultyStore::default());
        let writer = start(&store, Durability::Immediate);
        write(&writer, create()).unwrap();
        let gate = store.gate.lock().unwrap();
        let answers: Vec<_> = (0..100).map(|_| submit(&writer, append(1))).collect();
        drop(gate);
        for answer in &answers {
            wait(answer).unwrap();
        }
        assert!(store.appends.load(Ordering::SeqCst) <= 3);
    }

    #[test]
    fn what_comes_together_is_one_commit_once_the_writer_is_woken() {
        let store = Arc::new(FaultyStore::default());
        let writer = start(&store, Durability::Immediate);
        write(&writer, create()).unwrap();
        while !writer.shared.inbox().writer_sleeps {
            std::thread::sleep(Duration::from_millis(1));
        }
        let (sender, answers) = mpsc::channel();
        for _ in 0..100 {
            let sender = sender.clone();
            let reply: Reply = Box::new(move |answer| drop(sender.send(answer)));
            writer.write_without_waking(append(1), reply).unwrap();
        }
        std::thread::sleep(Duration::from_millis(50));
        assert_eq!(writer.status().queued_events, 100, "it sleeps");
        writer.wake();
        for _ in 0..100 {
            wait(&answers).unwrap();
        }
        assert_eq!(store.appends.load(Ordering::SeqCst), 2);
    }

    #[test]
    fn a_full_disk_is_said_and_the_journal_goes_on() {
        let store = Arc::new(FaultyStore::default());
        let writer = start(&store, Durability::Immediate);
        write(&writer, create()).unwrap();
        store.faults.lock().unwrap().push_back(StoreError::DiskFull);
        assert_eq!(write(&writer, append(1)), Err(WriteError::DiskFull));
        assert!(!writer.has_failed());
        assert!(matches!(write(&writer, append(1)), Ok(Written::Appended { .. })));
        assert_eq!(writer.catalog().read().unwrap().last_id(), EventId(2));
    }

    #[test]
    fn after_a_failed_write_everything_is_refused_until_reopened() {
        let store = Arc::new(FaultyStore::default());
        let writer = start(&store, Durability::Immediate);
        write(&writer, create()).unwrap();
        store.faults.lock().unwrap().push_back(StoreError::Failed("EIO".into()));
        let failed = Err(WriteError::JournalFailed("EIO".into()));
        assert_eq!(write(&writer, append(1)), failed);
        assert!(writer.has_failed() && writer.status().failed);
        assert_eq!(write(&writer, append(1)), failed);
        assert_eq!(store.appends.load(Ordering::SeqCst), 1);
        writer.close();
        let writer = start(&store, Durability::Immediate);
        assert!(matches!(write(&writer, append(1)), Ok(Written::Appended { .. })));
    }

    #[test]
    fn who_finds_no_room_waits_in_order_and_may_give_up() {
        const MEBIBYTE: usize = 1024 * 1024;
        let store = Arc::new(FaultyStore::default());
        let writer = start(&store, Durability::Immediate);
        write(&writer, create()).unwrap();
        let gate = store.gate.lock().unwrap();
        // The writer stands before the gate with this one, and makes no room for the others.
        let mut answers = vec![submit(&writer, append(1))];
        while writer.status().queued_events > 0 {
            std::thread::yield_now();
        }
        let mut outside = Vec::new();
        while outside.len() < 20 {
            let (sender, receiver) = mpsc::channel();
            let reply: Reply = Box::new(move |answer| drop(sender.send(answer)));
            let place = writer.write(append(MEBIBYTE), reply).unwrap();
            match place {
                Place::Queued => assert!(outside.is_empty(), "nobody overtakes"),
                Place::Outside(number) => outside.push(number),
            }
            answers.push(receiver);
        }
        let within = answers.len() - outside.len();
        assert!(within >= WRITE_QUEUE_BYTES_MAX / (MEBIBYTE + 1024));
        let status = writer.status();
        assert!(status.queued_bytes <= WRITE_QUEUE_BYTES_MAX);
        assert_eq!(status.waiting_for_room, 20);
        // Every other one gives up.
        for (at, number) in outside.iter().enumerate().step_by(2).rev() {
            assert!(writer.withdraw(*number));
            assert!(!writer.withdraw(*number));
            let gone = answers.remove(within + at);
            assert!(
                gone.recv_timeout(DEADLINE) == Err(mpsc::RecvTimeoutError::Disconnected),
                "it has no answer"
            );
        }
        drop(gate);
        let mut last_id = EventId(0);
        for answer in &answers {
            let Ok(Written::Appended { batch, range }) = wait(answer) else { panic!() };
            let id = batch.events[range][0].event.id;
            assert!(id > last_id, "{id} after {last_id}");
            last_id = id;
        }
        assert!(!writer.withdraw(outside[1]), "it was answered");
        assert_eq!(writer.status().waiting_for_room, 0);
        assert_eq!(last_id.0, 1 + answers.len() as u64, "who gave up is not in the journal");
    }

    #[test]
    fn closing_finishes_the_queue() {
        let store = Arc::new(FaultyStore::default());
        let writer = start(&store, Durability::None);
        write(&writer, create()).unwrap();
        let answers: Vec<_> = (0..1_000).map(|_| submit(&writer, append(1))).collect();
        writer.close();
        assert!(answers.iter().all(|answer| wait(answer).is_ok()));
        assert_eq!(store.syncs.load(Ordering::SeqCst), 1);
        assert_eq!(writer.write(append(1), Box::new(|_| {})), Err(Closed));
    }

    #[test]
    fn with_an_interval_the_last_commit_is_synced_although_nothing_follows() {
        let store = Arc::new(FaultyStore::default());
        let writer = start(&store, Durability::Interval(Duration::from_millis(20)));
        write(&writer, create()).unwrap();
        let started = Instant::now();
        while store.syncs.load(Ordering::SeqCst) == 0 {
            assert!(started.elapsed() < DEADLINE);
            std::thread::sleep(Duration::from_millis(1));
        }
        std::thread::sleep(Duration::from_millis(60));
        assert_eq!(store.syncs.load(Ordering::SeqCst), 1, "an idle journal is left alone");
    }

    /// Against [`Model`], on disk, with restarts.
    #[test]
    fn a_journal_on_disk_goes_on_where_it_was() {
        let mut rng = seeded();
        let directory = tempfile::tempdir().unwrap();
        let mut model = Model::default();
        for _ in 0..5 {
            let journal = OpenJournal::open(directory.path(), 1_000).unwrap();
            {
                let catalog = journal.catalog().read().unwrap();
                assert_eq!(catalog.last_id(), model.last_id());
                for (id, run) in &model.runs {
                    assert_eq!(catalog.run(*id), Some(run.summary()));
                }
            }
            let durability = [
                Durability::Immediate,
                Durability::None,
                Durability::Interval(Duration::from_millis(1)),
            ][rng.random_range(0..3)];
            // The clock stands still, so that the model knows the time.
            let clock = Arc::new(Clock::standing(Timestamp(u64::MAX / 4)));
            let writer =
                journal.start(clock, durability, Retention::default(), Vec::new()).unwrap();
            let mut answers = Vec::new();
            for _ in 0..200 {
                let write = model.random_write(&mut rng);
                answers.push((
                    submit(&writer, write.clone()),
                    model.write(write, Timestamp(u64::MAX / 4)),
                ));
            }
            for (answer, expected) in &answers {
                assert_eq!(done(wait(answer)), *expected);
            }
        }
    }
}
