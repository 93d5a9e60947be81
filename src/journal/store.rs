//! Where the journal keeps what it stores: the narrow trait between it and its storage.
//!
//! Two parts. The *log* takes what is committed: values, bytes under the id that they begin at,
//! added under ever higher keys, never changed, and removed from the lowest on once they have been
//! moved. The *cold* part takes what is moved: tables of rows, bytes under bytes, changed by whole
//! transactions. A reader needs no snapshot of either: see [`super::cold`].

use std::io;
use std::ops::ControlFlow;
use std::path::PathBuf;

use super::codec::DecodeError;
use crate::event::EventId;

/// The format of a journal as a whole that this program writes: 2 since there is a cold part. It
/// reads this one and every earlier one.
pub const JOURNAL_FORMAT: u64 = 2;

/// Why a store did not do what was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// There is too little room. Nothing was written, and the store goes on when there is some.
    #[error("the disk is full")]
    DiskFull,
    /// A write or a sync has failed: what is on disk is unknown, and every further write is
    /// refused until the store is opened again.
    #[error("{0}")]
    Failed(String),
    /// A read has failed.
    #[error("the journal cannot be read: {0}")]
    Unreadable(String),
    /// A file is not as it was written: which, and what is wrong.
    #[error("{0}")]
    Damaged(String),
    /// A value is not what was written.
    #[error("the journal value at {key}: {error}")]
    Corrupt {
        /// Where it is stored.
        key: EventId,
        /// What is wrong with it.
        error: DecodeError,
    },
    /// A row of the cold part is not what was written.
    #[error("the row {} of {table:?}: {error}", hex(.key))]
    CorruptRow {
        /// In which table.
        table: Table,
        /// Its key.
        key: Vec<u8>,
        /// What is wrong with it.
        error: DecodeError,
    },
}

fn hex(key: &[u8]) -> String {
    let hex = |text: String, byte: &u8| text + &format!("{byte:02x}");
    key.iter().fold(String::new(), hex)
}

/// Why a journal could not be opened, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The directory or the file cannot be made, read or written.
    #[error(
        "the journal {path}: {error}. The directory must be on a local disk, and the server's user must be allowed to write there"
    )]
    Io {
        /// Which directory or file.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
    /// Another process has it open.
    #[error(
        "the journal {path} is in use by another process. Stop that server first, or give this one another journal directory"
    )]
    InUse {
        /// Which file.
        path: PathBuf,
    },
    /// There is none.
    #[error("there is no journal in {path}")]
    Missing {
        /// Which directory.
        path: PathBuf,
    },
    /// A later version of the program wrote it.
    #[error(
        "the journal {path} is of format {found}, newer than format {JOURNAL_FORMAT} which this version of tidewheel knows. Start it with the version of tidewheel that wrote it, or a later one"
    )]
    Newer {
        /// Which file.
        path: PathBuf,
        /// Its format.
        found: u64,
    },
    /// The file is damaged, or is no journal.
    #[error(
        "the journal {path} is damaged: {reason}. Restore it from a backup, or move it away to start with an empty one"
    )]
    Corrupt {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The disk is full.
    #[error("there is no room for the journal {path}: free some on that disk")]
    DiskFull {
        /// Which file.
        path: PathBuf,
    },
}

impl OpenError {
    /// What it means for the journal in `path` when it cannot be read through.
    pub fn from_store(path: PathBuf, error: StoreError) -> OpenError {
        match error {
            StoreError::DiskFull => OpenError::DiskFull { path },
            StoreError::Corrupt { error: DecodeError::Newer(found), .. }
            | StoreError::CorruptRow { error: DecodeError::Newer(found), .. } => {
                OpenError::Newer { path, found: u64::from(found) }
            }
            StoreError::Damaged(_) | StoreError::Corrupt { .. } | StoreError::CorruptRow { .. } => {
                OpenError::Corrupt { path, reason: error.to_string() }
            }
            StoreError::Failed(reason) | StoreError::Unreadable(reason) => {
                OpenError::Io { path, error: io::Error::other(reason) }
            }
        }
    }
}

/// What sees a stored value: its key and its bytes.
pub type ValueVisitor<'a> = &'a mut dyn FnMut(EventId, &[u8]) -> ControlFlow<()>;

/// What sees a row: its key and its bytes.
pub type RowVisitor<'a> = &'a mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>;

/// The tables of the cold part; [`super::cold`] says what is in them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Table {
    /// How far the journal was moved.
    State,
    /// The windows that there are.
    Windows,
    /// Their events, run by run.
    Blocks,
    /// Whose the ids in them are.
    Order,
    /// What each run is.
    Runs,
    /// Where each run stood when it was last moved.
    Heads,
    /// Idempotency keys.
    Keys,
    /// Where producers stand.
    Producers,
}

impl Table {
    /// All of them.
    pub const ALL: [Table; 8] = [
        Table::State,
        Table::Windows,
        Table::Blocks,
        Table::Order,
        Table::Runs,
        Table::Heads,
        Table::Keys,
        Table::Producers,
    ];
}

/// A row that is put in the place of what was there, or removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Of which table.
    pub table: Table,
    /// Its key.
    pub key: Vec<u8>,
    /// Its bytes; `None` removes it.
    pub row: Option<Vec<u8>>,
}

/// Keeps the journal. The log is written by one thread and the cold part by one, which may be
/// another and then removes what it has moved from the log; both are read by several.
pub trait Store: Send + Sync {
    /// Adds values: all of them or none. With `sync` they, and all that were added before them,
    /// are on disk when this returns. The keys are ascending and above every key in the store.
    ///
    /// # Errors
    /// [`StoreError::DiskFull`] when nothing was written for want of room, otherwise
    /// [`StoreError::Failed`].
    fn append(&self, values: &[(EventId, Vec<u8>)], sync: bool) -> Result<(), StoreError>;

    /// Nothing is added or read any more, whoever still holds the store: leaves what is on disk so
    /// that it opens without a repair, and damage done to it cannot be taken for a commit that a
    /// power cut has cut short.
    ///
    /// # Errors
    /// [`StoreError::Failed`], or [`StoreError::DiskFull`]: then it is as after a power cut.
    fn close(&self) -> Result<(), StoreError> {
        Ok(())
    }

    /// Shows the value with exactly this key; whether there is one.
    ///
    /// # Errors
    /// [`StoreError::Unreadable`] when the storage fails.
    fn get(&self, key: EventId, visit: &mut dyn FnMut(&[u8])) -> Result<bool, StoreError>;

    /// Shows values in ascending order, from the one in which `from` lies (the last whose key is
    /// not above it; the first of all when there is none), until told to stop.
    ///
    /// # Errors
    /// [`StoreError::Unreadable`] when the storage fails.
    fn scan(&self, from: EventId, visit: ValueVisitor<'_>) -> Result<(), StoreError>;

    /// Shows values in descending order, from the one in which `upto` lies.
    ///
    /// # Errors
    /// [`StoreError::Unreadable`] when the storage fails.
    fn scan_back(&self, upto: EventId, visit: ValueVisitor<'_>) -> Result<(), StoreError>;

    /// Bytes that the store occupies on disk.
    ///
    /// # Errors
    /// [`StoreError::Unreadable`] when the storage fails.
    fn disk_bytes(&self) -> Result<u64, StoreError>;

    /// Removes values of the log, from the lowest on: those up to this key, and at most so many.
    /// How many it were. Not synced: a crash may bring them back.
    ///
    /// # Errors
    /// [`StoreError::Failed`].
    fn remove_values(&self, upto: EventId, max: usize) -> Result<usize, StoreError>;

    /// The last key that was ever removed: the cold part must have what was up to there.
    ///
    /// # Errors
    /// [`StoreError::Unreadable`] when the storage fails.
    fn removed_through(&self) -> Result<EventId, StoreError>;

    /// Changes rows of the cold part: all of them or none, and synced when this returns. What was
    /// added to the log before is on disk before they are: what they leave out may have been
    /// deleted there.
    ///
    /// # Errors
    /// [`StoreError::DiskFull`] when nothing was written for want of room, otherwise
    /// [`StoreError::Failed`].
    fn change_rows(&self, changes: &[Change]) -> Result<(), StoreError>;

    /// Shows rows in the order of their keys, from this key on, until told to stop.
    ///
    /// # Errors
    /// [`StoreError::Unreadable`] when the storage fails.
    fn rows(&self, table: Table, from: &[u8], visit: RowVisitor<'_>) -> Result<(), StoreError>;

    /// Shows rows against the order of their keys, from this key back, until told to stop.
    ///
    /// # Errors
    /// [`StoreError::Unreadable`] when the storage fails.
    fn rows_back(&self, table: Table, from: &[u8], visit: RowVisitor<'_>)
    -> Result<(), StoreError>;
}
