//! `tidewheel journal stats`: what is in a journal.

use std::fmt::Write as _;
use std::fs;
use std::io::Write;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use argh::FromArgs;
use serde_json::{Value, json};

use super::{Looked, Progress, ToolError, ToolResult, bytes, cannot_read, count, look, place, say};
use crate::event::{Label, RunId};
use crate::journal::catalog::Catalog;
use crate::journal::cold::Window;
use crate::journal::redb::{COLD_FILE, LOG_FILE};
use crate::journal::survey::{Amount, Survey, survey};

/// say what is in a journal that no server has open, in all and by run
#[derive(FromArgs, Clone, Debug)]
#[argh(subcommand, name = "stats", help_triggers("-h", "--help"))]
pub(super) struct Stats {
    /// directory of the journal; default: as for serve
    #[argh(option, arg_name = "dir")]
    journal: Option<String>,

    /// read settings from this TOML file
    #[argh(option, arg_name = "file")]
    config: Option<PathBuf>,

    /// how many runs to show, the largest first; default: 10
    #[argh(option, arg_name = "n", default = "10")]
    runs: usize,

    /// only this run
    #[argh(option, arg_name = "id")]
    run: Option<u64>,

    /// what makes a run large: events or bytes; default: bytes
    #[argh(option, arg_name = "measure", default = "Measure::Bytes", from_str_fn(measure))]
    by: Measure,

    /// show each window
    #[argh(switch)]
    windows: bool,

    /// print one JSON object
    #[argh(switch)]
    json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Measure {
    Events,
    Bytes,
}

fn measure(text: &str) -> Result<Measure, String> {
    match text {
        "events" => Ok(Measure::Events),
        "bytes" => Ok(Measure::Bytes),
        _ => Err("must be events or bytes".to_owned()),
    }
}

pub(super) fn run(args: &Stats, out: &mut dyn Write) -> ToolResult {
    let directory = place(args.journal.as_ref(), args.config.as_ref())?.directory;
    let looked = look(&directory)?;
    let files = files(&directory);
    let progress = Progress::begin("stats", files.iter().map(|(_, used, _)| used).sum());
    let survey =
        survey(&looked.inspected.store, looked.catalog(), &mut |bytes| progress.add(bytes));
    drop(progress);
    let survey = survey.map_err(cannot_read)?;
    let runs = chosen(args, looked.catalog(), &survey)?;
    let text = if args.json {
        format!("{}\n", as_json(&directory, &looked, &survey, &files, &runs))
    } else {
        as_text(args, &directory, &looked, &survey, &files, &runs)
    };
    say(out, &text)
}

/// The files that are there: name, bytes on the disk, length.
fn files(directory: &Path) -> Vec<(&'static str, u64, u64)> {
    let file = |name: &'static str| {
        let metadata = fs::metadata(directory.join(name)).ok()?;
        Some((name, metadata.blocks() * 512, metadata.len()))
    };
    [LOG_FILE, COLD_FILE].into_iter().filter_map(file).collect()
}

/// The runs that are shown.
fn chosen(
    args: &Stats,
    catalog: &Catalog,
    survey: &Survey,
) -> Result<Vec<(RunId, Amount)>, ToolError> {
    let amount = |run: &RunId| survey.runs.get(run).copied().unwrap_or_default();
    if let Some(run) = args.run.map(RunId) {
        if !catalog.contains(run) {
            return Err(ToolError::Failed(format!("there is no run {run}")));
        }
        return Ok(vec![(run, amount(&run))]);
    }
    let mut runs: Vec<(RunId, Amount)> =
        survey.runs.iter().map(|(run, amount)| (*run, *amount)).collect();
    runs.sort_unstable_by_key(|(run, amount)| {
        let size = match args.by {
            Measure::Events => amount.events,
            Measure::Bytes => amount.bytes,
        };
        (std::cmp::Reverse(size), *run)
    });
    runs.truncate(args.runs);
    Ok(runs)
}

fn as_json(
    directory: &Path,
    looked: &Looked,
    survey: &Survey,
    files: &[(&str, u64, u64)],
    runs: &[(RunId, Amount)],
) -> Value {
    let catalog = looked.catalog();
    let once = looked.opened.committer.once();
    let counts = catalog.counts();
    let window = |window: &Window| {
        json!({
            "first_id": window.first_id.0, "last_id": window.last_id.0,
            "events": window.events, "bytes": window.bytes,
            "first_time": window.first_time.to_string(), "last_time": window.last_time.to_string(),
        })
    };
    let run = |(id, amount): &(RunId, Amount)| {
        let run = catalog.run(*id).expect("only runs that there are have events");
        json!({
            "id": id.0,
            "project": run.labels.project.as_ref().map(Label::as_str),
            "session": run.labels.session.as_ref().map(Label::as_str),
            "status": run.status.as_str(),
            "created_at": run.created_at.to_string(), "updated_at": run.updated_at.to_string(),
            "event_count": run.event_count,
            "events": amount.events, "bytes": amount.bytes,
            "first_id": amount.first_id.0, "last_id": amount.last_id.0,
        })
    };
    let file = |(name, used, length): &(&str, u64, u64)| json!({"name": name, "disk_bytes": used, "length": length});
    json!({
        "journal": directory.display().to_string(),
        "format": looked.inspected.format,
        "files": files.iter().map(file).collect::<Vec<_>>(),
        "events": survey.all.events,
        "bytes": survey.all.bytes,
        "first_id": survey.all.first_id.0,
        "last_id": survey.all.last_id.0,
        "next_id": catalog.next_id().0,
        "removed_events": survey.removed_events,
        "removed_through": catalog.state().removed_through.0,
        "runs_count": counts.runs,
        "running": counts.running,
        "keys": once.keys(),
        "producers": once.producers(),
        "log": {
            "values": survey.log_values, "bytes": survey.log_bytes, "events": survey.log.events,
            "first_id": survey.log.first_id.0, "last_id": survey.log.last_id.0,
        },
        "windows": catalog.windows().iter().map(window).collect::<Vec<_>>(),
        "runs": runs.iter().map(run).collect::<Vec<_>>(),
    })
}

fn as_text(
    args: &Stats,
    directory: &Path,
    looked: &Looked,
    survey: &Survey,
    files: &[(&str, u64, u64)],
    runs: &[(RunId, Amount)],
) -> String {
    let catalog = looked.catalog();
    let once = looked.opened.committer.once();
    let counts = catalog.counts();
    let mut text = String::new();
    let mut line = |name: &str, value: String| {
        writeln!(text, "{name:<10} {value}").expect("a String takes it");
    };
    let format = looked.inspected.format.map_or("?".to_owned(), |format| format.to_string());
    line("journal", format!("{}, format {format}", directory.display()));
    for (name, used, length) in files {
        line("file", format!("{name}: {} on the disk, {} long", bytes(*used), bytes(*length)));
    }
    line("events", format!("{}, {}", survey.all.events, bytes(survey.all.bytes)));
    line(
        "ids",
        format!(
            "{} to {}; the next is {}",
            survey.all.first_id,
            survey.all.last_id,
            catalog.next_id()
        ),
    );
    line("runs", format!("{}, of which {} running", counts.runs, counts.running));
    line("keys", once.keys().to_string());
    line("producers", once.producers().to_string());
    if survey.removed_events > 0 {
        line("removed", format!("{} that still take room", count(survey.removed_events, "event")));
    }
    line(
        "log",
        format!(
            "{} in {}, {}",
            count(survey.log.events, "event"),
            count(survey.log_values, "value"),
            bytes(survey.log_bytes)
        ),
    );
    let windows = catalog.windows();
    let window_bytes = windows.iter().map(|window| window.bytes).sum();
    line("windows", format!("{}, {}", windows.len(), bytes(window_bytes)));
    if args.windows && !windows.is_empty() {
        text.push('\n');
        let rows = windows.iter().map(|window| {
            [
                window.first_id.to_string(),
                window.last_id.to_string(),
                window.events.to_string(),
                bytes(window.bytes),
                window.first_time.to_string(),
                window.last_time.to_string(),
            ]
        });
        let head = ["FIRST ID", "LAST ID", "EVENTS", "BYTES", "FROM", "TO"];
        text.push_str(&table(head, rows.collect()));
    }
    if !runs.is_empty() {
        text.push('\n');
        let rows = runs.iter().map(|(id, amount)| {
            let run = catalog.run(*id).expect("only runs that there are have events");
            let label = |label: Option<&Label>| {
                label.map_or("-".to_owned(), |label| label.as_str().to_owned())
            };
            [
                id.to_string(),
                run.status.as_str().to_owned(),
                amount.events.to_string(),
                bytes(amount.bytes),
                amount.first_id.to_string(),
                amount.last_id.to_string(),
                label(run.labels.project.as_ref()),
                label(run.labels.session.as_ref()),
            ]
        });
        let head =
            ["RUN", "STATUS", "EVENTS", "BYTES", "FIRST ID", "LAST ID", "PROJECT", "SESSION"];
        text.push_str(&table(head, rows.collect()));
    }
    text
}

fn table<const N: usize>(head: [&str; N], rows: Vec<[String; N]>) -> String {
    let mut lines = vec![head.map(str::to_owned)];
    lines.extend(rows);
    let mut text = String::new();
    let width = |column: usize| lines.iter().map(|line| line[column].len()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..N).map(width).collect();
    for line in &lines {
        let cells = line.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    text
}
