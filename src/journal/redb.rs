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
//! disk should not be the end, though: so the room is held before a transaction begins ([`Room`]),
//! and a batch that might not fit is refused while redb has not been touched.
//!
//! Each page of the log is checked when it is opened. Of the cold part only what is read is: its
//! rows have checksums, and what redb makes of a page that was damaged is contained.

mod inspect;

use std::io;
use std::mem::ManuallyDrop;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, OnceLock, PoisonError, RwLock, RwLockReadGuard};

use redb::{
    AccessGuard, Builder, Database, Durability, Key, Range, ReadableDatabase, ReadableTable,
    RepairSession, StorageBackend, TableDefinition, Value, WriteTransaction,
};

use super::damage::contain;
use super::disk::{Directory, Disk, Room, is_full};
use super::store::{
    Change, JOURNAL_FORMAT, OpenError, RowVisitor, Store, StoreError, Table, ValueVisitor,
};
use crate::event::EventId;
use crate::limits::{COLD_CACHE_BYTES, LOG_CACHE_BYTES, REMOVAL_BYTES};

pub use self::inspect::{FileState, Inspected};

/// The file of the log, in the journal's directory.
pub const LOG_FILE: &str = "log.redb";
/// The file of the cold part.
pub const COLD_FILE: &str = "store.redb";

const VALUES: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("values");
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
const META_FORMAT: &str = "format";
/// The last key that was removed, since it was moved.
const META_REMOVED: &str = "removed_through";

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

/// A database, until it is closed. A server ends while its loops may still hold the store, so that
/// dropping it would be left to nobody.
#[derive(Debug)]
struct DatabaseFile(RwLock<Option<Database>>);

/// Keeps a database open.
struct InUse<'a>(RwLockReadGuard<'a, Option<Database>>);

impl DatabaseFile {
    fn new(database: Database) -> DatabaseFile {
        DatabaseFile(RwLock::new(Some(database)))
    }

    fn get(&self) -> Result<InUse<'_>, redb::Error> {
        let database = self.0.read().unwrap_or_else(PoisonError::into_inner);
        if database.is_some() { Ok(InUse(database)) } else { Err(redb::Error::DatabaseClosed) }
    }

    fn get_mut(&mut self) -> Result<&mut Database, redb::CompactionError> {
        let database = self.0.get_mut().unwrap_or_else(PoisonError::into_inner).as_mut();
        database.ok_or(redb::CompactionError::Storage(redb::StorageError::DatabaseClosed))
    }

    /// Waits for those who use it.
    fn close(&self) -> Result<(), redb::Error> {
        let database = self.0.write().unwrap_or_else(PoisonError::into_inner).take();
        Ok(database.map_or(Ok(()), Database::close)?)
    }
}

impl Drop for DatabaseFile {
    fn drop(&mut self) {
        // redb writes to it once more, and may meet a damaged page then.
        let database = self.0.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        if let Err(reason) = contain(|| drop(database)) {
            log::warn!("a file of the journal is not closed in order: {reason}");
        }
    }
}

impl Deref for InUse<'_> {
    type Target = Database;

    fn deref(&self) -> &Database {
        self.0.as_ref().expect("it was open when the lock was taken")
    }
}

/// Writes to a table. When redb panics the table is left open: closing it takes locks that the panic
/// may have broken, and a panic on top of a panic ends the program.
fn in_table<K: Key + 'static, V: Value + 'static, T>(
    transaction: &WriteTransaction,
    definition: TableDefinition<'_, K, V>,
    work: impl FnOnce(&mut redb::Table<'_, K, V>) -> Result<T, redb::Error>,
) -> Result<T, redb::Error> {
    let mut table = ManuallyDrop::new(transaction.open_table(definition)?);
    let result = work(&mut table);
    drop(ManuallyDrop::into_inner(table));
    result
}

/// Keeps the journal in a directory.
#[derive(Debug)]
pub struct RedbStore {
    log: DatabaseFile,
    cold: DatabaseFile,
    room: Arc<dyn Room>,
    path: PathBuf,
    cold_path: PathBuf,
    /// What the first failed write said.
    failure: OnceLock<String>,
    /// Commits to the log that were not synced when they were made …
    unsynced: AtomicU64,
    /// … and how many of them have been since.
    synced: AtomicU64,
}

impl RedbStore {
    /// Opens the journal in this directory, or makes one there.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open(directory: &Path) -> Result<RedbStore, OpenError> {
        let disk = Directory::open(directory).map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock => OpenError::InUse { path: directory.join(LOG_FILE) },
            _ => OpenError::Io { path: directory.into(), error },
        })?;
        RedbStore::open_on(Arc::new(disk), directory)
    }

    /// Opens the journal on this disk, or makes one there. Messages say that it is in `directory`.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open_on(disk: Arc<impl Disk>, directory: &Path) -> Result<RedbStore, OpenError> {
        RedbStore::open_with_caches(disk, directory, [LOG_CACHE_BYTES, COLD_CACHE_BYTES])
    }

    /// The same with page caches of so many bytes for the log and the cold part.
    pub(crate) fn open_with_caches(
        disk: Arc<impl Disk>,
        directory: &Path,
        [log_cache_bytes, cold_cache_bytes]: [usize; 2],
    ) -> Result<RedbStore, OpenError> {
        let (path, cold_path) = (directory.join(LOG_FILE), directory.join(COLD_FILE));
        let fail = |error: redb::Error| open_error(&path, error);
        let has = |name| disk.has(name).map_err(|error| fail(error.into()));
        if has(COLD_FILE)? && !has(LOG_FILE)? {
            let reason = format!("it is missing, and {} is there", cold_path.display());
            return Err(OpenError::Corrupt { path, reason });
        }
        let mut log = Builder::new();
        // A file that is not as it was written is an error then; a plain open trusts it.
        log.set_check_integrity_on_open(true);
        log.set_repair_callback(tell_of_repair);
        log.set_cache_size(log_cache_bytes);
        let log = trusted(|| open_database(&*disk, LOG_FILE, &log, make_log)).map_err(fail)?;
        trusted(|| check_format(&log))
            .map_err(fail)?
            .map_or(Ok(()), |found| Err(OpenError::Newer { path: path.clone(), found }))?;
        let fail = |error: redb::Error| open_error(&cold_path, error);
        let mut cold = Builder::new();
        cold.set_cache_size(cold_cache_bytes);
        let cold = trusted(|| open_database(&*disk, COLD_FILE, &cold, make_cold)).map_err(fail)?;
        Ok(RedbStore {
            log: DatabaseFile::new(log),
            cold: DatabaseFile::new(cold),
            room: disk,
            path,
            cold_path,
            failure: OnceLock::new(),
            unsynced: AtomicU64::new(0),
            synced: AtomicU64::new(0),
        })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Sees that there is room for a transaction that adds so many bytes.
    fn hold_room(&self, bytes: u64) -> Result<(), StoreError> {
        // A value takes up to twice its bytes, and what it replaces is freed a commit later.
        match self.room.hold(bytes.saturating_mul(4)) {
            Err(error) if is_full(&error) => Err(StoreError::DiskFull),
            Err(error) => Err(self.fail(&self.path, &error.into())),
            Ok(()) => Ok(()),
        }
    }

    fn check_failure(&self) -> Result<(), StoreError> {
        self.failure.get().map_or(Ok(()), |failure| Err(StoreError::Failed(failure.clone())))
    }

    fn fail(&self, path: &Path, error: &redb::Error) -> StoreError {
        let failure = format!("{}: {error}", path.display());
        StoreError::Failed(self.failure.get_or_init(|| failure).clone())
    }

    fn write(&self, values: &[(EventId, Vec<u8>)], sync: bool) -> Result<(), redb::Error> {
        let log = self.log.get()?;
        let mut transaction = log.begin_write()?;
        if !sync {
            transaction.set_durability(Durability::None)?;
            self.unsynced.fetch_add(1, SeqCst);
        }
        let before = self.unsynced.load(SeqCst);
        if !values.is_empty() {
            in_table(&transaction, VALUES, |table| {
                for (key, value) in values {
                    table.insert(key.0, value.as_slice())?;
                }
                Ok(())
            })?;
        }
        transaction.commit()?;
        if sync {
            self.synced.fetch_max(before, SeqCst);
        }
        Ok(())
    }

    fn remove(&self, upto: EventId, max: usize) -> Result<usize, redb::Error> {
        let log = self.log.get()?;
        let mut transaction = log.begin_write()?;
        transaction.set_durability(Durability::None)?;
        self.unsynced.fetch_add(1, SeqCst);
        let keys = in_table(&transaction, VALUES, |table| {
            let keys = table.range(..=upto.0)?.take(max);
            let keys: Vec<u64> =
                keys.map(|entry| Ok(entry?.0.value())).collect::<Result<_, redb::Error>>()?;
            for key in &keys {
                table.remove(key)?;
            }
            Ok(keys)
        })?;
        if let Some(last) = keys.last() {
            in_table(&transaction, META, |table| {
                table.insert(META_REMOVED, last)?;
                Ok(())
            })?;
        }
        transaction.commit()?;
        Ok(keys.len())
    }

    fn change(&self, changes: &[Change]) -> Result<(), redb::Error> {
        if self.synced.load(SeqCst) < self.unsynced.load(SeqCst) {
            self.write(&[], true)?;
        }
        let cold = self.cold.get()?;
        let mut transaction = cold.begin_write()?;
        transaction.set_quick_repair(true);
        for changes in changes.chunk_by(|one, other| one.table == other.table) {
            in_table(&transaction, rows_of(changes[0].table), |table| {
                for Change { key, row, .. } in changes {
                    match row {
                        Some(row) => drop(table.insert(key.as_slice(), row.as_slice())?),
                        None => drop(table.remove(key.as_slice())?),
                    }
                }
                Ok(())
            })?;
        }
        transaction.commit()?;
        Ok(())
    }

    fn read_range(
        &self,
        range: impl FnOnce(
            &redb::ReadOnlyTable<u64, &'static [u8]>,
        ) -> Result<Range<'static, u64, &'static [u8]>, redb::Error>,
        backwards: bool,
        visit: ValueVisitor<'_>,
    ) -> Result<(), redb::Error> {
        let log = self.log.get()?;
        let mut values = trusted(|| range(&log.begin_read()?.open_table(VALUES)?))?;
        while let Some((key, value)) = next(&mut values, backwards)? {
            let (key, value) = trusted(|| Ok((key.value(), value.value())))?;
            if visit(EventId(key), value).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn read_rows(
        &self,
        table: Table,
        range: impl FnOnce(
            &redb::ReadOnlyTable<&'static [u8], &'static [u8]>,
        ) -> Result<Range<'static, &'static [u8], &'static [u8]>, redb::Error>,
        backwards: bool,
        visit: RowVisitor<'_>,
    ) -> Result<(), redb::Error> {
        let cold = self.cold.get()?;
        let open = || range(&cold.begin_read()?.open_table(rows_of(table))?);
        let mut rows = trusted(open)?;
        while let Some((key, row)) = next(&mut rows, backwards)? {
            let (key, row) = trusted(|| Ok((key.value(), row.value())))?;
            if visit(key, row).is_break() {
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
        if !values.is_empty() {
            self.hold_room(bytes)?;
        }
        trusted(|| self.write(values, sync)).map_err(|error| self.fail(&self.path, &error))
    }

    fn close(&self) -> Result<(), StoreError> {
        self.check_failure()?;
        self.hold_room(0)?;
        let close_log = || {
            let log = self.log.get()?;
            let mut transaction = log.begin_write()?;
            // It is synced before the header says that it is the newest, so there is no excuse.
            transaction.set_two_phase_commit(true);
            transaction.commit()?;
            drop(log);
            self.log.close()
        };
        let log = trusted(close_log).map_err(|error| self.fail(&self.path, &error));
        let cold = trusted(|| self.cold.close());
        log.and(cold.map_err(|error| self.fail(&self.cold_path, &error)))
    }

    fn get(&self, key: EventId, visit: &mut dyn FnMut(&[u8])) -> Result<bool, StoreError> {
        let log = self.log.get().map_err(unreadable(&self.path))?;
        let read = || Ok(log.begin_read()?.open_table(VALUES)?.get_owned(key.0)?);
        let Some(value) = trusted(read).map_err(unreadable(&self.path))? else { return Ok(false) };
        visit(trusted(|| Ok(value.value())).map_err(unreadable(&self.path))?);
        Ok(true)
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
        .map_err(unreadable(&self.path))
    }

    fn scan_back(&self, upto: EventId, visit: ValueVisitor<'_>) -> Result<(), StoreError> {
        self.read_range(|table| Ok(table.range(..=upto.0)?), true, visit)
            .map_err(unreadable(&self.path))
    }

    fn disk_bytes(&self) -> Result<u64, StoreError> {
        self.room.used_bytes().map_err(|error| StoreError::Unreadable(error.to_string()))
    }

    fn remove_values(&self, upto: EventId, max: usize) -> Result<usize, StoreError> {
        self.check_failure()?;
        trusted(|| self.remove(upto, max)).map_err(|error| self.fail(&self.path, &error))
    }

    fn removed_through(&self) -> Result<EventId, StoreError> {
        let read = || {
            let log = self.log.get()?;
            let removed = log.begin_read()?.open_table(META)?.get(META_REMOVED)?;
            Ok(EventId(removed.map_or(0, |removed| removed.value())))
        };
        trusted(read).map_err(unreadable(&self.path))
    }

    fn change_rows(&self, changes: &[Change]) -> Result<(), StoreError> {
        self.check_failure()?;
        let bytes = |change: &Change| change.row.as_ref().map_or(0, Vec::len);
        // Removing makes room, so it may have what is held.
        let adds = changes.iter().map(bytes).sum::<usize>() as u64;
        if adds > REMOVAL_BYTES {
            self.hold_room(adds)?;
        }
        trusted(|| self.change(changes)).map_err(|error| self.fail(&self.cold_path, &error))
    }

    fn rows(&self, table: Table, from: &[u8], visit: RowVisitor<'_>) -> Result<(), StoreError> {
        self.read_rows(table, |table| Ok(table.range(from..)?), false, visit)
            .map_err(unreadable(&self.cold_path))
    }

    fn rows_back(
        &self,
        table: Table,
        from: &[u8],
        visit: RowVisitor<'_>,
    ) -> Result<(), StoreError> {
        self.read_rows(table, |table| Ok(table.range(..=from)?), true, visit)
            .map_err(unreadable(&self.cold_path))
    }
}

/// What redb says when the newest commit is not whole, and it takes the one before.
const NEWEST_IS_NOT_WHOLE: f64 = 0.3;

/// Hears how far the check of a file has come that is being opened.
fn tell_of_repair(progress: &mut RepairSession) {
    if (progress.progress() - NEWEST_IS_NOT_WHOLE).abs() < 0.01 {
        log::warn!(
            "the newest commit of the journal is not whole, and is left out: the power was cut before it was answered, or the file is damaged"
        );
    }
}

/// What redb does with pages that it trusts to be as it has written them.
fn trusted<T>(work: impl FnOnce() -> Result<T, redb::Error>) -> Result<T, redb::Error> {
    contain(work).unwrap_or_else(|reason| Err(redb::Error::Corrupted(reason)))
}

/// The next entry of a range, from either end.
#[expect(clippy::type_complexity, reason = "as redb gives it")]
fn next<K: Key + 'static, V: Value + 'static>(
    range: &mut Range<'static, K, V>,
    backwards: bool,
) -> Result<Option<(AccessGuard<'static, K>, AccessGuard<'static, V>)>, redb::Error> {
    trusted(|| Ok(if backwards { range.next_back() } else { range.next() }.transpose()?))
}

/// Opens the database in the file of this name. If there is no such file one is made, with these
/// tables.
fn open_database(
    disk: &impl Disk,
    name: &str,
    builder: &Builder,
    make_tables: impl FnOnce(&Database) -> Result<(), redb::Error>,
) -> Result<Database, redb::Error> {
    let open = |name: &str| -> Result<Database, redb::Error> {
        Ok(builder.create_with_backend(disk.open(name)?)?)
    };
    if !disk.has(name)? {
        // It has its name once it is whole: redb does not know a file that it has begun to make.
        let unfinished = format!("{name}.new");
        disk.remove(&unfinished)?;
        let database = open(&unfinished)?;
        make_tables(&database)?;
        database.close()?;
        disk.rename(&unfinished, name)?;
    }
    // Also the name of one that was made before, by a process that got no further.
    disk.sync_names()?;
    let file = disk.open(name)?;
    if file.len()? == 0 {
        // redb would make a new one of it.
        return Err(redb::Error::Corrupted("it is empty".into()));
    }
    Ok(builder.create_with_backend(file)?)
}

/// What an error means that came while this file was read.
fn unreadable(path: &Path) -> impl Fn(redb::Error) -> StoreError {
    move |error| match error {
        // Its pages name one that it does not have.
        redb::Error::Io(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            StoreError::Damaged(format!("{}: {error}", path.display()))
        }
        redb::Error::Io(_)
        | redb::Error::PreviousIo
        | redb::Error::DatabaseClosed
        | redb::Error::LockPoisoned(_) => {
            StoreError::Unreadable(format!("{}: {error}", path.display()))
        }
        redb::Error::Corrupted(reason) => {
            StoreError::Damaged(format!("{}: {reason}", path.display()))
        }
        // A table of another kind, or none: it is not what was written.
        error => StoreError::Damaged(format!("{}: {error}", path.display())),
    }
}

fn open_error(path: &Path, error: redb::Error) -> OpenError {
    let path = path.to_path_buf();
    match error {
        redb::Error::DatabaseAlreadyOpen | redb::Error::LockProtocolMismatch => {
            OpenError::InUse { path }
        }
        redb::Error::Io(error) if is_full(&error) => OpenError::DiskFull { path },
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

/// The journal's format if it is one that this program does not know. A known one is raised to
/// ours.
fn check_format(database: &Database) -> Result<Option<u64>, redb::Error> {
    let format = database.begin_read()?.open_table(META)?.get(META_FORMAT)?;
    let missing = || redb::Error::Corrupted("it does not say its format".into());
    let found = format.ok_or_else(missing)?.value();
    if found < JOURNAL_FORMAT {
        let transaction = database.begin_write()?;
        transaction.open_table(META)?.insert(META_FORMAT, JOURNAL_FORMAT)?;
        transaction.commit()?;
    }
    Ok((found > JOURNAL_FORMAT).then_some(found))
}

/// Makes the tables of the log.
fn make_log(database: &Database) -> Result<(), redb::Error> {
    let transaction = database.begin_write()?;
    transaction.open_table(META)?.insert(META_FORMAT, JOURNAL_FORMAT)?;
    transaction.open_table(VALUES)?;
    transaction.commit()?;
    Ok(())
}

/// Makes the tables of the cold part.
fn make_cold(database: &Database) -> Result<(), redb::Error> {
    let transaction = database.begin_write()?;
    for table in Table::ALL {
        transaction.open_table(rows_of(table))?;
    }
    transaction.commit()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::ops::ControlFlow;

    use super::*;
    use crate::journal::fake_disk::{Call, FakeDisk, Fault, Plan};

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
    fn a_store_that_is_closed_leaves_whole_files_whoever_holds_it() {
        let directory = tempfile::tempdir().unwrap();
        let store = RedbStore::open(directory.path()).unwrap();
        store.append(&[value(1, 10)], true).unwrap();
        let states = || {
            let copy = tempfile::tempdir().unwrap();
            for name in [LOG_FILE, COLD_FILE] {
                fs::copy(directory.path().join(name), copy.path().join(name)).unwrap();
            }
            let Inspected { log, cold, .. } = RedbStore::inspect(copy.path()).unwrap();
            (log, cold)
        };
        assert_eq!(states(), (FileState::NotClosed, FileState::NotClosed));
        store.close().unwrap();
        assert_eq!(states(), (FileState::Whole, FileState::Whole));
        assert!(matches!(store.append(&[value(2, 10)], true), Err(StoreError::Failed(_))));
        let read = store.get(EventId(1), &mut |_| {});
        assert!(matches!(read, Err(StoreError::Unreadable(_))), "{read:?}");
    }

    #[test]
    fn a_newer_journal_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let store = RedbStore::open(directory.path()).unwrap();
        let log = store.log.get().unwrap();
        let transaction = log.begin_write().unwrap();
        transaction.open_table(META).unwrap().insert(META_FORMAT, 7).unwrap();
        transaction.commit().unwrap();
        drop(log);
        drop(store);
        let error = RedbStore::open(directory.path()).unwrap_err();
        assert!(matches!(error, OpenError::Newer { found: 7, .. }), "{error}");
    }

    #[test]
    fn a_file_that_is_no_journal_is_refused() {
        for content in [vec![b'x'; 8_192], vec![b'x'; 10], vec![]] {
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
        let disk = FakeDisk::new(0);
        let store = RedbStore::open_on(Arc::new(disk.clone()), Path::new("disk")).unwrap();
        let calls = disk.calls();
        disk.set_full(true);
        assert_eq!(store.append(&[value(1, 10)], true), Err(StoreError::DiskFull));
        assert_eq!(disk.calls(), calls);
        disk.set_full(false);
        store.append(&[value(1, 10)], true).unwrap();
        assert_eq!(keys(&store, 0), [1]);
    }

    #[test]
    fn what_the_cold_part_was_made_from_is_on_disk_before_it_is() {
        let disk = FakeDisk::new(0);
        let store = RedbStore::open_on(Arc::new(disk.clone()), Path::new("disk")).unwrap();
        store.append(&[value(1, 10)], false).unwrap();
        let row = Change { table: Table::State, key: vec![1], row: Some(vec![1]) };
        store.change_rows(&[row]).unwrap();
        let disk = disk.after_unlucky_cut();
        drop(store);
        let store = RedbStore::open_on(Arc::new(disk), Path::new("disk")).unwrap();
        assert_eq!(keys(&store, 0), [1]);
    }

    /// Why room is held before a transaction begins.
    #[test]
    fn redb_survives_no_refused_growth() {
        let disk = FakeDisk::new(0);
        let store = RedbStore::open_on(Arc::new(disk.clone()), Path::new("disk")).unwrap();
        store.append(&[value(1, 10)], true).unwrap();
        let fault = Fault::Fails(io::ErrorKind::StorageFull);
        disk.plan(Plan { call: Some(Call::SetLength), after: 0, fault });
        let large = (2..200).map(|key| value(key, 60_000)).collect::<Vec<_>>();
        assert!(matches!(store.append(&large, true), Err(StoreError::Failed(_))));
        assert!(disk.has_failed());
        let after = store.append(&[value(500, 10)], true);
        assert!(matches!(after, Err(StoreError::Failed(_))), "{after:?}");
        drop(store);
        let store = RedbStore::open_on(Arc::new(disk), Path::new("disk")).unwrap();
        assert_eq!(keys(&store, 0), [1]);
    }
}
