//! The disk below redb: the files of a journal, and room that is held for them.
//!
//! redb takes a failed write, sync or `set_len` for the end: it refuses everything after it, reads
//! too, until the file is opened again (its `CheckedBackend` latches the first error; the test
//! `redb_survives_no_refused_growth` holds us to that). So a full disk must be found out before a
//! transaction begins, and once it has begun its room must be there.
//!
//! Where a transaction will write cannot be told from outside: redb takes any free page of the
//! file, and makes the file twice as long, up to 4 GiB at once, when none is free. So room is not
//! allocated at these places but held in a file beside them, [`RESERVE_FILE`]: before a
//! transaction it is made as long as the transaction may need, with `fallocate`, and what is
//! refused is refused with redb untouched. If a write then finds the disk full, because another
//! program has filled it, the reserve gives its room back piece by piece and the write is made
//! again. The next transaction must fill the reserve first, so nothing is taken until there is
//! room again.
//!
//! What stays: between the moment that a piece is given back and the write, another program may
//! take it; it would have to do so until the whole reserve is gone. A file system without
//! `fallocate` gets the weaker promise that its free room is compared before each transaction.
//!
//! Rejected: growing redb's file with `fallocate`. It would occupy twice what is in it, and be
//! refused when half of the disk is free.

use std::fmt::Debug;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind};
use std::ops::Bound;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use redb::backends::FileBackend;
use redb::{BackendError, StorageBackend};
use rustix::fs::{Advice, FallocateFlags, fadvise, fallocate, fstatvfs};
use rustix::io::{Errno, retry_on_intr};

use crate::limits::{DISK_RESERVE_BYTES, RESERVE_PIECE_BYTES};

/// The file that holds room on the disk, in the journal's directory.
pub const RESERVE_FILE: &str = "reserve";

/// Room for what will be written.
pub trait Room: Debug + Send + Sync {
    /// Sees that so many bytes can be written, beside what is always held, without being refused
    /// for want of room.
    ///
    /// # Errors
    /// When they cannot.
    fn hold(&self, bytes: u64) -> io::Result<()>;

    /// Bytes that the journal's files occupy; what is only held is not among them.
    ///
    /// # Errors
    /// When the system cannot say.
    fn used_bytes(&self) -> io::Result<u64>;
}

/// Where the files of a journal are.
pub trait Disk: Room + 'static {
    /// One of them.
    type File: StorageBackend;

    /// Whether there is a file of this name.
    ///
    /// # Errors
    /// When the system cannot say.
    fn has(&self, name: &str) -> io::Result<bool>;

    /// Opens the file of this name, or makes it. What is read of it comes from the disk, and not
    /// from what the system remembers of earlier writes.
    ///
    /// # Errors
    /// When the system refuses.
    fn open(&self, name: &str) -> io::Result<Self::File>;

    /// Removes the file of this name, if there is one.
    ///
    /// # Errors
    /// When the system refuses.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Gives a closed file another name.
    ///
    /// # Errors
    /// When the system refuses.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Puts the names of the files on disk.
    ///
    /// # Errors
    /// When that failed.
    fn sync_names(&self) -> io::Result<()>;
}

/// Whether an error means that there is too little room: on the disk, in a quota, or for a file.
pub fn is_full(error: &io::Error) -> bool {
    use ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded | FileTooLarge)
}

/// A directory on a disk.
///
/// It is this process's alone: who opens it locks [`RESERVE_FILE`] before anything else is touched.
#[derive(Debug)]
pub struct Directory {
    path: PathBuf,
    opened: Mutex<Vec<PathBuf>>,
    reserve: Arc<Reserve>,
}

impl Directory {
    /// The directory at this path, which is made if it is not there.
    ///
    /// # Errors
    /// When it cannot be; [`ErrorKind::WouldBlock`] when another process has it open.
    pub fn open(path: &Path) -> io::Result<Directory> {
        make_directory(path)?;
        Ok(Directory {
            path: path.into(),
            opened: Mutex::default(),
            reserve: Arc::new(Reserve::open(&path.join(RESERVE_FILE))?),
        })
    }
}

impl Room for Directory {
    fn hold(&self, bytes: u64) -> io::Result<()> {
        // In pieces, so that small transactions ask for the same, and the system is asked seldom.
        let pieces = bytes.div_ceil(RESERVE_PIECE_BYTES).saturating_mul(RESERVE_PIECE_BYTES);
        self.reserve.hold(pieces.saturating_add(DISK_RESERVE_BYTES))
    }

    fn used_bytes(&self) -> io::Result<u64> {
        // Blocks, not length: redb makes a file longer than what it has written.
        let opened = self.opened.lock().expect("no one panics while holding the lock");
        opened.iter().map(|path| Ok(fs::metadata(path)?.blocks() * 512)).sum()
    }
}

impl Disk for Directory {
    type File = DiskFile;

    fn open(&self, name: &str) -> io::Result<DiskFile> {
        let path = self.path.join(name);
        let file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path)?;
        forget_cached(&file)?;
        let file = FileBackend::new(file).map_err(io::Error::other)?;
        self.opened.lock().expect("no one panics while holding the lock").push(path);
        Ok(DiskFile { file, reserve: Arc::clone(&self.reserve) })
    }

    fn has(&self, name: &str) -> io::Result<bool> {
        self.path.join(name).try_exists()
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        match fs::remove_file(self.path.join(name)) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let (from, to) = (self.path.join(from), self.path.join(to));
        fs::rename(&from, to)?;
        self.opened
            .lock()
            .expect("no one panics while holding the lock")
            .retain(|path| *path != from);
        Ok(())
    }

    fn sync_names(&self) -> io::Result<()> {
        sync_directory(&self.path)
    }
}

/// Sees that what is read of a file comes from the disk.
///
/// When a sync has failed the kernel gives what it could not write for written, and goes on
/// showing it. A journal that is opened then must not build on that: it would not be there after
/// the next power cut.
fn forget_cached(file: &File) -> io::Result<()> {
    file.sync_data()?;
    match fadvise(file, 0, None, Advice::DontNeed) {
        Err(error) if error != Errno::INVAL && error != Errno::NOSYS => Err(error.into()),
        _ => Ok(()),
    }
}

/// A file on a disk, with the reserve for what it needs. Reading, syncing and the lock that keeps
/// other processes out are redb's own.
#[derive(Debug)]
pub struct DiskFile {
    file: FileBackend,
    reserve: Arc<Reserve>,
}

impl DiskFile {
    /// Does it, with room from the reserve if there is none besides.
    fn with_room(&self, bytes: u64, write: impl Fn() -> io::Result<()>) -> io::Result<()> {
        loop {
            match write() {
                Err(error) if is_full(&error) && self.reserve.give_back(bytes) => {}
                result => return result,
            }
        }
    }
}

impl StorageBackend for DiskFile {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read(offset, out)
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.with_room(0, || self.file.set_len(length))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.with_room(data.len() as u64, || self.file.write(offset, data))
    }

    fn close(&self) -> io::Result<()> {
        self.file.close()
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.try_lock_range(start, end)
    }

    fn try_lock_shared_range(
        &self,
        start: Bound<u64>,
        end: Bound<u64>,
    ) -> Result<bool, BackendError> {
        self.file.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.lock_range(start, end)
    }

    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.unlock_range(start, end)
    }

    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.query_lock_range(start, end)
    }
}

/// Room that is held on a disk: a file of blocks that nothing is written to.
#[derive(Debug)]
struct Reserve {
    file: File,
    held: Mutex<Held>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Held {
    /// So many bytes.
    Bytes(u64),
    /// Nothing: this file system can hold no room. What is free is compared instead.
    Unsupported,
}

impl Reserve {
    /// Takes what an earlier process has left. It may be nothing on a disk that is full, which is
    /// no error: what is in the journal can be read all the same.
    fn open(path: &Path) -> io::Result<Reserve> {
        let file = OpenOptions::new().write(true).create(true).truncate(false).open(path)?;
        match file.try_lock() {
            // Where there are no such locks redb's own must do, if there are those.
            Err(TryLockError::Error(error)) if error.kind() != ErrorKind::Unsupported => {
                return Err(error);
            }
            Err(TryLockError::WouldBlock) => return Err(ErrorKind::WouldBlock.into()),
            _ => {}
        }
        let metadata = file.metadata()?;
        // The reserve in a copy of a journal may be long and hold nothing.
        let bytes = (metadata.blocks() * 512).min(metadata.len()).min(DISK_RESERVE_BYTES);
        file.set_len(bytes)?;
        Ok(Reserve { file, held: Mutex::new(Held::Bytes(bytes)) })
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().expect("no one panics while holding the lock")
    }

    fn hold(&self, bytes: u64) -> io::Result<()> {
        let mut held = self.held();
        if let Held::Bytes(has) = *held {
            if has >= bytes {
                return Ok(());
            }
            let missing = bytes - has;
            match retry_on_intr(|| fallocate(&self.file, FallocateFlags::empty(), has, missing)) {
                Ok(()) => {
                    *held = Held::Bytes(bytes);
                    return Ok(());
                }
                Err(Errno::OPNOTSUPP | Errno::NOSYS) => *held = Held::Unsupported,
                Err(error) => {
                    // What it was given before it was refused would be kept from the journal.
                    self.file.set_len(has)?;
                    return Err(error.into());
                }
            }
        }
        // A system that cannot say is no reason to refuse: the write itself will tell.
        let Ok(disk) = fstatvfs(&self.file) else { return Ok(()) };
        if disk.f_bavail.saturating_mul(disk.f_frsize) < bytes {
            return Err(ErrorKind::StorageFull.into());
        }
        Ok(())
    }

    /// Gives back room for a write of so many bytes and what the file system needs for it;
    /// whether there was any.
    fn give_back(&self, bytes: u64) -> bool {
        let mut held = self.held();
        let Held::Bytes(has @ 1..) = *held else { return false };
        let left = has.saturating_sub(bytes.max(RESERVE_PIECE_BYTES));
        if self.file.set_len(left).is_err() {
            return false;
        }
        *held = Held::Bytes(left);
        true
    }
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

    fn reserve_bytes(directory: &Path) -> u64 {
        fs::metadata(directory.join(RESERVE_FILE)).unwrap().blocks() * 512
    }

    #[test]
    fn room_is_held_and_given_back_in_pieces() {
        let directory = tempfile::tempdir().unwrap();
        let disk = Directory::open(directory.path()).unwrap();
        disk.hold(0).unwrap();
        assert_eq!(reserve_bytes(directory.path()), DISK_RESERVE_BYTES);
        disk.hold(4 * RESERVE_PIECE_BYTES).unwrap();
        let held = DISK_RESERVE_BYTES + 4 * RESERVE_PIECE_BYTES;
        assert_eq!(reserve_bytes(directory.path()), held);
        assert!(disk.reserve.give_back(1));
        assert!(disk.reserve.give_back(2 * RESERVE_PIECE_BYTES));
        assert_eq!(reserve_bytes(directory.path()), held - 3 * RESERVE_PIECE_BYTES);
        assert!(disk.reserve.give_back(u64::MAX));
        assert!(!disk.reserve.give_back(1), "it is empty");
        assert_eq!(reserve_bytes(directory.path()), 0);
        disk.hold(0).unwrap();
        assert_eq!(reserve_bytes(directory.path()), DISK_RESERVE_BYTES);
        assert_eq!(disk.used_bytes().unwrap(), 0, "what is held is not used");
    }

    #[test]
    fn a_write_that_finds_the_disk_full_has_the_room_that_was_held() {
        let directory = tempfile::tempdir().unwrap();
        let disk = Directory::open(directory.path()).unwrap();
        disk.hold(0).unwrap();
        let file = disk.open("file").unwrap();
        let refusals = std::cell::Cell::new(3);
        let write = || match refusals.get() {
            0 => Ok(()),
            left => {
                refusals.set(left - 1);
                Err(ErrorKind::StorageFull.into())
            }
        };
        file.with_room(10, write).unwrap();
        assert_eq!(reserve_bytes(directory.path()), DISK_RESERVE_BYTES - 3 * RESERVE_PIECE_BYTES);
        refusals.set(u64::MAX);
        let error = file.with_room(10, write).unwrap_err();
        assert!(is_full(&error), "{error}");
    }

    #[test]
    fn a_room_that_is_refused_keeps_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let disk = Directory::open(directory.path()).unwrap();
        disk.hold(0).unwrap();
        // More than any disk has; some file systems say that the file would be too large.
        disk.hold(u64::MAX / 8).unwrap_err();
        assert_eq!(reserve_bytes(directory.path()), DISK_RESERVE_BYTES);
    }

    #[test]
    fn what_a_copied_reserve_only_seems_to_hold_is_held() {
        let directory = tempfile::tempdir().unwrap();
        let reserve = File::create(directory.path().join(RESERVE_FILE)).unwrap();
        reserve.set_len(2 * DISK_RESERVE_BYTES).unwrap();
        Directory::open(directory.path()).unwrap().hold(0).unwrap();
        assert_eq!(reserve_bytes(directory.path()), DISK_RESERVE_BYTES);
    }

    #[test]
    fn a_directory_belongs_to_one() {
        let directory = tempfile::tempdir().unwrap();
        let disk = Directory::open(directory.path()).unwrap();
        disk.hold(RESERVE_PIECE_BYTES).unwrap();
        let held = reserve_bytes(directory.path());
        let error = Directory::open(directory.path()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::WouldBlock);
        assert_eq!(reserve_bytes(directory.path()), held, "what the other one holds is left alone");
        drop(disk);
        Directory::open(directory.path()).unwrap();
    }
}
