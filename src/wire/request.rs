//! The head of a request: bytes in, a checked value out (RFC 9112 §2 to §3, RFC 9110 §5 to §7).
//!
//! [`HeadScanner`] looks at the raw bytes first, since httparse alone takes a bare LF for a line
//! end. The request line is split here, since httparse reports a space in the target as a bad
//! version; the fields go through httparse. Whatever can be read in two ways is refused: there is
//! no lenient mode.
//!
//! ```text
//!   bytes ─▶ HeadScanner ─▶ request line ─▶ Method, Target, Version
//!            (CRLF, bounds) └ fields ─▶ httparse ─▶ Headers ─▶ framing, keep-alive, expect
//! ```

pub use super::framing::{BodyFraming, Expect};
pub use super::head_scanner::HeadScanner;
pub use super::headers::Headers;
pub use super::method::{Method, Version};
pub use super::refusal::Refusal;
pub use super::target::Query;

use super::framing;
use super::method::is_token_byte;
use super::target::{Target, is_host};
use crate::limits::HEADERS_MAX;

/// A request without its body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestHead {
    /// What is asked for.
    pub method: Method,
    /// The segments of the path, decoded; none for `/` and for `*`.
    pub segments: Vec<String>,
    /// The path as it was sent, for messages; `*` for `OPTIONS *`.
    pub path: String,
    /// The pairs of the query, decoded.
    pub query: Query,
    /// The header fields.
    pub headers: Headers,
    /// The version that the client speaks.
    pub version: Version,
    /// Where the body ends.
    pub framing: BodyFraming,
    /// Whether the client would send another request on this connection.
    pub keep_alive: bool,
    /// What the client expects before it sends the body.
    pub expect: Expect,
}

impl RequestHead {
    /// Parses a whole head: the bytes of the range that a [`HeadScanner`] has found.
    ///
    /// # Errors
    /// 400 for what is malformed or can be read in two ways, 501 for a transfer coding other than
    /// `chunked`, 505 for a major version other than 1.
    pub fn parse(head: &[u8]) -> Result<RequestHead, Refusal> {
        let line_end = memchr::memchr(b'\r', head).unwrap_or(head.len());
        let (line, fields) = head.split_at(line_end);
        let (method, target, version) = split_request_line(line)?;
        let version = Version::parse(version)?;
        let method = Method::parse(method)?;
        let target = Target::parse(&method, target)?;
        let headers = parse_fields(fields.get(2..).unwrap_or_default())?;
        check_host(version, &headers)?;
        Ok(RequestHead {
            framing: framing::body_framing(version, &headers)?,
            keep_alive: framing::keep_alive(version, &headers),
            expect: framing::expect(version, &headers),
            method,
            segments: target.segments,
            path: target.path,
            query: target.query,
            headers,
            version,
        })
    }
}

/// Reads one request head from the beginning of `bytes`: the head and how many bytes it took, or
/// `None` when it goes on. A caller that asks again with more bytes keeps a [`HeadScanner`]
/// instead, so that nothing is scanned twice.
///
/// # Errors
/// Those of [`HeadScanner::scan`] and of [`RequestHead::parse`].
pub fn parse_head(bytes: &[u8]) -> Result<Option<(RequestHead, usize)>, Refusal> {
    let Some(found) = HeadScanner::default().scan(bytes)? else { return Ok(None) };
    let end = found.end;
    Ok(Some((RequestHead::parse(&bytes[found])?, end)))
}

/// Method, target and version, with exactly one space between them (RFC 9112 §3).
fn split_request_line(line: &[u8]) -> Result<(&str, &str, &str), Refusal> {
    if !line.iter().all(|byte| (b' '..=b'~').contains(byte)) {
        return Err(Refusal::malformed("the request line has a byte that is not visible ASCII"));
    }
    let line = std::str::from_utf8(line).expect("visible ASCII is UTF-8");
    let mut parts = line.split(' ');
    match (parts.next(), parts.next(), parts.next(), parts.next()) {
        (Some(method), Some(target), Some(version), None) if !target.is_empty() => {
            Ok((method, target, version))
        }
        _ => Err(Refusal::malformed(
            "the request line is not a method, a target without spaces and an HTTP version",
        )),
    }
}

/// Reads the field lines, the last empty line included (RFC 9112 §5).
fn parse_fields(lines: &[u8]) -> Result<Headers, Refusal> {
    let mut room = [httparse::EMPTY_HEADER; HEADERS_MAX];
    match httparse::parse_headers(lines, &mut room) {
        Ok(httparse::Status::Complete((used, fields))) if used == lines.len() => {
            let mut headers = Headers::with_capacity(fields.len(), lines.len());
            for field in fields {
                headers.push(field.name, field.value);
            }
            Ok(headers)
        }
        _ => Err(Refusal::malformed(what_is_wrong_with(lines))),
    }
}

/// The reason why httparse has refused these lines, in words.
#[cold]
fn what_is_wrong_with(lines: &[u8]) -> &'static str {
    let name_is_bad = |line: &&[u8]| {
        let name = memchr::memchr(b':', line).map_or(*line, |colon| &line[..colon]);
        name.is_empty() || name.len() == line.len() || !name.iter().copied().all(is_token_byte)
    };
    let without_last = lines.strip_suffix(b"\r\n\r\n").unwrap_or(lines);
    let mut split = without_last
        .split(|byte| *byte == b'\n')
        .map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    match split.find(name_is_bad) {
        None => "a header value has a control character",
        Some([b' ' | b'\t', ..]) => "a header line begins with white space (obs-fold)",
        Some(line) => match memchr::memchr(b':', line) {
            None => "a header line has no colon",
            Some(colon) if line[..colon].ends_with(b" ") || line[..colon].ends_with(b"\t") => {
                "white space before the colon of a header"
            }
            Some(_) => "a header name is not a token",
        },
    }
}

/// Exactly one valid Host in HTTP/1.1, at most one in HTTP/1.0 (RFC 9112 §3.2).
fn check_host(version: Version, headers: &Headers) -> Result<(), Refusal> {
    let mut hosts = headers.get_all("host");
    let host = hosts.next();
    if hosts.next().is_some() {
        return Err(Refusal::malformed("more than one Host"));
    }
    match host {
        _ if !headers.is_text("host") => Err(Refusal::malformed("Host is not ASCII")),
        Some(host) if !is_host(host) => Err(Refusal::malformed("Host is not a host")),
        None if version == Version::Http11 => Err(Refusal::malformed("Host is missing")),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(text: &str) -> RequestHead {
        let (head, used) = parse_head(text.as_bytes()).unwrap().expect("a whole head");
        assert_eq!(used, text.len());
        head
    }

    fn detail(text: &str) -> String {
        parse_head(text.as_bytes()).unwrap_err().detail.into_owned()
    }

    #[test]
    fn a_browsers_request_is_understood() {
        let head = head(concat!(
            "GET /projects/a%20b/events/stream?types=A,B&after_id=now HTTP/1.1\r\n",
            "Host: 127.0.0.1:8000\r\nConnection: keep-alive\r\nAccept:text/event-stream \r\n",
            "Last-Event-ID: \t7\r\nX-Empty:\r\n\r\n"
        ));
        assert_eq!(head.method, Method::Get);
        assert_eq!(head.segments, ["projects", "a b", "events", "stream"]);
        assert_eq!(head.path, "/projects/a%20b/events/stream");
        assert_eq!(head.query.get("types"), Some("A,B"));
        assert_eq!(head.query.get("after_id"), Some("now"));
        assert_eq!(head.headers.get("accept"), Some("text/event-stream"));
        assert_eq!(head.headers.get("last-event-id"), Some("7"));
        assert_eq!(head.headers.get("x-empty"), Some(""));
        assert_eq!(head.version, Version::Http11);
        assert_eq!(head.framing, BodyFraming::None);
        assert!(head.keep_alive);
        assert_eq!(head.expect, Expect::None);
    }

    #[test]
    fn a_publishers_request_is_understood() {
        let head = head(concat!(
            "POST http://h/runs/1/events HTTP/1.1\r\nHost: h\r\nContent-Length: 12\r\n",
            "Expect: 100-continue\r\nConnection: close\r\n\r\n"
        ));
        assert_eq!(head.method, Method::Post);
        assert_eq!(head.segments, ["runs", "1", "events"]);
        assert_eq!(head.framing, BodyFraming::Fixed(12));
        assert_eq!(head.expect, Expect::Continue);
        assert!(!head.keep_alive);
    }

    #[test]
    fn a_head_that_goes_on_is_no_error() {
        let text = "PATCH /runs/1 HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n";
        for end in 0..text.len() {
            assert_eq!(parse_head(&text.as_bytes()[..end]), Ok(None), "{end}");
        }
        assert_eq!(head(text).framing, BodyFraming::Chunked);
    }

    #[test]
    fn versions_are_1_0_or_1_1_and_later() {
        assert_eq!(head("GET / HTTP/1.0\r\n\r\n").version, Version::Http10);
        assert_eq!(head("GET / HTTP/1.2\r\nHost: h\r\n\r\n").version, Version::Http11);
    }

    #[test]
    fn methods_are_case_sensitive_tokens() {
        assert_eq!(head("get / HTTP/1.0\r\n\r\n").method, Method::Other("get".into()));
        for name in ["GET", "HEAD", "POST", "PATCH", "DELETE", "OPTIONS", "PUT", "M-SEARCH"] {
            assert_eq!(head(&format!("{name} / HTTP/1.0\r\n\r\n")).method.as_str(), name);
        }
    }

    #[test]
    fn a_refusal_says_what_was_wrong() {
        let field = |line: &str| detail(&format!("GET / HTTP/1.1\r\nHost: h\r\n{line}\r\n\r\n"));
        assert_eq!(field("A : b"), "white space before the colon of a header");
        assert_eq!(field("A: b\r\n c"), "a header line begins with white space (obs-fold)");
        assert_eq!(field("A"), "a header line has no colon");
        assert_eq!(field("A@: b"), "a header name is not a token");
        assert_eq!(field(": b"), "a header name is not a token");
        assert_eq!(field("A: \x01"), "a header value has a control character");
        assert!(detail("GET /a b HTTP/1.1\r\n\r\n").contains("without spaces"));
        assert!(detail("GET / HTTP/1.1\r\nA: b\r\n\r\n").contains("Host"));
    }
}
