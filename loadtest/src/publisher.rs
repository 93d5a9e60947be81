//! What publishes: connections with requests under way, on a schedule or as fast as answers come.
//!
//! The schedule is an open loop. An event has a time at which it is due, whatever the server does,
//! and that time stands in the event: when the server, or the connection to it, stalls, each event
//! that should have gone out meanwhile is charged with its share of the stall. (A load that waits
//! for each answer before it sends the next would leave out just the slow moments.)
//!
//! A stream has one connection where there are enough of them to choose, so that its events are
//! published in the order of their numbers.

use std::{
    collections::{BTreeMap, VecDeque},
    io,
    net::TcpStream,
    os::fd::OwnedFd,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread::JoinHandle,
    time::Duration,
};

use rustix::{
    event::epoll::{self, EventData, EventFlags},
    net::{RecvFlags, SendFlags},
};

use crate::{
    clock,
    histogram::Histogram,
    http::{Body, Head},
    marker::Marker,
    order::Published,
    target::{Batch, Target, Values},
};

const READ_BYTES: usize = 64 * 1024;
const EVENTS_A_TURN_MAX: usize = 256;
/// So long answers are waited for when the user wants it to end.
const LAST_ANSWERS_WAIT: Duration = Duration::from_secs(1);
/// The longest wait in one turn: so soon a stop is noticed.
const TURN_MAX: Duration = Duration::from_millis(20);
/// So much of a refusal's body is shown.
const REFUSAL_BYTES_MAX: usize = 200;
/// So many kinds of refusal are told apart by their bodies: some servers number theirs.
const REFUSALS_MAX: usize = 20;

/// What to publish.
#[derive(Clone, Debug)]
pub struct Plan {
    /// How the server is talked to.
    pub target: Target,
    /// Names the measurement.
    pub token: u32,
    /// The streams' names; they take turns.
    pub streams: Vec<String>,
    /// The number of the first of them, as it stands in the marks.
    pub first_stream: u32,
    /// The last number that each stream's events have already; 0 beyond the end.
    pub numbers_before: Vec<u32>,
    /// How many connections publish.
    pub connections: usize,
    /// How many requests may be under way on each.
    pub depth: usize,
    /// Events a request; or, where the server takes one at a time, requests one after the other.
    pub batch: usize,
    /// How long a payload is, in bytes.
    pub payload_bytes: usize,
    /// How long an answer may take.
    pub timeout: Duration,
    /// When to publish.
    pub schedule: Schedule,
}

impl Plan {
    /// How many requests make a batch.
    fn requests(&self) -> usize {
        if self.target.batch == Batch::Single { self.batch } else { 1 }
    }
}

/// When to publish.
#[derive(Clone, Copy, Debug)]
pub enum Schedule {
    /// As fast as answers come.
    Closed {
        /// How long.
        duration: Duration,
    },
    /// A batch each `every`, whatever the answers do; it ends at the first refusal.
    Paced {
        /// From one batch to the next.
        every: Duration,
        /// How many in all.
        batches: u64,
    },
}

/// How far it is; read while it goes on.
#[derive(Debug, Default)]
pub struct Progress {
    /// Requests that were answered with success.
    pub requests: AtomicU64,
    /// Events in them.
    pub events: AtomicU64,
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Requests that were answered with success.
    pub requests: u64,
    /// Events in them.
    pub events: u64,
    /// From when a request was due to its answer.
    pub latency: Histogram,
    /// Seconds from the first request to the last answer.
    pub seconds: f64,
    /// Failures by kind.
    pub failures: BTreeMap<String, u64>,
    /// What each connection wrote to each of its streams.
    pub written: Vec<Written>,
}

/// What one connection wrote to one stream.
#[derive(Clone, Debug, Default)]
pub struct Written {
    /// The stream's number, as it stands in the marks.
    pub stream: u32,
    /// The writer's, as it stands in the marks.
    pub writer: u32,
    /// The last number.
    pub last: u32,
    /// Numbers of which nobody knows whether the server took them, as ranges, ascending.
    pub unknown: Vec<(u32, u32)>,
}

impl Written {
    /// What of it the server has said to have.
    pub fn published(&self) -> Published {
        let (mut last, mut doubtful) = (self.last, self.unknown.clone());
        while let Some((first, _)) = doubtful.pop_if(|(_, end)| *end == last) {
            last = first - 1;
        }
        Published { last, doubtful }
    }
}

/// A thread that publishes.
#[derive(Debug)]
pub struct Publisher {
    thread: JoinHandle<io::Result<Outcome>>,
    stopped_ns: Arc<AtomicU64>,
    is_hurried: Arc<AtomicBool>,
    progress: Arc<Progress>,
}

impl Publisher {
    /// Connects and begins.
    ///
    /// # Errors
    /// When a connection is refused.
    pub fn start(plan: Plan) -> io::Result<Self> {
        let stopped_ns = Arc::new(AtomicU64::new(u64::MAX));
        let is_hurried = Arc::new(AtomicBool::new(false));
        let progress = Arc::new(Progress::default());
        let ends = (Arc::clone(&stopped_ns), Arc::clone(&is_hurried));
        let engine = Engine::new(plan, ends, Arc::clone(&progress))?;
        let thread =
            std::thread::Builder::new().name("publisher".into()).spawn(move || engine.run())?;
        Ok(Self { thread, stopped_ns, is_hurried, progress })
    }

    /// How far it is.
    pub fn progress(&self) -> &Progress {
        &self.progress
    }

    /// Whether it has ended by itself.
    pub fn is_finished(&self) -> bool {
        self.thread.is_finished()
    }

    /// Lets nothing more become due; what is due already still goes out.
    pub fn stop(&self) {
        self.stopped_ns.fetch_min(clock::now_ns(), Relaxed);
    }

    /// Lets nothing more go out, and does not wait long for answers.
    pub fn interrupt(&self) {
        self.is_hurried.store(true, Relaxed);
        self.stop();
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// When epoll failed.
    pub fn join(self) -> io::Result<Outcome> {
        self.thread.join().expect("the publisher does not panic")
    }
}

struct Engine {
    plan: Plan,
    /// From when on nothing more becomes due; the maximum for never. What was due before goes out,
    /// however late this thread has its turn.
    stopped_ns: Arc<AtomicU64>,
    is_hurried: Arc<AtomicBool>,
    progress: Arc<Progress>,
    epoll: OwnedFd,
    connections: Vec<Connection>,
    outcome: Outcome,
    began_ns: u64,
    /// Batches that have become due so far.
    due: u64,
    refused: bool,
    last_answer_ns: u64,
    buffer: Box<[u8]>,
}

struct Connection {
    number: usize,
    /// None also where the server has closed it and nothing was to be sent since: a server that
    /// closes idle connections must not close one just when it is needed.
    socket: Option<OwnedFd>,
    /// Whether it is of no more use.
    is_lost: bool,
    written: Vec<Written>,
    /// Which of `written` is next.
    turn: usize,
    /// What is due and not sent: stream by its place in `written`, and when it was due.
    backlog: VecDeque<(usize, u64)>,
    output: Vec<u8>,
    sent: usize,
    /// Whether the kernel had no room for all of the output.
    is_full: bool,
    under_way: VecDeque<Request>,
    input: Vec<u8>,
    answer: Option<(u16, Body, bool)>,
    answer_text: Vec<u8>,
}

/// A request that waits for its answer.
struct Request {
    due_ns: u64,
    written_ns: u64,
    place: usize,
    first: u32,
    last: u32,
}

impl Engine {
    fn new(
        plan: Plan,
        (stopped_ns, is_hurried): (Arc<AtomicU64>, Arc<AtomicBool>),
        progress: Arc<Progress>,
    ) -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let mut connections: Vec<Connection> =
            (0..plan.connections).map(|number| Connection::new(number, &plan)).collect();
        for connection in &mut connections {
            connection.connect(&plan, &epoll)?;
        }
        Ok(Self {
            plan,
            stopped_ns,
            is_hurried,
            progress,
            epoll,
            connections,
            outcome: Outcome::default(),
            began_ns: clock::now_ns(),
            due: 0,
            refused: false,
            last_answer_ns: 0,
            buffer: vec![0; READ_BYTES].into(),
        })
    }

    fn run(mut self) -> io::Result<Outcome> {
        // The schedule began when it was asked for, however late this thread has its first turn.
        let mut now = self.began_ns;
        let mut over_ns = None;
        loop {
            let goes_on = self.goes_on(now);
            self.make_due(now);
            for index in 0..self.connections.len() {
                self.fill(index, now, goes_on);
            }
            if !goes_on {
                let waits = |connection: &Connection| !connection.under_way.is_empty();
                let wait = if self.is_hurried.load(Relaxed) {
                    self.plan.timeout.min(LAST_ANSWERS_WAIT)
                } else {
                    self.plan.timeout
                };
                let since = *over_ns.get_or_insert(now);
                if !self.connections.iter().any(waits) || now > since + clock::nanoseconds(wait) {
                    return Ok(self.end());
                }
            }
            self.wait()?;
            self.give_up_due();
            now = clock::now_ns();
        }
    }

    /// A connection whose answer does not come in time is of no more use.
    fn give_up_due(&mut self) {
        let now = clock::now_ns();
        let wait = clock::nanoseconds(self.plan.timeout);
        for index in 0..self.connections.len() {
            let oldest = self.connections[index].under_way.front();
            if oldest.is_some_and(|request| now > request.written_ns + wait) {
                self.lose(index, "no answer in time");
            }
        }
    }

    fn goes_on(&self, now_ns: u64) -> bool {
        if self.is_hurried.load(Relaxed) || self.refused {
            return false;
        }
        match self.plan.schedule {
            Schedule::Closed { duration } => {
                now_ns < self.stopped_ns().min(self.began_ns + clock::nanoseconds(duration))
            }
            Schedule::Paced { every, batches } => {
                let backlog = |connection: &Connection| !connection.backlog.is_empty();
                self.is_more_to_come(every, batches) || self.connections.iter().any(backlog)
            }
        }
    }

    fn stopped_ns(&self) -> u64 {
        self.stopped_ns.load(Relaxed)
    }

    fn is_more_to_come(&self, every: Duration, batches: u64) -> bool {
        self.due < batches && self.next_due_ns(every) <= self.stopped_ns()
    }

    /// Hands what has become due to the connections of its streams.
    fn make_due(&mut self, now_ns: u64) {
        let Schedule::Paced { every, batches } = self.plan.schedule else { return };
        while self.is_more_to_come(every, batches) && self.next_due_ns(every) <= now_ns {
            let due_ns = self.next_due_ns(every);
            let stream = (self.due % self.plan.streams.len() as u64) as usize;
            let count = self.connections.len();
            let connection = &mut self.connections[stream % count];
            for _ in 0..self.plan.requests() {
                connection.backlog.push_back((stream / count, due_ns));
            }
            self.due += 1;
        }
    }

    fn next_due_ns(&self, every: Duration) -> u64 {
        self.began_ns + clock::nanoseconds(every) * self.due
    }

    /// Writes as many requests as may be under way.
    fn fill(&mut self, index: usize, now_ns: u64, goes_on: bool) {
        let connection = &mut self.connections[index];
        if !goes_on || connection.is_lost {
            return;
        }
        let paced = matches!(self.plan.schedule, Schedule::Paced { .. });
        while connection.under_way.len() < self.plan.depth {
            let next = if paced {
                connection.backlog.pop_front()
            } else {
                connection.turn = (connection.turn + 1) % connection.written.len();
                Some((connection.turn, now_ns))
            };
            let Some((place, due_ns)) = next else { break };
            if connection.socket.is_none()
                && let Err(error) = connection.connect(&self.plan, &self.epoll)
            {
                self.refused = true;
                return self.lose(index, &error.to_string());
            }
            connection.write_request(&self.plan, place, due_ns, now_ns);
        }
        if let Err(error) = connection.send(&self.epoll) {
            self.lose(index, &error.to_string());
        }
    }

    fn wait(&mut self) -> io::Result<()> {
        let next = match self.plan.schedule {
            Schedule::Paced { every, batches } if self.is_more_to_come(every, batches) => {
                let left_ns = self.next_due_ns(every).saturating_sub(clock::now_ns());
                Duration::from_nanos(left_ns).min(TURN_MAX)
            }
            _ => TURN_MAX,
        };
        let next = rustix::event::Timespec::try_from(next).expect("it is some ms");
        let mut events = Vec::with_capacity(EVENTS_A_TURN_MAX);
        match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), Some(&next)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        for event in events {
            let index = event.data.u64() as usize;
            if let Err(error) = self.handle_event(index, event.flags) {
                self.lose(index, &error.to_string());
            }
        }
        Ok(())
    }

    fn handle_event(&mut self, index: usize, flags: EventFlags) -> io::Result<()> {
        if flags.contains(EventFlags::OUT) {
            self.connections[index].send(&self.epoll)?;
        }
        loop {
            let connection = &mut self.connections[index];
            let Some(socket) = &connection.socket else { return Ok(()) };
            let received = rustix::net::recv(socket, &mut *self.buffer, RecvFlags::DONTWAIT);
            let count = match received {
                Ok((_, count)) => count,
                Err(rustix::io::Errno::AGAIN) => return Ok(()),
                Err(_) if connection.under_way.is_empty() => 0,
                Err(error) => return Err(error.into()),
            };
            if count == 0 {
                return self.handle_end(index);
            }
            connection.input.extend_from_slice(&self.buffer[..count]);
            self.read_answers(index)?;
            if count < READ_BYTES {
                return Ok(());
            }
        }
    }

    fn read_answers(&mut self, index: usize) -> io::Result<()> {
        let now = clock::now_ns();
        loop {
            let connection = &mut self.connections[index];
            let Some(answer) = connection.poll_answer()? else { return Ok(()) };
            let Some(request) = connection.under_way.pop_front() else {
                return Err(io::Error::other("an answer to no request"));
            };
            self.handle_answer(index, &request, &answer, now);
            if !answer.keeps_alive {
                return self.handle_end(index);
            }
        }
    }

    fn handle_answer(&mut self, index: usize, request: &Request, answer: &Answer, now_ns: u64) {
        self.last_answer_ns = now_ns;
        if (200..300).contains(&answer.status) {
            let events = u64::from(request.last - request.first + 1);
            self.outcome.requests += 1;
            self.outcome.events += events;
            self.outcome.latency.record(now_ns.saturating_sub(request.due_ns));
            self.progress.requests.fetch_add(1, Relaxed);
            self.progress.events.fetch_add(events, Relaxed);
            return;
        }
        let text = String::from_utf8_lossy(&answer.text);
        let mut kind = format!("publish answered with status {}", answer.status);
        if !text.is_empty() && self.outcome.failures.len() < REFUSALS_MAX {
            kind = format!("{kind}: {text}");
        }
        self.fail(kind);
        self.connections[index].doubt(request);
    }

    /// The server has closed the connection.
    fn handle_end(&mut self, index: usize) -> io::Result<()> {
        let connection = &mut self.connections[index];
        if let Some(answer) = connection.poll_last_answer()
            && let Some(request) = connection.under_way.pop_front()
        {
            self.handle_answer(index, &request, &answer, clock::now_ns());
        }
        let connection = &mut self.connections[index];
        if !connection.under_way.is_empty() {
            return Err(io::Error::other("the server closed the connection"));
        }
        connection.socket = None;
        Ok(())
    }

    /// The connection is of no more use, and what was under way is in doubt.
    fn lose(&mut self, index: usize, why: &str) {
        let connection = &mut self.connections[index];
        connection.socket = None;
        connection.doubt_what_is_under_way();
        connection.is_lost = matches!(self.plan.schedule, Schedule::Paced { .. });
        self.fail(format!("publishing connection lost: {why}"));
    }

    fn fail(&mut self, kind: String) {
        *self.outcome.failures.entry(kind).or_default() += 1;
        self.refused |= matches!(self.plan.schedule, Schedule::Paced { .. });
    }

    fn end(mut self) -> Outcome {
        for connection in &mut self.connections {
            let unanswered = connection.under_way.len() as u64;
            connection.doubt_what_is_under_way();
            // Who ends it before its time does not wait: the server may have been about to answer.
            if unanswered > 0 && !self.is_hurried.load(Relaxed) {
                *self.outcome.failures.entry("publish not answered".into()).or_default() +=
                    unanswered;
            }
            for mut written in connection.written.drain(..) {
                written.stream += self.plan.first_stream;
                written.unknown.sort_unstable();
                self.outcome.written.push(written);
            }
        }
        self.outcome.seconds = clock::seconds(self.last_answer_ns.saturating_sub(self.began_ns));
        self.outcome
    }
}

struct Answer {
    status: u16,
    keeps_alive: bool,
    text: Vec<u8>,
}

impl Connection {
    fn new(number: usize, plan: &Plan) -> Self {
        let streams = plan.streams.len();
        // Streams are shared out among the connections, or connections among the streams.
        let places: Vec<usize> = if streams >= plan.connections {
            (number..streams).step_by(plan.connections).collect()
        } else {
            vec![number % streams]
        };
        let written = |stream: usize| Written {
            stream: stream as u32,
            writer: (number / streams) as u32,
            last: plan.numbers_before.get(stream).copied().unwrap_or_default(),
            unknown: Vec::new(),
        };
        Self {
            number,
            socket: None,
            is_lost: false,
            written: places.into_iter().map(written).collect(),
            turn: 0,
            backlog: VecDeque::new(),
            output: Vec::new(),
            sent: 0,
            is_full: false,
            under_way: VecDeque::new(),
            input: Vec::new(),
            answer: None,
            answer_text: Vec::new(),
        }
    }

    /// Connects anew and forgets what was on the way on the old connection.
    fn connect(&mut self, plan: &Plan, epoll: &OwnedFd) -> io::Result<()> {
        let socket = TcpStream::connect(plan.target.publish.url.address)?;
        socket.set_nodelay(true)?;
        socket.set_nonblocking(true)?;
        epoll::add(epoll, &socket, EventData::new_u64(self.number as u64), EventFlags::IN)?;
        self.socket = Some(socket.into());
        self.output.clear();
        self.sent = 0;
        self.is_full = false;
        self.input.clear();
        self.answer = None;
        Ok(())
    }

    /// Nobody knows whether the server took the events of this request.
    fn doubt(&mut self, request: &Request) {
        self.written[request.place].unknown.push((request.first, request.last));
    }

    fn doubt_what_is_under_way(&mut self) {
        while let Some(request) = self.under_way.pop_front() {
            self.doubt(&request);
        }
    }

    fn write_request(&mut self, plan: &Plan, place: usize, due_ns: u64, written_ns: u64) {
        let events = plan.batch / plan.requests();
        let written = &mut self.written[place];
        let template = &plan.target.publish;
        let run = &plan.streams[written.stream as usize];
        let text = template.body.replace("{run}", run);
        let (before, after) = text.split_once("{payload}").unwrap_or((&text, ""));
        let values = Values { run, ..Values::default() };
        let (open, between, close) = match (plan.target.batch, events) {
            (Batch::Single, _) | (Batch::Array, 1) => ("", "", ""),
            (Batch::Array, _) => ("[", ",", "]"),
            (Batch::Ndjson, _) => ("", "\n", "\n"),
        };
        let mut body = Vec::with_capacity(events * (plan.payload_bytes + template.body.len() + 2));
        body.extend_from_slice(open.as_bytes());
        let first = written.last + 1;
        for index in 0..events {
            if index > 0 {
                body.extend_from_slice(between.as_bytes());
            }
            written.last += 1;
            body.extend_from_slice(before.as_bytes());
            let Written { writer, last: number, .. } = *written;
            let stream = plan.first_stream + written.stream;
            Marker { token: plan.token, stream, writer, number, due_ns }
                .write_payload(plan.payload_bytes, &mut body);
            body.extend_from_slice(after.as_bytes());
        }
        body.extend_from_slice(close.as_bytes());
        self.output.extend_from_slice(template.head(values, body.len()).as_bytes());
        self.output.extend_from_slice(&body);
        let last = written.last;
        self.under_way.push_back(Request { due_ns, written_ns, place, first, last });
    }

    /// Sends what it can, and waits for room when it cannot send all.
    fn send(&mut self, epoll: &OwnedFd) -> io::Result<()> {
        let Some(socket) = &self.socket else { return Ok(()) };
        let was_full = std::mem::take(&mut self.is_full);
        while self.sent < self.output.len() {
            let rest = &self.output[self.sent..];
            match rustix::net::send(socket, rest, SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
                Ok(count) => self.sent += count,
                Err(rustix::io::Errno::AGAIN) => {
                    self.is_full = true;
                    break;
                }
                Err(error) => return Err(error.into()),
            }
        }
        if !self.is_full {
            self.output.clear();
            self.sent = 0;
        }
        if self.is_full != was_full {
            let out = if self.is_full { EventFlags::OUT } else { EventFlags::empty() };
            let data = EventData::new_u64(self.number as u64);
            epoll::modify(epoll, socket, data, EventFlags::IN | out)?;
        }
        Ok(())
    }

    /// The next whole answer in the input.
    fn poll_answer(&mut self) -> io::Result<Option<Answer>> {
        let invalid = |error: &dyn std::fmt::Display| io::Error::other(error.to_string());
        let mut used = 0;
        if self.answer.is_none() {
            let Some(head) = Head::parse(&self.input).map_err(|error| invalid(&error))? else {
                return Ok(None);
            };
            used = head.bytes;
            // 100 (Continue) and its like are not the answer.
            if head.status < 200 {
                self.input.drain(..used);
                return self.poll_answer();
            }
            self.answer = Some((head.status, head.body, head.keeps_alive));
            self.answer_text.clear();
        }
        let (status, body, keeps_alive) = self.answer.as_mut().expect("it was just set");
        let mut rest = &self.input[used..];
        let before = rest.len();
        while let Some(piece) = body.next(&mut rest).map_err(|error| invalid(&error))? {
            if *status >= 300 {
                let room = REFUSAL_BYTES_MAX - self.answer_text.len();
                self.answer_text.extend_from_slice(&piece[..piece.len().min(room)]);
            }
        }
        used += before - rest.len();
        let done = body.is_done();
        let (status, keeps_alive) = (*status, *keeps_alive);
        self.input.drain(..used);
        if !done {
            return Ok(None);
        }
        self.answer = None;
        Ok(Some(Answer { status, keeps_alive, text: std::mem::take(&mut self.answer_text) }))
    }

    /// The answer that the end of the connection ends.
    fn poll_last_answer(&mut self) -> Option<Answer> {
        let (status, ..) = self.answer.take_if(|(_, body, _)| *body == Body::until_close())?;
        let text = std::mem::take(&mut self.answer_text);
        Some(Answer { status, keeps_alive: false, text })
    }
}
