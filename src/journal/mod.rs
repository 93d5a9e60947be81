//! The journal: what has happened, in order, on disk.
//!
//! Parts that know nothing of threads, and a shell (`journal_writer.rs`, `history_readers.rs`)
//! that gives them some:
//!
//! - [`commit`] takes writes, decides each of them and packs what they append into one batch;
//! - [`codec`] is what such a batch looks like in bytes: one or more *values*, each stored under
//!   the id of its first event;
//! - [`store`] keeps values: in [`redb`], on a [`disk`], or in [`memory`] for tests;
//! - [`catalog`] is what is known of every run, and where its events are ([`postings`]);
//!   [`history`] reads them;
//! - [`once`] remembers idempotency keys and producers, for [`commit`] alone.
//!
//! Invariants: a batch is stored and synced before anything in it is seen by anybody; ids go up
//! by every event; the catalog is changed by committed batches only, so that it can be rebuilt
//! from them when the journal is opened.
//!
//! Nothing here is indexed by run on disk: a key that starts with the run makes every commit
//! rewrite a page for each run that it touches, which cost nine tenths of the throughput. The
//! writer only ever adds at the right-hand edge of one table, and where a run's events are is
//! kept in memory.

pub mod backup;
mod block;
mod bytes;
pub mod catalog;
pub mod codec;
pub mod cold;
mod cold_history;
pub mod commit;
pub mod damage;
pub mod disk;
#[cfg(test)]
pub(crate) mod fake_disk;
#[cfg(test)]
pub(crate) mod fixture;
pub mod history;
pub mod import;
pub mod memory;
#[cfg(test)]
pub(crate) mod model;
pub mod once;
mod opening;
pub mod postings;
pub mod redb;
pub mod store;
pub mod survey;
pub mod verify;
pub mod windows;

use std::sync::Arc;

use crate::event::{Event, EventId, Json, Labels, NewEvent, RunId, RunStatus, Timestamp};

/// One change that somebody asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    /// Create a run; its `RUN_CREATED` event is appended with it.
    CreateRun {
        /// Project and session.
        labels: Labels,
        /// Any JSON value; `null` when left out.
        metadata: Json,
        /// At most once by key.
        key: Option<IdempotencyKey>,
    },
    /// Append events to a run: all of them or none.
    Append {
        /// To which run.
        run: RunId,
        /// At least one: an append of nothing has no place in the journal, and is refused before.
        events: Vec<NewEvent>,
        /// At most once, by key or by producer.
        once: Once,
        /// Only if the run has not moved on.
        if_match: IfMatch,
    },
    /// End a run: its closing event is appended.
    EndRun {
        /// Which run.
        run: RunId,
        /// `Completed`, `Failed` or `Cancelled`.
        status: RunStatus,
        /// Payload of the closing event.
        payload: Json,
        /// Only if the run has not moved on.
        if_match: IfMatch,
    },
    /// Delete a run and its history.
    DeleteRun {
        /// Which run.
        run: RunId,
        /// Only if the run has not moved on.
        if_match: IfMatch,
    },
}

/// The precondition of a write (RFC 9110 §13.1.1): `If-Match: "<last_event_id>"`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum IfMatch {
    /// No precondition, or `*`: the run exists.
    #[default]
    Any,
    /// The last event of the run is one of these.
    LastEvent(Box<[EventId]>),
}

/// How an append is kept from happening twice.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Once {
    /// It is not.
    #[default]
    No,
    /// By `Idempotency-Key`.
    Key(IdempotencyKey),
    /// By `Producer-Id`, `Producer-Epoch` and `Producer-Seq`.
    Producer(Producer),
}

/// An `Idempotency-Key`, with a fingerprint of the body it came with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdempotencyKey {
    /// As the client sent it.
    pub key: Box<str>,
    /// XXH3-128 of the body: the same key with another body is refused.
    pub fingerprint: u128,
}

/// One request of a steady publisher.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Producer {
    /// Who.
    pub id: Box<str>,
    /// Which life of it: a higher one fences off the lower ones.
    pub epoch: u64,
    /// Which request of that life, from 0.
    pub seq: u64,
}

/// What a write has done.
#[derive(Clone, Debug, PartialEq)]
pub enum Written {
    /// The run is there (201).
    Created(RunSummary),
    /// The events are there (201): `batch.events[range]`.
    Appended {
        /// The batch they were committed in.
        batch: Arc<CommittedBatch>,
        /// Which of its events.
        range: std::ops::Range<usize>,
    },
    /// This key was used before, for these events of the run: answer as at that time.
    AppendedBefore {
        /// Their run.
        run: RunId,
        /// The first of them.
        first_id: EventId,
        /// Its seq.
        first_seq: u64,
        /// How many; their ids and their seqs follow each other.
        count: u64,
        /// When all of them were taken.
        created_at: Timestamp,
    },
    /// The same for a run that was created with this key; its first event says the rest.
    CreatedBefore {
        /// The run.
        run: RunId,
        /// Its `RUN_CREATED` event.
        first_id: EventId,
    },
    /// This producer has sent this before (200).
    Duplicate {
        /// The producer's epoch.
        epoch: u64,
        /// The last `Producer-Seq` taken from it.
        last_seq: u64,
    },
    /// The run has ended, now or before in the same way (200).
    Ended(RunSummary),
    /// The run is gone (204).
    Deleted,
}

/// Why a write was not done. Nothing of it is in the journal.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// 404.
    #[error("there is no run {0}")]
    NoSuchRun(RunId),
    /// 409.
    #[error("the run has ended: it is {}", .0.as_str())]
    RunEnded(RunStatus),
    /// 412, with the id of the run's last event.
    #[error("the last event of the run is {0}")]
    MovedOn(EventId),
    /// 409.
    #[error("this Idempotency-Key was used with another body")]
    KeyReused,
    /// 409.
    #[error("expected Producer-Seq {expected}")]
    ProducerGap {
        /// The seq that would be taken.
        expected: u64,
    },
    /// 403.
    #[error("this producer has gone on to epoch {current}")]
    ProducerFenced {
        /// The epoch it has reached.
        current: u64,
    },
    /// 507: the disk is full; the journal goes on when there is room.
    #[error("the disk is full")]
    DiskFull,
    /// 503: what is on disk is unknown, so nothing is written until the server is restarted.
    #[error("the journal has failed: {0}")]
    JournalFailed(String),
    /// 503: the server is going down.
    #[error("the journal is closed")]
    Closed,
}

/// What the answer to a write is.
pub type WriteResult = Result<Written, WriteError>;

/// A batch that is on disk: what workers deliver.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CommittedBatch {
    /// Position of the journal after this batch: at least the id of its last event.
    pub last_id: EventId,
    /// Its events, in the order of their ids.
    pub events: Vec<CommittedEvent>,
    /// Runs that it deletes.
    pub deleted: Vec<RunId>,
}

/// An event that is on disk, with the labels of its run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommittedEvent {
    /// The event.
    pub event: Event,
    /// The labels of its run.
    pub labels: Arc<Labels>,
}

/// Where a run stands, without what its creator said about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RunHead {
    /// Where it stands.
    pub status: RunStatus,
    /// When its first event was taken.
    pub created_at: Timestamp,
    /// When its last event was taken.
    pub updated_at: Timestamp,
    /// Its last event.
    pub last_event_id: EventId,
    /// Events ever appended: the seq of the last one.
    pub event_count: u64,
}

/// What retention has left of the events of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kept {
    /// The seq of the first that is left, or would be.
    pub first_seq: u64,
    /// The last one that was removed; 0 if none was.
    pub removed_through: EventId,
}

impl Default for Kept {
    fn default() -> Kept {
        Kept { first_seq: 1, removed_through: EventId(0) }
    }
}

/// A run as `GET /runs/{id}` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunSummary {
    /// Its id.
    pub id: RunId,
    /// Project and session.
    pub labels: Arc<Labels>,
    /// Where it stands.
    pub status: RunStatus,
    /// What its creator said about it.
    pub metadata: Json,
    /// When its first event was taken.
    pub created_at: Timestamp,
    /// When its last event was taken.
    pub updated_at: Timestamp,
    /// Its last event.
    pub last_event_id: EventId,
    /// Events ever appended: the seq of the last one.
    pub event_count: u64,
}
