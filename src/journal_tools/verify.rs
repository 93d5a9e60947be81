//! `tidewheel journal verify`: whether a journal is whole.

use std::io::Write;
use std::path::PathBuf;

use argh::FromArgs;
use serde_json::json;

use super::{Progress, ToolError, ToolResult, cannot_open, count, place, say};
use crate::journal::redb::{COLD_FILE, FileState, Inspected, LOG_FILE, RedbStore};
use crate::journal::store::{OpenError, Store as _};
use crate::journal::verify::{Checked, Kind, Place, Problem, Readable, Told, verify};

/// check a journal that no server has open, and tell every problem; nothing is changed
#[derive(FromArgs, Clone, Debug)]
#[argh(subcommand, name = "verify", help_triggers("-h", "--help"))]
pub(super) struct Verify {
    /// directory of the journal; default: as for serve
    #[argh(option, arg_name = "dir")]
    journal: Option<String>,

    /// read settings from this TOML file
    #[argh(option, arg_name = "file")]
    config: Option<PathBuf>,

    /// print one JSON object
    #[argh(switch)]
    json: bool,
}

pub(super) fn run(args: &Verify, out: &mut dyn Write) -> ToolResult {
    let directory = place(args.journal.as_ref(), args.config.as_ref())?.directory;
    let mut report = Report { out, json: args.json, problems: 0, outcome: Ok(()) };
    report.begin();
    let inspected = match RedbStore::inspect(&directory) {
        Ok(inspected) => inspected,
        Err(OpenError::Corrupt { path, reason }) => {
            let file = if path.ends_with(COLD_FILE) { COLD_FILE } else { LOG_FILE };
            report.problem(&file_problem(file, reason));
            return report.end(&Checked::default(), None);
        }
        Err(error) => return Err(cannot_open(error)),
    };
    let readable = files(&inspected, &mut report);
    let total = inspected.store.disk_bytes().unwrap_or_default();
    let progress = Progress::begin("verify", total);
    let checked = verify(&inspected.store, readable, &mut |told| match told {
        Told::Problem(problem) => report.problem(&problem),
        Told::Bytes(bytes) => progress.add(bytes),
    });
    drop(progress);
    report.end(&checked, inspected.format)
}

/// Says how the files were found. Which of them can be looked into.
fn files(inspected: &Inspected, report: &mut Report<'_>) -> Readable {
    let mut look = |name, state: &FileState, is_needed: bool| {
        let text = match state {
            FileState::Whole => return true,
            FileState::NotClosed => {
                if !report.json {
                    eprintln!(
                        "tidewheel: {name} was not closed; what was committed to it is looked at"
                    );
                }
                return true;
            }
            FileState::Missing if !is_needed => return true,
            FileState::Missing => "it is missing: all that was in it is lost".to_owned(),
            FileState::LastCommitDamaged => {
                "its last commit is damaged, and lost: what was before it is looked at".to_owned()
            }
            FileState::Unreadable(reason) => {
                format!("{reason}: nothing in it can be read, and what it had is not looked at")
            }
        };
        report.problem(&file_problem(name, text));
        *state == FileState::LastCommitDamaged
    };
    let log = look(LOG_FILE, &inspected.log, true);
    // The first format had one file.
    let cold = look(COLD_FILE, &inspected.cold, inspected.format.is_none_or(|format| format > 1));
    Readable { log, cold }
}

fn file_problem(name: &'static str, text: String) -> Problem {
    Problem { kind: Kind::File, place: Place::File(name), text }
}

/// Tells problems as they are found: there may be more of them than fit into memory.
struct Report<'a> {
    out: &'a mut dyn Write,
    json: bool,
    problems: u64,
    outcome: ToolResult,
}

impl Report<'_> {
    fn say(&mut self, text: &str) {
        if self.outcome.is_ok() {
            self.outcome = say(self.out, text);
        }
    }

    fn begin(&mut self) {
        if self.json {
            self.say("{\"problems\":[");
        }
    }

    fn problem(&mut self, Problem { kind, place, text }: &Problem) {
        self.problems += 1;
        let line = if self.json {
            let separator = if self.problems > 1 { "," } else { "" };
            let problem = json!({"kind": kind.as_str(), "place": place.to_string(), "text": text});
            format!("{separator}{problem}")
        } else {
            format!("{}: {place}: {text}\n", kind.as_str())
        };
        self.say(&line);
    }

    fn end(mut self, checked: &Checked, format: Option<u64>) -> ToolResult {
        let Checked {
            runs,
            windows,
            window_events,
            log_values,
            log_events,
            keys,
            producers,
            strays,
        } = *checked;
        let text = if self.json {
            let checked = json!({
                "runs": runs, "windows": windows, "window_events": window_events,
                "log_values": log_values, "log_events": log_events,
                "keys": keys, "producers": producers, "strays": strays,
            });
            format!("],\"format\":{},\"checked\":{checked}}}\n", json!(format))
        } else {
            format!(
                "looked at {}: {} in {}, {} in {} of the log, {}, {}\n{}\n",
                count(runs, "run"),
                count(window_events, "event"),
                count(windows, "window"),
                count(log_events, "event"),
                count(log_values, "value"),
                count(keys, "key"),
                count(producers, "producer"),
                if self.problems == 0 {
                    "no problem".to_owned()
                } else {
                    count(self.problems, "problem")
                },
            )
        };
        self.say(&text);
        self.outcome?;
        if self.problems == 0 { Ok(()) } else { Err(ToolError::Problems) }
    }
}
