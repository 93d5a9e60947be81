//! `tidewheel journal`: what is done with a journal beside serving it.
//!
//! Every command but a backup with `--server` works on a journal that no server has open, and says
//! so when one has. Those that only read leave no trace in it. What a command is for goes to
//! standard output, all else to standard error, where a terminal sees a bar while it takes long.

mod backup;
mod compact;
mod lines;
mod progress;
mod stats;
mod verify;

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use argh::FromArgs;

use self::progress::Progress;
use crate::config::{self, Serve};
use crate::journal::catalog::Catalog;
use crate::journal::commit::{Committer, Opened};
use crate::journal::redb::{Inspected, RedbStore};
use crate::journal::store::{OpenError, StoreError};

/// look after a journal: what is in it, whether it is whole, backups, export and import
#[derive(FromArgs, Clone, Debug)]
#[argh(subcommand, name = "journal", help_triggers("-h", "--help"))]
pub struct Journal {
    #[argh(subcommand)]
    command: JournalCommand,
}

#[derive(FromArgs, Clone, Debug)]
#[argh(subcommand)]
enum JournalCommand {
    Stats(stats::Stats),
    Verify(verify::Verify),
    Compact(compact::Compact),
    Backup(backup::Backup),
    Restore(backup::Restore),
    Export(lines::Export),
    Import(lines::Import),
}

/// Why a command ends without success.
#[derive(Debug, thiserror::Error)]
pub enum ToolError {
    /// The command line, or a setting, makes no sense; nothing was done.
    #[error("{0}")]
    Usage(String),
    /// Something went wrong on the way.
    #[error("{0}")]
    Failed(String),
    /// What was found is wrong, and has been said.
    #[error("the journal has problems")]
    Problems,
}

type ToolResult = Result<(), ToolError>;

/// Does what a command line asks for.
///
/// # Errors
/// See [`ToolError`].
pub fn run(journal: &Journal) -> ToolResult {
    let out = &mut io::stdout().lock();
    match &journal.command {
        JournalCommand::Stats(args) => stats::run(args, out),
        JournalCommand::Verify(args) => verify::run(args, out),
        JournalCommand::Compact(args) => compact::run(args, out),
        JournalCommand::Backup(args) => backup::run(args, out),
        JournalCommand::Restore(args) => backup::restore(args, out),
        JournalCommand::Export(args) => lines::export(args, out),
        JournalCommand::Import(args) => lines::import(args, out),
    }
}

/// Where the journal is, and how much it remembers and keeps: as for `serve`.
struct Place {
    directory: PathBuf,
    keys_max: usize,
    window_bytes: u64,
    /// `None` keeps all.
    run_events_max: Option<u64>,
}

fn place(journal: Option<&String>, config: Option<&PathBuf>) -> Result<Place, ToolError> {
    let flags = Serve { journal: journal.cloned(), config: config.cloned(), ..Serve::default() };
    let environment: Vec<(OsString, OsString)> = std::env::vars_os().collect();
    let settings = config::load(&flags, environment)
        .map_err(|error| ToolError::Usage(error.to_string()))?
        .into_settings();
    let keys_max = settings.idempotency_keys_max as usize;
    let window_bytes = settings.window_bytes.0;
    let run_events_max = settings.max_events_per_run.map(|max| max.get().into());
    Ok(Place { directory: settings.journal, keys_max, window_bytes, run_events_max })
}

/// A journal that is only looked at, and what is known of it.
struct Looked {
    inspected: Inspected,
    opened: Opened,
}

impl Looked {
    fn catalog(&self) -> &Catalog {
        &self.opened.catalog
    }
}

fn look(directory: &Path) -> Result<Looked, ToolError> {
    let inspected = RedbStore::open_read_only(directory).map_err(cannot_open)?;
    let opened = Committer::open(&inspected.store, usize::MAX).map_err(cannot_read)?;
    Ok(Looked { inspected, opened })
}

fn cannot_open(error: OpenError) -> ToolError {
    ToolError::Failed(match error {
        OpenError::InUse { path } => format!(
            "the journal {} is in use: a server has it open. Stop the server first, or have it make \
             a backup (tidewheel journal backup --server, see admin_listen) and look at that, restored",
            path.display()
        ),
        OpenError::Corrupt { path, reason } => format!(
            "the journal {} is damaged: {reason}. tidewheel journal verify tells how far",
            path.display()
        ),
        error => error.to_string(),
    })
}

fn cannot_read(error: StoreError) -> ToolError {
    ToolError::Failed(match error {
        StoreError::Corrupt { .. } | StoreError::CorruptRow { .. } => {
            format!("the journal is damaged: {error}. tidewheel journal verify tells how far")
        }
        error => error.to_string(),
    })
}

/// Writes what a command is for. Whoever read it may have seen enough, which is no error.
fn say(out: &mut dyn Write, text: &str) -> ToolResult {
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(ToolError::Failed(format!("cannot write the output: {error}")))
        }
        _ => Ok(()),
    }
}

fn failed(what: impl std::fmt::Display) -> impl FnOnce(io::Error) -> ToolError {
    move |error| ToolError::Failed(format!("{what}: {error}"))
}

/// Bytes for people.
fn bytes(count: u64) -> String {
    bytesize::ByteSize(count).to_string()
}

/// A number with its noun: `1 run`, `2 runs`.
fn count(number: u64, noun: &str) -> String {
    if number == 1 { format!("1 {noun}") } else { format!("{number} {noun}s") }
}
