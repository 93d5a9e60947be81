//! The journal over hours, in minutes: many runs that take turns, moved to the cold part as they
//! go, then killed, opened and read.
//!
//! ```text
//! EVENTS=10000000 RUNS=10000 cargo bench -p tidewheel-bench --bench journal_figures
//! ```
//!
//! Prints one line a figure. `DIRECTORY` says where the journal is made (the build directory, or
//! else a new directory there).

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};
use std::{env, fs};

use redb::{Database, TableDefinition};
use tidewheel::config::Durability;
use tidewheel::event::{EventId, Json, Labels, RunId, Scope, Selection};
use tidewheel::journal::catalog::read;
use tidewheel::journal::history::{HistoryRequest, read_forward};
use tidewheel::journal::{IfMatch, Once, Write};
use tidewheel::journal_keeper::Retention;
use tidewheel::journal_writer::{JournalWriter, OpenJournal};
use tidewheel::limits::{
    IDEMPOTENCY_KEYS, LOG_CACHE_BYTES, REPLAY_CHUNK_BYTES, REPLAY_CHUNK_VALUES_MAX,
};

#[path = "scene/event.rs"]
mod scene;

use scene::event;

/// Events of a commit.
const COMMIT: usize = 1_024;
/// The process that is killed finds its directory here.
const WRITER: &str = "JOURNAL_FIGURES_WRITER";
/// Events of the run that is read: a hundredth of all, and one of the many beside it.
const LONG_RUN: RunId = RunId(1);

fn number(name: &str, default: usize) -> usize {
    env::var(name).map_or(default, |text| text.replace('_', "").parse().expect("a number"))
}

fn main() {
    let is_bench = env::args().any(|argument| argument == "--bench");
    let events = number("EVENTS", if is_bench { 2_000_000 } else { 50_000 });
    let runs = number("RUNS", if is_bench { 10_000 } else { 100 });
    if let Some(directory) = env::var_os(WRITER) {
        return write_and_wait(Path::new(&directory), events, runs);
    }
    let parent = env::var_os("DIRECTORY")
        .map_or_else(|| PathBuf::from(env!("CARGO_TARGET_TMPDIR")), PathBuf::from);
    let directory = tempfile::tempdir_in(parent).unwrap();
    println!("{events} events of some 200 bytes, {runs} runs taking turns, {COMMIT} a commit");

    let bare = bare_redb(&directory.path().join("bare.redb"), events.min(2_000_000));
    println!("bare redb, keyed by id: {bare:.0} events/s");
    let journal = directory.path().join("journal");
    let mut writer = Command::new(env::current_exe().unwrap())
        .args(is_bench.then_some("--bench"))
        .env(WRITER, &journal)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let report = std::io::read_to_string(writer.stdout.take().unwrap());
    let report = report.unwrap();
    print!("{report}");
    let rate: f64 = report
        .lines()
        .find_map(|line| line.strip_prefix("journal, moves included: "))
        .and_then(|line| line.split(' ').next()?.parse().ok())
        .expect("the writer says its rate");
    println!("journal beside bare redb: {:.2}", rate / bare);
    writer.kill().unwrap();
    writer.wait().unwrap();

    let bytes: u64 = fs::read_dir(&journal)
        .unwrap()
        .map(|file| {
            std::os::unix::fs::MetadataExt::blocks(&file.unwrap().metadata().unwrap()) * 512
        })
        .sum();
    println!("on disk: {} bytes an event", bytes / events as u64);
    let started = Instant::now();
    let opened = OpenJournal::open(&journal, IDEMPOTENCY_KEYS).unwrap();
    println!("opened after kill -9 in {:.2?}", started.elapsed());
    assert_eq!(read(opened.catalog()).last_id().0, (events + runs) as u64, "nothing is lost");
    for (name, scope) in [
        ("the run of a hundredth of all events", Scope::Runs([LONG_RUN].into())),
        ("another run", Scope::Runs([RunId(runs as u64 / 2)].into())),
        ("everything, at most 1,000,000 events", Scope::All),
    ] {
        replay(&opened, name, scope);
    }
}

/// In the process that is killed: writes, says how it went, and waits.
fn write_and_wait(directory: &Path, events: usize, runs: usize) {
    let opened = OpenJournal::open(directory, IDEMPOTENCY_KEYS).unwrap();
    let writer = opened
        .start(Arc::default(), Durability::Immediate, Retention::default(), Vec::new())
        .unwrap();
    let create =
        || Write::CreateRun { labels: Labels::default(), metadata: Json::null(), key: None };
    commit(&writer, (0..runs).map(|_| create()).collect());
    let started = Instant::now();
    let mut run = 0;
    let mut appends = |count: usize| -> Vec<Write> {
        let append = |index: usize| {
            let run = if index.is_multiple_of(100) {
                LONG_RUN.0
            } else {
                run = run % runs as u64 + 1;
                run
            };
            Write::Append {
                run: RunId(run),
                events: vec![event()],
                once: Once::No,
                if_match: IfMatch::Any,
            }
        };
        (0..count).map(append).collect()
    };
    let mut waits = Vec::with_capacity(events / COMMIT + 1);
    let mut left = events;
    // One group waits while the one before is on its way to the disk, as under load.
    let mut under_way: Option<(Instant, mpsc::Receiver<()>)> = None;
    while left > 0 || under_way.is_some() {
        let next = (left > 0).then(|| {
            let count = left.min(COMMIT);
            left -= count;
            submit(&writer, appends(count))
        });
        if let Some((since, answered)) = std::mem::replace(&mut under_way, next) {
            answered.recv().unwrap();
            waits.push(since.elapsed());
        }
    }
    // What is left in the log is less than a window, and is moved in its time.
    while writer.catalog().read().unwrap().last_id().0
        - writer.catalog().read().unwrap().moved_through().0
        > 100_000
    {
        std::thread::sleep(Duration::from_millis(1));
    }
    let rate = events as f64 / started.elapsed().as_secs_f64();
    waits.sort_unstable();
    // Of a thousand.
    let part = |part: usize| waits[(waits.len() - 1) * part / 1_000];
    println!("journal, moves included: {rate:.0} events/s");
    println!(
        "an answer, of two commits: p50 {:.2?}, p99 {:.2?}, p99.9 {:.2?}, longest {:.2?}",
        part(500),
        part(990),
        part(999),
        part(1_000)
    );
    // The reader of this sees its end.
    rustix::stdio::dup2_stdout(fs::File::open("/dev/null").unwrap()).unwrap();
    std::thread::sleep(Duration::from_mins(1));
}

fn submit(writer: &JournalWriter, writes: Vec<Write>) -> (Instant, mpsc::Receiver<()>) {
    let (sender, answered) = mpsc::channel();
    let since = Instant::now();
    let last = writes.len() - 1;
    for (index, write) in writes.into_iter().enumerate() {
        let sender = (index == last).then(|| sender.clone());
        let reply = Box::new(move |answer: Result<_, _>| {
            assert!(answer.is_ok());
            sender.map(|sender| sender.send(()));
        });
        writer.write_without_waking(write, reply).unwrap();
    }
    writer.wake();
    (since, answered)
}

fn commit(writer: &JournalWriter, writes: Vec<Write>) {
    submit(writer, writes).1.recv().unwrap();
}

fn bare_redb(path: &Path, events: usize) -> f64 {
    const ROWS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("rows");
    let database = Database::builder().set_cache_size(LOG_CACHE_BYTES).create(path).unwrap();
    let row = format!("{}{}", event().event_type.as_str(), event().payload.as_str());
    let started = Instant::now();
    for first in (0..events).step_by(COMMIT) {
        let transaction = database.begin_write().unwrap();
        let mut rows = transaction.open_table(ROWS).unwrap();
        for id in first..events.min(first + COMMIT) {
            rows.insert(id as u64, row.as_bytes()).unwrap();
        }
        drop(rows);
        transaction.commit().unwrap();
    }
    let rate = events as f64 / started.elapsed().as_secs_f64();
    drop(database);
    fs::remove_file(path).unwrap();
    rate
}

/// Reads in chunks, as for a stream.
fn replay(journal: &OpenJournal, name: &str, scope: Scope) {
    let mut request = HistoryRequest {
        selection: Selection { scope, types: None },
        after: EventId(0),
        upto: EventId(u64::MAX),
        events_max: usize::MAX,
        bytes_max: REPLAY_CHUNK_BYTES,
        values_max: REPLAY_CHUNK_VALUES_MAX,
    };
    let (mut events, mut bytes, mut longest) = (0, 0, Duration::ZERO);
    let started = Instant::now();
    loop {
        let chunk = Instant::now();
        let read = read_forward(&**journal.store(), journal.catalog(), &request, &mut |event| {
            event.payload.len()
        })
        .unwrap();
        longest = longest.max(chunk.elapsed());
        events += read.events;
        bytes += read.bytes;
        if read.complete || events >= 1_000_000 {
            break;
        }
        request.after = read.scanned_to;
    }
    let seconds = started.elapsed().as_secs_f64();
    println!(
        "read {name}: {events} events in {seconds:.3} s, {:.0} MB/s, a chunk at most {longest:.2?}",
        bytes as f64 / seconds / 1e6
    );
}
