//! `tidewheel journal backup` and `restore`: a journal as one file, and back.
//!
//! A backup has its name only when it is whole, and so has what is restored: until then there is a
//! file `NAME.partial`, or a directory `NAME.restoring`, which nothing takes for the real one.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use argh::FromArgs;
use serde_json::json;

use super::{
    Progress, ToolError, ToolResult, bytes, cannot_open, cannot_read, count, failed, look, place,
    say,
};
use crate::client::STANDARD_INPUT;
use crate::clock::Clock;
use crate::journal::backup::{
    BackupError, BackupReader, BackupWriter, Header, Piece, Restorer, Totals,
};
use crate::journal::commit::Committer;
use crate::journal::disk::RESERVE_FILE;
use crate::journal::redb::{COLD_FILE, LOG_FILE, RedbStore};
use crate::journal::store::{JOURNAL_FORMAT, StoreError};
use crate::limits::{BACKUP_FRAME_BYTES, HEADER_BYTES_MAX, PAGE_BYTES_MAX};

/// How long a server may be silent in a backup: its keeper may have to finish what it is at.
const SILENCE_MAX: Duration = Duration::from_mins(2);

/// write a journal to one file: of one that no server has open, or, with --server, of one that is served
#[derive(FromArgs, Clone, Debug)]
#[argh(subcommand, name = "backup", help_triggers("-h", "--help"))]
pub(super) struct Backup {
    /// directory of the journal; default: as for serve
    #[argh(option, arg_name = "dir")]
    journal: Option<String>,

    /// read settings from this TOML file
    #[argh(option, arg_name = "file")]
    config: Option<PathBuf>,

    /// have this server make it: the address that it has for administration, http: or unix:
    #[argh(option, arg_name = "address")]
    server: Option<String>,

    /// the file, which must not be there yet; - is standard output
    #[argh(option, short = 'o', arg_name = "file")]
    output: String,

    /// print one JSON object
    #[argh(switch)]
    json: bool,
}

/// make a journal of a backup
#[derive(FromArgs, Clone, Debug)]
#[argh(subcommand, name = "restore", help_triggers("-h", "--help"))]
pub(super) struct Restore {
    /// the backup; - is standard input
    #[argh(positional)]
    file: String,

    /// directory of the new journal, which must be empty or not there; default: as for serve
    #[argh(option, arg_name = "dir")]
    journal: Option<String>,

    /// read settings from this TOML file
    #[argh(option, arg_name = "file")]
    config: Option<PathBuf>,

    /// print one JSON object
    #[argh(switch)]
    json: bool,
}

// ---- backup -------------------------------------------------------------------------------------

pub(super) fn run(args: &Backup, out: &mut dyn Write) -> ToolResult {
    if args.server.is_some() && args.journal.is_some() {
        return Err(ToolError::Usage("give --journal or --server, not both".to_owned()));
    }
    let mut target = Target::create(&args.output, out)?;
    let made = match &args.server {
        Some(server) => of_server(server, &mut target),
        None => of_files(args, &mut target),
    };
    let made = match made {
        Ok(made) => made,
        Err(error) => {
            target.discard();
            return Err(error);
        }
    };
    let written = target.finish()?;
    let Made { header, totals } = made;
    let text = if args.json {
        json!({
            "last_id": header.last_id.0, "made_at": header.made_at.to_string(),
            "bytes": written, "rows": totals.rows, "values": totals.values,
        })
        .to_string()
    } else {
        format!(
            "{} up to id {} of {}: {}, {}",
            bytes(written),
            header.last_id,
            header.made_at,
            count(totals.rows, "row"),
            count(totals.values, "value"),
        )
    };
    if args.output == STANDARD_INPUT {
        // Standard output has the backup.
        eprintln!("{text}");
        return Ok(());
    }
    say(out, &format!("{text}\n"))
}

/// What was made.
struct Made {
    header: Header,
    totals: Totals,
}

/// Where a backup is written to.
struct Target<'a> {
    out: Box<dyn Write + 'a>,
    /// The file, and the name that it gets when it is whole.
    file: Option<(File, PathBuf, PathBuf)>,
    written: u64,
}

impl<'a> Target<'a> {
    fn create(output: &str, standard_output: &'a mut dyn Write) -> Result<Target<'a>, ToolError> {
        if output == STANDARD_INPUT {
            return Ok(Target { out: Box::new(standard_output), file: None, written: 0 });
        }
        let name = PathBuf::from(output);
        if name.exists() {
            return Err(ToolError::Failed(format!("{output} is there already")));
        }
        let partial = beside(&name, ".partial");
        let file = File::create(&partial).map_err(failed(partial.display()))?;
        let out = Box::new(file.try_clone().map_err(failed(partial.display()))?);
        Ok(Target { out, file: Some((file, partial, name)), written: 0 })
    }

    fn write(&mut self, piece: &[u8]) -> ToolResult {
        self.written += piece.len() as u64;
        self.out.write_all(piece).map_err(failed("cannot write the backup"))
    }

    /// Removes what is not whole.
    fn discard(self) {
        if let Some((_, partial, _)) = self.file {
            // It has another name than a backup, should it stay.
            let _ = fs::remove_file(partial);
        }
    }

    /// Gives the file its name. How many bytes it has.
    fn finish(mut self) -> Result<u64, ToolError> {
        self.out.flush().map_err(failed("cannot write the backup"))?;
        if let Some((file, partial, name)) = self.file {
            file.sync_all().map_err(failed(partial.display()))?;
            fs::rename(&partial, &name).map_err(failed(name.display()))?;
            sync_parent(&name)?;
        }
        Ok(self.written)
    }
}

fn of_files(args: &Backup, target: &mut Target<'_>) -> Result<Made, ToolError> {
    let directory = place(args.journal.as_ref(), args.config.as_ref())?.directory;
    let looked = look(&directory)?;
    let log_bytes = looked.opened.log_bytes;
    let mut writer = BackupWriter::new(looked.catalog(), log_bytes, Clock::default().now());
    let progress = Progress::begin("backup", writer.header().bytes);
    while let Some(piece) = writer.step(&looked.inspected.store).map_err(cannot_read)? {
        progress.add(piece.len() as u64);
        target.write(&piece)?;
    }
    Ok(Made { header: writer.header(), totals: writer.totals() })
}

/// Takes the stream of a server, and checks it on the way.
fn of_server(server: &str, target: &mut Target<'_>) -> Result<Made, ToolError> {
    let mut connection = BufReader::with_capacity(BACKUP_FRAME_BYTES, connect(server)?);
    begin(&mut connection, server)?;
    let mut progress = None;
    let mut header = None;
    let totals = each_piece(&mut connection, |piece, raw| {
        if let Some(Piece::Header(found)) = piece {
            header = Some(*found);
            progress = Some(Progress::begin("backup", found.bytes));
        }
        if let (Some(progress), None) = (&progress, piece) {
            progress.add(raw.len() as u64);
        }
        target.write(raw)
    })?;
    Ok(Made { header: header.expect("a whole backup has a header"), totals })
}

/// A connection to a server, whichever way.
trait Connection: Read + Write {}
impl Connection for TcpStream {}
impl Connection for UnixStream {}

fn connect(server: &str) -> Result<Box<dyn Connection>, ToolError> {
    let timeout = Some(SILENCE_MAX);
    let cannot = || failed(format!("cannot reach {server}"));
    if let Some(path) = server.strip_prefix("unix:") {
        let stream = UnixStream::connect(path).map_err(cannot())?;
        stream.set_read_timeout(timeout).map_err(cannot())?;
        return Ok(Box::new(stream));
    }
    let Some(address) = server.strip_prefix("http://") else {
        return Err(ToolError::Usage(format!(
            "{server:?} is not the address of a server, such as http://127.0.0.1:8001 or unix:/path"
        )));
    };
    let stream = TcpStream::connect(address.trim_end_matches('/')).map_err(cannot())?;
    stream.set_read_timeout(timeout).map_err(cannot())?;
    Ok(Box::new(stream))
}

/// Asks for the backup, and reads the head of the answer.
fn begin(connection: &mut BufReader<Box<dyn Connection>>, server: &str) -> ToolResult {
    let lost = || failed(format!("{server} does not answer"));
    let request = "GET /admin/backup HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    connection.get_mut().write_all(request.as_bytes()).map_err(lost())?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let before = head.len();
        let mut rest = connection.take((HEADER_BYTES_MAX - before) as u64);
        rest.read_until(b'\n', &mut head).map_err(lost())?;
        if head.len() == before {
            return Err(ToolError::Failed(format!("{server} gives no answer of HTTP")));
        }
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let status = head.split(' ').nth(1).unwrap_or_default();
    match status {
        "200" => Ok(()),
        "404" => Err(ToolError::Failed(format!(
            "{server} makes no backups: that is for the address of the setting admin_listen"
        ))),
        _ => {
            let mut body = String::new();
            // What can be read of it is good enough.
            let _ = connection.take(PAGE_BYTES_MAX as u64).read_to_string(&mut body);
            let problem: serde_json::Value = serde_json::from_str(&body).unwrap_or_default();
            let detail = problem["detail"].as_str().or(problem["title"].as_str());
            let detail = detail.unwrap_or_default().replace(char::is_control, "\u{fffd}");
            Err(ToolError::Failed(format!("{server} refuses: {status} {detail}")))
        }
    }
}

/// Reads a backup to its end, and shows each part, then the bytes as they came.
fn each_piece(
    input: &mut dyn Read,
    mut visit: impl FnMut(Option<&Piece>, &[u8]) -> ToolResult,
) -> Result<Totals, ToolError> {
    let not_whole = |error: BackupError| ToolError::Failed(format!("the backup: {error}"));
    let mut reader = BackupReader::default();
    let mut buffer = vec![0; BACKUP_FRAME_BYTES];
    let mut totals = Totals::default();
    loop {
        let count = match input.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(failed("cannot read the backup")(error)),
        };
        reader.handle_bytes(&buffer[..count]);
        while let Some(piece) = reader.poll_piece().map_err(not_whole)? {
            if let Piece::End(found) = &piece {
                totals = *found;
            }
            visit(Some(&piece), &[])?;
        }
        visit(None, &buffer[..count])?;
    }
    reader.handle_eof().map_err(not_whole)?;
    Ok(totals)
}

// ---- restore ------------------------------------------------------------------------------------

pub(super) fn restore(args: &Restore, out: &mut dyn Write) -> ToolResult {
    let place = place(args.journal.as_ref(), args.config.as_ref())?;
    let directory = place.directory;
    let is_free = match fs::read_dir(&directory) {
        Ok(mut entries) => entries.next().is_none(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => true,
        Err(error) => return Err(failed(directory.display())(error)),
    };
    if !is_free {
        return Err(ToolError::Failed(format!(
            "{} is not empty: give another --journal, or move away what is there",
            directory.display()
        )));
    }
    let mut input: Box<dyn Read> = match args.file.as_str() {
        STANDARD_INPUT => Box::new(io::stdin().lock()),
        path => Box::new(File::open(path).map_err(failed(path))?),
    };
    let unfinished = beside(&directory, ".restoring");
    remove_journal(&unfinished)?;
    let restored = into_directory(&mut input, &unfinished);
    let header = match restored {
        Ok(header) => header,
        Err(error) => {
            // What it was about is more worth saying than that it cannot be cleared away.
            let _ = remove_journal(&unfinished);
            return Err(error);
        }
    };
    fs::rename(&unfinished, &directory).map_err(failed(directory.display()))?;
    sync_parent(&directory)?;
    let next_id = header.1;
    let text = if args.json {
        json!({
            "journal": directory.display().to_string(),
            "last_id": header.0.last_id.0, "next_id": next_id,
            "made_at": header.0.made_at.to_string(),
        })
        .to_string()
    } else {
        format!(
            "{} is what was there up to id {} at {}; ids go on with {next_id}",
            directory.display(),
            header.0.last_id,
            header.0.made_at
        )
    };
    say(out, &format!("{text}\n"))
}

/// Makes the journal, and opens it as a server would. The header, and the next id.
fn into_directory(input: &mut dyn Read, directory: &Path) -> Result<(Header, u64), ToolError> {
    let store = RedbStore::open(directory).map_err(cannot_open)?;
    let mut restorer = Restorer::new(&store);
    let mut header = None;
    let mut progress = None;
    let full = |error: StoreError| ToolError::Failed(format!("{}: {error}", directory.display()));
    each_piece(input, |piece, raw| {
        if let Some(Piece::Header(found)) = piece {
            if found.format > JOURNAL_FORMAT {
                return Err(ToolError::Failed(format!(
                    "the backup is of a journal of format {}, newer than format {JOURNAL_FORMAT} \
                     which this version of tidewheel knows",
                    found.format
                )));
            }
            header = Some(*found);
            progress = Some(Progress::begin("restore", found.bytes));
        }
        if let (Some(progress), None) = (&progress, piece) {
            progress.add(raw.len() as u64);
        }
        piece.map_or(Ok(()), |piece| restorer.take(piece.clone()).map_err(full))
    })?;
    let opened = Committer::open(&store, usize::MAX).map_err(cannot_read)?;
    let header = header.expect("a whole backup has a header");
    Ok((header, opened.catalog.next_id().0))
}

/// Removes a journal that was not finished.
fn remove_journal(directory: &Path) -> ToolResult {
    let gone = |result: io::Result<()>| match result {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(failed(directory.display())(error))
        }
        _ => Ok(()),
    };
    for name in [LOG_FILE, COLD_FILE, RESERVE_FILE] {
        gone(fs::remove_file(directory.join(name)))?;
    }
    gone(fs::remove_dir(directory))
}

/// The name with this at its end.
fn beside(path: &Path, suffix: &str) -> PathBuf {
    // A slash at the end of a directory's name is not part of it.
    let path: PathBuf = path.components().collect();
    let mut name = OsString::from(path);
    name.push(suffix);
    name.into()
}

/// A name is on disk when its directory is.
fn sync_parent(path: &Path) -> ToolResult {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let parent = parent.unwrap_or(Path::new("."));
    File::open(parent).and_then(|parent| parent.sync_all()).map_err(failed(parent.display()))
}
