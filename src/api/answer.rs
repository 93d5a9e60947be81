//! What is answered: values of the journal as JSON, and its refusals as problems.

use std::{io::Write as _, time::Duration};

use crate::{
    admission::Refusal,
    event::{Event, EventId, Label, RunId, RunStatus},
    journal::{CommittedEvent, RunSummary, WriteError, catalog::ProjectSummary},
    wire::{problem::Problem, response::Response, sse},
};

/// The run, with its entity tag.
pub fn run(status: u16, run: &RunSummary) -> Response {
    let mut body = Vec::with_capacity(256 + run.metadata.as_str().len());
    run_json(&mut body, run);
    Response::json(status, body).with_header("ETag", format!("\"{}\"", run.last_event_id))
}

/// A run that was created: 201, and where it is.
pub fn created(summary: &RunSummary) -> Response {
    run(201, summary).with_header("Location", format!("/runs/{}", summary.id))
}

/// A page of runs, newest first.
pub fn runs(runs: &[RunSummary], has_more: bool) -> Response {
    let mut body = b"{\"runs\":[".to_vec();
    comma_separated(&mut body, runs, run_json);
    match runs.last() {
        Some(last) if has_more => put(&mut body, format_args!("],\"next_before_id\":{}", last.id)),
        _ => body.extend_from_slice(b"],\"next_before_id\":null"),
    }
    put(&mut body, format_args!(",\"has_more\":{has_more}}}"));
    Response::json(200, body)
}

/// Every project.
pub fn projects(projects: &[ProjectSummary]) -> Response {
    let mut body = b"{\"projects\":[".to_vec();
    comma_separated(&mut body, projects, |out, summary| {
        let (project, counts) = (summary.project.as_str(), summary.counts);
        put(
            out,
            format_args!(
                "{{\"project\":\"{project}\",\"runs\":{},\"running\":{}}}",
                counts.runs, counts.running
            ),
        );
    });
    body.extend_from_slice(b"]}");
    Response::json(200, body)
}

/// Events that were appended: 201, each without its payload.
pub fn appended<'a>(events: impl IntoIterator<Item = &'a Event>, is_array: bool) -> Response {
    let mut body = Vec::with_capacity(160);
    let mut last_id = EventId(0);
    comma_separated(&mut body, events, |out, event| {
        sse::event_head_json(out, &event.borrowed());
        last_id = event.id;
    });
    if is_array {
        body.insert(0, b'[');
        body.push(b']');
    }
    Response::json(201, body).with_header("ETag", format!("\"{last_id}\""))
}

/// What an NDJSON body has appended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Uploaded {
    /// How many events.
    pub count: u64,
    /// The first of them.
    pub first_id: Option<EventId>,
    /// The last of them.
    pub last_id: Option<EventId>,
    /// Its seq in the run.
    pub last_seq: Option<u64>,
}

impl Uploaded {
    /// Counts events that were committed.
    pub fn add(&mut self, events: &[CommittedEvent]) {
        self.count += events.len() as u64;
        if let (Some(first), Some(last)) = (events.first(), events.last()) {
            self.first_id.get_or_insert(first.event.id);
            self.last_id = Some(last.event.id);
            self.last_seq = Some(last.event.seq);
        }
    }

    /// The answer: 201, or 200 when there was nothing in it.
    pub fn response(&self) -> Response {
        let mut body = Vec::new();
        let id = |id: Option<EventId>| id.map_or("null".to_owned(), |id| id.to_string());
        let seq = self.last_seq.map_or("null".to_owned(), |seq| seq.to_string());
        put(
            &mut body,
            format_args!(
                "{{\"count\":{},\"first_id\":{},\"last_id\":{},\"last_seq\":{seq}}}",
                self.count,
                id(self.first_id),
                id(self.last_id),
            ),
        );
        Response::json(if self.count == 0 { 200 } else { 201 }, body)
    }

    /// A problem that came after some lines were appended: it says how many, and up to where.
    #[must_use]
    pub fn problem(&self, problem: Problem) -> Problem {
        let id = |id: Option<EventId>| id.map(|id| id.0);
        problem
            .with("count", self.count)
            .with("first_id", id(self.first_id))
            .with("last_id", id(self.last_id))
            .with("last_seq", self.last_seq)
    }
}

/// What a producer has sent before: 200.
pub fn duplicate(epoch: u64, last_seq: u64) -> Response {
    let mut body = Vec::new();
    put(
        &mut body,
        format_args!(
            "{{\"duplicate\":true,\"producer_epoch\":{epoch},\"producer_seq\":{last_seq}}}"
        ),
    );
    Response::json(200, body)
}

/// A page of events: `events` is the inside of the JSON array.
#[derive(Clone, Debug)]
pub struct EventsPage {
    /// The events, separated by commas.
    pub events: Vec<u8>,
    /// Where the next page begins.
    pub next_after: EventId,
    /// Whether it has something already.
    pub has_more: bool,
    /// Where the run stands.
    pub status: RunStatus,
    /// Retention has removed events after the cursor: it, and the first id that is there, or can be.
    pub truncated: Option<(EventId, EventId)>,
    /// The cursor lay ahead of the journal, and the page begins at the beginning.
    pub reset: bool,
}

impl EventsPage {
    /// Whether whoever waits for something may wait on.
    pub fn says_nothing(&self) -> bool {
        self.events.is_empty() && self.truncated.is_none()
    }

    /// The answer.
    pub fn response(self) -> Response {
        let mut body = Vec::with_capacity(self.events.len() + 256);
        body.extend_from_slice(b"{\"events\":[");
        body.extend_from_slice(&self.events);
        put(
            &mut body,
            format_args!(
                "],\"next_after_id\":{},\"has_more\":{},\"run_status\":\"{}\",\"truncated\":",
                self.next_after,
                self.has_more,
                self.status.as_str(),
            ),
        );
        match self.truncated {
            Some((after, first)) => sse::truncated_json(&mut body, after, first),
            None => body.extend_from_slice(b"null"),
        }
        put(&mut body, format_args!(",\"reset\":{}}}", self.reset));
        Response::json(200, body).with_header("Cache-Control", "no-store")
    }
}

/// Why a write was refused; `uploaded` is what went before it of the same request.
pub fn refused(error: &WriteError, uploaded: Option<&Uploaded>) -> Response {
    let detail = error.to_string();
    let problem = |status: u16| Problem::new(status).detail(detail.clone());
    let problem = match error {
        WriteError::NoSuchRun(_) => problem(404).of_type("no-such-run", "No such run"),
        WriteError::RunEnded(status) => problem(409)
            .of_type("run-ended", "The run has ended")
            .with("run_status", status.as_str()),
        WriteError::MovedOn(last) => {
            problem(412).of_type("moved-on", "The run has moved on").with("last_event_id", last.0)
        }
        WriteError::KeyReused => {
            problem(409).of_type("key-reused", "The idempotency key was used with another body")
        }
        WriteError::ProducerGap { expected } => {
            problem(409).of_type("producer-gap", "A request is missing").with("expected", *expected)
        }
        WriteError::ProducerFenced { current } => problem(403)
            .of_type("producer-fenced", "The producer has a newer epoch")
            .with("current_epoch", *current),
        WriteError::DiskFull => problem(507).of_type("disk-full", "The disk is full"),
        WriteError::JournalFailed(_) => {
            problem(503).of_type("journal-failed", "The journal has failed")
        }
        WriteError::Closed => problem(503).of_type("draining", "The server is going down"),
    };
    let problem = match uploaded {
        Some(uploaded) => uploaded.problem(problem),
        None => problem,
    };
    self::problem(&problem)
}

/// A problem as an answer. What is wrong only for now says when to ask again.
pub fn problem(problem: &Problem) -> Response {
    let response = Response::problem(problem);
    match problem.status() {
        429 | 503 => response.with_header("Retry-After", "1"),
        507 => response.with_header("Retry-After", "10"),
        _ => response,
    }
}

/// There is no such run.
pub fn no_such_run(run: RunId) -> Response {
    refused(&WriteError::NoSuchRun(run), None)
}

/// The request cannot be served now, but perhaps after this time.
pub fn unavailable(refusal: Refusal, wait: Duration) -> Response {
    let (slug, title) = refusal.problem();
    let problem = Problem::new(refusal.status()).of_type(slug, title);
    let seconds = wait.as_millis().div_ceil(1_000).max(1);
    Response::problem(&problem).with_header("Retry-After", seconds.to_string())
}

fn run_json(out: &mut Vec<u8>, run: &RunSummary) {
    // A label has no character that JSON would escape.
    let label = |label: &Option<Label>| match label {
        Some(label) => format!("\"{}\"", label.as_str()),
        None => "null".to_owned(),
    };
    put(
        out,
        format_args!(
            "{{\"id\":{},\"project\":{},\"session\":{},\"status\":\"{}\",\"metadata\":{},\
             \"created_at\":\"{}\",\"updated_at\":\"{}\",\"last_event_id\":{},\"event_count\":{}}}",
            run.id,
            label(&run.labels.project),
            label(&run.labels.session),
            run.status.as_str(),
            run.metadata.as_str(),
            run.created_at,
            run.updated_at,
            run.last_event_id,
            run.event_count
        ),
    );
}

fn comma_separated<T>(
    out: &mut Vec<u8>,
    items: impl IntoIterator<Item = T>,
    mut each: impl FnMut(&mut Vec<u8>, T),
) {
    for (index, item) in items.into_iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        each(out, item);
    }
}

fn put(out: &mut Vec<u8>, text: std::fmt::Arguments) {
    out.write_fmt(text).expect("a Vec takes every byte");
}
