//! A process that writes a journal is killed again and again: what it was told is there, is there.
//!
//! The test starts itself as that process, with the directory in an environment variable.

use std::io::{BufRead, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use tidewheel::config::Durability;
use tidewheel::event::{EventId, EventType, Json, Labels, NewEvent, RunId, Scope, Selection};
use tidewheel::journal::history::{HistoryRequest, read_forward};
use tidewheel::journal::{IfMatch, Once, Write, Written};
use tidewheel::journal_keeper::Retention;
use tidewheel::journal_writer::OpenJournal;

const DIRECTORY: &str = "TIDEWHEEL_CRASH_DIRECTORY";
const KEYS: usize = 1_000;

/// Appends to run 1 until it is killed, and says the id of each event that it was told is there.
fn append_until_killed(directory: &Path) {
    let journal = OpenJournal::open(directory, KEYS).unwrap();
    let is_new = journal.catalog().read().unwrap().last_id() == EventId(0);
    let writer = journal
        .start(Arc::default(), Durability::Immediate, Retention::default(), Vec::new())
        .unwrap();
    let (answers, answered) = mpsc::channel();
    let submit = |write: Write| {
        let answers = answers.clone();
        let reply = Box::new(move |answer| drop(answers.send(answer)));
        writer.write(write, reply).unwrap();
    };
    if is_new {
        submit(Write::CreateRun { labels: Labels::default(), metadata: Json::null(), key: None });
    }
    let mut out = std::io::stdout().lock();
    let mut under_way = 0;
    for number in 0_u64.. {
        let payload = Json::from_trusted(format!("\"{}\"", "x".repeat((number % 3_000) as usize)));
        let event = NewEvent { event_type: EventType::new("A").unwrap(), payload };
        submit(Write::Append {
            run: RunId(1),
            events: vec![event],
            once: Once::No,
            if_match: IfMatch::Any,
        });
        under_way += 1;
        while under_way > 16
            && let Ok(answer) = answered.recv_timeout(Duration::from_secs(10))
        {
            under_way -= 1;
            if let Written::Appended { batch, range } = answer.unwrap() {
                for event in &batch.events[range] {
                    writeln!(out, "{}", event.event.id).unwrap();
                }
            }
        }
    }
}

fn start(directory: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "what_was_answered_is_there_after_a_crash", "--nocapture"])
        .env(DIRECTORY, directory)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

#[test]
fn what_was_answered_is_there_after_a_crash() {
    if let Some(directory) = std::env::var_os(DIRECTORY) {
        append_until_killed(Path::new(&directory));
        return;
    }
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let mut answered = 0;
    for round in 1..=8 {
        let mut child = start(directory.path());
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut seen = 0;
        for line in lines.by_ref() {
            // The test harness says things of its own.
            let Ok(id) = line.unwrap().parse::<u64>() else { continue };
            answered = id;
            seen += 1;
            if seen == round * 37 {
                break;
            }
        }
        assert_eq!(seen, round * 37, "the process ended by itself");
        child.kill().unwrap();
        child.wait().unwrap();
        for line in lines.map_while(Result::ok) {
            // The last line may be cut off.
            answered = line.parse().ok().filter(|id| *id == answered + 1).unwrap_or(answered);
        }
        check(directory.path(), EventId(answered));
    }
}

/// The journal opens, everything up to `answered` is there, and nothing is missing in between.
fn check(directory: &Path, answered: EventId) {
    let journal = OpenJournal::open(directory, KEYS).unwrap();
    let last_id = journal.catalog().read().unwrap().last_id();
    assert!(last_id >= answered, "{last_id} is there, {answered} was answered");
    let request = HistoryRequest {
        selection: Selection { scope: Scope::Runs([RunId(1)].into()), types: None },
        after: EventId(0),
        upto: last_id,
        events_max: usize::MAX,
        bytes_max: usize::MAX,
        values_max: usize::MAX,
    };
    let mut next = 1;
    let read = read_forward(&**journal.store(), journal.catalog(), &request, &mut |event| {
        assert_eq!((event.id.0, event.seq), (next, next));
        next += 1;
        0
    });
    assert!(read.unwrap().complete);
    assert_eq!(next, last_id.0 + 1);
}
