//! The words of the server: events, runs, labels, and what a stream selects of them.
//!
//! Every value here is checked when it is made, so that the rest of the code need not ask again.
//! Nothing in this file knows a socket, a file or a clock.

use std::fmt;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::limits::{EVENT_TYPE_BYTES_MAX, LABEL_BYTES_MAX, PAYLOAD_DEPTH_MAX};

/// Position of an event in the journal: one sequence for the whole server, never reused. The SSE
/// `id:` and the cursor of every stream. 0 stands for "before the first event".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventId(pub u64);

/// Identifies a run, from 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RunId(pub u64);

impl EventId {
    /// The id after this one.
    #[must_use]
    pub fn next(self) -> EventId {
        EventId(self.0 + 1)
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Why a text is not a label, an event type or a payload.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Invalid(pub String);

/// The name of a project or a session: 1 to 128 of `A-Z a-z 0-9 . _ : -`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Label(Box<str>);

/// What kind of event: 1 to 64 of `A-Z a-z 0-9 . _ : -`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventType(Box<str>);

fn check_name(text: &str, bytes_max: usize) -> Result<(), Invalid> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._:-".contains(&byte);
    if text.is_empty() || text.len() > bytes_max || !text.bytes().all(allowed) {
        return Err(Invalid(format!("must be 1 to {bytes_max} of A-Z a-z 0-9 . _ : -")));
    }
    Ok(())
}

impl Label {
    /// Checks `text` and makes it a label.
    ///
    /// # Errors
    /// When it is empty, longer than 128 bytes, or has a character that is not allowed.
    pub fn new(text: &str) -> Result<Label, Invalid> {
        check_name(text, LABEL_BYTES_MAX).map(|()| Label(text.into()))
    }

    /// The label as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl EventType {
    /// Checks `text` and makes it an event type.
    ///
    /// # Errors
    /// When it is empty, longer than 64 bytes, or has a character that is not allowed.
    pub fn new(text: &str) -> Result<EventType, Invalid> {
        check_name(text, EVENT_TYPE_BYTES_MAX).map(|()| EventType(text.into()))
    }

    /// The type as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// `RUN_CREATED`, always the first event of a run.
    pub fn run_created() -> EventType {
        EventType("RUN_CREATED".into())
    }

    /// The status in which this event leaves its run, if it is one that ends it.
    pub fn closes(&self) -> Option<RunStatus> {
        RunStatus::after(&self.0)
    }

    /// Whether only the server itself writes events of this type.
    pub fn is_reserved(&self) -> bool {
        &*self.0 == "RUN_CREATED" || self.closes().is_some()
    }
}

/// Milliseconds since 1970 in UTC; shown as RFC 3339 with milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(pub u64);

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = std::time::UNIX_EPOCH + std::time::Duration::from_millis(self.0);
        humantime::format_rfc3339_millis(time).fmt(f)
    }
}

/// A JSON text without white space between its tokens, otherwise as the publisher sent it.
///
/// JSON allows a line break between tokens only (RFC 8259 §7), so this text never contains one:
/// an SSE frame needs a single `data:` line for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Json(Box<str>);

impl Json {
    /// The JSON text `null`.
    pub fn null() -> Json {
        Json("null".into())
    }

    /// Checks `text` and removes the white space between its tokens.
    ///
    /// # Errors
    /// When it is no JSON, or is nested more than 128 deep.
    pub fn parse(text: &str) -> Result<Json, Invalid> {
        let raw: &RawValue =
            serde_json::from_str(text).map_err(|error| Invalid(error.to_string()))?;
        Json::from_raw(raw)
    }

    /// The same for a value that `serde_json` has already checked.
    ///
    /// # Errors
    /// When it is nested more than 128 deep.
    pub fn from_raw(raw: &RawValue) -> Result<Json, Invalid> {
        Json::from_raw_within(raw, PAYLOAD_DEPTH_MAX)
    }

    /// The same for a value that will be nested in another, and may be less deep itself.
    ///
    /// # Errors
    /// When it is nested more than `depth_max` deep.
    pub fn from_raw_within(raw: &RawValue, depth_max: usize) -> Result<Json, Invalid> {
        compact(raw.get(), depth_max).map(|text| Json(text.into()))
    }

    /// Takes a text that is known to be compact JSON: one that was made by [`Json::parse`] before
    /// it was stored, or that the server has put together itself.
    pub fn from_trusted(text: impl Into<Box<str>>) -> Json {
        let text = text.into();
        debug_assert!(!text.bytes().any(|byte| byte == b'\n' || byte == b'\r'));
        Json(text)
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Removes the white space between the tokens of a valid JSON text.
fn compact(json: &str, depth_max: usize) -> Result<String, Invalid> {
    let mut out = String::with_capacity(json.len());
    let mut depth = 0_usize;
    let mut in_string = false;
    let mut escaped = false;
    // The start of the run of bytes that is copied next, so that clean text is copied at once.
    let mut start = 0;
    for (at, byte) in json.bytes().enumerate() {
        if in_string {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => in_string = false,
                _ => {}
            }
            continue;
        }
        match byte {
            b'"' => in_string = true,
            b'{' | b'[' => {
                depth += 1;
                if depth > depth_max {
                    return Err(Invalid(format!("is nested more than {depth_max} deep")));
                }
            }
            b'}' | b']' => depth -= 1,
            b' ' | b'\t' | b'\n' | b'\r' => {
                out.push_str(&json[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    out.push_str(&json[start..]);
    Ok(out)
}

/// One appended fact.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Position in the journal.
    pub id: EventId,
    /// The run it belongs to.
    pub run_id: RunId,
    /// Position in the run: 1, 2, 3 … without a hole.
    pub seq: u64,
    /// What kind of event.
    pub event_type: EventType,
    /// What the publisher said.
    pub payload: Json,
    /// When the server took it; never goes backwards inside a run.
    pub created_at: Timestamp,
}

/// An event that is read where it lies, in a journal value: nothing of it is copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventRef<'a> {
    /// Position in the journal.
    pub id: EventId,
    /// The run it belongs to.
    pub run_id: RunId,
    /// Position in the run: 1, 2, 3 … without a hole.
    pub seq: u64,
    /// What kind of event: the text of an [`EventType`].
    pub event_type: &'a str,
    /// What the publisher said: the text of a [`Json`].
    pub payload: &'a str,
    /// When the server took it.
    pub created_at: Timestamp,
}

impl Event {
    /// The event without its ownership, for code that serves both.
    pub fn borrowed(&self) -> EventRef<'_> {
        EventRef {
            id: self.id,
            run_id: self.run_id,
            seq: self.seq,
            event_type: self.event_type.as_str(),
            payload: self.payload.as_str(),
            created_at: self.created_at,
        }
    }
}

impl EventRef<'_> {
    /// An event of its own. Its texts were checked before they were stored.
    pub fn to_event(&self) -> Event {
        Event {
            id: self.id,
            run_id: self.run_id,
            seq: self.seq,
            event_type: EventType(self.event_type.into()),
            payload: Json::from_trusted(self.payload),
            created_at: self.created_at,
        }
    }
}

/// An event that has no place in the journal yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewEvent {
    /// What kind of event.
    pub event_type: EventType,
    /// What the publisher said.
    pub payload: Json,
}

/// Where a run stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RunStatus {
    /// It takes events.
    #[default]
    Running,
    /// It has ended, and well.
    Completed,
    /// It has ended with an error.
    Failed,
    /// It was ended by somebody.
    Cancelled,
}

impl RunStatus {
    /// As it is written in the REST answers.
    pub fn as_str(self) -> &'static str {
        match self {
            RunStatus::Running => "running",
            RunStatus::Completed => "completed",
            RunStatus::Failed => "failed",
            RunStatus::Cancelled => "cancelled",
        }
    }

    /// Whether the run takes no more events.
    pub fn has_ended(self) -> bool {
        self != RunStatus::Running
    }

    /// The status in which an event of this type leaves its run, if it is one that ends it.
    pub fn after(event_type: &str) -> Option<RunStatus> {
        match event_type {
            "RUN_COMPLETED" => Some(RunStatus::Completed),
            "RUN_FAILED" => Some(RunStatus::Failed),
            "RUN_CANCELLED" => Some(RunStatus::Cancelled),
            _ => None,
        }
    }

    /// The type of the event that brings a run into this status; none for `Running`.
    pub fn closing_event(self) -> Option<EventType> {
        match self {
            RunStatus::Running => None,
            RunStatus::Completed => Some(EventType("RUN_COMPLETED".into())),
            RunStatus::Failed => Some(EventType("RUN_FAILED".into())),
            RunStatus::Cancelled => Some(EventType("RUN_CANCELLED".into())),
        }
    }
}

/// The labels of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Labels {
    /// The project it belongs to.
    pub project: Option<Label>,
    /// The session it belongs to.
    pub session: Option<Label>,
}

/// Whose events a stream or a read is about.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Scope {
    /// Every run.
    All,
    /// Every run with this project label.
    Project(Label),
    /// Every run with this session label.
    Session(Label),
    /// These runs, in ascending order, each once.
    Runs(Box<[RunId]>),
}

/// Which events: a scope, and which types of it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Selection {
    /// Whose events.
    pub scope: Scope,
    /// Only these types, in ascending order, each once; `None` is all of them.
    pub types: Option<Box<[EventType]>>,
}

impl Selection {
    /// Whether an event of this type passes. The event that ends a run passes every filter.
    pub fn admits_type(&self, event_type: &EventType) -> bool {
        self.admits_type_name(event_type.as_str())
    }

    /// The same for the text of an event type.
    pub fn admits_type_name(&self, name: &str) -> bool {
        match &self.types {
            None => true,
            Some(types) => {
                RunStatus::after(name).is_some()
                    || types.binary_search_by(|admitted| admitted.as_str().cmp(name)).is_ok()
            }
        }
    }

    /// Whether an event of this run, with these labels, passes the scope.
    pub fn admits_run(&self, run: RunId, labels: &Labels) -> bool {
        match &self.scope {
            Scope::All => true,
            Scope::Project(project) => labels.project.as_ref() == Some(project),
            Scope::Session(session) => labels.session.as_ref() == Some(session),
            Scope::Runs(runs) => runs.binary_search(&run).is_ok(),
        }
    }
}

/// How an event is written on a stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Format {
    /// `id:`, `event:` and the whole event as `data:`.
    #[default]
    Envelope,
    /// `id:` and the payload alone as `data:`.
    Payload,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payload_keeps_everything_but_white_space_between_tokens() {
        let text =
            "{ \"b\" : 1.50e+10 ,\n\t\"a\":\" x \\\" \\n \", \"b\": 12345678901234567890123 }";
        let json = Json::parse(text).unwrap();
        assert_eq!(
            json.as_str(),
            "{\"b\":1.50e+10,\"a\":\" x \\\" \\n \",\"b\":12345678901234567890123}"
        );
    }

    #[test]
    fn payload_may_be_nested_128_deep_and_no_deeper() {
        let nested = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
        assert!(Json::parse(&nested(PAYLOAD_DEPTH_MAX)).is_ok());
        assert!(Json::parse(&nested(PAYLOAD_DEPTH_MAX + 1)).is_err());
    }

    #[test]
    fn payload_that_is_no_json_is_refused() {
        for text in ["", "{", "nul", "1 2", "\"\n\"", "\"\\q\"", "{\"a\":1,}", "NaN", "01"] {
            assert!(Json::parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn names_are_checked() {
        assert!(Label::new("build:1.2_x-Y").is_ok());
        assert!(Label::new("").is_err());
        assert!(Label::new("a b").is_err());
        assert!(Label::new("ä").is_err());
        assert!(Label::new(&"a".repeat(LABEL_BYTES_MAX + 1)).is_err());
        assert!(EventType::new(&"a".repeat(EVENT_TYPE_BYTES_MAX)).is_ok());
        assert!(EventType::new(&"a".repeat(EVENT_TYPE_BYTES_MAX + 1)).is_err());
    }

    #[test]
    fn closing_events_pass_every_filter() {
        let only = Box::new([EventType::new("A").unwrap()]);
        let selection = Selection { scope: Scope::All, types: Some(only) };
        assert!(selection.admits_type(&EventType::new("RUN_FAILED").unwrap()));
        assert!(selection.admits_type(&EventType::new("A").unwrap()));
        assert!(!selection.admits_type(&EventType::new("B").unwrap()));
    }

    #[test]
    fn timestamps_are_rfc3339_with_milliseconds() {
        assert_eq!(Timestamp(1_767_225_600_007).to_string(), "2026-01-01T00:00:00.007Z");
    }
}
