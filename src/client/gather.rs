//! Lines become events, and events that have gathered become one request.
//!
//! One thread reads and pushes, another takes whatever is there: a lone line goes out at once, and
//! while a request is under way the next batch grows by itself, with no timer that would delay
//! either. A channel of lines would be bounded in lines, and a line may be megabytes; so this is a
//! queue bounded in bytes under one lock. Invariant: it holds more than
//! [`CLIENT_QUEUE_BYTES_MAX`] bytes only while it holds a single event.

use std::collections::{HashMap, VecDeque};
use std::io::{BufRead, BufReader, Read};
use std::sync::{Condvar, Mutex, MutexGuard};

use serde_json::value::RawValue;

use crate::event::EventType;
use crate::limits::{
    CLIENT_BATCH_BYTES_MAX, CLIENT_BATCH_EVENTS_MAX, CLIENT_LINE_BYTES_MAX, CLIENT_QUEUE_BYTES_MAX,
    EVENT_TYPE_BYTES_MAX,
};

/// How a line becomes an event.
#[derive(Clone, Debug)]
pub struct LineFormat {
    /// The line is text, not JSON.
    pub text: bool,
    /// The field of a JSON line that has the event's type.
    pub type_from: Option<String>,
    /// The type of the other events.
    pub event_type: EventType,
}

impl LineFormat {
    /// The event for a line, as JSON; none for a blank line of NDJSON.
    ///
    /// # Errors
    /// Says why the line is no JSON.
    pub fn event(&self, line: &[u8]) -> Result<Option<String>, String> {
        if self.text {
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            let text = serde_json::Value::from(String::from_utf8_lossy(line));
            return Ok(Some(envelope(self.event_type.as_str(), &format!("{{\"text\":{text}}}"))));
        }
        let text = std::str::from_utf8(line).map_err(|error| error.to_string())?.trim_ascii();
        if text.is_empty() {
            return Ok(None);
        }
        let payload: &RawValue = serde_json::from_str(text).map_err(|error| column_only(&error))?;
        let found = self.type_from.as_ref().and_then(|field| type_in(payload, field));
        let event_type = found.as_deref().unwrap_or(self.event_type.as_str());
        Ok(Some(envelope(event_type, payload.get())))
    }
}

/// The event that is posted. A type has no character that JSON escapes.
fn envelope(event_type: &str, payload: &str) -> String {
    format!("{{\"type\":\"{event_type}\",\"payload\":{payload}}}")
}

/// What is wrong with a line, without the "line 1" of a parser that sees only this one.
fn column_only(error: &serde_json::Error) -> String {
    error.to_string().replace(" at line 1 column ", " at column ")
}

/// The event type that a field of an object holds; none when it is no text.
fn type_in(payload: &RawValue, field: &str) -> Option<String> {
    let fields: HashMap<String, &RawValue> = serde_json::from_str(payload.get()).ok()?;
    let value: String = serde_json::from_str(fields.get(field)?.get()).ok()?;
    event_type_like(&value)
}

/// The event type nearest to a text: what is not allowed becomes `_`, and so does not clash with
/// the types that only the server writes. None for an empty text.
pub fn event_type_like(text: &str) -> Option<String> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "._:-".contains(c);
    let name = text.chars().map(|c| if allowed(c) { c } else { '_' });
    let mut name: String = name.take(EVENT_TYPE_BYTES_MAX).collect();
    if EventType::new(&name).ok()?.is_reserved() {
        name.push('_');
    }
    Some(name)
}

/// An event that waits to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Which line of the input it was, from 1.
    pub number: u64,
    /// The event as JSON.
    pub event: String,
}

/// What the sender takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Taken {
    /// These, at least one.
    Batch(Vec<Line>),
    /// The input has ended; the reason when it ended badly.
    End(Result<(), String>),
}

/// The queue between the reader and the sender.
#[derive(Debug, Default)]
pub struct Queue {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    lines: VecDeque<Line>,
    /// Of all the lines together.
    bytes: usize,
    end: Option<Result<(), String>>,
    abandoned: bool,
}

impl Queue {
    /// Adds a line when there is room; `false` when nobody will take it any more.
    pub fn push(&self, line: Line) -> bool {
        let mut state = self.lock();
        while !state.abandoned
            && !state.lines.is_empty()
            && state.bytes + line.event.len() > CLIENT_QUEUE_BYTES_MAX
        {
            state = self.changed.wait(state).expect("no thread panics while it holds the lock");
        }
        state.bytes += line.event.len();
        state.lines.push_back(line);
        self.changed.notify_all();
        !state.abandoned
    }

    /// Says that no line follows, and why when that is an error.
    pub fn end(&self, end: Result<(), String>) {
        self.lock().end = Some(end);
        self.changed.notify_all();
    }

    /// Says that no line will be taken any more.
    pub fn abandon(&self) {
        self.lock().abandoned = true;
        self.changed.notify_all();
    }

    /// Waits for a line and takes what has gathered, within the bounds of a batch.
    pub fn take(&self) -> Taken {
        let mut state = self.lock();
        loop {
            if !state.lines.is_empty() {
                let batch = state.take_batch();
                self.changed.notify_all();
                return Taken::Batch(batch);
            }
            if let Some(end) = state.end.clone() {
                return Taken::End(end);
            }
            state = self.changed.wait(state).expect("no thread panics while it holds the lock");
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no thread panics while it holds the lock")
    }
}

impl State {
    fn take_batch(&mut self) -> Vec<Line> {
        let mut bytes = 0;
        let count = self
            .lines
            .iter()
            .take(CLIENT_BATCH_EVENTS_MAX)
            .take_while(|line| {
                // With the comma or bracket before it.
                bytes += line.event.len() + 1;
                bytes < CLIENT_BATCH_BYTES_MAX
            })
            .count()
            .max(1);
        let batch: Vec<Line> = self.lines.drain(..count).collect();
        self.bytes -= batch.iter().map(|line| line.event.len()).sum::<usize>();
        batch
    }
}

/// Reads the whole input into the queue, until its end, a bad line, or nobody takes any more.
pub fn read_lines(input: impl Read, format: &LineFormat, queue: &Queue) {
    queue.end(read_until_end(BufReader::with_capacity(1 << 16, input), format, queue));
}

fn read_until_end(
    mut input: impl BufRead,
    format: &LineFormat,
    queue: &Queue,
) -> Result<(), String> {
    let mut line = Vec::new();
    for number in 1.. {
        line.clear();
        // One byte for the line feed, one to see that it is too long.
        let mut limited = (&mut input).take(CLIENT_LINE_BYTES_MAX as u64 + 2);
        limited.read_until(b'\n', &mut line).map_err(|error| format!("the input: {error}"))?;
        if line.is_empty() {
            break;
        }
        let mut content = line.strip_suffix(b"\n").unwrap_or(&line);
        if number == 1 {
            content = content.strip_prefix(b"\xef\xbb\xbf").unwrap_or(content);
        }
        if content.len() > CLIENT_LINE_BYTES_MAX {
            return Err(format!("line {number} is longer than {CLIENT_LINE_BYTES_MAX} bytes"));
        }
        let event =
            format.event(content).map_err(|error| format!("line {number} is no JSON: {error}"))?;
        if event.is_some_and(|event| !queue.push(Line { number, event })) {
            break;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json_lines() -> LineFormat {
        let event_type = EventType::new("LINE").unwrap();
        LineFormat { text: false, type_from: None, event_type }
    }

    fn typed_by(field: &str) -> LineFormat {
        LineFormat { type_from: Some(field.to_owned()), ..json_lines() }
    }

    fn text_lines() -> LineFormat {
        LineFormat { text: true, ..json_lines() }
    }

    /// Everything that comes out, for an input that fits into the queue.
    fn read(input: &[u8], format: &LineFormat) -> (Vec<Line>, Result<(), String>) {
        let queue = Queue::default();
        read_lines(input, format, &queue);
        let mut lines = Vec::new();
        loop {
            match queue.take() {
                Taken::Batch(batch) => lines.extend(batch),
                Taken::End(end) => return (lines, end),
            }
        }
    }

    fn events(input: &[u8], format: &LineFormat) -> Vec<String> {
        let (lines, end) = read(input, format);
        end.unwrap();
        lines.into_iter().map(|line| line.event).collect()
    }

    #[test]
    fn a_json_line_is_passed_on_as_it_stands() {
        let line = r#"{"b": 1.50e+10, "a":12345678901234567890123,"b":"\u0041" }"#;
        let expected = format!(r#"{{"type":"LINE","payload":{line}}}"#);
        assert_eq!(events(line.as_bytes(), &json_lines()), [expected]);
        assert_eq!(events(b" 7 \r\n", &json_lines()), [r#"{"type":"LINE","payload":7}"#]);
    }

    #[test]
    fn the_type_comes_from_a_field_where_it_is_text() {
        let input = concat!(
            "{\"n\":1, \"reason\":\"compiler-message\"}\n",
            "{\"reason\":\"a b/\\u00e4\"}\n",
            "{\"reason\":7}\n",
            "{\"other\":{\"reason\":\"x\"}}\n",
            "{\"reason\":\"\"}\n",
            "[1]\n",
            "{\"reason\":\"RUN_COMPLETED\"}\n",
        );
        let format = typed_by("reason");
        let types: Vec<String> = events(input.as_bytes(), &format)
            .iter()
            .map(|event| event.split('"').nth(3).unwrap().to_owned())
            .collect();
        let expected =
            ["compiler-message", "a_b__", "LINE", "LINE", "LINE", "LINE", "RUN_COMPLETED_"];
        assert_eq!(types, expected);
    }

    #[test]
    fn types_that_are_made_are_types() {
        for text in ["a b", "ääää", "RUN_CREATED", "\0", &"x".repeat(200), &"ß".repeat(200)] {
            let name = event_type_like(text).unwrap();
            assert!(!EventType::new(&name).unwrap().is_reserved(), "{name}");
        }
        assert_eq!(event_type_like(""), None);
    }

    #[test]
    fn text_lines_are_wrapped_and_repaired() {
        assert_eq!(
            events(b"say \"hi\"\r\n\n\xff\x1b\nlast", &text_lines()),
            [
                r#"{"type":"LINE","payload":{"text":"say \"hi\""}}"#,
                r#"{"type":"LINE","payload":{"text":""}}"#,
                "{\"type\":\"LINE\",\"payload\":{\"text\":\"\u{fffd}\\u001b\"}}",
                r#"{"type":"LINE","payload":{"text":"last"}}"#,
            ]
        );
    }

    #[test]
    fn blank_lines_and_a_byte_order_mark_are_no_events() {
        let (lines, end) = read("\u{feff}1\n\n \r\n2".as_bytes(), &json_lines());
        assert_eq!(end, Ok(()));
        assert_eq!(lines.iter().map(|line| line.number).collect::<Vec<_>>(), [1, 4]);
        assert_eq!(read(b"", &json_lines()), (Vec::new(), Ok(())));
    }

    #[test]
    fn a_bad_line_ends_the_input_and_is_named() {
        for bad in ["{\"a\":", "nul", "1 2", "\u{1}"] {
            let (lines, end) = read(format!("1\n{bad}\n3\n").as_bytes(), &json_lines());
            assert_eq!(lines.len(), 1);
            assert!(end.unwrap_err().starts_with("line 2 is no JSON: "), "{bad}");
        }
        assert!(read(b"\"\xff\"\n", &json_lines()).1.is_err());
    }

    #[test]
    fn a_line_without_an_end_is_not_read_without_a_bound() {
        let (_, end) = read(&vec![b'1'; CLIENT_LINE_BYTES_MAX + 10], &json_lines());
        assert!(end.unwrap_err().starts_with("line 1 is longer"));
        assert!(read(&vec![b'1'; CLIENT_LINE_BYTES_MAX], &text_lines()).1.is_ok());
    }

    #[test]
    fn batches_are_bounded_in_events_and_in_bytes() {
        let push = |queue: &Queue, count: usize, size: usize| {
            for number in 1..=count as u64 {
                assert!(queue.push(Line { number, event: "x".repeat(size) }));
            }
        };
        let taken = |queue: &Queue| match queue.take() {
            Taken::Batch(batch) => batch.len(),
            Taken::End(_) => 0,
        };
        let queue = Queue::default();
        push(&queue, CLIENT_BATCH_EVENTS_MAX + 1, 10);
        queue.end(Ok(()));
        assert_eq!([taken(&queue), taken(&queue), taken(&queue)], [CLIENT_BATCH_EVENTS_MAX, 1, 0]);
        let queue = Queue::default();
        push(&queue, 3, CLIENT_BATCH_BYTES_MAX / 2 - 2);
        push(&queue, 1, CLIENT_BATCH_BYTES_MAX);
        queue.end(Ok(()));
        assert_eq!([(); 4].map(|()| taken(&queue)), [2, 1, 1, 0]);
        assert_eq!(queue.lock().bytes, 0);
    }

    #[test]
    fn the_reader_waits_while_the_queue_is_full_and_stops_when_abandoned() {
        let queue = Queue::default();
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| {
                let line = "1".repeat(CLIENT_BATCH_BYTES_MAX) + "\n";
                read_lines(line.repeat(8).as_bytes(), &json_lines(), &queue);
            });
            let Taken::Batch(batch) = queue.take() else { panic!("has lines") };
            assert_eq!(batch.len(), 1);
            while queue.lock().lines.len() < 2 {
                std::thread::yield_now();
            }
            assert!(queue.lock().bytes <= CLIENT_QUEUE_BYTES_MAX);
            queue.abandon();
            reader.join().unwrap();
        });
    }
}
