//! Whether a stream that was dropped goes on where it was: nothing missing, nothing twice.
//!
//! In a run of its own when it may publish, in the middle of a given run when it may not. With
//! neither, whether the header arrives at all: a cursor that is none has to be refused.

use std::io::Read;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use serde::Deserialize;

use super::super::sse::Parser;
use super::super::{Answer, header};
use super::Endpoint;
use super::judge::Finding;
use crate::limits::CHECK_EVENTS;

const NAME: &str = "resume";
const LOST: &str = "Last-Event-ID does not reach the server: the proxy takes the header away, or answers from a cache";
/// Between two events that are appended: long enough that they are events of their own.
const APPEND_INTERVAL: Duration = Duration::from_millis(20);
/// Events that are read before the stream is dropped.
const EVENTS_A_CONNECTION: usize = 4;

/// What is said where there is no stream.
pub fn skipped() -> Finding {
    Finding::skipped(NAME, "there is no stream to resume")
}

/// Drops and resumes a stream.
pub fn check(endpoint: &Endpoint, run: Option<u64>, publish: bool) -> Finding {
    let result = match (publish, run) {
        (true, _) => in_a_new_run(endpoint),
        (false, Some(run)) => in_the_middle_of(endpoint, run),
        (false, None) => header_arrives(endpoint),
    };
    result.unwrap_or_else(|finding| finding)
}

#[derive(Deserialize)]
struct Created {
    id: u64,
}

/// Makes a run, follows it while it grows, and deletes it.
fn in_a_new_run(endpoint: &Endpoint) -> Result<Finding, Finding> {
    let failed = |reason: String| {
        Finding::failed(NAME, reason, "--publish needs to be let through to POST and DELETE")
    };
    let post = |path: &str, body: &str| -> Result<Answer, String> {
        let request = endpoint.agent().post(format!("{}{path}", endpoint.server));
        let request = endpoint.with_headers(request);
        let answer =
            request.header("Content-Type", "application/json").send(body).and_then(Answer::read);
        let answer = answer.map_err(|error| format!("POST {path}: {error}"))?;
        if answer.is_success() {
            Ok(answer)
        } else {
            Err(format!("POST {path}: {}", answer.refusal()))
        }
    };
    let answer = post("/runs", r#"{"project":"tidewheel-check"}"#).map_err(failed)?;
    let created = serde_json::from_slice::<Created>(&answer.body);
    let run = created.map_err(|error| failed(format!("POST /runs: this is no run: {error}")))?.id;
    let stop = AtomicBool::new(false);
    let (seqs, appended) = thread::scope(|scope| {
        let publisher = scope.spawn(|| {
            let events = format!("/runs/{run}/events");
            (0..CHECK_EVENTS).take_while(|_| !stop.load(Ordering::Relaxed)).try_for_each(|_| {
                thread::sleep(APPEND_INTERVAL);
                post(&events, r#"{"type":"CHECK"}"#).map(drop)
            })
        });
        let seqs = read_in_pieces(endpoint, run);
        stop.store(true, Ordering::Relaxed);
        (seqs, publisher.join().expect("it does not panic"))
    });
    let request = endpoint.agent().delete(format!("{}/runs/{run}", endpoint.server));
    let request = endpoint.with_headers(request);
    let deleted = request.call().map_err(|error| error.to_string()).and_then(|response| {
        if response.status() == 204 { Ok(()) } else { Err(response.status().to_string()) }
    });
    appended.map_err(failed)?;
    let connections = seqs?;
    deleted.map_err(|reason| failed(format!("run {run} is left behind: DELETE: {reason}")))?;
    Ok(Finding::ok(
        NAME,
        format!(
            "{} events over {connections} connections, none missing, none twice",
            CHECK_EVENTS + 1
        ),
    ))
}

/// Reads a run's stream a few events a connection, and says how many connections that took.
fn read_in_pieces(endpoint: &Endpoint, run: u64) -> Result<usize, Finding> {
    let path = format!("/runs/{run}/events/stream");
    let (mut last, mut cursor) = (0, None::<String>);
    let mut connections = 0;
    while last <= CHECK_EVENTS {
        let left = (CHECK_EVENTS + 1 - last) as usize;
        let events =
            some_events(endpoint, &path, cursor.as_deref(), left.min(EVENTS_A_CONNECTION))?;
        connections += 1;
        for Seen { id, seq } in events {
            if seq <= last {
                return Err(Finding::failed(
                    NAME,
                    format!("event {seq} of run {run} came twice"),
                    LOST,
                ));
            }
            if seq > last + 1 {
                let detail = format!("after event {last} of run {run} came {seq}");
                return Err(Finding::failed(
                    NAME,
                    detail,
                    "something in between has dropped a part of the stream",
                ));
            }
            (last, cursor) = (seq, Some(id));
        }
    }
    Ok(connections)
}

/// Reads two events of a run, and goes on after the first of them.
fn in_the_middle_of(endpoint: &Endpoint, run: u64) -> Result<Finding, Finding> {
    let path = format!("/runs/{run}/events/stream");
    let Ok(before) = some_events(endpoint, &path, None, 2) else {
        return Ok(Finding::skipped(NAME, format!("run {run} has no two events")));
    };
    let after = some_events(endpoint, &path, Some(&before[0].id), 1)?;
    if after[0].id == before[1].id {
        return Ok(Finding::ok(NAME, format!("after {} comes {}", before[0].id, after[0].id)));
    }
    let detail = format!("after {} came {}, not {}", before[0].id, after[0].id, before[1].id);
    Err(Finding::failed(NAME, detail, LOST))
}

/// Sends a cursor that is none, which the server has to refuse.
fn header_arrives(endpoint: &Endpoint) -> Result<Finding, Finding> {
    let answer = endpoint.open(
        "/events/stream?after_id=now",
        Some("none"),
        endpoint.answer,
        endpoint.answer,
    );
    let response = answer.0.map_err(|error| Finding::failed(NAME, error.to_string(), ""))?;
    match response.status().as_u16() {
        400 => {
            Ok(Finding::ok(NAME, "Last-Event-ID arrives; --publish or --run would resume a stream"))
        }
        200 => Err(Finding::failed(NAME, "a Last-Event-ID that is none was not refused", LOST)),
        status => Ok(Finding::skipped(NAME, format!("the answer was {status}"))),
    }
}

/// An event of the journal.
struct Seen {
    id: String,
    seq: u64,
}

#[derive(Deserialize)]
struct Envelope {
    seq: u64,
}

/// Reads so many events, and drops the stream.
fn some_events(
    endpoint: &Endpoint,
    path: &str,
    cursor: Option<&str>,
    count: usize,
) -> Result<Vec<Seen>, Finding> {
    let failed = |reason: String| {
        let from = cursor.unwrap_or("the beginning");
        Finding::failed(NAME, format!("{path} from {from}: {reason}"), "")
    };
    // The whole of it has to come in the time in which one answer has to.
    let (response, _) = endpoint.open(path, cursor, endpoint.answer, endpoint.answer);
    let response = response.map_err(|error| failed(error.to_string()))?;
    if response.status() != 200 {
        let content_type = header(&response, "content-type").unwrap_or_default();
        return Err(failed(format!("{} {content_type}", response.status())));
    }
    let mut body = response.into_body().into_reader();
    let mut parser = Parser::default();
    let mut piece = vec![0; 16 * 1024];
    let mut events = Vec::new();
    loop {
        while let Some(message) = parser.poll_message() {
            if let Ok(Envelope { seq }) = serde_json::from_str(&message.data) {
                events.push(Seen { id: message.last_event_id, seq });
            }
            if events.len() == count {
                return Ok(events);
            }
        }
        let length = body.read(&mut piece).map_err(|error| failed(error.to_string()))?;
        if length == 0 {
            return Err(failed(format!("it ended after {} events", events.len())));
        }
        parser.handle_bytes(&piece[..length]).map_err(|error| failed(error.to_string()))?;
    }
}
