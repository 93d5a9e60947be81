//! What all workers and the server have in common: settings, the journal, and how each is doing.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use crate::{
    admission::{Admissions, Refusal},
    api::cors::CorsPolicy,
    clock::Clock,
    config::Settings,
    driver::IoDriver,
    histogram::{Histogram, LATENCY, REQUEST, STREAM, raise},
    history_readers::HistoryReaders,
    hub::Reason,
    journal::catalog::{Catalog, read},
    journal_writer::JournalWriter,
    route::{TEMPLATES, template_number},
    wire::status::STATUSES,
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
    /// Who is let in.
    pub admissions: Arc<Admissions>,
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

    /// How many connections and streams all workers have refused for this reason.
    pub fn refused(&self, refusal: Refusal) -> u64 {
        self.workers.iter().map(|worker| worker.refused(refusal)).sum()
    }
}

/// How one worker is doing. Written by it alone, read by anybody.
#[derive(Debug)]
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
    /// Streams that wait for history, or for room in their sockets.
    pub lagging: AtomicUsize,
    /// Events that the kernel has taken whole, each once for each stream.
    pub events_delivered: AtomicU64,
    /// Those of them that were read from the journal.
    pub events_replayed: AtomicU64,
    /// Keepalives sent.
    pub keepalives: AtomicU64,
    /// Streams that were opened with a cursor.
    pub reconnects: AtomicU64,
    /// Streams that have ended, by the number of the [`Reason`].
    pub disconnects: [AtomicU64; Reason::ALL.len()],
    /// One for each of [`Refusal::ALL`].
    refused: [AtomicU64; Refusal::ALL.len()],
    /// How long streams were open, in microseconds.
    pub stream_durations: Histogram,
    /// From commit to written, in microseconds: one value for each event and stream.
    pub delivery_latency: Histogram,
    /// Requests that were answered, by route and status: see [`WorkerStats::requests_of`].
    answered: Box<[AtomicU64]>,
    /// How long each route's requests took, in microseconds.
    request_durations: Box<[Histogram]>,
}

impl Default for WorkerStats {
    fn default() -> WorkerStats {
        let zeros = |count| (0..count).map(|_| AtomicU64::new(0)).collect();
        WorkerStats {
            connections: AtomicUsize::default(),
            streams: AtomicUsize::default(),
            views: AtomicUsize::default(),
            tails_bytes: AtomicUsize::default(),
            bytes_sent: AtomicU64::default(),
            requests: AtomicU64::default(),
            lagging: AtomicUsize::default(),
            events_delivered: AtomicU64::default(),
            events_replayed: AtomicU64::default(),
            keepalives: AtomicU64::default(),
            reconnects: AtomicU64::default(),
            disconnects: Default::default(),
            refused: Default::default(),
            stream_durations: Histogram::new(&STREAM),
            delivery_latency: Histogram::new(&LATENCY),
            answered: zeros(TEMPLATES.len() * STATUSES.len()),
            request_durations: TEMPLATES.iter().map(|_| Histogram::new(&REQUEST)).collect(),
        }
    }
}

impl WorkerStats {
    /// Counts a request that was answered, by the template of its route.
    pub fn note_answer(&self, template: &str, status: u16, took: Duration) {
        let route = template_number(template);
        let status = STATUSES.iter().position(|known| *known == status);
        if let Some(status) = status {
            raise(&self.answered[route * STATUSES.len() + status], 1);
        }
        self.request_durations[route].observe(took.as_micros() as u64, 1);
    }

    /// Requests of a route, by its number in [`TEMPLATES`], with a status, by that in [`STATUSES`].
    pub fn requests_of(&self, route: usize, status: usize) -> u64 {
        self.answered[route * STATUSES.len() + status].load(Relaxed)
    }

    /// How long the requests of a route took, by its number in [`TEMPLATES`].
    pub fn request_durations(&self, route: usize) -> &Histogram {
        &self.request_durations[route]
    }

    /// How many connections and streams were refused for this reason.
    pub fn refused(&self, refusal: Refusal) -> u64 {
        self.refused[refusal as usize].load(Relaxed)
    }

    /// One more was.
    pub fn note_refusal(&self, refusal: Refusal) {
        raise(&self.refused[refusal as usize], 1);
    }
}

/// Looks something up in the catalog.
pub fn read_catalog<T>(shared: &Shared, look: impl FnOnce(&Catalog) -> T) -> T {
    look(&read(shared.journal.catalog()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::NO_ROUTE;

    #[test]
    fn numbers_are_places_in_the_lists() {
        for (number, reason) in Reason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, number, "{reason:?}");
        }
        for (number, why) in Refusal::ALL.into_iter().enumerate() {
            assert_eq!(why as usize, number, "{why:?}");
        }
    }

    #[test]
    fn an_unknown_route_is_none() {
        let stats = WorkerStats::default();
        let ok = STATUSES.iter().position(|status| *status == 200).unwrap();
        stats.note_answer("/runs/{id}", 200, Duration::from_micros(700));
        stats.note_answer("/whatever", 200, Duration::ZERO);
        let counted: Vec<&str> = (0..TEMPLATES.len())
            .filter(|route| stats.requests_of(*route, ok) == 1)
            .map(|route| TEMPLATES[route])
            .collect();
        assert_eq!(counted, ["/runs/{id}", NO_ROUTE]);
    }
}
