//! `GET /metrics`: what the server has counted, gathered when somebody asks.
//!
//! Workers and the journal's writer count in plain numbers of their own that nobody else writes;
//! here they are added up. So a scrape costs whoever counts nothing, and no label is for a run, a
//! project or a session: what there is of them has no bound. `docs/metrics.md` says what each means.
//!
//! Some of it is asked of the disk and the system: never call [`scrape`] on an event loop.

mod text;

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

pub use self::text::Form;
use self::text::{Family, Number, Values};
use crate::{
    admission::Refusal,
    histogram::{COMMIT, Counted, Histogram, LATENCY, REQUEST, STREAM, Scale},
    hub::Reason,
    logging,
    process::Process,
    route::TEMPLATES,
    shared::{Shared, WorkerStats},
    wire::status::STATUSES,
};

/// Everything there is, in this form.
pub fn scrape(shared: &Shared, form: Form) -> Vec<u8> {
    let mut families = Vec::new();
    streams(shared, &mut families);
    journal(shared, &mut families);
    http(shared, &mut families);
    process(&mut families);
    text::encode(families, form)
}

fn streams(shared: &Shared, out: &mut Vec<Family>) {
    let sum = |of: fn(&WorkerStats) -> &AtomicU64| {
        shared.workers.iter().map(|worker| of(worker).load(Relaxed)).sum::<u64>()
    };
    let now = |of: fn(&WorkerStats) -> &AtomicUsize| {
        shared.workers.iter().map(|worker| of(worker).load(Relaxed)).sum::<usize>()
    };
    let all = |scale: &'static Scale, of: fn(&WorkerStats) -> &Histogram| {
        Counted::of(scale, shared.workers.iter().map(|worker| of(worker)))
    };
    let by_reason = Reason::ALL.map(|reason| {
        let counts = shared.workers.iter().map(|worker| &worker.disconnects[reason as usize]);
        (
            vec![("reason", reason.as_str().to_owned())],
            counts.map(|count| count.load(Relaxed)).sum::<u64>(),
        )
    });
    out.extend([
        Family::gauge(
            "sse_active_connections",
            "Streams that are open, probes among them",
            now(|worker| &worker.streams),
        ),
        Family::histogram(
            "sse_connection_duration_seconds",
            "How long streams were open that have ended",
            all(&STREAM, |worker| &worker.stream_durations),
        ),
        Family::counters("sse_disconnects", "Streams that have ended, by reason", by_reason),
        Family::counter(
            "sse_reconnects",
            "Streams that were opened with a cursor",
            sum(|worker| &worker.reconnects),
        ),
        Family::counter(
            "sse_events_delivered",
            "Events that the kernel has taken whole, each once for each stream",
            sum(|worker| &worker.events_delivered),
        ),
        Family::counter(
            "sse_bytes_sent",
            "Bytes of frames that the kernel has taken for streams",
            sum(|worker| &worker.bytes_sent),
        ),
        Family::counter(
            "sse_keepalives",
            "Keepalives sent, as comments or as heartbeat events",
            sum(|worker| &worker.keepalives),
        ),
        Family::gauge(
            "sse_lagging_connections",
            "Streams that wait for history or for room in their sockets",
            now(|worker| &worker.lagging),
        ),
        Family::counter(
            "sse_replayed_events",
            "Delivered events that were read from the journal",
            sum(|worker| &worker.events_replayed),
        ),
        Family::histogram(
            "sse_delivery_latency_seconds",
            "From the commit of an event until it was written to a stream that kept up",
            all(&LATENCY, |worker| &worker.delivery_latency),
        ),
    ]);
}

fn journal(shared: &Shared, out: &mut Vec<Family>) {
    let status = shared.journal.status();
    let journal = &shared.journal;
    out.extend([
        Family::counter(
            "journal_appended_events",
            "Events that were appended since the start",
            status.appended_events,
        ),
        Family::histogram(
            "journal_commit_seconds",
            "How long commits took, sync included",
            Counted::of(&LATENCY, [journal.commit_durations()]),
        ),
        Family::histogram(
            "journal_commit_events",
            "Events of each commit",
            Counted::of(&COMMIT, [journal.commit_events()]),
        ),
        Family::gauge(
            "journal_queue_depth",
            "Events that wait for the journal's writer",
            status.queued_events,
        ),
        Family::gauge(
            "journal_failed",
            "1 when nothing is written any more until the server is restarted",
            usize::from(status.failed),
        ),
    ]);
    if status.last_commit_at.0 > 0 {
        out.push(Family::gauge(
            "journal_last_commit_timestamp_seconds",
            "When something was last committed",
            Number::Real(status.last_commit_at.0 as f64 / 1_000.0),
        ));
    }
    if let Ok(bytes) = journal.store().disk_bytes() {
        out.push(Family::gauge("journal_bytes", "Bytes of the journal on the disk", bytes));
    }
    if let Ok(disk) = rustix::fs::statvfs(&shared.settings.journal) {
        out.push(Family::gauge(
            "journal_disk_free_bytes",
            "Bytes that are free on the disk of the journal",
            disk.f_bavail * disk.f_frsize,
        ));
    }
}

fn http(shared: &Shared, out: &mut Vec<Family>) {
    let refused =
        Refusal::ALL.map(|why| (vec![("reason", why.as_str().to_owned())], shared.refused(why)));
    let mut requests = Vec::new();
    let mut durations = Vec::new();
    for (route, template) in TEMPLATES.into_iter().enumerate() {
        for (status, code) in STATUSES.into_iter().enumerate() {
            let counts = shared.workers.iter().map(|worker| worker.requests_of(route, status));
            let count: u64 = counts.sum();
            if count > 0 {
                let labels = vec![("route", template.to_owned()), ("status", code.to_string())];
                requests.push((labels, count));
            }
        }
        let histograms = shared.workers.iter().map(|worker| worker.request_durations(route));
        let counted = Counted::of(&REQUEST, histograms);
        if counted.count > 0 {
            durations.push((vec![("route", template.to_owned())], counted));
        }
    }
    out.extend([
        Family::gauge(
            "http_connections",
            "Connections that are open, streams among them",
            shared.connections(),
        ),
        Family::gauge(
            "connections_max",
            "Most connections that there may be at one time",
            shared.connections_max,
        ),
        Family::counters(
            "connections_refused",
            "Who was turned away without being served, by reason",
            refused,
        ),
        Family::counters("http_requests", "Requests that were answered", requests),
        Family {
            name: "http_request_duration_seconds",
            help: "From the end of a request's head to the end of its answer, or of a stream's head",
            values: Values::Histograms(durations),
        },
        Family::gauge(
            "server_draining",
            "1 while the server goes down",
            usize::from(shared.draining.load(Relaxed)),
        ),
        Family {
            name: "tidewheel_build_info",
            help: "Always 1: what is running",
            values: Values::Gauges(vec![(
                vec![("version", env!("CARGO_PKG_VERSION").to_owned())],
                Number::Whole(1),
            )]),
        },
        Family::counter(
            "log_lines_dropped",
            "Lines of the log that were left out since nobody took them from standard error",
            logging::dropped(),
        ),
    ]);
}

/// What the system says of this process, under the names that all client libraries use.
fn process(out: &mut Vec<Family>) {
    let process = Process::read();
    let mut gauge = |name, help, value: Option<Number>| {
        out.extend(value.map(|value| Family::gauge(name, help, value)));
    };
    let whole = |value: Option<u64>| value.map(Number::Whole);
    gauge("process_open_fds", "Open file descriptors", whole(process.open_files));
    gauge("process_max_fds", "Most file descriptors that may be open", whole(process.files_max));
    gauge("process_resident_memory_bytes", "Resident memory", whole(process.resident_bytes));
    gauge("process_virtual_memory_bytes", "Virtual memory", whole(process.virtual_bytes));
    gauge(
        "process_start_time_seconds",
        "When the process began",
        process.started_at.map(Number::Real),
    );
    if let Some(seconds) = process.cpu_seconds {
        let help = "Processor time, of the system's too";
        out.push(Family::counter("process_cpu_seconds", help, Number::Real(seconds)));
    }
}
