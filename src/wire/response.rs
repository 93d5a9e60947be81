//! Responses: values in, bytes out (RFC 9112 §4 and §6, RFC 9110 §15).
//!
//! Every answer but a stream has a `Content-Length`; nothing is sent chunked, so that HTTP/1.0
//! clients get the same bytes. A stream has neither: it ends with its connection.

use std::io::Write as _;
use std::time::{Duration, UNIX_EPOCH};

use super::problem::Problem;
use super::request::Version;
use super::status::reason_phrase;
use crate::event::Timestamp;

/// The interim response that a client with `Expect: 100-continue` waits for (RFC 9110 §15.2.1).
pub const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// An answer with a body that is known in full.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// Header fields beside those that [`Response::encode`] writes itself.
    pub headers: Vec<(&'static str, String)>,
    /// The content.
    pub body: Vec<u8>,
}

/// How a response is to be written: what the request and the connection say about it.
#[derive(Clone, Copy, Debug)]
pub struct Encode<'a> {
    /// The request was HEAD: the same head, without the content (RFC 9110 §9.3.2).
    pub head_only: bool,
    /// The version of the request.
    pub version: Version,
    /// Whether the connection stays, as [`crate::wire::request::RequestHead::keep_alive`] and the
    /// state of the connection allow.
    pub keep_alive: bool,
    /// Value of the Date field, see [`http_date`].
    pub date: &'a str,
}

impl Response {
    /// An answer with content of this type.
    pub fn new(status: u16, content_type: &str, body: impl Into<Vec<u8>>) -> Response {
        let response = Response { status, headers: Vec::new(), body: body.into() };
        response.with_header("Content-Type", content_type)
    }

    /// An answer without content.
    pub fn empty(status: u16) -> Response {
        Response { status, headers: Vec::new(), body: Vec::new() }
    }

    /// An answer whose content is this JSON text.
    pub fn json(status: u16, body: impl Into<Vec<u8>>) -> Response {
        Response::new(status, "application/json", body)
    }

    /// An error (RFC 9457).
    pub fn problem(problem: &Problem) -> Response {
        Response::new(problem.status(), "application/problem+json", problem.to_json())
    }

    /// Adds a header field. A control character in the value becomes a space, so that no value can
    /// begin a line of its own (RFC 9110 §5.5).
    #[must_use]
    pub fn with_header(mut self, name: &'static str, value: impl Into<String>) -> Response {
        self.headers.push((name, value.into()));
        self
    }

    /// Appends the response to `out`. `Content-Length` is always there but with 204 and 304, which
    /// have no content (RFC 9110 §6.4.1 and §8.6).
    pub fn encode(&self, how: &Encode, out: &mut Vec<u8>) {
        let has_content = !matches!(self.status, 100..=199 | 204 | 304);
        debug_assert!(has_content || self.body.is_empty(), "{} has no content", self.status);
        out.reserve(256 + self.body.len());
        put_status_line(self.status, how.date, out);
        for (name, value) in &self.headers {
            put_field(name, value, out);
        }
        if has_content {
            write!(out, "Content-Length: {}\r\n", self.body.len()).expect("a Vec takes it");
        }
        match (how.keep_alive, how.version) {
            (false, _) => out.extend_from_slice(b"Connection: close\r\n"),
            (true, Version::Http10) => out.extend_from_slice(b"Connection: keep-alive\r\n"),
            (true, Version::Http11) => {}
        }
        out.extend_from_slice(b"\r\n");
        if has_content && !how.head_only {
            out.extend_from_slice(&self.body);
        }
    }
}

/// Appends the head of a stream to `out`: 200, and a body that ends with the connection. `extra`
/// are further fields, such as those of CORS.
///
/// The fields keep a stream flowing: `no-transform` stops a proxy from compressing, and so
/// gathering it, `X-Accel-Buffering` stops nginx from buffering. Without chunked coding an event
/// is the same bytes for every subscriber (RFC 9112 §6.3, the last case).
pub fn encode_stream_head(date: &str, extra: &[(&'static str, String)], out: &mut Vec<u8>) {
    put_status_line(200, date, out);
    for (name, value) in [
        ("Content-Type", "text/event-stream"),
        ("Cache-Control", "no-cache, no-transform"),
        ("X-Accel-Buffering", "no"),
        ("Connection", "close"),
    ] {
        put_field(name, value, out);
    }
    for (name, value) in extra {
        put_field(name, value, out);
    }
    out.extend_from_slice(b"\r\n");
}

/// Appends the head of a backup to `out`: 200, and bytes that end with the connection. Whether they
/// are all there the backup says itself. No page of a browser may read it.
pub fn encode_backup_head(date: &str, out: &mut Vec<u8>) {
    put_status_line(200, date, out);
    for (name, value) in [
        ("Content-Type", "application/octet-stream"),
        ("Content-Disposition", "attachment; filename=\"journal.backup\""),
        ("Cache-Control", "no-store"),
        ("Connection", "close"),
    ] {
        put_field(name, value, out);
    }
    out.extend_from_slice(b"\r\n");
}

/// The value of a Date field, `Sun, 06 Nov 1994 08:49:37 GMT` (RFC 9110 §5.6.7). It changes once
/// a second: a caller keeps it that long.
pub fn http_date(now: Timestamp) -> String {
    httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_millis(now.0))
}

/// The status line says HTTP/1.1 to every client (RFC 9110 §2.5).
fn put_status_line(status: u16, date: &str, out: &mut Vec<u8>) {
    write!(out, "HTTP/1.1 {status} {}\r\n", reason_phrase(status)).expect("a Vec takes it");
    put_field("Date", date, out);
}

fn put_field(name: &str, value: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend(value.bytes().map(|byte| if byte.is_ascii_control() { b' ' } else { byte }));
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOW: Encode =
        Encode { head_only: false, version: Version::Http11, keep_alive: true, date: "D" };

    fn encoded(response: &Response, how: &Encode) -> String {
        let mut out = Vec::new();
        response.encode(how, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn an_answer_has_a_length() {
        let response = Response::json(201, r#"{"a":1}"#).with_header("Location", "/runs/1");
        assert_eq!(
            encoded(&response, &HOW),
            concat!(
                "HTTP/1.1 201 Created\r\nDate: D\r\nContent-Type: application/json\r\n",
                "Location: /runs/1\r\nContent-Length: 7\r\n\r\n{\"a\":1}"
            )
        );
        assert_eq!(
            encoded(&Response::empty(200), &HOW),
            "HTTP/1.1 200 OK\r\nDate: D\r\nContent-Length: 0\r\n\r\n"
        );
    }

    #[test]
    fn no_content_has_no_length() {
        assert_eq!(
            encoded(&Response::empty(204), &HOW),
            "HTTP/1.1 204 No Content\r\nDate: D\r\n\r\n"
        );
    }

    #[test]
    fn head_is_answered_with_the_same_head_and_no_content() {
        let response = Response::json(200, "[]");
        let whole = encoded(&response, &HOW);
        let head = encoded(&response, &Encode { head_only: true, ..HOW });
        assert_eq!(whole, head + "[]");
    }

    #[test]
    fn the_end_of_a_connection_is_announced() {
        let response = Response::empty(200);
        let connection = |version, keep_alive| {
            let text = encoded(&response, &Encode { version, keep_alive, ..HOW });
            text.split("Connection: ").nth(1).map(|rest| rest.trim_end().to_owned())
        };
        assert_eq!(connection(Version::Http11, true), None);
        assert_eq!(connection(Version::Http11, false).as_deref(), Some("close"));
        assert_eq!(connection(Version::Http10, true).as_deref(), Some("keep-alive"));
        assert_eq!(connection(Version::Http10, false).as_deref(), Some("close"));
    }

    #[test]
    fn a_problem_has_its_media_type() {
        let text = encoded(&Response::problem(&Problem::new(422).error("a", "b")), &HOW);
        assert!(text.starts_with("HTTP/1.1 422 Unprocessable Content\r\n"));
        assert!(text.contains("\r\nContent-Type: application/problem+json\r\n"));
        assert!(text.ends_with(r#""errors":[{"field":"a","reason":"b"}]}"#));
    }

    #[test]
    fn no_value_begins_a_line_of_its_own() {
        let response = Response::empty(200).with_header("Location", "/a\r\nSet-Cookie: b");
        assert!(encoded(&response, &HOW).contains("\r\nLocation: /a  Set-Cookie: b\r\n"));
    }

    #[test]
    fn a_stream_has_its_head_and_no_length() {
        let mut out = Vec::new();
        encode_stream_head("D", &[("Vary", "Origin".to_owned())], &mut out);
        assert_eq!(
            String::from_utf8(out).unwrap(),
            concat!(
                "HTTP/1.1 200 OK\r\nDate: D\r\nContent-Type: text/event-stream\r\n",
                "Cache-Control: no-cache, no-transform\r\nX-Accel-Buffering: no\r\n",
                "Connection: close\r\nVary: Origin\r\n\r\n"
            )
        );
    }

    #[test]
    fn dates_are_as_http_has_them() {
        assert_eq!(http_date(Timestamp(784_111_777_999)), "Sun, 06 Nov 1994 08:49:37 GMT");
    }

    #[test]
    fn every_status_of_the_contract_has_a_name() {
        for status in [
            100, 200, 201, 204, 400, 401, 403, 404, 405, 406, 408, 409, 411, 412, 413, 414, 415,
            417, 422, 429, 431, 500, 501, 503, 505, 507,
        ] {
            assert_ne!(reason_phrase(status), "", "{status}");
        }
    }
}
