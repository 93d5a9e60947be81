//! One HTTP/1.1 server connection without its socket: bytes and the end of input come in, heads
//! and bodies go out, and after each answer it is known how the connection goes on (RFC 9112 §9).
//!
//! ```text
//!             poll_head           poll_body: Complete          finish
//!   ┌─ Head ────────────▶ Body ───────────────────────▶ Answer ────────▶ Next: Head again
//!   │    └────────────────────── no body ─────────────────▲     └──────▶ Close, Linger: Closed
//!   └ any refusal ─▶ Closed
//! ```
//!
//! Invariants: it never reads a clock; it never holds more than [`BUFFER_BYTES_MAX`] bytes, as
//! long as its caller reads only while [`Connection::wants_bytes`]; an idle connection holds no
//! buffer at all. A body is decoded as it arrives and never gathered here.
//!
//! Rejected: to parse straight from the caller's read buffer. It would save one copy of a head,
//! and cost a buffer for each connection that waits for the rest of one.

use crate::limits::{HEADER_BYTES_MAX, LINGER_BYTES_MAX, READ_BYTES};
use crate::wire::body::BodyDecoder;
use crate::wire::request::{Expect, HeadScanner, Refusal, RequestHead};
use crate::wire::response::CONTINUE;

/// Most bytes that a connection holds: a head that goes on, and the read that refuses it.
pub const BUFFER_BYTES_MAX: usize = HEADER_BYTES_MAX + READ_BYTES;

/// The state of one connection, see the module.
#[derive(Debug, Default)]
pub struct Connection {
    /// What has arrived; the first `used` bytes of it are done with.
    buffer: Vec<u8>,
    used: usize,
    state: State,
    /// Whether the client would send another request after the one in hand.
    keep_alive: bool,
    /// The client waits for `100 Continue`.
    waits_for_continue: bool,
    /// The client sends no more.
    eof: bool,
}

#[derive(Debug)]
enum State {
    /// The next bytes belong to a head.
    Head(HeadScanner),
    /// The next bytes belong to a body.
    Body(BodyDecoder),
    /// A request has been read in full, and is to be answered.
    Answer,
    /// Nothing is read any more.
    Closed,
}

impl Default for State {
    fn default() -> State {
        State::Head(HeadScanner::default())
    }
}

/// How far a body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyProgress {
    /// It goes on when more bytes have arrived.
    Incomplete,
    /// It was read to its end.
    Complete,
}

/// What becomes of the connection after an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum After {
    /// Another request: ask [`Connection::poll_head`] before reading, it may be there already.
    Next,
    /// The client expects nothing more: close.
    Close,
    /// The client may still be sending, and a close would be a reset that can take the answer
    /// away from it (RFC 9112 §9.6): shut down the sending side, then discard input as
    /// [`Lingering`] says, then close.
    Linger,
}

impl Connection {
    /// A connection on which nothing has arrived.
    pub fn new() -> Connection {
        Connection::default()
    }

    /// Takes what was read, at most [`READ_BYTES`] and only while [`Connection::wants_bytes`].
    /// A closed connection ignores it.
    pub fn handle_bytes(&mut self, bytes: &[u8]) {
        if matches!(self.state, State::Closed) {
            return;
        }
        // RFC 9110 §10.1.1: no 100 when some of the content is already here.
        self.waits_for_continue &= bytes.is_empty();
        self.buffer.drain(..self.used);
        self.used = 0;
        self.buffer.extend_from_slice(bytes);
        debug_assert!(self.buffer.len() <= BUFFER_BYTES_MAX, "read while it wanted no bytes");
    }

    /// Takes note that the client has closed its sending side.
    pub fn handle_eof(&mut self) {
        self.eof = true;
        self.waits_for_continue = false;
    }

    /// The head of the next request, or `None` when it has not arrived in full.
    ///
    /// # Errors
    /// Those of [`crate::wire::request::parse_head`]. The refusal is to be answered; then
    /// [`Connection::finish`] says how to close. Nothing more is read.
    pub fn poll_head(&mut self) -> Result<Option<RequestHead>, Refusal> {
        let State::Head(scanner) = &mut self.state else {
            debug_assert!(matches!(self.state, State::Closed), "finish comes before the next head");
            return Ok(None);
        };
        let unread = &self.buffer[self.used..];
        let found = scanner.scan(unread).and_then(|found| match found {
            None => Ok(None),
            Some(range) => {
                RequestHead::parse(&unread[range.clone()]).map(|head| Some((head, range)))
            }
        });
        match found {
            Ok(Some((head, range))) => {
                self.used += range.end;
                self.begin_body(&head);
                Ok(Some(head))
            }
            Ok(None) => {
                self.used += scanner.take_empty_line();
                self.release();
                Ok(None)
            }
            Err(refusal) => {
                self.close();
                Err(refusal)
            }
        }
    }

    fn begin_body(&mut self, head: &RequestHead) {
        let decoder = BodyDecoder::new(head.framing);
        let has_body = !decoder.is_complete();
        self.keep_alive = head.keep_alive;
        self.waits_for_continue =
            head.expect == Expect::Continue && has_body && self.unread().is_empty() && !self.eof;
        self.state = if has_body { State::Body(decoder) } else { State::Answer };
        self.release();
    }

    /// Whether [`CONTINUE`] is to be written before anything is read: the client said `Expect:
    /// 100-continue`, and no byte of the body has arrived.
    pub fn needs_continue(&self) -> bool {
        self.waits_for_continue
    }

    /// The interim response that is to be written now, once, if there is to be one
    /// (RFC 9110 §10.1.1). To answer at once instead, with an error, do not call it.
    pub fn take_continue(&mut self) -> Option<&'static [u8]> {
        std::mem::take(&mut self.waits_for_continue).then_some(CONTINUE)
    }

    /// Appends what has arrived of the body to `out`: no more than [`BUFFER_BYTES_MAX`] at one
    /// time, so a caller that looks at `out` after each call can bound it.
    ///
    /// # Errors
    /// Those of [`BodyDecoder::decode`], to be handled like those of [`Connection::poll_head`].
    pub fn poll_body(&mut self, out: &mut Vec<u8>) -> Result<BodyProgress, Refusal> {
        let State::Body(decoder) = &mut self.state else {
            debug_assert!(!matches!(self.state, State::Head(_)), "a body comes after a head");
            return Ok(match self.state {
                State::Answer => BodyProgress::Complete,
                _ => BodyProgress::Incomplete,
            });
        };
        match decoder.decode(&self.buffer[self.used..], out) {
            Ok(decoded) => {
                self.used += decoded.consumed;
                if decoded.complete {
                    self.state = State::Answer;
                    self.release();
                    return Ok(BodyProgress::Complete);
                }
                Ok(BodyProgress::Incomplete)
            }
            Err(refusal) => {
                self.close();
                Err(refusal)
            }
        }
    }

    /// Throws away what has arrived of the body. For an answer that does not need it: a small one
    /// has often arrived in full, and then the connection can stay.
    ///
    /// # Errors
    /// Those of [`Connection::poll_body`].
    pub fn discard_body(&mut self) -> Result<BodyProgress, Refusal> {
        // A refused or late head has no body that anybody could tell from the rest of it.
        if matches!(self.state, State::Head(_)) {
            return Ok(BodyProgress::Incomplete);
        }
        self.poll_body(&mut Vec::new())
    }

    /// Whether an answer that is written now may leave the connection open; what
    /// [`Encode::keep_alive`](crate::wire::response::Encode::keep_alive) is to be, unless the
    /// server has a reason of its own to close.
    pub fn can_keep_alive(&self) -> bool {
        self.keep_alive && matches!(self.state, State::Answer)
    }

    /// The answer has been written; `answer_allows_keep_alive` is what it said. What now?
    ///
    /// `Next` only when the request was read to its end. Bytes of a following request stay.
    pub fn finish(&mut self, answer_allows_keep_alive: bool) -> After {
        let is_over = self.eof && self.unread().is_empty();
        let after = match self.state {
            State::Answer if answer_allows_keep_alive && self.keep_alive && !is_over => After::Next,
            // Nobody sends after the end of input, or after saying that this was the last request.
            _ if self.eof => After::Close,
            State::Answer if !self.keep_alive && self.unread().is_empty() => After::Close,
            _ => After::Linger,
        };
        if after == After::Next {
            self.state = State::default();
            self.keep_alive = false;
            self.release();
        } else {
            self.close();
        }
        after
    }

    /// Whether more bytes are useful and there is room for [`READ_BYTES`] of them. False while
    /// a client sends requests faster than they are answered: TCP then holds it up.
    pub fn wants_bytes(&self) -> bool {
        let is_open = !self.eof && !matches!(self.state, State::Closed);
        is_open && self.unread().len() <= HEADER_BYTES_MAX
    }

    /// Whether no byte of a request is here: the deadline for idle connections applies, not the
    /// one for heads. Ask when [`Connection::poll_head`] has said `None`.
    pub fn is_idle(&self) -> bool {
        matches!(self.state, State::Head(_)) && matches!(self.unread(), b"" | b"\r")
    }

    /// Whether the client has closed between two requests, as it may. Ask as for
    /// [`Connection::is_idle`].
    pub fn was_closed(&self) -> bool {
        self.eof && self.is_idle()
    }

    /// Whether input ended in the middle of a request, which therefore will never be complete.
    /// Ask when [`Connection::poll_head`] or [`Connection::poll_body`] found it incomplete.
    pub fn was_cut(&self) -> bool {
        let in_request = match self.state {
            State::Head(_) => !self.is_idle(),
            State::Body(_) => true,
            State::Answer | State::Closed => false,
        };
        self.eof && in_request
    }

    /// Whether the client has closed its sending side.
    pub fn has_eof(&self) -> bool {
        self.eof
    }

    /// Bytes of memory that its buffer takes.
    pub fn buffer_capacity(&self) -> usize {
        self.buffer.capacity()
    }

    fn unread(&self) -> &[u8] {
        &self.buffer[self.used..]
    }

    fn close(&mut self) {
        self.state = State::Closed;
        self.waits_for_continue = false;
        self.used = self.buffer.len();
        self.release();
    }

    /// Gives the buffer back when there is nothing in it: thousands of connections wait, few work.
    fn release(&mut self) {
        if self.unread().is_empty() {
            self.buffer = Vec::new();
            self.used = 0;
        }
    }
}

/// Counts what is discarded after [`After::Linger`].
#[derive(Clone, Copy, Debug)]
pub struct Lingering {
    left: usize,
}

impl Lingering {
    /// Nothing has been discarded.
    pub fn new() -> Lingering {
        Lingering { left: LINGER_BYTES_MAX }
    }

    /// Takes note of a read: `discarded` bytes, 0 at the end of input. Whether to read on; if not,
    /// close. The caller also stops after [`crate::limits::LINGER_MS_MAX`].
    pub fn handle_discarded(&mut self, discarded: usize) -> bool {
        self.left = self.left.saturating_sub(discarded);
        discarded > 0 && self.left > 0
    }
}

impl Default for Lingering {
    fn default() -> Lingering {
        Lingering::new()
    }
}

#[cfg(test)]
mod dangerous_requests;
#[cfg(test)]
mod request_series;

#[cfg(test)]
mod tests {
    use super::*;

    /// A connection on which these bytes have arrived.
    fn received(bytes: &str) -> Connection {
        let mut connection = Connection::new();
        connection.handle_bytes(bytes.as_bytes());
        connection
    }

    fn head(connection: &mut Connection) -> RequestHead {
        connection.poll_head().unwrap().expect("a whole head")
    }

    fn body(connection: &mut Connection) -> Option<String> {
        let mut out = Vec::new();
        match connection.poll_body(&mut out).unwrap() {
            BodyProgress::Complete => Some(String::from_utf8(out).unwrap()),
            BodyProgress::Incomplete => None,
        }
    }

    /// What becomes of a connection after its first request, when the answer allows it to stay.
    fn after(request: &str) -> After {
        let mut connection = received(request);
        head(&mut connection);
        assert_eq!(body(&mut connection), Some(String::new()));
        let keep_alive = connection.can_keep_alive();
        connection.finish(keep_alive)
    }

    const GET: &str = "GET /a HTTP/1.1\r\nHost: h\r\n\r\n";
    const POST: &str = "POST /b HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\n";

    #[test]
    fn pipelined_requests_are_read_in_turn() {
        let mut connection = received(&format!("{GET}{POST}hello{GET}"));
        assert_eq!(head(&mut connection).path, "/a");
        assert_eq!(connection.finish(true), After::Next);
        assert_eq!(head(&mut connection).path, "/b");
        assert_eq!(body(&mut connection).as_deref(), Some("hello"));
        assert_eq!(connection.finish(true), After::Next);
        assert!(!connection.is_idle());
        assert_eq!(head(&mut connection).path, "/a");
        assert_eq!(connection.finish(true), After::Next);
        assert_eq!(connection.poll_head(), Ok(None));
        assert!(connection.is_idle());
    }

    #[test]
    fn keep_alive_follows_version_and_connection_field() {
        assert_eq!(after(GET), After::Next);
        assert_eq!(after("GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"), After::Close);
        assert_eq!(after("GET / HTTP/1.0\r\n\r\n"), After::Close);
        assert_eq!(after("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"), After::Next);
    }

    #[test]
    fn a_server_that_closes_lingers_for_a_client_that_would_go_on() {
        let mut connection = received(GET);
        head(&mut connection);
        assert_eq!(connection.finish(false), After::Linger);
        let mut connection = received("GET / HTTP/1.0\r\n\r\n and more");
        head(&mut connection);
        assert_eq!(connection.finish(true), After::Linger);
    }

    #[test]
    fn unread_body_makes_it_linger() {
        let mut connection = received(&format!("{POST}he"));
        head(&mut connection);
        assert_eq!(body(&mut connection), None);
        assert!(!connection.can_keep_alive());
        assert_eq!(connection.finish(true), After::Linger);
        assert_eq!(connection.poll_head(), Ok(None));
        assert!(!connection.wants_bytes());
    }

    #[test]
    fn a_body_that_nobody_reads_may_be_discarded() {
        let mut connection = received(&format!("{POST}hello{GET}"));
        head(&mut connection);
        assert!(!connection.can_keep_alive());
        assert_eq!(connection.discard_body(), Ok(BodyProgress::Complete));
        assert!(connection.can_keep_alive());
        assert_eq!(connection.finish(true), After::Next);
        assert_eq!(head(&mut connection).path, "/a");
    }

    #[test]
    fn a_refusal_is_answered_and_lingers() {
        let mut connection = received(&format!("GET / HTTP/1.1\n{GET}"));
        assert_eq!(connection.poll_head().unwrap_err().status, 400);
        connection.handle_bytes(GET.as_bytes());
        assert_eq!(connection.poll_head(), Ok(None));
        assert!(!connection.can_keep_alive());
        assert_eq!(connection.buffer_capacity(), 0);
        assert_eq!(connection.finish(false), After::Linger);
    }

    #[test]
    fn continue_is_asked_for_once_and_only_before_the_body() {
        let request = format!("{}Expect: 100-continue\r\n\r\n", &POST[..POST.len() - 2]);
        let mut connection = received(&request);
        assert!(!connection.needs_continue());
        head(&mut connection);
        assert!(connection.needs_continue());
        assert_eq!(connection.take_continue(), Some(CONTINUE));
        assert_eq!(connection.take_continue(), None);

        let mut connection = received(&request);
        head(&mut connection);
        connection.handle_bytes(b"h");
        assert!(!connection.needs_continue());

        let mut connection = received(&format!("{request}h"));
        head(&mut connection);
        assert!(!connection.needs_continue());

        let mut connection = received(&request.replace("1.1", "1.0"));
        head(&mut connection);
        assert!(!connection.needs_continue());

        let mut connection = received(&request.replace("Length: 5", "Length: 0"));
        head(&mut connection);
        assert!(!connection.needs_continue());
    }

    #[test]
    fn a_request_that_is_turned_down_before_continue_is_lingered_for() {
        let request = format!("{}Expect: 100-continue\r\n\r\n", &POST[..POST.len() - 2]);
        let mut connection = received(&request);
        head(&mut connection);
        assert!(!connection.can_keep_alive());
        assert_eq!(connection.finish(false), After::Linger);
    }

    #[test]
    fn the_end_of_input_is_a_cut_only_inside_a_request() {
        let ended = |bytes: &str| {
            let mut connection = received(bytes);
            connection.handle_eof();
            if connection.poll_head().unwrap().is_some() {
                body(&mut connection);
            }
            (connection.was_closed(), connection.was_cut())
        };
        assert_eq!(ended(""), (true, false));
        assert_eq!(ended("\r\n"), (true, false));
        assert_eq!(ended("G"), (false, true));
        assert_eq!(ended(&GET[..GET.len() - 1]), (false, true));
        assert_eq!(ended(GET), (false, false));
        assert_eq!(ended(&format!("{POST}hell")), (false, true));
        assert_eq!(ended(&format!("{POST}hello")), (false, false));
    }

    #[test]
    fn requests_that_came_before_the_end_of_input_are_answered() {
        let mut connection = received(&format!("{GET}{GET}"));
        connection.handle_eof();
        head(&mut connection);
        assert_eq!(connection.finish(true), After::Next);
        head(&mut connection);
        assert_eq!(connection.finish(true), After::Close);
    }

    #[test]
    fn an_empty_line_between_requests_leaves_a_connection_idle() {
        let mut connection = received(GET);
        head(&mut connection);
        connection.finish(true);
        for byte in ["\r", "\n"] {
            connection.handle_bytes(byte.as_bytes());
            assert_eq!(connection.poll_head(), Ok(None));
            assert!(connection.is_idle());
        }
        assert_eq!(connection.buffer_capacity(), 0);
        connection.handle_bytes(GET.as_bytes());
        assert_eq!(head(&mut connection).path, "/a");
    }

    #[test]
    fn an_idle_connection_holds_no_buffer() {
        let mut connection = received(&format!("{POST}hello"));
        assert!(connection.buffer_capacity() > 0);
        head(&mut connection);
        body(&mut connection).unwrap();
        assert_eq!(connection.buffer_capacity(), 0, "nor while it waits for its answer");
        connection.finish(true);
        assert!(connection.is_idle());
        assert_eq!(connection.buffer_capacity(), 0);
    }

    #[test]
    fn a_client_that_runs_ahead_is_held_up() {
        let mut connection = received(GET);
        head(&mut connection);
        let mut reads = 0;
        while connection.wants_bytes() {
            connection.handle_bytes(&[b'x'; READ_BYTES]);
            reads += 1;
        }
        assert_eq!(reads, 2);
    }

    #[test]
    fn lingering_ends_with_the_input_or_the_bound() {
        let mut lingering = Lingering::new();
        assert!(lingering.handle_discarded(1));
        assert!(!lingering.handle_discarded(0));
        assert!(!lingering.handle_discarded(LINGER_BYTES_MAX));
    }
}
