//! Where journal values are kept: the narrow trait between the journal and its storage.
//!
//! A value is bytes under the id that it begins at. Values are only ever added, with ever higher
//! keys, and never changed: so a reader needs no snapshot, and a store no index.

use std::io;
use std::ops::ControlFlow;
use std::path::PathBuf;

use super::codec::{DecodeError, FORMAT_VERSION};
use crate::event::EventId;

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
    /// A value is not what was written.
    #[error("the journal value at {key}: {error}")]
    Corrupt {
        /// Where it is stored.
        key: EventId,
        /// What is wrong with it.
        error: DecodeError,
    },
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
    /// A later version of the program wrote it.
    #[error(
        "the journal {path} is of format {found}, newer than format {FORMAT_VERSION} which this version of tidewheel knows. Start it with the version of tidewheel that wrote it, or a later one"
    )]
    Newer {
        /// Which file.
        path: PathBuf,
        /// Its format.
        found: u64,
    },
    /// The file is damaged, or is no journal.
    #[error(
        "the journal {path} is damaged: {reason}. Nothing was changed in it. Restore it from a backup, or move it away to start with an empty one"
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
            StoreError::Corrupt { error: DecodeError::Newer(found), .. } => {
                OpenError::Newer { path, found: u64::from(found) }
            }
            StoreError::Corrupt { .. } => OpenError::Corrupt { path, reason: error.to_string() },
            StoreError::Failed(reason) | StoreError::Unreadable(reason) => {
                OpenError::Io { path, error: io::Error::other(reason) }
            }
        }
    }
}

/// What sees a stored value: its key and its bytes.
pub type ValueVisitor<'a> = &'a mut dyn FnMut(EventId, &[u8]) -> ControlFlow<()>;

/// Keeps journal values. Written by one thread, read by several.
pub trait Store: Send + Sync {
    /// Adds values: all of them or none. With `sync` they, and all that were added before them,
    /// are on disk when this returns. The keys are ascending and above every key in the store.
    ///
    /// # Errors
    /// [`StoreError::DiskFull`] when nothing was written for want of room, otherwise
    /// [`StoreError::Failed`].
    fn append(&self, values: &[(EventId, Vec<u8>)], sync: bool) -> Result<(), StoreError>;

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
}
