//! Server-Sent Events, read as they come in (HTML standard §9.2.6).
//!
//! Bytes go in, messages come out; no I/O and no clock. Invariants: a message comes out only after
//! the blank line that ends it, so what a lost connection cut off is never seen and its id is never
//! a cursor; and the parser never holds more than [`CLIENT_FRAME_BYTES_MAX`] bytes of an unfinished
//! message.

use std::collections::VecDeque;
use std::time::Duration;

use crate::limits::{CLIENT_FRAME_BYTES_MAX, CLIENT_RETRY_MS_MAX};

/// A message, as a browser would dispatch it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// `message` when the stream named none.
    pub event_type: String,
    /// The `data:` lines, with line feeds between them.
    pub data: String,
    /// The last event id of the stream as of this message; empty when there is none.
    pub last_event_id: String,
}

/// A message or a line is longer than the parser keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an event of the stream is larger than {CLIENT_FRAME_BYTES_MAX} bytes")]
pub struct TooLong;

/// The state of a stream between two pieces of it.
#[derive(Debug, Default)]
pub struct Parser {
    /// The unfinished line.
    line: Vec<u8>,
    /// The last byte was a CR, so that an LF right after it ends no other line.
    after_cr: bool,
    /// No line has ended yet, so that the next may start with a byte order mark.
    first_line_ended: bool,
    data: String,
    event_type: String,
    /// What the `id:` lines say; becomes the last event id at the next blank line.
    id: String,
    last_event_id: String,
    retry: Option<Duration>,
    messages: VecDeque<Message>,
}

impl Parser {
    /// A parser for a stream that goes on after `last_event_id`; empty when it starts anew.
    pub fn new(last_event_id: String) -> Parser {
        Parser { id: last_event_id.clone(), last_event_id, ..Parser::default() }
    }

    /// Takes the next bytes of the stream.
    ///
    /// # Errors
    /// [`TooLong`], after which the stream cannot be followed any further.
    pub fn handle_bytes(&mut self, mut bytes: &[u8]) -> Result<(), TooLong> {
        if self.after_cr && !bytes.is_empty() {
            self.after_cr = false;
            bytes = bytes.strip_prefix(b"\n").unwrap_or(bytes);
        }
        while let Some(end) = memchr::memchr2(b'\r', b'\n', bytes) {
            self.extend_line(&bytes[..end])?;
            let ended_by_cr = bytes[end] == b'\r';
            bytes = &bytes[end + 1..];
            if ended_by_cr {
                self.after_cr = bytes.is_empty();
                bytes = bytes.strip_prefix(b"\n").unwrap_or(bytes);
            }
            let line = std::mem::take(&mut self.line);
            self.handle_line(&line);
        }
        self.extend_line(bytes)
    }

    /// The next complete message.
    pub fn poll_message(&mut self) -> Option<Message> {
        self.messages.pop_front()
    }

    /// What to send as `Last-Event-ID` when the connection is lost; empty when nothing.
    pub fn last_event_id(&self) -> &str {
        &self.last_event_id
    }

    /// How long the stream asks to wait before a reconnect, if it does.
    pub fn retry(&self) -> Option<Duration> {
        self.retry
    }

    fn extend_line(&mut self, bytes: &[u8]) -> Result<(), TooLong> {
        if self.line.len() + self.data.len() + bytes.len() > CLIENT_FRAME_BYTES_MAX {
            return Err(TooLong);
        }
        self.line.extend_from_slice(bytes);
        Ok(())
    }

    fn handle_line(&mut self, mut line: &[u8]) {
        if !self.first_line_ended {
            self.first_line_ended = true;
            line = line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line);
        }
        if line.is_empty() {
            return self.dispatch();
        }
        // Line ends never stand inside a character, so decoding by line is decoding the stream.
        let line = String::from_utf8_lossy(line);
        let (field, value) = line.split_once(':').unwrap_or((&line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "data" => {
                self.data.push_str(value);
                self.data.push('\n');
            }
            "event" => value.clone_into(&mut self.event_type),
            "id" if !value.contains('\0') => value.clone_into(&mut self.id),
            "retry" => {
                if let Some(retry) = milliseconds(value) {
                    self.retry = Some(retry);
                }
            }
            // A comment has an empty name; other names mean nothing.
            _ => {}
        }
    }

    fn dispatch(&mut self) {
        self.last_event_id.clone_from(&self.id);
        let mut data = std::mem::take(&mut self.data);
        let event_type = std::mem::take(&mut self.event_type);
        if data.is_empty() {
            return;
        }
        data.pop();
        let event_type = if event_type.is_empty() { "message".to_owned() } else { event_type };
        let last_event_id = self.last_event_id.clone();
        self.messages.push_back(Message { event_type, data, last_event_id });
    }
}

/// A `retry:` value: digits and nothing else. More of them than a number holds is the longest wait.
fn milliseconds(value: &str) -> Option<Duration> {
    if value.is_empty() || !value.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let milliseconds = value.parse().unwrap_or(u64::MAX);
    Some(Duration::from_millis(milliseconds.min(CLIENT_RETRY_MS_MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_pieces(stream: &[u8], size: usize) -> (Vec<Message>, Parser) {
        let mut parser = Parser::default();
        let mut messages = Vec::new();
        for piece in stream.chunks(size) {
            parser.handle_bytes(piece).unwrap();
            messages.extend(std::iter::from_fn(|| parser.poll_message()));
        }
        (messages, parser)
    }

    /// Parses the stream byte by byte and in larger pieces, which must make no difference.
    fn check(stream: &[u8], expected: &[(&str, &str, &str)]) -> Parser {
        for size in [1, 2, 3, 7, stream.len().max(1)] {
            let (messages, _) = parse_pieces(stream, size);
            let messages: Vec<_> = messages
                .iter()
                .map(|m| (m.event_type.as_str(), m.data.as_str(), m.last_event_id.as_str()))
                .collect();
            assert_eq!(messages, expected, "in pieces of {size}");
        }
        parse_pieces(stream, 1).1
    }

    #[test]
    fn an_event_of_the_server() {
        check(
            b"retry: 3000\n\nid: 2\nevent: LOG\ndata: {\"id\":2}\n\n: keepalive\n\nid: 3\nevent: LOG\ndata: {}\n\n",
            &[("LOG", "{\"id\":2}", "2"), ("LOG", "{}", "3")],
        );
    }

    #[test]
    fn lines_end_with_cr_lf_or_both() {
        let expected = [("a", "1\n2", ""), ("message", "3", "")];
        for end in ["\n", "\r", "\r\n"] {
            let stream = "event: a|data: 1|data: 2||data: 3||".replace('|', end);
            check(stream.as_bytes(), &expected);
        }
        check(
            b"data: 1\r\ndata: 2\r\r\ndata: 3\n\r",
            &[("message", "1\n2", ""), ("message", "3", "")],
        );
    }

    #[test]
    fn a_byte_order_mark_is_skipped_once() {
        check("\u{feff}data: a\n\n".as_bytes(), &[("message", "a", "")]);
        check("\u{feff}\u{feff}data: a\n\n".as_bytes(), &[]);
        check("data: a\n\n\u{feff}data: b\n\n".as_bytes(), &[("message", "a", "")]);
    }

    #[test]
    fn examples_of_the_standard() {
        check(b"data: YHOO\ndata: +2\ndata: 10\n\n", &[("message", "YHOO\n+2\n10", "")]);
        check(
            b": test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\ndata:  third event\n\n",
            &[
                ("message", "first event", "1"),
                ("message", "second event", ""),
                ("message", " third event", ""),
            ],
        );
        check(b"data\n\ndata\ndata\n\ndata:", &[("message", "", ""), ("message", "\n", "")]);
        check(b"data:test\n\ndata: test\n\n", &[("message", "test", ""), ("message", "test", "")]);
    }

    #[test]
    fn an_event_without_data_is_none_but_its_id_counts() {
        let parser = check(b"event: a\nid: 7\n\ndata: x\n\n", &[("message", "x", "7")]);
        assert_eq!(parser.last_event_id(), "7");
    }

    #[test]
    fn an_event_that_was_cut_off_is_not_seen() {
        let parser = check(b"id: 1\ndata: a\n\nid: 2\ndata: b\n", &[("message", "a", "1")]);
        assert_eq!(parser.last_event_id(), "1");
    }

    #[test]
    fn ids_with_nul_are_ignored_and_the_last_one_stays() {
        check(
            b"id: 1\ndata: a\n\nid: 2\0\ndata: b\n\n",
            &[("message", "a", "1"), ("message", "b", "1")],
        );
    }

    #[test]
    fn a_reconnect_keeps_the_id_until_another_comes() {
        let mut parser = Parser::new("41".to_owned());
        parser.handle_bytes(b"event: stream.refused\ndata: {}\n\n").unwrap();
        assert_eq!(parser.poll_message().unwrap().last_event_id, "41");
    }

    #[test]
    fn retry_takes_digits_only() {
        let retry = |value: &str| {
            let mut parser = Parser::default();
            parser.handle_bytes(format!("retry: 7\nretry:{value}\n").as_bytes()).unwrap();
            parser.retry().unwrap()
        };
        assert_eq!(retry(" 3000"), Duration::from_secs(3));
        assert_eq!(retry("0"), Duration::ZERO);
        for ignored in ["", "+1", "-1", "1.5", "1s", "1 ", "٣"] {
            assert_eq!(retry(ignored), Duration::from_millis(7), "{ignored:?}");
        }
        assert_eq!(retry(&"9".repeat(40)), Duration::from_millis(CLIENT_RETRY_MS_MAX));
    }

    #[test]
    fn invalid_utf8_is_replaced() {
        check(b"data: \xff\xc3\xa4\n\n", &[("message", "\u{fffd}ä", "")]);
    }

    #[test]
    fn unknown_fields_and_comments_mean_nothing() {
        check(b"foo: bar\n:data: x\nData: x\n data: x\ndata : x\n\n", &[]);
    }

    #[test]
    fn memory_is_bounded() {
        let endless_line = |parser: &mut Parser| parser.handle_bytes(&vec![b'x'; 1 << 16]);
        let endless_event = |parser: &mut Parser| {
            let mut line = vec![b'x'; 1 << 16];
            line.splice(..6, *b"data: ");
            line.push(b'\n');
            parser.handle_bytes(&line)
        };
        let pieces = CLIENT_FRAME_BYTES_MAX / (1 << 16) + 1;
        let mut parser = Parser::default();
        assert_eq!((0..pieces).try_for_each(|_| endless_line(&mut parser)), Err(TooLong));
        let mut parser = Parser::default();
        assert_eq!((0..pieces).try_for_each(|_| endless_event(&mut parser)), Err(TooLong));
    }
}
