//! What all workers and the server have in common: settings, the journal, and how each is doing.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
};

use crate::{
    api::cors::CorsPolicy,
    clock::Clock,
    config::Settings,
    driver::IoDriver,
    history_readers::HistoryReaders,
    journal::catalog::{Catalog, read},
    journal_writer::JournalWriter,
};

/// What all workers and the server have in common.
pub struct Shared {
    /// The settings in force.
    pub settings: Settings,
    /// How the kernel is asked.
    pub driver: IoDriver,
    /// Derived from the settings.
    pub cors: CorsPolicy,
    /// Most connections at one time.
    pub connections_max: usize,
    /// The wall clock.
    pub clock: Arc<Clock>,
    /// Where writes go.
    pub journal: JournalWriter,
    /// Where reads go.
    pub readers: HistoryReaders,
    /// How each worker is doing.
    pub workers: Vec<Arc<WorkerStats>>,
    /// `/health/ready` says no.
    pub draining: AtomicBool,
}

impl Shared {
    /// Connections of all workers.
    pub fn connections(&self) -> usize {
        self.workers.iter().map(|worker| worker.connections.load(Relaxed)).sum()
    }
}

/// How one worker is doing. Written by it alone, read by anybody.
#[derive(Debug, Default)]
pub struct WorkerStats {
    /// Open connections, streams among them.
    pub connections: AtomicUsize,
    /// Open streams.
    pub streams: AtomicUsize,
    /// Views with subscribers.
    pub views: AtomicUsize,
    /// Bytes in their tails.
    pub tails_bytes: AtomicUsize,
    /// Bytes sent on streams.
    pub bytes_sent: AtomicU64,
    /// Requests taken.
    pub requests: AtomicU64,
}

/// Looks something up in the catalog.
pub fn read_catalog<T>(shared: &Shared, look: impl FnOnce(&Catalog) -> T) -> T {
    look(&read(shared.journal.catalog()))
}
