//! Where a request head ends, and whether its lines are lines.
//!
//! This looks at the raw bytes before any of them is given a meaning. It insists on what parsers
//! differ about, and what request smuggling therefore lives on: every line ends in CRLF, no CR or
//! LF stands alone, and there is no NUL (RFC 9112 §2.2). It also keeps the bounds, so that a line
//! that never ends is refused when it is too long and not when memory is used up.
//!
//! Invariant: a refusal depends on the bytes only, never on the pieces in which they arrived.
//! Each check is therefore tied to a position, and positions are taken in order.
//!
//! ```text
//!            from      line          at
//!             │         │             │
//!   CR LF     GET / HTTP/1.1 CR LF    Host: a CR LF ...
//!   └ one is tolerated     └ lines = 1
//! ```
//!
//! Scanning goes on at `at` when more bytes have arrived, so a head that comes one byte at a time
//! is still read once. (Only the spaces of a request line longer than `TARGET_BYTES_MAX` are
//! looked for again, and such a line has less than `HEADER_BYTES_MAX` to go.) Rejected: to parse
//! from the start each time, which is quadratic: 128 MiB for 16 KiB of single bytes.

use std::ops::Range;

use memchr::{memchr, memchr3};

use super::refusal::Refusal;
use crate::limits::{HEADER_BYTES_MAX, HEADERS_MAX, TARGET_BYTES_MAX};

/// Finds the end of one request head in a buffer that grows.
#[derive(Clone, Debug, Default)]
pub struct HeadScanner {
    /// Where the request line begins: 0, or 2 after an empty line.
    from: usize,
    /// Where the line that is being read begins.
    line: usize,
    /// Everything before this has been looked at.
    at: usize,
    /// Lines that are complete: the request line, then the header fields.
    lines: usize,
    /// The one empty line that may come first (RFC 9112 §2.2) has come.
    empty_line_seen: bool,
}

impl HeadScanner {
    /// Looks at what is new in `bytes`, which begin as they did at the last call.
    ///
    /// `None` is a head that goes on; otherwise the range of the head, its last empty line
    /// included, an empty line before it not.
    ///
    /// # Errors
    /// 400 for a bare CR or LF, a NUL, and a second empty line before the request line; 414 for a
    /// target longer than `TARGET_BYTES_MAX` (RFC 9112 §3); 431 for more than `HEADER_BYTES_MAX`
    /// in all or `HEADERS_MAX` fields (RFC 6585 §5).
    pub fn scan(&mut self, bytes: &[u8]) -> Result<Option<Range<usize>>, Refusal> {
        loop {
            // What lies beyond the bound is not judged: how much of it has arrived is chance.
            let window = &bytes[..bytes.len().min(self.from + HEADER_BYTES_MAX)];
            let is_exceeded = bytes.len() > window.len();
            let found = memchr3(b'\r', b'\n', 0, &window[self.at..]);
            self.at = found.map_or(window.len(), |found| self.at + found);
            self.check_target(window)?;
            match (window.get(self.at), window.get(self.at + 1)) {
                (Some(b'\r'), Some(b'\n')) => {
                    if let Some(head) = self.end_line()? {
                        return Ok(Some(head));
                    }
                }
                (Some(b'\r') | None, None) if is_exceeded => return Err(head_too_long()),
                (Some(b'\r') | None, None) => return Ok(None),
                (Some(b'\r'), _) => return Err(Refusal::malformed("a CR without LF")),
                (Some(b'\n'), _) => {
                    return Err(Refusal::malformed("a line that ends in a bare LF"));
                }
                _ => return Err(Refusal::malformed("a NUL")),
            }
        }
    }

    /// Forgets an empty line before the request line, and says how many bytes it had: the caller
    /// takes these from the front of its buffer, which is then empty on an idle connection.
    pub fn take_empty_line(&mut self) -> usize {
        let taken = std::mem::take(&mut self.from);
        self.line -= taken;
        self.at -= taken;
        taken
    }

    /// The line before `at` is complete. Says where the head is if this was its last.
    fn end_line(&mut self) -> Result<Option<Range<usize>>, Refusal> {
        let is_empty = self.line == self.at;
        self.at += 2;
        self.line = self.at;
        match (self.lines, is_empty) {
            (0, true) if self.empty_line_seen => Err(Refusal::malformed("an empty request line")),
            (0, true) => {
                self.empty_line_seen = true;
                self.from = self.at;
                Ok(None)
            }
            (_, true) => Ok(Some(self.from..self.at)),
            (lines, false) if lines > HEADERS_MAX => {
                Err(Refusal::new(431, format!("more than {HEADERS_MAX} header fields")))
            }
            (_, false) => {
                self.lines += 1;
                Ok(None)
            }
        }
    }

    /// Checks the request line as far as `at`, whether it ends there or goes on.
    fn check_target(&self, window: &[u8]) -> Result<(), Refusal> {
        let line = &window[self.line..self.at];
        if self.lines > 0 || line.len() <= TARGET_BYTES_MAX {
            return Ok(());
        }
        let Some(method) = memchr(b' ', &line[..TARGET_BYTES_MAX]) else {
            return Err(Refusal::malformed("a request line without a target"));
        };
        let rest = &line[method + 1..];
        let target = memchr(b' ', rest).unwrap_or(rest.len());
        if target > TARGET_BYTES_MAX {
            let detail = format!("the request target is longer than {TARGET_BYTES_MAX} bytes");
            return Err(Refusal::new(414, detail));
        }
        Ok(())
    }
}

#[cold]
fn head_too_long() -> Refusal {
    let detail = format!("request line and header fields are longer than {HEADER_BYTES_MAX} bytes");
    Refusal::new(431, detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The result of a scan of all bytes, after the same of every shorter beginning.
    fn scan(bytes: &[u8]) -> Result<Option<Range<usize>>, u16> {
        let whole = HeadScanner::default().scan(bytes).map_err(|refusal| refusal.status);
        let mut scanner = HeadScanner::default();
        let mut piecewise = Ok(None);
        for end in 0..=bytes.len() {
            piecewise = scanner.scan(&bytes[..end]).map_err(|refusal| refusal.status);
            if piecewise != Ok(None) {
                break;
            }
        }
        assert_eq!(whole, piecewise, "{}", bytes[..bytes.len().min(99)].escape_ascii());
        whole
    }

    #[test]
    fn a_head_ends_at_its_first_empty_line() {
        assert_eq!(scan(b"GET / HTTP/1.1\r\nHost: a\r\n\r\nGET"), Ok(Some(0..27)));
        assert_eq!(scan(b"GET / HTTP/1.0\r\n\r\n"), Ok(Some(0..18)));
        assert_eq!(scan(b"GET / HTTP/1.1\r\nHost: a\r\n\r"), Ok(None));
        assert_eq!(scan(b""), Ok(None));
    }

    #[test]
    fn one_empty_line_may_come_first() {
        assert_eq!(scan(b"\r\nGET / HTTP/1.0\r\n\r\n"), Ok(Some(2..20)));
        assert_eq!(scan(b"\r\n\r\nGET / HTTP/1.0\r\n\r\n"), Err(400));
        assert_eq!(scan(b"\nGET / HTTP/1.0\r\n\r\n"), Err(400));
    }

    #[test]
    fn an_empty_line_that_was_taken_still_counts_as_the_one() {
        let mut scanner = HeadScanner::default();
        assert_eq!(scanner.scan(b"\r\nGE"), Ok(None));
        assert_eq!(scanner.take_empty_line(), 2);
        assert_eq!(scanner.take_empty_line(), 0);
        assert_eq!(scanner.scan(b"GET / HTTP/1.0\r\n\r\n"), Ok(Some(0..18)));

        let mut scanner = HeadScanner::default();
        assert_eq!(scanner.scan(b"\r\n"), Ok(None));
        assert_eq!(scanner.take_empty_line(), 2);
        assert_eq!(scanner.scan(b"\r\n").unwrap_err().status, 400);
    }

    #[test]
    fn bounds_are_exact() {
        let head = |bytes: usize| {
            let mut head = b"GET / HTTP/1.0\r\nX: ".to_vec();
            head.resize(bytes - 4, b'x');
            [&head, &b"\r\n\r\n"[..]].concat()
        };
        assert_eq!(scan(&head(HEADER_BYTES_MAX)), Ok(Some(0..HEADER_BYTES_MAX)));
        assert_eq!(scan(&head(HEADER_BYTES_MAX + 1)), Err(431));
        assert_eq!(
            scan(&[b"\r\n", &head(HEADER_BYTES_MAX)[..]].concat()),
            Ok(Some(2..HEADER_BYTES_MAX + 2))
        );

        let target = |bytes: usize| format!("GET {} HTTP/1.0\r\n\r\n", "/".repeat(bytes));
        assert!(scan(target(TARGET_BYTES_MAX).as_bytes()).is_ok());
        assert_eq!(scan(target(TARGET_BYTES_MAX + 1).as_bytes()), Err(414));

        let fields = |count: usize| format!("GET / HTTP/1.0\r\n{}\r\n", "a:b\r\n".repeat(count));
        assert!(scan(fields(HEADERS_MAX).as_bytes()).is_ok());
        assert_eq!(scan(fields(HEADERS_MAX + 1).as_bytes()), Err(431));
    }

    #[test]
    fn what_lies_beyond_a_bound_is_not_judged() {
        let mut head = b"GET / HTTP/1.0\r\nX: ".to_vec();
        head.resize(HEADER_BYTES_MAX - 1, b'x');
        head.extend_from_slice(b"\rx\n\0");
        assert_eq!(scan(&head), Err(431));
        let long = format!("GET /{}\n", "x".repeat(TARGET_BYTES_MAX));
        assert_eq!(scan(long.as_bytes()), Err(414));
    }
}
