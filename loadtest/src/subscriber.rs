//! One subscriber: an answer's head, the body's framing, the events in it, and what they prove.
//!
//! It has no socket and no clock. Bytes and the time at which they came go in; counts go to the
//! [`Tally`]. It is kept small, since there are tens of thousands in a process: no buffer of its
//! own but for what came of an unfinished head or event.

use std::io;

use crate::{
    http::{Body, Head},
    marker::Marker,
    order::{Fault, Order, Published},
    sse::{self, Event},
    tally::{Broken, Tally},
    target::{Cursor, Target},
};

/// Cursors longer than this are cut off, which a server then refuses.
const CURSOR_BYTES_MAX: usize = 1024;

/// A subscriber, connected or not.
#[derive(Debug, Default)]
pub struct Subscriber {
    order: Order,
    stage: Stage,
    /// What has come of an unfinished head or event.
    carry: Vec<u8>,
    /// Where it left off; empty before the first.
    cursor: Vec<u8>,
    /// When it began to connect.
    began_ns: u64,
    /// When its last head was there: what was due before is no live delivery. 0 for never.
    opened_ns: u64,
    has_all: bool,
}

#[derive(Debug, Default)]
enum Stage {
    /// Not a byte has come.
    #[default]
    Silent,
    Head,
    Body(Body),
}

/// What all subscribers of a process share.
#[derive(Debug)]
pub struct Shared {
    /// How the server is talked to.
    pub target: Target,
    /// Names the measurement.
    pub token: u32,
    /// A live event that comes later than this after it was due is late.
    pub stall_ns: u64,
    /// What was published, once it is known.
    pub expected: Option<Expected>,
}

/// What each subscriber should have in the end.
#[derive(Debug)]
pub struct Expected {
    /// What was published, by stream.
    pub published: Vec<Published>,
    /// From when on the time to catch up counts; none where it is not measured.
    pub since_ns: Option<u64>,
}

/// Why a subscriber's connection is over, though nobody here closed it.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The server does not listen.
    #[error("connection refused")]
    ConnectionRefused,
    /// No answer within the time.
    #[error("no answer in time")]
    Timeout,
    /// The connection was reset.
    #[error("connection reset")]
    Reset,
    /// This process has no file descriptor left.
    #[error("out of file descriptors here")]
    OutOfFiles,
    /// The source address has no port left.
    #[error("out of ports here")]
    OutOfPorts,
    /// Another error of the operating system.
    #[error("{0}")]
    Io(io::ErrorKind),
    /// The answer is no 200.
    #[error("status {0}")]
    Status(u16),
    /// The answer is no stream.
    #[error("not an event stream but `{0}`")]
    NotAStream(String),
    /// The answer breaks HTTP.
    #[error("{0}")]
    BadAnswer(String),
    /// The server said that it cannot serve it now.
    #[error("stream refused by the server")]
    StreamRefused,
    /// The server ended the stream.
    #[error("closed early by the server")]
    ClosedEarly,
    /// The connection was ended while the subscriber did not read.
    #[error("cut off by the server while it did not read")]
    CutOff,
}

impl Failure {
    /// Whether it is the end of the connection, and not something that came over it.
    pub fn is_end(&self) -> bool {
        matches!(self, Self::ClosedEarly | Self::Reset | Self::Timeout | Self::Io(_))
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::ConnectionRefused => Self::ConnectionRefused,
            io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => Self::Reset,
            io::ErrorKind::TimedOut => Self::Timeout,
            io::ErrorKind::AddrNotAvailable | io::ErrorKind::AddrInUse => Self::OutOfPorts,
            _ if error.raw_os_error() == Some(rustix::io::Errno::MFILE.raw_os_error()) => {
                Self::OutOfFiles
            }
            kind => Self::Io(kind),
        }
    }
}

/// Who a subscriber is, for the description of what is wrong with it.
#[derive(Clone, Copy, Debug)]
pub struct Name {
    /// Its number.
    pub n: usize,
    /// Its stream's.
    pub stream: u32,
}

impl Subscriber {
    /// It begins to connect.
    pub fn handle_start(&mut self, now_ns: u64) {
        self.stage = Stage::Silent;
        self.carry = Vec::new();
        self.began_ns = now_ns;
        self.order.resume();
    }

    /// The connection is over.
    pub fn handle_closed(&mut self) {
        self.stage = Stage::Silent;
        self.carry = Vec::new();
    }

    /// Where it left off, if it knows.
    pub fn cursor(&self) -> Option<&str> {
        if self.cursor.is_empty() { None } else { str::from_utf8(&self.cursor).ok() }
    }

    /// Whether the head of the answer is there.
    pub fn is_open(&self) -> bool {
        matches!(self.stage, Stage::Body(_))
    }

    /// Whether it has all that is expected.
    pub fn has_all(&self) -> bool {
        self.has_all
    }

    /// Whether it was ever open.
    pub fn was_open(&self) -> bool {
        self.opened_ns > 0
    }

    /// Takes what was read.
    ///
    /// # Errors
    /// When the connection is of no more use.
    pub fn handle_bytes(
        &mut self,
        bytes: &[u8],
        now_ns: u64,
        name: Name,
        shared: &Shared,
        room: &mut Vec<Marker>,
        tally: &mut Tally,
    ) -> Result<(), Failure> {
        if matches!(self.stage, Stage::Silent) {
            tally.first_byte.record(now_ns.saturating_sub(self.began_ns));
            self.stage = Stage::Head;
        }
        let head;
        let mut rest = bytes;
        if matches!(self.stage, Stage::Head) {
            self.carry.extend_from_slice(bytes);
            let Some(used) = self.handle_head(now_ns, tally)? else { return Ok(()) };
            head = std::mem::take(&mut self.carry);
            rest = &head[used..];
        }
        let events = tally.counters.events;
        let ended = self.handle_body(&mut rest, now_ns, name, shared, room, tally)?;
        if tally.counters.events > events {
            tally.counters.reads += 1;
            tally.counters.last_event_ns = now_ns;
        }
        if ended { Err(Failure::ClosedEarly) } else { Ok(()) }
    }

    /// The number of bytes that the head took, once it is whole.
    fn handle_head(&mut self, now_ns: u64, tally: &mut Tally) -> Result<Option<usize>, Failure> {
        let bad = |error: crate::http::HeadError| Failure::BadAnswer(error.to_string());
        let Some(head) = Head::parse(&self.carry).map_err(bad)? else { return Ok(None) };
        if head.status != 200 {
            return Err(Failure::Status(head.status));
        }
        if head.media_type != "text/event-stream" {
            return Err(Failure::NotAStream(head.media_type));
        }
        self.stage = Stage::Body(head.body);
        self.opened_ns = now_ns;
        tally.counters.opened += 1;
        tally.counters.last_opened_ns = now_ns;
        Ok(Some(head.bytes))
    }

    /// Whether the body has ended.
    fn handle_body(
        &mut self,
        bytes: &mut &[u8],
        now_ns: u64,
        name: Name,
        shared: &Shared,
        room: &mut Vec<Marker>,
        tally: &mut Tally,
    ) -> Result<bool, Failure> {
        let Self { order, stage: Stage::Body(body), carry, cursor, opened_ns, has_all, .. } = self
        else {
            return Ok(false);
        };
        let mut reader = Reader {
            order,
            cursor,
            has_all,
            live_from_ns: *opened_ns,
            now_ns,
            name,
            shared,
            tally,
            refused: false,
        };
        let bad = |error: &dyn std::fmt::Display| Failure::BadAnswer(error.to_string());
        while let Some(piece) = body.next(bytes).map_err(|error| bad(&error))? {
            sse::feed(carry, piece, room, &mut reader).map_err(|error| bad(&error))?;
        }
        if reader.refused { Err(Failure::StreamRefused) } else { Ok(body.is_done()) }
    }

    /// Looks whether it has all that is expected, for instance after that has become known.
    pub fn handle_expected(&mut self, name: Name, shared: &Shared, tally: &mut Tally) {
        self.has_all = false;
        note_all(&mut self.has_all, &self.order, 0, name, shared, tally);
    }

    /// Counts what has not come of what is expected; only what will not come any more where it
    /// `may_come`, since the subscriber was not there, or was not given the time.
    pub fn count_missing(&self, may_come: bool, name: Name, shared: &Shared, tally: &mut Tally) {
        let Some(expected) = &shared.expected else { return };
        let published = &expected.published[name.stream as usize];
        let missing = if may_come {
            self.order.jumped_over(published)
        } else {
            self.order.missing(published)
        };
        for (first, last) in missing {
            tally.violate(Broken::Missing, u64::from(last - first + 1), || {
                if first == last {
                    format!(
                        "subscriber {} never got event {first} of stream {}",
                        name.n, name.stream
                    )
                } else {
                    format!(
                        "subscriber {} never got events {first} to {last} of stream {}",
                        name.n, name.stream
                    )
                }
            });
        }
    }
}

/// What reads a subscriber's events.
struct Reader<'a> {
    order: &'a mut Order,
    cursor: &'a mut Vec<u8>,
    has_all: &'a mut bool,
    live_from_ns: u64,
    now_ns: u64,
    name: Name,
    shared: &'a Shared,
    tally: &'a mut Tally,
    refused: bool,
}

impl sse::Sink for Reader<'_> {
    fn event(&mut self, event: &Event<'_>, markers: &[Marker]) {
        for marker in markers {
            self.marked(marker);
        }
        match &self.shared.target.cursor {
            Cursor::Id => {
                if let Some(id) = event.id {
                    self.keep_cursor(id);
                }
            }
            Cursor::Field { event: name, field } => {
                if event.name == name.as_bytes()
                    && let Some(cursor) = event.data.and_then(|data| field_of(data, field))
                {
                    self.keep_cursor(cursor.as_bytes());
                }
            }
        }
        match event.name {
            b"heartbeat" => self.tally.counters.keepalives += 1,
            b"stream.refused" => self.refused = true,
            _ => {}
        }
    }

    fn comment(&mut self) {
        self.tally.counters.keepalives += 1;
    }
}

impl Reader<'_> {
    fn marked(&mut self, marker: &Marker) {
        if marker.token != self.shared.token {
            return;
        }
        self.tally.counters.events += 1;
        if marker.stream != self.name.stream {
            let name = self.name;
            self.tally.violate(Broken::Foreign, 1, || {
                format!(
                    "subscriber {} of stream {} got event {} of stream {}",
                    name.n, name.stream, marker.number, marker.stream
                )
            });
            return;
        }
        if let Some(fault) = self.order.handle(marker.number) {
            self.note_fault(fault, marker.number);
        }
        if marker.due_ns < self.live_from_ns {
            self.tally.counters.replayed += 1;
        } else {
            let delay = self.now_ns.saturating_sub(marker.due_ns);
            self.tally.delivery.record(delay);
            self.tally.counters.late += u64::from(delay > self.shared.stall_ns);
        }
        note_all(self.has_all, self.order, self.now_ns, self.name, self.shared, self.tally);
    }

    fn note_fault(&mut self, (broken, count): Fault, number: u32) {
        let (name, last) = (self.name, self.order.last());
        self.tally.violate(broken, count, || match broken {
            Broken::Repeated => {
                format!("subscriber {} got event {number} of stream {} again", name.n, name.stream)
            }
            Broken::Reordered => format!(
                "subscriber {} got event {number} of stream {} after {last}",
                name.n, name.stream
            ),
            Broken::Missing | Broken::Foreign => {
                format!("subscriber {} lacks many events of stream {}", name.n, name.stream)
            }
        });
    }

    fn keep_cursor(&mut self, cursor: &[u8]) {
        self.cursor.clear();
        self.cursor.extend_from_slice(&cursor[..cursor.len().min(CURSOR_BYTES_MAX)]);
        self.order.commit();
    }
}

fn note_all(
    has_all: &mut bool,
    order: &Order,
    now_ns: u64,
    name: Name,
    shared: &Shared,
    tally: &mut Tally,
) {
    let Some(expected) = &shared.expected else { return };
    if *has_all || !order.has_all(&expected.published[name.stream as usize]) {
        return;
    }
    *has_all = true;
    if let Some(since) = expected.since_ns
        && now_ns >= since
    {
        tally.catch_up.record(now_ns - since);
    }
}

fn field_of(data: &[u8], field: &str) -> Option<String> {
    let object: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(data).ok()?;
    object.get(field)?.as_str().map(str::to_owned)
}
