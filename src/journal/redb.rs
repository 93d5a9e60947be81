//! The journal on disk: two redb files in the journal's directory. This is the only file that knows
//! redb.
//!
//! `log.redb` has one table of values, whose keys only go up, so that a commit writes at the
//! right-hand edge of one tree; and one of words about the journal itself (its format). It stays
//! small, and so the walk over all of it that redb makes after a crash is short. `store.redb` has the
//! tables of the cold part; it may be large, and what would spare it that walk (*quick repair*)
//! is written with each of its commits, which nobody waits for.
//!
//! After a failed write redb refuses everything until it is opened again, and rightly so. A full
//! disk should not be the end, though: so the room is looked at before a transaction begins, and a
//! batch that might not fit is refused while redb has not been touched.

mod overlay;

use std::cell::Cell;
use std::fs::{self, File};
use std::io;
use std::ops::ControlFlow;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::OnceLock;

use redb::backends::InMemoryBackend;
use redb::{Builder, Database, Durability, ReadableDatabase, ReadableTable, TableDefinition};

use self::overlay::Overlay;
use super::store::{
    Change, JOURNAL_FORMAT, OpenError, RowVisitor, Store, StoreError, Table, ValueVisitor,
};
use crate::event::EventId;
use crate::limits::{COLD_CACHE_BYTES, DISK_RESERVE_BYTES, LOG_CACHE_BYTES, REMOVAL_BYTES};

/// The file of the log, in the journal's directory.
pub const LOG_FILE: &str = "log.redb";
/// The file of the cold part.
pub const COLD_FILE: &str = "store.redb";

const VALUES: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("values");
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
const META_FORMAT: &str = "format";
/// The last key that was removed, since it was moved.
const META_REMOVED: &str = "removed_through";

/// Where in a file its first page says how it was left.
const LEFT_BYTE: u64 = 9;
/// In that byte: a program had the file open when it ended.
const LEFT_OPEN: u8 = 2;

type Rows = TableDefinition<'static, &'static [u8], &'static [u8]>;

/// The table of rows in `store.redb`.
fn rows_of(table: Table) -> Rows {
    TableDefinition::new(match table {
        Table::State => "state",
        Table::Windows => "windows",
        Table::Blocks => "blocks",
        Table::Order => "order",
        Table::Runs => "runs",
        Table::Heads => "heads",
        Table::Keys => "keys",
        Table::Producers => "producers",
    })
}

/// Keeps the journal in a directory.
#[derive(Debug)]
pub struct RedbStore {
    log: Database,
    cold: Database,
    path: PathBuf,
    cold_path: PathBuf,
    /// What the first failed write said.
    failure: OnceLock<String>,
    /// Room that must be left on the disk after a batch.
    reserve_bytes: u64,
}

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
        let format = format(&log).map_err(fail)?;
        if let Some(found) = check_format(&log).map_err(fail)? {
            return Err(OpenError::Newer { path, found });
        }
        make_tables(&cold).map_err(|error| open_error(&cold_path, error))?;
        let (failure, reserve_bytes) = (OnceLock::new(), DISK_RESERVE_BYTES);
        let store = RedbStore { log, cold, path, cold_path, failure, reserve_bytes };
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
        let log = self.log.compact().map_err(|error| fail(&self.path, &error))?;
        let cold = self.cold.compact().map_err(|error| fail(&self.cold_path, &error))?;
        Ok(log || cold)
    }

    /// Opens the journal in this directory, or makes one there.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open(directory: &Path) -> Result<RedbStore, OpenError> {
        make_directory(directory)
            .map_err(|error| OpenError::Io { path: directory.into(), error })?;
        let (path, cold_path) = (directory.join(LOG_FILE), directory.join(COLD_FILE));
        if cold_path.exists() && !path.exists() {
            let reason = format!("it is missing, and {} is there", cold_path.display());
            return Err(OpenError::Corrupt { path, reason });
        }
        let fail = |error: redb::Error| open_error(&path, error);
        let log = Builder::new()
            .set_cache_size(LOG_CACHE_BYTES)
            .create(&path)
            .map_err(|error| fail(error.into()))?;
        check_format(&log)
            .map_err(fail)?
            .map_or(Ok(()), |found| Err(OpenError::Newer { path: path.clone(), found }))?;
        let fail = |error: redb::Error| open_error(&cold_path, error);
        let cold = Builder::new()
            .set_cache_size(COLD_CACHE_BYTES)
            .create(&cold_path)
            .map_err(|error| fail(error.into()))?;
        make_tables(&cold).map_err(fail)?;
        // The files' names must be on disk as well before anything in them counts as kept.
        sync_directory(directory)
            .map_err(|error| OpenError::Io { path: directory.into(), error })?;
        Ok(RedbStore {
            log,
            cold,
            path,
            cold_path,
            failure: OnceLock::new(),
            reserve_bytes: DISK_RESERVE_BYTES,
        })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether a batch of so many bytes fits on the disk and leaves the reserve free.
    fn has_room(&self, batch_bytes: u64) -> bool {
        // A system that cannot say is no reason to refuse: the write itself will tell.
        let Ok(disk) = rustix::fs::statvfs(&self.path) else { return true };
        let free = disk.f_bavail.saturating_mul(disk.f_frsize);
        // A value takes up to twice its bytes, and what it replaces is freed a commit later.
        free >= batch_bytes.saturating_mul(4).saturating_add(self.reserve_bytes)
    }

    fn check_failure(&self) -> Result<(), StoreError> {
        self.failure.get().map_or(Ok(()), |failure| Err(StoreError::Failed(failure.clone())))
    }

    fn fail(&self, path: &Path, error: &redb::Error) -> StoreError {
        let failure = format!("{}: {error}", path.display());
        StoreError::Failed(self.failure.get_or_init(|| failure).clone())
    }

    fn write(&self, values: &[(EventId, Vec<u8>)], sync: bool) -> Result<(), redb::Error> {
        let mut transaction = self.log.begin_write()?;
        if !sync {
            transaction.set_durability(Durability::None)?;
        }
        if !values.is_empty() {
            let mut table = transaction.open_table(VALUES)?;
            for (key, value) in values {
                table.insert(key.0, value.as_slice())?;
            }
        }
        transaction.commit()?;
        Ok(())
    }

    fn remove(&self, upto: EventId, max: usize) -> Result<usize, redb::Error> {
        let mut transaction = self.log.begin_write()?;
        transaction.set_durability(Durability::None)?;
        let count = {
            let mut table = transaction.open_table(VALUES)?;
            let keys = table.range(..=upto.0)?.take(max);
            let keys: Vec<u64> =
                keys.map(|entry| Ok(entry?.0.value())).collect::<Result<_, redb::Error>>()?;
            for key in &keys {
                table.remove(key)?;
            }
            if let Some(last) = keys.last() {
                transaction.open_table(META)?.insert(META_REMOVED, last)?;
            }
            keys.len()
        };
        transaction.commit()?;
        Ok(count)
    }

    fn change(&self, changes: &[Change]) -> Result<(), redb::Error> {
        let mut transaction = self.cold.begin_write()?;
        transaction.set_quick_repair(true);
        for changes in changes.chunk_by(|one, other| one.table == other.table) {
            let mut table = transaction.open_table(rows_of(changes[0].table))?;
            for Change { key, row, .. } in changes {
                match row {
                    Some(row) => drop(table.insert(key.as_slice(), row.as_slice())?),
                    None => drop(table.remove(key.as_slice())?),
                }
            }
        }
        transaction.commit()?;
        Ok(())
    }

    fn read_range(
        &self,
        range: impl FnOnce(
            &redb::ReadOnlyTable<u64, &'static [u8]>,
        ) -> Result<redb::Range<'static, u64, &'static [u8]>, redb::Error>,
        backwards: bool,
        visit: ValueVisitor<'_>,
    ) -> Result<(), redb::Error> {
        let table = self.log.begin_read()?.open_table(VALUES)?;
        let mut values = range(&table)?;
        while let Some(entry) = if backwards { values.next_back() } else { values.next() } {
            let (key, value) = entry?;
            if let ControlFlow::Break(()) = visit(EventId(key.value()), value.value()) {
                break;
            }
        }
        Ok(())
    }
}

impl Store for RedbStore {
    fn append(&self, values: &[(EventId, Vec<u8>)], sync: bool) -> Result<(), StoreError> {
        self.check_failure()?;
        let bytes = values.iter().map(|(_, value)| value.len() as u64).sum();
        if !values.is_empty() && !self.has_room(bytes) {
            return Err(StoreError::DiskFull);
        }
        self.write(values, sync).map_err(|error| self.fail(&self.path, &error))
    }

    fn get(&self, key: EventId, visit: &mut dyn FnMut(&[u8])) -> Result<bool, StoreError> {
        let read = || -> Result<_, redb::Error> {
            Ok(self.log.begin_read()?.open_table(VALUES)?.get_owned(key.0)?)
        };
        let value = read().map_err(unreadable)?;
        Ok(value.map(|value| visit(value.value())).is_some())
    }

    fn scan(&self, from: EventId, visit: ValueVisitor<'_>) -> Result<(), StoreError> {
        self.read_range(
            |table| {
                let first = table.range(..=from.0)?.next_back().transpose()?;
                Ok(table.range(first.map_or(from.0, |(key, _)| key.value())..)?)
            },
            false,
            visit,
        )
        .map_err(unreadable)
    }

    fn scan_back(&self, upto: EventId, visit: ValueVisitor<'_>) -> Result<(), StoreError> {
        self.read_range(|table| Ok(table.range(..=upto.0)?), true, visit).map_err(unreadable)
    }

    fn disk_bytes(&self) -> Result<u64, StoreError> {
        // Blocks, not length: redb makes a file longer than what it has written.
        let bytes = |path| fs::metadata(path).map(|metadata| metadata.blocks() * 512);
        let sum = || -> io::Result<u64> { Ok(bytes(&self.path)? + bytes(&self.cold_path)?) };
        sum().map_err(|error| StoreError::Unreadable(error.to_string()))
    }

    fn remove_values(&self, upto: EventId, max: usize) -> Result<usize, StoreError> {
        self.check_failure()?;
        self.remove(upto, max).map_err(|error| self.fail(&self.path, &error))
    }

    fn removed_through(&self) -> Result<EventId, StoreError> {
        let read = || -> Result<_, redb::Error> {
            let removed = self.log.begin_read()?.open_table(META)?.get(META_REMOVED)?;
            Ok(EventId(removed.map_or(0, |removed| removed.value())))
        };
        read().map_err(unreadable)
    }

    fn change_rows(&self, changes: &[Change]) -> Result<(), StoreError> {
        self.check_failure()?;
        let bytes = |change: &Change| change.row.as_ref().map_or(0, Vec::len);
        // Removing makes room, so it may have what is left.
        let adds = changes.iter().map(bytes).sum::<usize>() as u64;
        if adds > REMOVAL_BYTES && !self.has_room(adds) {
            return Err(StoreError::DiskFull);
        }
        self.change(changes).map_err(|error| self.fail(&self.cold_path, &error))
    }

    fn rows(&self, table: Table, from: &[u8], visit: RowVisitor<'_>) -> Result<(), StoreError> {
        let read = || -> Result<_, redb::Error> {
            for entry in self.cold.begin_read()?.open_table(rows_of(table))?.range(from..)? {
                let (key, row) = entry?;
                if visit(key.value(), row.value()).is_break() {
                    break;
                }
            }
            Ok(())
        };
        call(read).map_err(unreadable)
    }

    fn rows_back(
        &self,
        table: Table,
        from: &[u8],
        visit: RowVisitor<'_>,
    ) -> Result<(), StoreError> {
        let read = || -> Result<_, redb::Error> {
            let table = self.cold.begin_read()?.open_table(rows_of(table))?;
            for entry in table.range(..=from)?.rev() {
                let (key, row) = entry?;
                if visit(key.value(), row.value()).is_break() {
                    break;
                }
            }
            Ok(())
        };
        call(read).map_err(unreadable)
    }
}

fn call<T>(once: impl FnOnce() -> T) -> T {
    once()
}

#[allow(clippy::needless_pass_by_value)] // as `map_err` wants it
fn unreadable(error: redb::Error) -> StoreError {
    StoreError::Unreadable(error.to_string())
}

fn open_error(path: &Path, error: redb::Error) -> OpenError {
    let path = path.to_path_buf();
    match error {
        redb::Error::DatabaseAlreadyOpen | redb::Error::LockProtocolMismatch => {
            OpenError::InUse { path }
        }
        redb::Error::Io(error) if error.kind() == io::ErrorKind::StorageFull => {
            OpenError::DiskFull { path }
        }
        // What redb says of a file that is no database of its own, or one that was cut off.
        redb::Error::Io(error)
            if matches!(
                error.kind(),
                io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof
            ) =>
        {
            OpenError::Corrupt { path, reason: error.to_string() }
        }
        redb::Error::Io(error) => OpenError::Io { path, error },
        error => OpenError::Corrupt { path, reason: error.to_string() },
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

/// The file's format if it is one that this program does not know. Makes the tables when the file
/// is new.
fn check_format(database: &Database) -> Result<Option<u64>, redb::Error> {
    match database.begin_read()?.open_table(META) {
        Ok(meta) => {
            let format = meta.get(META_FORMAT)?;
            let missing = || redb::Error::Corrupted("it does not say its format".into());
            let found = format.ok_or_else(missing)?.value();
            if found >= JOURNAL_FORMAT {
                return Ok((found > JOURNAL_FORMAT).then_some(found));
            }
        }
        Err(redb::TableError::TableDoesNotExist(_)) => {}
        Err(error) => return Err(error.into()),
    }
    let transaction = database.begin_write()?;
    transaction.open_table(META)?.insert(META_FORMAT, JOURNAL_FORMAT)?;
    transaction.open_table(VALUES)?;
    transaction.commit()?;
    Ok(None)
}

/// Makes the tables of the cold part when the file is new.
fn make_tables(database: &Database) -> Result<(), redb::Error> {
    match database.begin_read()?.open_table(rows_of(Table::State)) {
        Ok(_) => return Ok(()),
        Err(redb::TableError::TableDoesNotExist(_)) => {}
        Err(error) => return Err(error.into()),
    }
    let transaction = database.begin_write()?;
    for table in Table::ALL {
        transaction.open_table(rows_of(table))?;
    }
    transaction.commit()?;
    Ok(())
}

fn make_directory(directory: &Path) -> io::Result<()> {
    if directory.is_dir() {
        return Ok(());
    }
    fs::create_dir_all(directory)?;
    match directory.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => sync_directory(parent),
        _ => sync_directory(Path::new(".")),
    }
}

fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(key: u64, bytes: usize) -> (EventId, Vec<u8>) {
        (EventId(key), vec![key as u8; bytes])
    }

    fn keys(store: &RedbStore, from: u64) -> Vec<u64> {
        let mut keys = Vec::new();
        let mut visit = |key: EventId, value: &[u8]| {
            assert_eq!(value[0], key.0 as u8);
            keys.push(key.0);
            ControlFlow::Continue(())
        };
        store.scan(EventId(from), &mut visit).unwrap();
        keys
    }

    #[test]
    fn values_are_there_in_order_and_after_reopening() {
        let directory = tempfile::tempdir().unwrap();
        let store = RedbStore::open(&directory.path().join("a/b")).unwrap();
        store.append(&[value(1, 10), value(5, 70_000)], true).unwrap();
        store.append(&[value(9, 100)], false).unwrap();
        store.append(&[], true).unwrap();
        drop(store);
        let store = RedbStore::open(&directory.path().join("a/b")).unwrap();
        assert_eq!(keys(&store, 0), [1, 5, 9]);
        assert_eq!(keys(&store, 4), [1, 5, 9]);
        assert_eq!(keys(&store, 5), [5, 9]);
        assert_eq!(keys(&store, 100), [9]);
        let mut back = Vec::new();
        store
            .scan_back(EventId(8), &mut |key, _| {
                back.push(key.0);
                ControlFlow::Continue(())
            })
            .unwrap();
        assert_eq!(back, [5, 1]);
        let mut length = 0;
        assert!(store.get(EventId(5), &mut |value| length = value.len()).unwrap());
        assert_eq!(length, 70_000);
        assert!(!store.get(EventId(6), &mut |_| {}).unwrap());
        assert!(store.disk_bytes().unwrap() > 70_000);
    }

    #[test]
    fn a_sync_covers_what_was_added_without_one() {
        let directory = tempfile::tempdir().unwrap();
        let store = RedbStore::open(directory.path()).unwrap();
        store.append(&[value(1, 10)], false).unwrap();
        store.append(&[value(2, 10)], false).unwrap();
        let copy = || {
            let copy = tempfile::tempdir().unwrap();
            fs::copy(store.path(), copy.path().join(LOG_FILE)).unwrap();
            keys(&RedbStore::open(copy.path()).unwrap(), 0)
        };
        assert!(copy().is_empty(), "what is not synced is not in the file as it stands");
        store.append(&[], true).unwrap();
        assert_eq!(copy(), [1, 2]);
    }

    #[test]
    fn a_journal_in_use_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let _store = RedbStore::open(directory.path()).unwrap();
        let error = RedbStore::open(directory.path()).unwrap_err();
        assert!(matches!(error, OpenError::InUse { .. }), "{error}");
        assert!(error.to_string().contains(LOG_FILE));
    }

    #[test]
    fn a_newer_journal_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let store = RedbStore::open(directory.path()).unwrap();
        let transaction = store.log.begin_write().unwrap();
        transaction.open_table(META).unwrap().insert(META_FORMAT, 7).unwrap();
        transaction.commit().unwrap();
        drop(store);
        let error = RedbStore::open(directory.path()).unwrap_err();
        assert!(matches!(error, OpenError::Newer { found: 7, .. }), "{error}");
    }

    #[test]
    fn a_file_that_is_no_journal_is_refused() {
        for content in [vec![b'x'; 8_192], vec![b'x'; 10]] {
            let directory = tempfile::tempdir().unwrap();
            fs::write(directory.path().join(LOG_FILE), content).unwrap();
            let error = RedbStore::open(directory.path()).unwrap_err();
            assert!(matches!(error, OpenError::Corrupt { .. }), "{error:?}");
            assert!(error.to_string().contains(LOG_FILE));
        }
    }

    #[test]
    fn a_directory_that_cannot_be_made_is_said() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("file");
        fs::write(&file, "").unwrap();
        let error = RedbStore::open(&file).unwrap_err();
        assert!(matches!(error, OpenError::Io { .. }), "{error}");
    }

    #[test]
    fn a_full_disk_is_refused_before_anything_is_written() {
        let directory = tempfile::tempdir().unwrap();
        let mut store = RedbStore::open(directory.path()).unwrap();
        store.reserve_bytes = u64::MAX;
        assert_eq!(store.append(&[value(1, 10)], true), Err(StoreError::DiskFull));
        store.reserve_bytes = 0;
        store.append(&[value(1, 10)], true).unwrap();
        assert_eq!(keys(&store, 0), [1]);
    }
}
