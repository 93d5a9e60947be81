//! A journal that is only looked at: whoever checks or copies one must leave no trace in it.

mod overlay;

use std::cell::Cell;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, OnceLock};

use redb::backends::InMemoryBackend;
use redb::{Builder, Database, ReadableDatabase};

use self::overlay::Overlay;
use super::{
    COLD_FILE, DatabaseFile, LOG_FILE, META, META_FORMAT, RedbStore, check_format, make_cold,
    make_log, open_error, rows_of, trusted,
};
use crate::journal::disk::Room;
use crate::journal::store::{OpenError, StoreError, Table};
use crate::limits::{COLD_CACHE_BYTES, LOG_CACHE_BYTES};

/// Where in a file its first page says how it was left.
const LEFT_BYTE: u64 = 9;
/// In that byte: a program had the file open when it ended.
const LEFT_OPEN: u8 = 2;

/// How a file was found that is only looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FileState {
    /// As it was closed.
    Whole,
    /// As a crash has left it: what was committed is there.
    NotClosed,
    /// It is not there.
    Missing,
    /// The last commit is damaged; what was before it is there.
    LastCommitDamaged,
    /// Nothing of it can be read.
    Unreadable(String),
}

/// A journal that is only looked at.
#[derive(Debug)]
pub struct Inspected {
    /// It. A file that cannot be read is an empty one here.
    pub store: RedbStore,
    /// The format of the journal; none when its file does not say it.
    pub format: Option<u64>,
    /// How the file of the log was found.
    pub log: FileState,
    /// How the file of the cold part was found.
    pub cold: FileState,
}

/// What is written stays in memory, and needs no room on the disk.
#[derive(Debug)]
struct Untouched {
    files: [PathBuf; 2],
}

impl Room for Untouched {
    fn hold(&self, _bytes: u64) -> io::Result<()> {
        Ok(())
    }

    fn used_bytes(&self) -> io::Result<u64> {
        let there = self.files.iter().filter(|path| path.exists());
        there.map(|path| Ok(fs::metadata(path)?.blocks() * 512)).sum()
    }
}

impl RedbStore {
    /// Opens the journal in this directory to be looked at: neither file is changed, whatever is
    /// written stays in memory.
    ///
    /// # Errors
    /// When there is none, and as for [`RedbStore::open`].
    pub fn open_read_only(directory: &Path) -> Result<Inspected, OpenError> {
        let inspected = RedbStore::look(directory, false)?;
        for (state, name) in [(&inspected.log, LOG_FILE), (&inspected.cold, COLD_FILE)] {
            let reason = match state {
                FileState::Unreadable(reason) => reason.clone(),
                FileState::Missing if name == LOG_FILE => "it is missing".to_owned(),
                _ => continue,
            };
            return Err(OpenError::Corrupt { path: directory.join(name), reason });
        }
        Ok(inspected)
    }

    /// The same for a journal that may be damaged: every page of both files is checked.
    ///
    /// # Errors
    /// When there is none, another process has it open, or it is of a newer format.
    pub fn inspect(directory: &Path) -> Result<Inspected, OpenError> {
        RedbStore::look(directory, true)
    }

    fn look(directory: &Path, is_checked: bool) -> Result<Inspected, OpenError> {
        let (path, cold_path) = (directory.join(LOG_FILE), directory.join(COLD_FILE));
        if !path.exists() && !cold_path.exists() {
            return Err(OpenError::Missing { path: directory.into() });
        }
        let (log, log_state) = overlaid(&path, LOG_CACHE_BYTES, is_checked)?;
        let (cold, cold_state) = overlaid(&cold_path, COLD_CACHE_BYTES, is_checked)?;
        let fail = |error: redb::Error| open_error(&path, error);
        let format = trusted(|| format(&log)).map_err(fail)?;
        if format.is_none() {
            make_log(&log).map_err(fail)?;
        }
        if let Some(found) = trusted(|| check_format(&log)).map_err(fail)? {
            return Err(OpenError::Newer { path, found });
        }
        let has_tables = || has_tables(&cold);
        if !trusted(has_tables).map_err(|error| open_error(&cold_path, error))? {
            make_cold(&cold).map_err(|error| open_error(&cold_path, error))?;
        }
        let room = Arc::new(Untouched { files: [path.clone(), cold_path.clone()] });
        let store = RedbStore {
            log: DatabaseFile::new(log),
            cold: DatabaseFile::new(cold),
            room,
            path,
            cold_path,
            failure: OnceLock::new(),
            unsynced: AtomicU64::new(0),
            synced: AtomicU64::new(0),
        };
        Ok(Inspected { store, format, log: log_state, cold: cold_state })
    }

    /// Gives back what the files have to spare. Whether there was any.
    ///
    /// # Errors
    /// When it cannot be done.
    pub fn compact(&mut self) -> Result<bool, StoreError> {
        let fail = |path: &Path, error: &redb::CompactionError| {
            StoreError::Failed(format!("{}: {error}", path.display()))
        };
        let log = self.log.get_mut().and_then(Database::compact);
        let log = log.map_err(|error| fail(&self.path, &error))?;
        let cold = self.cold.get_mut().and_then(Database::compact);
        let cold = cold.map_err(|error| fail(&self.cold_path, &error))?;
        Ok(log || cold)
    }
}

/// Opens a file without changing it. One that is not there, or cannot be read, is an empty one.
fn overlaid(
    path: &Path,
    cache_bytes: usize,
    is_checked: bool,
) -> Result<(Database, FileState), OpenError> {
    let empty = |state| {
        let made = Builder::new().create_with_backend(InMemoryBackend::new());
        made.map(|made| (made, state)).map_err(|error| open_error(path, error.into()))
    };
    let overlay = match Overlay::open(path) {
        Ok(overlay) => overlay,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return empty(FileState::Missing),
        Err(error) => return Err(OpenError::Io { path: path.into(), error }),
    };
    // redb would make a new one of it.
    if fs::metadata(path).is_ok_and(|file| file.len() == 0) {
        return empty(FileState::Unreadable("it is empty".to_owned()));
    }
    let was_open =
        was_left_open(path).map_err(|error| OpenError::Io { path: path.into(), error })?;
    // redb says how far a repair is; it says so little only when it has to let go of a commit.
    let lost = Rc::new(Cell::new(false));
    let is_lost = Rc::clone(&lost);
    let opened = Builder::new()
        .set_cache_size(cache_bytes)
        .set_check_integrity_on_open(is_checked)
        .set_repair_callback(move |repair| {
            is_lost.set(is_lost.get() || (0.2..0.5).contains(&repair.progress()));
        })
        .create_with_backend(overlay);
    match opened {
        Ok(database) if lost.get() && !was_open => Ok((database, FileState::LastCommitDamaged)),
        Ok(database) if was_open => Ok((database, FileState::NotClosed)),
        Ok(database) => Ok((database, FileState::Whole)),
        Err(error) => match open_error(path, error.into()) {
            OpenError::Corrupt { reason, .. } => empty(FileState::Unreadable(reason)),
            error => Err(error),
        },
    }
}

/// Whether a program had the file open when it ended.
fn was_left_open(path: &Path) -> io::Result<bool> {
    let mut byte = [0];
    match File::open(path)?.read_exact_at(&mut byte, LEFT_BYTE) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        read => read.map(|()| byte[0] & LEFT_OPEN != 0),
    }
}

/// The format that the file says.
fn format(database: &Database) -> Result<Option<u64>, redb::Error> {
    match database.begin_read()?.open_table(META) {
        Ok(meta) => Ok(meta.get(META_FORMAT)?.map(|format| format.value())),
        Err(redb::TableError::TableDoesNotExist(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Whether the cold part has its tables.
fn has_tables(database: &Database) -> Result<bool, redb::Error> {
    match database.begin_read()?.open_table(rows_of(Table::State)) {
        Ok(_) => Ok(true),
        Err(redb::TableError::TableDoesNotExist(_)) => Ok(false),
        Err(error) => Err(error.into()),
    }
}
