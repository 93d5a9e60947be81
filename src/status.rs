//! How the server is doing: `/worker`, `/health` and `/health/ready`.

use std::sync::atomic::Ordering::Relaxed;

use serde_json::{Map, Value as Json, json};

use crate::{
    admission::Refusal,
    api::answer,
    config::Value as _,
    event::{EventId, Timestamp},
    journal::catalog::Catalog,
    shared::{Shared, read_catalog},
    wire::{problem::Problem, response::Response},
};

/// 200 while the process serves.
pub fn health() -> Response {
    Response::json(200, r#"{"status":"ok"}"#).with_header("Cache-Control", "no-store")
}

/// 503 while the server drains or its journal has failed.
pub fn ready(shared: &Shared) -> Response {
    let problem = if shared.journal.has_failed() {
        Problem::new(503).of_type("journal-failed", "The journal has failed")
    } else if shared.draining.load(Relaxed) {
        Problem::new(503).of_type("draining", "The server is going down")
    } else {
        return Response::json(200, r#"{"status":"ready"}"#)
            .with_header("Cache-Control", "no-store");
    };
    answer::problem(&problem)
}

/// Every worker, and the journal's writer. `first` is the first event that is kept.
pub fn worker(shared: &Shared, first: Option<EventId>) -> Response {
    let workers: Vec<Json> = shared
        .workers
        .iter()
        .enumerate()
        .map(|(id, worker)| {
            json!({
                "id": id,
                "io_driver": shared.driver.as_str(),
                "connections": worker.connections.load(Relaxed),
                "streams": worker.streams.load(Relaxed),
                "views": worker.views.load(Relaxed),
                "tails_bytes": worker.tails_bytes.load(Relaxed),
                "bytes_sent": worker.bytes_sent.load(Relaxed),
                "requests": worker.requests.load(Relaxed),
            })
        })
        .collect();
    let refused: Map<String, Json> = Refusal::ALL
        .into_iter()
        .map(|refusal| (refusal.as_str().to_owned(), shared.refused(refusal).into()))
        .collect();
    let (counts, last_id, kept) =
        read_catalog(shared, |catalog| (catalog.counts(), catalog.last_id(), Kept::of(catalog)));
    let status = shared.journal.status();
    let last_commit_at =
        (status.last_commit_at != Timestamp(0)).then(|| status.last_commit_at.to_string());
    let body = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "draining": shared.draining.load(Relaxed),
        "connections_max": shared.connections_max,
        "refused": refused,
        "workers": workers,
        "journal": {
            "durability": status.durability.to_text(),
            "durability_means": status.durability.meaning(),
            "disk_bytes": shared.journal.store().disk_bytes().ok(),
            "failed": status.failed,
            "queue_events": status.queued_events,
            "queue_bytes": status.queued_bytes,
            "waiting_for_room": status.waiting_for_room,
            "reads_waiting": shared.readers.depth(),
            "appended_events": status.appended_events,
            "log_bytes": status.log_bytes,
            "cold_bytes": kept.cold_bytes,
            "windows": kept.windows,
            "moved_through": kept.moved_through.0,
            "first_id": first.map(|id| id.0),
            "last_id": last_id.0,
            "runs": counts.runs,
            "running": counts.running,
            "last_commit": last_commit_at.map(|at| json!({
                "at": at,
                "events": status.last_commit_events,
                "seconds": status.last_commit_duration.as_secs_f64(),
            })),
        },
    });
    Response::json(200, body.to_string()).with_header("Cache-Control", "no-store")
}

/// What the journal has of what was ever appended.
struct Kept {
    cold_bytes: u64,
    windows: usize,
    moved_through: EventId,
}

impl Kept {
    fn of(catalog: &Catalog) -> Kept {
        let windows = catalog.windows();
        Kept {
            cold_bytes: windows.iter().map(|window| window.bytes).sum(),
            windows: windows.len(),
            moved_through: catalog.moved_through(),
        }
    }
}
