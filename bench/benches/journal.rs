//! What a group commit costs, from staging to the end of the sync, beside a bare redb that inserts
//! the same bytes keyed by id, one row an event; and the same through the writer's thread, from
//! waking it to the last answer. And what replay costs.

use std::hint::black_box;
use std::sync::{Arc, RwLock, mpsc};
use std::time::Duration;

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use redb::{Database, TableDefinition};
use tempfile::TempDir;
use tidewheel::config::Durability;
use tidewheel::event::{EventId, Json, Labels, RunId, Scope, Selection};
use tidewheel::journal::commit::Committer;
use tidewheel::journal::history::{HistoryRequest, read_forward};
use tidewheel::journal::memory::MemoryStore;
use tidewheel::journal::redb::RedbStore;
use tidewheel::journal::{Write, WriteResult};
use tidewheel::journal_keeper::Retention;
use tidewheel::journal_writer::{JournalWriter, OpenJournal};
use tidewheel::limits::{
    IDEMPOTENCY_KEYS, LOG_CACHE_BYTES, REPLAY_CHUNK_BYTES, REPLAY_CHUNK_VALUES_MAX,
};

#[path = "scene/journal.rs"]
mod scene;

use scene::{Journal, event};

const BATCHES: [usize; 3] = [1, 64, 1_024];
const RUNS: [u64; 2] = [1, 10_000];

fn journal(directory: &TempDir, runs: u64) -> Journal<RedbStore> {
    Journal::open(RedbStore::open(directory.path()).unwrap(), runs)
}

/// On the disk of the build directory: a temporary directory may be in memory.
fn directory() -> TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

fn commits(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("commit");
    group.sample_size(30).warm_up_time(Duration::from_secs(1));
    group.measurement_time(Duration::from_secs(4));
    for events in BATCHES {
        group.throughput(Throughput::Elements(events as u64));
        for runs in RUNS {
            let directory = self::directory();
            let mut journal = self::journal(&directory, runs);
            group.bench_function(
                BenchmarkId::new(format!("journal/{runs} runs"), events),
                |bencher| {
                    let journal = std::cell::RefCell::new(&mut journal);
                    bencher.iter_batched(
                        || journal.borrow_mut().appends(events),
                        |writes| journal.borrow_mut().commit(writes),
                        BatchSize::PerIteration,
                    );
                },
            );
        }
        let directory = self::directory();
        let (writer, mut journal) = writer(&directory);
        group.bench_function(BenchmarkId::new("writer's thread/1 run", events), |bencher| {
            bencher.iter_batched(
                || journal.appends(events),
                |writes| answered(&writer, writes),
                BatchSize::PerIteration,
            );
        });
        group.bench_function(BenchmarkId::new("bare redb, a row an event", events), |bencher| {
            let directory = self::directory();
            let database = Database::builder()
                .set_cache_size(LOG_CACHE_BYTES)
                .create(directory.path().join("bare.redb"))
                .unwrap();
            let row = format!("{}{}", event().event_type.as_str(), event().payload.as_str());
            let mut next_id = 0;
            bencher.iter(|| bare_commit(&database, &row, &mut next_id, events));
        });
    }
    group.finish();
}

/// A writer with one run, and where appends to it come from.
fn writer(directory: &TempDir) -> (JournalWriter, Journal<MemoryStore>) {
    let journal = OpenJournal::open(directory.path(), IDEMPOTENCY_KEYS).unwrap();
    let (clock, retention) = (Arc::default(), Retention::default());
    let writer = journal.start(clock, Durability::Immediate, retention, Vec::new()).unwrap();
    let create = Write::CreateRun { labels: Labels::default(), metadata: Json::null(), key: None };
    assert_eq!(answered(&writer, vec![create]), 1);
    (writer, Journal::open(MemoryStore::default(), 1))
}

/// Has the writer do these writes, and waits for every answer.
fn answered(writer: &JournalWriter, writes: Vec<Write>) -> usize {
    let (tell, answers) = mpsc::channel();
    for write in writes {
        let tell = tell.clone();
        let reply = Box::new(move |answer: WriteResult| tell.send(answer.is_ok()).unwrap());
        writer.write_without_waking(write, reply).unwrap();
    }
    drop(tell);
    writer.wake();
    answers.iter().inspect(|is_done| assert!(is_done)).count()
}

fn bare_commit(database: &Database, row: &str, next_id: &mut u64, events: usize) {
    const ROWS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("rows");
    let transaction = database.begin_write().unwrap();
    {
        let mut rows = transaction.open_table(ROWS).unwrap();
        for _ in 0..events {
            *next_id += 1;
            rows.insert(*next_id, row.as_bytes()).unwrap();
        }
    }
    transaction.commit().unwrap();
}

/// One chunk of replay: of everything, and of one run among 1,000 that take turns.
fn replay(criterion: &mut Criterion) {
    let directory = directory();
    let mut journal = journal(&directory, 1_000);
    for _ in 0..100 {
        let writes = journal.appends(1_024);
        journal.commit(writes);
    }
    let catalog = RwLock::new(journal.catalog);
    let mut group = criterion.benchmark_group("replay");
    group.sample_size(30).warm_up_time(Duration::from_secs(1));
    group.measurement_time(Duration::from_secs(3));
    let scopes =
        [("everything", Scope::All), ("one run of 1,000", Scope::Runs([RunId(500)].into()))];
    for (name, scope) in scopes {
        let request = HistoryRequest {
            selection: Selection { scope, types: None },
            after: EventId(0),
            upto: EventId(u64::MAX),
            events_max: usize::MAX,
            bytes_max: REPLAY_CHUNK_BYTES,
            values_max: REPLAY_CHUNK_VALUES_MAX,
        };
        let read = || {
            read_forward(&journal.store, &catalog, &request, &mut |event| {
                black_box(event).payload.len()
            })
            .unwrap()
        };
        group.throughput(Throughput::Elements(read().events as u64));
        group.bench_function(name, |bencher| bencher.iter(read));
    }
    group.finish();
}

/// What opening costs: 100,000 events of 1,000 runs.
fn open(criterion: &mut Criterion) {
    let directory = directory();
    let mut journal = journal(&directory, 1_000);
    for _ in 0..100 {
        let writes = journal.appends(1_000);
        journal.commit(writes);
    }
    let store = journal.store;
    let mut group = criterion.benchmark_group("open");
    group.sample_size(10).throughput(Throughput::Elements(101_000));
    group.measurement_time(Duration::from_secs(3));
    group.bench_function("rebuild", |bencher| {
        bencher.iter(|| Committer::open(&store, IDEMPOTENCY_KEYS).unwrap().catalog.last_id());
    });
    group.finish();
}

criterion_group!(benches, commits, replay, open);
criterion_main!(benches);
