//! `tidewheel journal export` and `import`: events as lines of JSON.

use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Read as _, Write};
use std::path::PathBuf;
use std::sync::RwLock;

use argh::FromArgs;
use serde_json::json;

use super::{
    Progress, ToolError, ToolResult, cannot_open, cannot_read, count, failed, look, place,
};
use crate::client::STANDARD_INPUT;
use crate::event::{EventId, Label, RunId, Scope, Selection};
use crate::journal::catalog::read;
use crate::journal::history::{HistoryRequest, read_forward};
use crate::journal::import::Importer;
use crate::journal::redb::RedbStore;
use crate::journal::store::Store as _;
use crate::limits::{CLIENT_LINE_BYTES_MAX, EXPORT_BYTES, RESTORE_COMMIT_BYTES};
use crate::wire::sse;

/// write events of a journal that no server has open, a line of JSON each, in the order of their ids
#[derive(FromArgs, Clone, Debug)]
#[argh(subcommand, name = "export", help_triggers("-h", "--help"))]
pub(super) struct Export {
    /// directory of the journal; default: as for serve
    #[argh(option, arg_name = "dir")]
    journal: Option<String>,

    /// read settings from this TOML file
    #[argh(option, arg_name = "file")]
    config: Option<PathBuf>,

    /// only events of this run
    #[argh(option, arg_name = "id")]
    run: Option<u64>,

    /// only events of runs with this project label
    #[argh(option, from_str_fn(label))]
    project: Option<Label>,

    /// only events of runs with this session label
    #[argh(option, from_str_fn(label))]
    session: Option<Label>,

    /// only events after this id
    #[argh(option, arg_name = "id", default = "0")]
    after_id: u64,

    /// the file; default: standard output
    #[argh(option, short = 'o', arg_name = "file")]
    output: Option<String>,
}

/// append events, a line of JSON each as export writes them, as new runs of a journal that no server has open
#[derive(FromArgs, Clone, Debug)]
#[argh(subcommand, name = "import", help_triggers("-h", "--help"))]
pub(super) struct Import {
    /// the lines; - is standard input
    #[argh(positional)]
    file: String,

    /// directory of the journal, made when it is missing; default: as for serve
    #[argh(option, arg_name = "dir")]
    journal: Option<String>,

    /// read settings from this TOML file
    #[argh(option, arg_name = "file")]
    config: Option<PathBuf>,

    /// write to this file which run each has become, a line of JSON each
    #[argh(option, arg_name = "file")]
    map: Option<PathBuf>,

    /// print one JSON object
    #[argh(switch)]
    json: bool,
}

fn label(text: &str) -> Result<Label, String> {
    Label::new(text).map_err(|error| error.to_string())
}

// ---- export -------------------------------------------------------------------------------------

pub(super) fn export(args: &Export, standard_output: &mut dyn Write) -> ToolResult {
    let directory = place(args.journal.as_ref(), args.config.as_ref())?.directory;
    let scope = match (args.run, &args.project, &args.session) {
        (None, None, None) => Scope::All,
        (Some(run), None, None) => Scope::Runs([RunId(run)].into()),
        (None, Some(project), None) => Scope::Project(project.clone()),
        (None, None, Some(session)) => Scope::Session(session.clone()),
        _ => {
            return Err(ToolError::Usage("give one of --run, --project and --session".to_owned()));
        }
    };
    let looked = look(&directory)?;
    if let Some(run) = args.run.map(RunId)
        && !looked.catalog().contains(run)
    {
        return Err(ToolError::Failed(format!("there is no run {run}")));
    }
    let store = &looked.inspected.store;
    let total = store.disk_bytes().unwrap_or_default();
    let catalog = RwLock::new(looked.opened.catalog);
    let mut out: Box<dyn Write> = match args.output.as_deref() {
        None | Some(STANDARD_INPUT) => Box::new(BufWriter::new(standard_output)),
        Some(path) => Box::new(BufWriter::new(File::create(path).map_err(failed(path))?)),
    };
    let progress = Progress::begin("export", total);
    let upto = read(&catalog).last_id();
    let mut after = EventId(args.after_id);
    let mut lines = Vec::new();
    loop {
        let request = HistoryRequest {
            selection: Selection { scope: scope.clone(), types: None },
            after,
            upto,
            events_max: usize::MAX,
            bytes_max: EXPORT_BYTES,
            values_max: usize::MAX,
        };
        lines.clear();
        let found = read_forward(store, &catalog, &request, &mut |event| {
            let before = lines.len();
            sse::event_json(&mut lines, event);
            lines.push(b'\n');
            lines.len() - before
        })
        .map_err(cannot_read)?;
        match out.write_all(&lines) {
            // Whoever read it has seen enough.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
            written => written.map_err(failed("cannot write the output"))?,
        }
        progress.add(lines.len() as u64);
        if found.complete {
            break;
        }
        after = found.scanned_to;
    }
    match out.flush() {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(failed("cannot write the output")(error))
        }
        _ => Ok(()),
    }
}

// ---- import -------------------------------------------------------------------------------------

pub(super) fn import(args: &Import, out: &mut dyn Write) -> ToolResult {
    let place = place(args.journal.as_ref(), args.config.as_ref())?;
    let (input, length): (Box<dyn BufRead>, u64) = match args.file.as_str() {
        STANDARD_INPUT => (Box::new(io::stdin().lock()), 0),
        path => {
            let file = File::open(path).map_err(failed(path))?;
            let length = file.metadata().map_or(0, |metadata| metadata.len());
            (Box::new(BufReader::new(file)), length)
        }
    };
    let map = args.map.as_ref().map(|path| File::create(path).map_err(failed(path.display())));
    let map = map.transpose()?;
    let store = RedbStore::open(&place.directory).map_err(cannot_open)?;
    let mut importer = Importer::new(&store, place.keys_max).map_err(cannot_read)?;
    let progress = Progress::begin("import", length);
    let mut done = Done::default();
    let outcome = lines(input, &mut importer, &progress, &mut done);
    drop(progress);
    let runs = importer.runs();
    if let Some(map) = map {
        let mut map = BufWriter::new(map);
        let written = runs.iter().try_for_each(|(from, run)| {
            writeln!(map, "{}", json!({"from": from, "run_id": run.0}))
        });
        written.and_then(|()| map.flush()).map_err(failed("cannot write the map"))?;
    }
    let text = if args.json {
        json!({"events": done.events, "lines": done.lines, "runs": runs.len()}).to_string()
    } else {
        format!(
            "imported {} of {} from {}",
            count(done.events, "event"),
            count(runs.len() as u64, "run"),
            count(done.lines, "line")
        )
    };
    super::say(out, &format!("{text}\n"))?;
    outcome
}

/// What was imported.
#[derive(Default)]
struct Done {
    /// Events, those among them that begin a run whose beginning was missing.
    events: u64,
    /// Lines that they come from.
    lines: u64,
}

fn lines(
    mut input: Box<dyn BufRead>,
    importer: &mut Importer<'_>,
    progress: &Progress,
    done: &mut Done,
) -> ToolResult {
    let mut number = 0;
    let mut line = Vec::new();
    let refuse = |number: u64, reason: &str, done: &Done| {
        let first = done.lines + 1;
        ToolError::Failed(format!(
            "line {number}: {reason}. Nothing is imported of line {first} and those after it"
        ))
    };
    loop {
        line.clear();
        let mut bounded = (&mut input).take(CLIENT_LINE_BYTES_MAX as u64 + 1);
        let length =
            bounded.read_until(b'\n', &mut line).map_err(failed("cannot read the lines"))?;
        if length == 0 {
            break;
        }
        number += 1;
        progress.add(length as u64);
        if length > CLIENT_LINE_BYTES_MAX {
            return Err(refuse(number, "it is longer than an event may be", done));
        }
        let content = line.trim_ascii();
        if !content.is_empty() {
            importer.line(content).map_err(|reason| refuse(number, &reason, done))?;
        }
        if importer.batch_bytes() >= RESTORE_COMMIT_BYTES {
            done.events += importer.flush().map_err(cannot_read)?;
            done.lines = number;
        }
    }
    done.events += importer.flush().map_err(cannot_read)?;
    done.lines = number;
    Ok(())
}
