//! A subscriber: reads a stream frame by frame, and is stricter than a browser. What the server
//! writes has LF alone as line end, one space after each colon, and no line that has no meaning.

use std::{
    io::{self, ErrorKind},
    net::{Shutdown, SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use serde_json::Value;

use super::{
    Answer, Client, DEADLINE,
    http::{fill_within, is_timeout, request},
};

/// An open stream.
pub struct Sse {
    /// The head of the answer.
    pub head: Answer,
    stream: TcpStream,
    unread: Vec<u8>,
    /// Where the next frame begins in `unread`.
    start: usize,
    /// Up to here no frame ends.
    scanned: usize,
}

/// What stands between two empty lines.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Frame {
    /// The `id:` line.
    pub id: Option<u64>,
    /// The `event:` line.
    pub event: Option<String>,
    /// The `data:` line.
    pub data: Option<String>,
    /// The `retry:` line.
    pub retry: Option<u64>,
    /// A comment.
    pub comment: Option<String>,
    /// All of it, the empty line included.
    pub raw: String,
}

impl Frame {
    /// The data as JSON.
    pub fn json(&self) -> Value {
        let data = self.data.as_ref().unwrap_or_else(|| panic!("no data: {self:?}"));
        serde_json::from_str(data).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The name of the event; empty when there is none.
    pub fn name(&self) -> &str {
        self.event.as_deref().unwrap_or_default()
    }

    /// Whether it is an event of the journal.
    pub fn is_event(&self) -> bool {
        self.data.is_some()
            && !self.name().starts_with("stream.")
            && !matches!(self.name(), "heartbeat" | "probe")
    }

    #[track_caller]
    fn parse(raw: &[u8]) -> Frame {
        let raw = std::str::from_utf8(raw).expect("a stream is UTF-8");
        let mut frame = Frame { raw: raw.to_owned(), ..Frame::default() };
        for line in raw.strip_suffix("\n\n").expect("a frame ends there").split('\n') {
            let (field, value) =
                line.split_once(": ").unwrap_or_else(|| panic!("line {line:?} in {raw:?}"));
            let number = || value.parse().unwrap_or_else(|_| panic!("line {line:?} in {raw:?}"));
            let is_new = match field {
                "id" => frame.id.replace(number()).is_none(),
                "event" => frame.event.replace(value.to_owned()).is_none(),
                "data" => frame.data.replace(value.to_owned()).is_none(),
                "retry" => frame.retry.replace(number()).is_none(),
                "" => frame.comment.replace(value.to_owned()).is_none(),
                _ => panic!("line {line:?} in {raw:?}"),
            };
            assert!(is_new, "{field} twice in {raw:?}");
        }
        frame
    }
}

impl Sse {
    /// Opens a stream and reads its head, which has to be the head of a stream.
    pub fn open(client: Client, target: &str, headers: &[(&str, &str)]) -> Sse {
        match Sse::try_open_on(client, target, headers).expect("the server answers") {
            Ok(stream) => stream,
            Err(answer) => panic!("{target}: {} {}", answer.status, answer.text()),
        }
    }

    /// Opens a stream; an answer that is none comes back in full.
    pub fn try_open(
        address: SocketAddr,
        target: &str,
        headers: &[(&str, &str)],
    ) -> io::Result<Result<Sse, Answer>> {
        Sse::try_open_on(Client::try_connect(address)?, target, headers)
    }

    /// The same on a connection.
    pub fn try_open_on(
        mut client: Client,
        target: &str,
        headers: &[(&str, &str)],
    ) -> io::Result<Result<Sse, Answer>> {
        client.try_send(request("GET", target, headers, ""))?;
        Sse::try_opened(client)
    }

    /// The same on a connection over which the request has been sent.
    pub fn try_opened(mut client: Client) -> io::Result<Result<Sse, Answer>> {
        let mut head = client.try_head()?;
        if head.status == 200 && head.header("Content-Type") == Some("text/event-stream") {
            let (stream, unread) = client.into_parts();
            return Ok(Ok(Sse { head, stream, unread, start: 0, scanned: 0 }));
        }
        head.body = client.content_of(&head)?;
        Ok(Err(head))
    }

    /// The socket.
    pub fn socket(&self) -> &TcpStream {
        &self.stream
    }

    /// The next frame, whatever it is; `None` at the end of the stream.
    #[track_caller]
    pub fn frame(&mut self) -> Option<Frame> {
        match self.try_frame(DEADLINE) {
            Ok(frame) => frame,
            Err(error) if is_timeout(&error) => {
                panic!("no frame within {DEADLINE:?}, but {:?}", self.half_frame())
            }
            Err(error) => panic!("{error} after {:?}", self.half_frame()),
        }
    }

    /// The next frame, if it comes within this time, from a server that may go away.
    ///
    /// # Errors
    /// Those of the connection. A stream that ends inside a frame is `UnexpectedEof`.
    pub fn try_frame(&mut self, time: Duration) -> io::Result<Option<Frame>> {
        loop {
            if let Some(end) = self.frame_end() {
                let frame = Frame::parse(&self.unread[self.start..end]);
                (self.start, self.scanned) = (end, end);
                return Ok(Some(frame));
            }
            self.unread.drain(..self.start);
            self.scanned -= self.start;
            self.start = 0;
            match fill_within(&mut self.stream, &mut self.unread, time) {
                Ok(()) => {}
                Err(error)
                    if error.kind() == ErrorKind::UnexpectedEof && self.unread.is_empty() =>
                {
                    return Ok(None);
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Takes about so many bytes from the socket, of whatever frames, and keeps them; says how many
    /// these were.
    #[track_caller]
    pub fn sip(&mut self, bytes: usize) -> usize {
        let before = self.unread.len();
        while self.unread.len() < before + bytes {
            fill_within(&mut self.stream, &mut self.unread, DEADLINE).expect("there is more");
        }
        self.unread.len() - before
    }

    fn frame_end(&mut self) -> Option<usize> {
        while let Some(at) = memchr::memchr(b'\n', &self.unread[self.scanned..]) {
            let line_feed = self.scanned + at;
            match self.unread.get(line_feed + 1) {
                Some(b'\n') => return Some(line_feed + 2),
                Some(_) => self.scanned = line_feed + 1,
                None => {
                    self.scanned = line_feed;
                    return None;
                }
            }
        }
        self.scanned = self.unread.len();
        None
    }

    fn half_frame(&self) -> String {
        let rest = &self.unread[self.start..];
        rest[..rest.len().min(500)].escape_ascii().to_string()
    }

    /// The next frame with data, whoever has written it.
    #[track_caller]
    pub fn message(&mut self) -> Option<Frame> {
        self.frame_that(|frame| frame.data.is_some())
    }

    /// The next event of the journal.
    #[track_caller]
    pub fn event(&mut self) -> Option<Frame> {
        self.frame_that(Frame::is_event)
    }

    /// Reads to the end of the stream, whatever comes before it.
    #[track_caller]
    pub fn read_to_end(&mut self) {
        assert!(self.frame_that(|_| false).is_none());
    }

    /// The next frame that is wanted. Keepalives do not make a wait any longer.
    #[track_caller]
    fn frame_that(&mut self, is_wanted: impl Fn(&Frame) -> bool) -> Option<Frame> {
        let started = Instant::now();
        loop {
            let frame = self.frame()?;
            if is_wanted(&frame) {
                return Some(frame);
            }
            let waited = started.elapsed();
            assert!(waited < DEADLINE, "nothing that is wanted, but {frame:?} after {waited:?}");
        }
    }

    /// Ids of the next events of the journal.
    #[track_caller]
    pub fn ids(&mut self, count: usize) -> Vec<u64> {
        (0..count)
            .map(|at| {
                let event = self.event().unwrap_or_else(|| panic!("{at} of {count} events"));
                event.id.expect("an event has an id")
            })
            .collect()
    }

    /// Ids of all events up to the end of the stream.
    #[track_caller]
    pub fn ids_to_end(&mut self) -> Vec<u64> {
        std::iter::from_fn(|| self.event()).map(|event| event.id.expect("an id")).collect()
    }

    /// Whether no event comes for so long; other frames may.
    #[track_caller]
    pub fn has_no_event_for(&mut self, time: Duration) -> bool {
        loop {
            match self.try_frame(time) {
                Ok(Some(frame)) if frame.is_event() => return false,
                Ok(Some(_)) => {}
                Ok(None) => return true,
                Err(error) => return is_timeout(&error),
            }
        }
    }
}

/// Ends these streams when a test fails, so that nobody reads them for ever.
pub struct Release(Vec<TcpStream>);

impl Release {
    /// Of these streams, whoever reads them.
    pub fn of(streams: &[Sse]) -> Release {
        let socket = |stream: &Sse| stream.stream.try_clone().expect("it is open");
        Release(streams.iter().map(socket).collect())
    }
}

impl Drop for Release {
    fn drop(&mut self) {
        for socket in &self.0 {
            // The server may have been first.
            let _ = socket.shutdown(Shutdown::Both);
        }
    }
}
