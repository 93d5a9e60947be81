//! The journal on disk: one redb file, `log.redb`, in the journal's directory.
//!
//! One table of values, whose keys only go up, so that a commit writes at the right-hand edge of
//! one tree; and one of words about the file itself (its format). This is the only file that knows
//! redb.
//!
//! After a failed write redb refuses everything until it is opened again, and rightly so. A full
//! disk should not be the end, though: so the room is looked at before a transaction begins, and a
//! batch that might not fit is refused while redb has not been touched.

use std::fs::{self, File};
use std::io;
use std::ops::ControlFlow;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use redb::{Builder, Database, Durability, ReadableDatabase, TableDefinition};

use super::codec::FORMAT_VERSION;
use super::store::{OpenError, Store, StoreError, ValueVisitor};
use crate::event::EventId;
use crate::limits::{DISK_RESERVE_BYTES, JOURNAL_CACHE_BYTES};

/// The file in the journal's directory.
pub const LOG_FILE: &str = "log.redb";

const VALUES: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("values");
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
const META_FORMAT: &str = "format";

/// Keeps values in `log.redb`.
#[derive(Debug)]
pub struct RedbStore {
    database: Database,
    path: PathBuf,
    /// What the first failed write said.
    failure: OnceLock<String>,
    /// Room that must be left on the disk after a batch.
    reserve_bytes: u64,
}

impl RedbStore {
    /// Opens the journal in this directory, or makes one there.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open(directory: &Path) -> Result<RedbStore, OpenError> {
        make_directory(directory)
            .map_err(|error| OpenError::Io { path: directory.into(), error })?;
        let path = directory.join(LOG_FILE);
        let fail = |error: redb::Error| open_error(&path, error);
        let database = Builder::new()
            .set_cache_size(JOURNAL_CACHE_BYTES)
            .create(&path)
            .map_err(|error| fail(error.into()))?;
        check_format(&database)
            .map_err(fail)?
            .map_or(Ok(()), |found| Err(OpenError::Newer { path: path.clone(), found }))?;
        // The file's name must be on disk as well before anything in it counts as kept.
        sync_directory(directory)
            .map_err(|error| OpenError::Io { path: directory.into(), error })?;
        Ok(RedbStore {
            database,
            path,
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

    fn write(&self, values: &[(EventId, Vec<u8>)], sync: bool) -> Result<(), redb::Error> {
        let mut transaction = self.database.begin_write()?;
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

    fn read_range(
        &self,
        range: impl FnOnce(
            &redb::ReadOnlyTable<u64, &'static [u8]>,
        ) -> Result<redb::Range<'static, u64, &'static [u8]>, redb::Error>,
        backwards: bool,
        visit: ValueVisitor<'_>,
    ) -> Result<(), redb::Error> {
        let table = self.database.begin_read()?.open_table(VALUES)?;
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
        if let Some(failure) = self.failure.get() {
            return Err(StoreError::Failed(failure.clone()));
        }
        let bytes = values.iter().map(|(_, value)| value.len() as u64).sum();
        if !values.is_empty() && !self.has_room(bytes) {
            return Err(StoreError::DiskFull);
        }
        self.write(values, sync).map_err(|error| {
            let failure = format!("{}: {error}", self.path.display());
            StoreError::Failed(self.failure.get_or_init(|| failure).clone())
        })
    }

    fn get(&self, key: EventId, visit: &mut dyn FnMut(&[u8])) -> Result<bool, StoreError> {
        let read = || -> Result<_, redb::Error> {
            Ok(self.database.begin_read()?.open_table(VALUES)?.get_owned(key.0)?)
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
        // Blocks, not length: redb makes the file longer than what it has written.
        let metadata =
            fs::metadata(&self.path).map_err(|error| StoreError::Unreadable(error.to_string()))?;
        Ok(metadata.blocks() * 512)
    }
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

/// The file's format if it is one that this program does not know. Makes the tables when the file
/// is new.
fn check_format(database: &Database) -> Result<Option<u64>, redb::Error> {
    match database.begin_read()?.open_table(META) {
        Ok(meta) => {
            let format = meta.get(META_FORMAT)?;
            let missing = || redb::Error::Corrupted("it does not say its format".into());
            let found = format.ok_or_else(missing)?.value();
            return Ok((found > u64::from(FORMAT_VERSION)).then_some(found));
        }
        Err(redb::TableError::TableDoesNotExist(_)) => {}
        Err(error) => return Err(error.into()),
    }
    let transaction = database.begin_write()?;
    transaction.open_table(META)?.insert(META_FORMAT, u64::from(FORMAT_VERSION))?;
    transaction.open_table(VALUES)?;
    transaction.commit()?;
    Ok(None)
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
        let transaction = store.database.begin_write().unwrap();
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
