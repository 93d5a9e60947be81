//! NDJSON: events taken line by line, and appended in batches as they arrive.
//!
//! A batch is whatever has come when nothing more is at hand, so a lone line is not delayed and a
//! flood is not appended one by one. One batch is with the journal at any time, which is all the
//! backpressure there needs to be: the rest waits in the socket.

use std::time::Duration;

use rustix::net::sockopt;

use super::{
    Asked,
    respond::{max_event_bytes, refusal_of},
    transport::{Gone, Input, Transport},
};
use crate::{
    api::{
        answer::{self, Uploaded},
        body, query,
    },
    connection::BodyProgress,
    deadlines::Deadline,
    driver::yield_now,
    event::{NewEvent, RunId},
    journal::{IfMatch, Once, Write, Written},
    limits::{
        EVENT_OVERHEAD_BYTES, NDJSON_BATCH_BYTES_MAX, NDJSON_BATCH_EVENTS_MAX,
        UPLOAD_SILENCE_SECONDS_MAX,
    },
    shared::read_catalog,
    wire::{problem::Problem, response::Response},
    worker::Worker,
};

/// Takes events line by line, and appends what has come whenever there is no more at hand.
pub(super) async fn upload(
    transport: &mut Transport,
    run: RunId,
    asked: &Asked,
) -> Result<Response, Gone> {
    let worker = std::rc::Rc::clone(&transport.worker);
    let headers = &asked.head.headers;
    if query::names_once(headers) {
        let reason = "NDJSON is not one unit: it takes neither a key nor a producer";
        return Ok(answer::problem(&body::invalid("Idempotency-Key", reason)));
    }
    let if_match = match query::if_match(headers) {
        Ok(if_match) => if_match,
        Err(problem) => return Ok(answer::problem(&problem)),
    };
    if !read_catalog(&worker.shared, |catalog| catalog.contains(run)) {
        return Ok(answer::no_such_run(run));
    }
    if !asked.origin.is_local() {
        // A program may be silent for hours; whether its host is still there the kernel asks.
        let _ = sockopt::set_socket_keepalive(&*transport.socket, true);
        let _ = sockopt::set_tcp_keepidle(&*transport.socket, Duration::from_mins(1));
        let _ = sockopt::set_tcp_keepintvl(&*transport.socket, Duration::from_secs(15));
    }
    let mut upload = Upload {
        run,
        if_match,
        max_event_bytes: max_event_bytes(&worker),
        pending: Vec::new(),
        line: 0,
        events: Vec::new(),
        bytes: 0,
        done: Uploaded::default(),
    };
    loop {
        let progress = match transport.connection.poll_body(&mut upload.pending) {
            Ok(progress) => progress,
            Err(refusal) => {
                return Ok(upload.fail(&worker, Problem::from(&refusal)).await);
            }
        };
        let is_complete = progress == BodyProgress::Complete;
        let mut parsed = upload.parse(is_complete);
        while upload.is_full() {
            if let Err(response) = upload.flush(&worker).await {
                return Ok(response);
            }
            if parsed.is_ok() {
                parsed = upload.parse(is_complete);
            }
        }
        if let Err(problem) = parsed {
            return Ok(upload.fail(&worker, problem).await);
        }
        if is_complete {
            return Ok(match upload.flush(&worker).await {
                Ok(()) => upload.done.response(),
                Err(response) => response,
            });
        }
        if worker.has_drained() {
            let problem = Problem::new(503).of_type("draining", "The server is going down");
            return Ok(upload.fail(&worker, problem).await);
        }
        match transport.receive()? {
            Some(Input::Bytes) => {
                // Lines without an event wait for nothing, and there may be no end to them.
                yield_now().await;
                continue;
            }
            Some(_) => {
                // What came before the connection broke is appended; nobody hears of it.
                let _ = upload.flush(&worker).await;
                return Err(Gone);
            }
            None => {}
        }
        if let Err(response) = upload.flush(&worker).await {
            return Ok(response);
        }
        let silence = Duration::from_secs(UPLOAD_SILENCE_SECONDS_MAX);
        match transport.wait_for_input(Deadline::Upload, silence).await? {
            Input::Bytes => {}
            // The drain has ended the wait: the next round answers.
            Input::TooLate if worker.has_drained() => {}
            Input::End | Input::TooLate => return Err(Gone),
        }
    }
}

/// An NDJSON body that is being appended.
struct Upload {
    run: RunId,
    /// Of the first batch.
    if_match: IfMatch,
    max_event_bytes: usize,
    /// What has arrived and is not parsed.
    pending: Vec<u8>,
    /// Lines that were parsed.
    line: u64,
    /// Events that are not appended yet, and their size.
    events: Vec<NewEvent>,
    bytes: usize,
    done: Uploaded,
}

impl Upload {
    fn is_full(&self) -> bool {
        self.events.len() >= NDJSON_BATCH_EVENTS_MAX || self.bytes >= NDJSON_BATCH_BYTES_MAX
    }

    /// Parses the lines that have arrived, until a batch is full; the last one may lack its line
    /// feed when the body is complete.
    fn parse(&mut self, is_complete: bool) -> Result<(), Problem> {
        let mut start = 0;
        let mut outcome = Ok(());
        while !self.is_full() && outcome.is_ok() {
            let rest = &self.pending[start..];
            let (end, next) = match memchr::memchr(b'\n', rest) {
                Some(at) => (start + at, start + at + 1),
                None if is_complete && !rest.is_empty() => (self.pending.len(), self.pending.len()),
                None => break,
            };
            outcome = self.parse_line(start, end);
            start = next;
        }
        self.pending.drain(..start);
        // A line may be longer than its payload, by its type and the names of its keys.
        if self.pending.len() > self.max_event_bytes + 1_024 && !self.is_full() && outcome.is_ok() {
            let detail = format!("line {} is longer than an event may be", self.line + 1);
            return Err(Problem::new(413).detail(detail).with("line", self.line + 1));
        }
        outcome
    }

    fn parse_line(&mut self, start: usize, end: usize) -> Result<(), Problem> {
        self.line += 1;
        let line = self.pending[start..end].trim_ascii();
        if line.is_empty() {
            return Ok(());
        }
        let event = body::event_line(line, self.max_event_bytes)
            .map_err(|problem| problem.with("line", self.line))?;
        self.bytes += event.payload.as_str().len() + EVENT_OVERHEAD_BYTES;
        self.events.push(event);
        Ok(())
    }

    /// Appends what has gathered.
    async fn flush(&mut self, worker: &Worker) -> Result<(), Response> {
        if self.events.is_empty() {
            return Ok(());
        }
        let write = Write::Append {
            run: self.run,
            events: std::mem::take(&mut self.events),
            once: Once::No,
            if_match: std::mem::take(&mut self.if_match),
        };
        self.bytes = 0;
        // Nothing is read meanwhile, so who uploads waits as long as it takes.
        match worker.write(write, None).await {
            Some(Ok(Written::Appended { batch, range })) => {
                self.done.add(&batch.events[range]);
                Ok(())
            }
            other => Err(refusal_of(other, Some(&self.done))),
        }
    }

    /// Appends what came before the problem, and says how much that was.
    async fn fail(mut self, worker: &Worker, problem: Problem) -> Response {
        match self.flush(worker).await {
            Ok(()) => answer::problem(&self.done.problem(problem)),
            Err(response) => response,
        }
    }
}
