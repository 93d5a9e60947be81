//! Checks a journal as a whole: what opening it takes on trust, and what nobody reads until a client
//! asks for it.
//!
//! ```text
//! cold   state, runs and heads, keys ─▶ window by window: blocks ─▶ order ─▶ heads ─▶ producers
//! log    value by value, from where the cold part ends
//! both   opened as a server would
//! ```
//!
//! Every problem is told, not only the first: what cannot be read is told once, and what follows
//! from it alone (the events that were in it are missing) is not. Nothing is changed.
//!
//! What is held meanwhile is what an open journal holds of its runs, and the ids of one window.

mod cold_part;
mod log;
#[cfg(test)]
mod planted;
mod window;

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::ops::ControlFlow;

use super::codec::{DecodeError, parse_run_created};
use super::cold::{Jump, State, Window};
use super::commit::Committer;
use super::store::{Store, Table};
use super::{Kept, RunHead};
use crate::event::{EventId, EventRef, EventType, RunId, RunStatus, Timestamp};

/// What is wrong with a journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// In which respect.
    pub kind: Kind,
    /// Where.
    pub place: Place,
    /// What was found, and what it means.
    pub text: String,
}

/// In which respect something is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A file as redb has written it.
    File,
    /// The bytes of a value or a row: checksum, version, fields.
    Bytes,
    /// How far the journal was moved.
    State,
    /// Windows, and what belongs to them.
    Window,
    /// Ids, which go up and name one event each.
    Ids,
    /// A window's order and its blocks, which name the same events.
    Order,
    /// The seqs of a run, which have no hole.
    Seq,
    /// What is known of a run, and what its events say.
    Run,
    /// An event that no server would have taken.
    Event,
    /// An idempotency key.
    Key,
    /// A producer.
    Producer,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 11] = [
        Kind::File,
        Kind::Bytes,
        Kind::State,
        Kind::Window,
        Kind::Ids,
        Kind::Order,
        Kind::Seq,
        Kind::Run,
        Kind::Event,
        Kind::Key,
        Kind::Producer,
    ];

    /// Its name in reports.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::File => "file",
            Kind::Bytes => "bytes",
            Kind::State => "state",
            Kind::Window => "window",
            Kind::Ids => "ids",
            Kind::Order => "order",
            Kind::Seq => "seq",
            Kind::Run => "run",
            Kind::Event => "event",
            Kind::Key => "key",
            Kind::Producer => "producer",
        }
    }
}

/// Where something is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// The journal as a whole.
    Journal,
    /// This file of it.
    File(&'static str),
    /// The value of the log under this key.
    Value(EventId),
    /// The row of the cold part under this key.
    Row(Table, Vec<u8>),
    /// The window with this first id.
    Window(EventId),
    /// A run.
    Run(RunId),
    /// An event.
    Event(EventId),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Journal => f.write_str("the journal"),
            Place::File(name) => f.write_str(name),
            Place::Value(key) => write!(f, "log value {key}"),
            Place::Row(table, key) => {
                write!(f, "{} row ", format!("{table:?}").to_lowercase())?;
                if key.is_empty() {
                    return f.write_str("(the only one)");
                }
                // Keys are made of numbers, but for the names of producers.
                let (numbers, rest) = key.as_chunks::<8>();
                let numbers: Vec<String> =
                    numbers.iter().map(|bytes| u64::from_be_bytes(*bytes).to_string()).collect();
                f.write_str(&numbers.join("/"))?;
                if rest.is_empty() { Ok(()) } else { write!(f, "/{}", rest.escape_ascii()) }
            }
            Place::Window(first_id) => write!(f, "window {first_id}"),
            Place::Run(run) => write!(f, "run {run}"),
            Place::Event(id) => write!(f, "event {id}"),
        }
    }
}

/// What was looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Checked {
    /// Runs that there are.
    pub runs: u64,
    /// Windows.
    pub windows: u64,
    /// Events in windows, also of runs that are gone.
    pub window_events: u64,
    /// Values of the log that were not moved.
    pub log_values: u64,
    /// Events in them.
    pub log_events: u64,
    /// Idempotency keys in the cold part.
    pub keys: u64,
    /// Producers in the cold part.
    pub producers: u64,
    /// Rows that an interruption has left, and that are nobody's: no harm, and they go by themselves.
    pub strays: u64,
}

/// What is told while a journal is checked.
#[derive(Debug)]
pub enum Told {
    /// A problem.
    Problem(Problem),
    /// So many bytes more were looked at.
    Bytes(u64),
}

/// Which parts of a journal can be read at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Readable {
    /// The log.
    pub log: bool,
    /// The cold part.
    pub cold: bool,
}

/// Checks a journal; `tell` hears every problem.
pub fn verify(store: &dyn Store, readable: Readable, tell: &mut dyn FnMut(Told)) -> Checked {
    let mut verifier = Verifier {
        store,
        tell,
        problems: 0,
        checked: Checked::default(),
        state: State::default(),
        jumps: Vec::new(),
        windows: Vec::new(),
        runs: BTreeMap::new(),
        keys: BTreeMap::new(),
        unreadable_runs: Vec::new(),
        doomed: readable.log.then(HashSet::new),
    };
    if readable.log && readable.cold {
        verifier.find_doomed();
    }
    if readable.cold {
        verifier.cold(readable.log);
    }
    if readable.log {
        verifier.log(readable.cold);
    }
    if readable.log && readable.cold && verifier.problems == 0 {
        // What is checked here is more than a server does; that it finds nothing else is checked too.
        if let Err(error) = Committer::open(store, usize::MAX) {
            verifier.problem(
                Kind::State,
                Place::Journal,
                format!("a server would refuse it: {error}"),
            );
        }
    }
    verifier.checked
}

/// What is known of a run: what its rows say, and how far its events have been followed.
#[derive(Debug, Default)]
struct Run {
    head: Option<(RunHead, Kept)>,
    /// The payload of its `RUN_CREATED`, when its row was there.
    created: Option<Box<str>>,
    followed: Option<Followed>,
}

/// The last event of a run that was seen.
#[derive(Clone, Copy, Debug)]
struct Followed {
    id: EventId,
    seq: u64,
    time: Timestamp,
    status: RunStatus,
}

struct Verifier<'a> {
    store: &'a dyn Store,
    tell: &'a mut dyn FnMut(Told),
    problems: u64,
    checked: Checked,
    state: State,
    jumps: Vec<Jump>,
    windows: Vec<Window>,
    runs: BTreeMap<RunId, Run>,
    /// The run and the seq that idempotency keys say of the first event of each.
    keys: BTreeMap<EventId, (RunId, u64)>,
    /// Runs from one to another of which something cannot be read: no event of them counts as missing.
    unreadable_runs: Vec<(RunId, RunId)>,
    /// Runs that the log deletes: some of their events may be gone before their rows are. None when
    /// not all of the log can be read, and any run may be one.
    doomed: Option<HashSet<RunId>>,
}

impl Verifier<'_> {
    fn problem(&mut self, kind: Kind, place: Place, text: impl Into<String>) {
        self.problems += 1;
        (self.tell)(Told::Problem(Problem { kind, place, text: text.into() }));
    }

    fn bytes(&mut self, table: Table, key: &[u8], error: &DecodeError) {
        let text = format!("{error}: its content is lost");
        self.problem(Kind::Bytes, Place::Row(table, key.to_vec()), text);
    }

    /// Shows the rows of a table from this key on, as long as `visit` says so.
    fn rows(
        &mut self,
        table: Table,
        from: &[u8],
        mut visit: impl FnMut(&mut Self, &[u8], &[u8]) -> ControlFlow<()>,
    ) {
        let store = self.store;
        let outcome = store.rows(table, from, &mut |key, row| {
            (self.tell)(Told::Bytes((key.len() + row.len()) as u64));
            visit(self, key, row)
        });
        if let Err(error) = outcome {
            let place = Place::Row(table, from.to_vec());
            self.problem(Kind::File, place, format!("{error}: what follows there is lost"));
        }
    }

    /// Whether events of a run may be gone because it is.
    fn is_doomed(&self, run: RunId) -> bool {
        self.doomed.as_ref().is_none_or(|doomed| doomed.contains(&run))
    }

    fn is_unreadable(&self, run: RunId) -> bool {
        self.unreadable_runs.iter().any(|(first, last)| (*first..=*last).contains(&run))
    }

    fn event_makes_sense(&mut self, event: &EventRef<'_>) {
        let wrong = if EventType::new(event.event_type).is_err() {
            "its type is none"
        } else if serde_json::from_str::<serde::de::IgnoredAny>(event.payload).is_err() {
            "its payload is no JSON"
        } else if (event.seq == 1) != (event.event_type == "RUN_CREATED") {
            "a run begins with RUN_CREATED, and nothing else is"
        } else if event.seq == 1 && parse_run_created(event.payload).is_err() {
            "its run is created without its description"
        } else if self.jumps.iter().any(|jump| jump.holds(event.id)) {
            let text = "its id was left out by a restore or an import";
            self.problem(Kind::Ids, Place::Event(event.id), text);
            return;
        } else {
            return;
        };
        self.problem(Kind::Event, Place::Event(event.id), wrong);
    }
}

/// Goes on with an event; what is wrong with it after the one before.
fn follow(run: &mut Run, event: &EventRef<'_>) -> Option<&'static str> {
    let status = RunStatus::after(event.event_type);
    let last = run.followed.replace(Followed {
        id: event.id,
        seq: event.seq,
        time: event.created_at,
        status: status.unwrap_or_default(),
    });
    let last = last?;
    let now = run.followed.as_mut().expect("it was just put there");
    if last.status.has_ended() {
        now.status = last.status;
        return Some("its run had ended before");
    }
    if event.created_at < last.time {
        return Some("it is older than the one before it in its run");
    }
    None
}
