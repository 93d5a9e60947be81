//! What the bodies of requests say.

use serde::{Deserialize, de::IgnoredAny};
use serde_json::{error::Category, value::RawValue};

use crate::{
    event::{EventType, Json, Label, Labels, NewEvent, RunStatus},
    limits::{ARRAY_EVENTS_MAX, PAYLOAD_DEPTH_MAX},
    wire::problem::Problem,
};

/// `POST /runs`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewRun {
    /// Project and session.
    pub labels: Labels,
    /// Anything.
    pub metadata: Json,
}

/// `PATCH /runs/{id}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunEnd {
    /// Not `Running`.
    pub status: RunStatus,
    /// Payload of the closing event.
    pub payload: Json,
}

/// `POST /runs/{id}/events` with one event or an array of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewEvents {
    /// At least one.
    pub events: Vec<NewEvent>,
    /// Whether it was an array, and so is the answer.
    pub is_array: bool,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RunBody<'a> {
    project: Option<String>,
    session: Option<String>,
    #[serde(borrow)]
    metadata: Option<&'a RawValue>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EventBody<'a> {
    #[serde(rename = "type")]
    event_type: Option<String>,
    #[serde(borrow, default)]
    payload: Option<&'a RawValue>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EndBody<'a> {
    status: Option<String>,
    #[serde(borrow, default)]
    payload: Option<&'a RawValue>,
}

/// Reads the body of `POST /runs`; an empty one stands for `{}`.
///
/// # Errors
/// 400 for what is no JSON, 422 for what is not as it should be.
pub fn new_run(body: &[u8], max_event_bytes: usize) -> Result<NewRun, Problem> {
    if body.is_empty() {
        return Ok(NewRun { labels: Labels::default(), metadata: Json::null() });
    }
    let RunBody { project, session, metadata } = object(At::Body, text(body)?)?;
    Ok(NewRun {
        labels: Labels {
            project: project.map(|text| label("project", &text)).transpose()?,
            session: session.map(|text| label("session", &text)).transpose()?,
        },
        // It is a member of the payload of `RUN_CREATED`.
        metadata: json(At::Body, "metadata", metadata, PAYLOAD_DEPTH_MAX - 1, max_event_bytes)?,
    })
}

/// Reads the body of `POST /runs/{id}/events`, unless it is NDJSON.
///
/// # Errors
/// As [`new_run`], and 413 when an event is larger than `max_event_bytes`.
pub fn new_events(body: &[u8], max_event_bytes: usize) -> Result<NewEvents, Problem> {
    let text = text(body)?;
    if !text.trim_start_matches([' ', '\t', '\r', '\n']).starts_with('[') {
        let events = vec![event(At::Body, text, max_event_bytes)?];
        return Ok(NewEvents { events, is_array: false });
    }
    let items: Vec<&RawValue> = parse(At::Body, text)?;
    if items.is_empty() || items.len() > ARRAY_EVENTS_MAX {
        let reason = format!("an array has 1 to {ARRAY_EVENTS_MAX} events; use NDJSON for more");
        return Err(invalid("", &reason));
    }
    let events = items
        .into_iter()
        .enumerate()
        .map(|(index, item)| event(At::Item(index), item.get(), max_event_bytes))
        .collect::<Result<_, _>>()?;
    Ok(NewEvents { events, is_array: true })
}

/// Reads one line of NDJSON.
///
/// # Errors
/// As [`new_events`].
pub fn event_line(line: &[u8], max_event_bytes: usize) -> Result<NewEvent, Problem> {
    event(At::Body, text(line)?, max_event_bytes)
}

/// Reads the body of `PATCH /runs/{id}`.
///
/// # Errors
/// As [`new_run`].
pub fn run_end(body: &[u8], max_event_bytes: usize) -> Result<RunEnd, Problem> {
    let EndBody { status, payload } = object(At::Body, text(body)?)?;
    let status = match status.as_deref() {
        Some("completed") => RunStatus::Completed,
        Some("failed") => RunStatus::Failed,
        Some("cancelled") => RunStatus::Cancelled,
        Some(_) => return Err(invalid("status", "must be completed, failed or cancelled")),
        None => return Err(invalid("status", "is required")),
    };
    Ok(RunEnd {
        status,
        payload: json(At::Body, "payload", payload, PAYLOAD_DEPTH_MAX, max_event_bytes)?,
    })
}

/// What is read: the whole body, or one item of the array that it is. Its name is made only when
/// there is something wrong with it.
#[derive(Clone, Copy)]
enum At {
    Body,
    Item(usize),
}

impl At {
    /// The path of a field of it, or its own.
    fn path(self, field: &str) -> String {
        match (self, field) {
            (At::Body, field) => field.to_owned(),
            (At::Item(index), "" | ".") => format!("[{index}]"),
            (At::Item(index), field) => format!("[{index}].{field}"),
        }
    }
}

fn event(at: At, text: &str, max_event_bytes: usize) -> Result<NewEvent, Problem> {
    let EventBody { event_type, payload } = object(at, text)?;
    let wrong = |reason: &str| invalid(&at.path("type"), reason);
    let Some(event_type) = event_type else { return Err(wrong("is required")) };
    let event_type = EventType::new(&event_type).map_err(|error| wrong(&error.to_string()))?;
    if event_type.is_reserved() {
        return Err(wrong("is a type that only the server writes"));
    }
    let payload = json(at, "payload", payload, PAYLOAD_DEPTH_MAX, max_event_bytes)?;
    Ok(NewEvent { event_type, payload })
}

fn json(
    at: At,
    field: &str,
    raw: Option<&RawValue>,
    depth_max: usize,
    max_bytes: usize,
) -> Result<Json, Problem> {
    let Some(raw) = raw else { return Ok(Json::null()) };
    let json = Json::from_raw_within(raw, depth_max)
        .map_err(|error| invalid(&at.path(field), &error.to_string()))?;
    if json.as_str().len() > max_bytes {
        let field = at.path(field);
        let detail = format!("{field} has more than {max_bytes} bytes (max_event_bytes)");
        return Err(Problem::new(413).detail(detail));
    }
    Ok(json)
}

fn label(field: &str, text: &str) -> Result<Label, Problem> {
    Label::new(text).map_err(|error| invalid(field, &error.to_string()))
}

fn text(body: &[u8]) -> Result<&str, Problem> {
    std::str::from_utf8(body)
        .map_err(|error| Problem::new(400).detail(format!("not UTF-8: {error}")))
}

/// Reads an object. `serde` would take an array of its values in order for one too.
fn object<'a, T: Deserialize<'a>>(at: At, text: &'a str) -> Result<T, Problem> {
    let value = parse(at, text)?;
    if !text.trim_start_matches([' ', '\t', '\r', '\n']).starts_with('{') {
        return Err(invalid(&at.path(""), "must be an object"));
    }
    Ok(value)
}

/// Reads a value. Which field is at fault is looked for only when one is: to keep track of the way
/// to each takes a third of the time.
fn parse<'a, T: Deserialize<'a>>(at: At, text: &'a str) -> Result<T, Problem> {
    serde_json::from_str(text).map_err(|error| fault::<T>(at, text, &error))
}

/// What is wrong with a text that is no `T`.
#[cold]
fn fault<'a, T: Deserialize<'a>>(at: At, text: &'a str, error: &serde_json::Error) -> Problem {
    let not_json = |error| Problem::new(400).detail(format!("not JSON: {}", reason(error, text)));
    // What is wrong with a value may be said before the end of a text that is no JSON at all.
    let is_json = || serde_json::from_str::<IgnoredAny>(text).is_ok();
    if error.classify() != Category::Data || !is_json() {
        return not_json(error);
    }
    let mut deserializer = serde_json::Deserializer::from_str(text);
    match serde_path_to_error::deserialize::<_, T>(&mut deserializer) {
        Ok(_) => not_json(error),
        Err(found) => {
            let field = at.path(found.path().to_string().trim_start_matches('.'));
            invalid(&field, &reason(found.inner(), text))
        }
    }
}

/// What is wrong, and where; in a text of one line without the number of that line.
fn reason(error: &serde_json::Error, text: &str) -> String {
    let reason = error.to_string();
    if text.contains('\n') { reason } else { reason.replace("at line 1 column", "at column") }
}

/// 422, with the field and what is wrong with it.
pub fn invalid(field: &str, reason: &str) -> Problem {
    let field = if field.is_empty() { "body" } else { field };
    Problem::new(422).detail(format!("{field}: {reason}")).error(field, reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status<T: std::fmt::Debug>(result: Result<T, Problem>) -> u16 {
        result.unwrap_err().status()
    }

    #[test]
    fn one_event_or_an_array_of_events() {
        let one = new_events(br#" {"type":"A","payload":{"x": 1}}"#, 100).unwrap();
        assert!(!one.is_array);
        assert_eq!(one.events[0].payload.as_str(), r#"{"x":1}"#);
        let many = new_events(br#"[{"type":"A"},{"payload":1,"type":"B"}]"#, 100).unwrap();
        assert!(many.is_array);
        assert_eq!(many.events[0].payload, Json::null());
        assert_eq!(many.events.len(), 2);
    }

    #[test]
    fn malformed_is_400_and_invalid_is_422() {
        for body in [&b""[..], b"{", b"[1,", b"{\"type\":\"A\"} x", b"\xff", b"{\"type\":\"\n\"}"] {
            assert_eq!(status(new_events(body, 100)), 400, "{body:?}");
        }
        for body in [
            "1",
            "[]",
            "{}",
            r#"{"type":1}"#,
            r#"{"type":"a b"}"#,
            r#"{"type":"RUN_CREATED"}"#,
            r#"{"type":"RUN_FAILED"}"#,
            r#"{"type":"A","payloud":1}"#,
            r#"{"type":"A","type":"B"}"#,
            r#"["A",1]"#,
            r#"[["A",1]]"#,
        ] {
            assert_eq!(status(new_events(body.as_bytes(), 100)), 422, "{body}");
        }
        assert_eq!(status(new_events(br#"{"type":"A","payload":"xxxxxxxxxx"}"#, 8)), 413);
        assert_eq!(status(new_run(br#"{"project":"a b"}"#, 100)), 422);
        assert_eq!(status(run_end(br#"{"status":"running"}"#, 100)), 422);
    }

    #[test]
    fn errors_name_the_field() {
        let problem = new_events(br#"[{"type":"A"},{"type":7}]"#, 100).unwrap_err();
        assert_eq!(problem.errors()[0].field, "[1].type");
        let problem = new_events(br#"[{"type":"A"},{"type":""}]"#, 100).unwrap_err();
        assert_eq!(problem.errors()[0].field, "[1].type");
    }

    #[test]
    fn a_run_needs_no_body() {
        assert_eq!(new_run(b"", 100).unwrap().metadata, Json::null());
        let run = new_run(br#"{"project":"p","metadata":[1, 2]}"#, 100).unwrap();
        assert_eq!(run.labels.project.unwrap().as_str(), "p");
        assert_eq!(run.metadata.as_str(), "[1,2]");
    }
}
