//! A server of Server-Sent Events with one fault, chosen by the test.
//!
//! It speaks what the preset `plain` speaks: `GET /streams/NAME` is a stream, from its beginning or
//! from after `Last-Event-ID`; `POST /streams/NAME` appends a line of its body each. A thread a
//! connection and one lock for all: what it does is plain to see, and it is fast enough for some
//! dozens of subscribers.

use std::{
    collections::HashMap,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

/// What is wrong with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    None,
    /// Nothing: the body comes in chunks of seven bytes, each in a packet of its own.
    Chunks,
    /// Nothing: each byte comes in a packet of its own.
    Bytes,
    /// Nothing: lines end as in HTTP.
    CarriageReturns,
    /// Nothing: one who comes without a cursor gets what is published from then on.
    StartsLive,
    /// Nothing: it ends each stream after so many events, and its subscribers come back.
    EndsStreams(usize),
    /// Nothing: the same, with a half of the next event at the end.
    CutsEvents(usize),
    /// Nothing: it closes the connection after the answer to a publish, which this ends.
    ClosesPublishers,
    /// The victim's fourth event never comes.
    Drops,
    /// The victim's fourth event comes twice.
    Repeats,
    /// The victim's fourth event comes some time after its fifth.
    Swaps,
    /// After the victim's fourth event comes one of another stream.
    SendsForeign,
    /// After the victim's fourth event comes nothing but this again and again.
    RepeatsForEver,
    /// The victim's connection is closed after its fourth event.
    ClosesEarly,
    /// Everything stands still for this long before the tenth publish.
    Stalls(Duration),
    /// Each publish takes so long.
    SlowPublishes(Duration),
    /// Subscriptions are answered with these bytes and closed.
    Answers(Who, &'static str),
    /// Subscriptions are not answered.
    IsSilent(Who),
    /// Publishes after this many are answered with 503.
    RefusesPublishes(usize),
    /// The fourth publish is answered with 503.
    RefusesOnePublish,
    /// Publishes after this many are taken and not answered.
    IsSilentToPublishers(usize),
    /// The fourth publish is answered and not taken.
    ForgetsPublish,
    /// The fourth publish is taken twice. Who comes gets all that is there in one piece.
    PublishesTwice,
    /// Those who come back do not get the first that they missed.
    LosesOnResume,
    /// Those who come back get nothing that they missed.
    ForgetsOnResume,
    /// Those who come back get the last that they had again.
    RepeatsOnResume,
    /// Who is far behind lacks an event.
    DropsForSlow,
    /// Who is far behind gets an event twice.
    RepeatsForSlow,
    /// Nothing: who takes nothing is cut off once, as a rule within an event.
    CutsSlow,
    /// The same, and when it comes back it gets nothing that it missed.
    CutsSlowAndForgets,
    /// All connections and the listening socket are closed at this publish, when those before it
    /// are answered.
    Dies(usize),
}

/// Which subscriptions a fault concerns. The first of all is the load tester's own look at the
/// server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// All, the load tester's own look too.
    All,
    /// The second, fifth, eighth …
    EveryThird,
    /// All but the load tester's own look.
    AllButTheFirst,
}

const BUSY: &str = "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4\r\n\r\nbusy";
/// The number of the subscription that is faulty where only one is.
const VICTIM: usize = 1;
/// So long a head is withheld, so that those who wait for theirs are seen together.
const HEAD_WAIT: Duration = Duration::from_millis(20);

/// So long an event comes after the one that it should come before.
const SWAP_WAIT: Duration = Duration::from_millis(300);
/// Who is so many bytes behind is slow: one that reads never is, with its short events.
const FAR_BEHIND_BYTES: usize = 400_000;
/// Who takes nothing for so long is cut off where slow ones are.
const CUT_AFTER: Duration = Duration::from_millis(200);
/// So often an event is repeated for ever.
const REPEAT_EVERY: Duration = Duration::from_millis(50);

/// A server under way. It ends when this is dropped.
pub struct Faulty {
    address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    fault: Fault,
    streams: Mutex<HashMap<String, Vec<String>>>,
    changed: Condvar,
    subscriptions: AtomicUsize,
    publishes: AtomicUsize,
    /// Those of them that were answered.
    answers: AtomicUsize,
    /// Events that the victim was sent.
    sent_to_victim: AtomicUsize,
    /// Subscriptions that wait for their head, and the most that ever did.
    waiting: AtomicUsize,
    waiting_max: AtomicUsize,
    connections: Mutex<Vec<TcpStream>>,
    is_over: AtomicBool,
}

struct Request {
    method: String,
    stream: String,
    cursor: Option<usize>,
    body: String,
}

impl Faulty {
    /// A server with this fault, on a port that the kernel chose.
    pub fn with(fault: Fault) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("there is a port");
        let address = listener.local_addr().expect("it is bound");
        let shared = Arc::new(Shared {
            fault,
            streams: Mutex::default(),
            changed: Condvar::new(),
            subscriptions: AtomicUsize::new(0),
            publishes: AtomicUsize::new(0),
            answers: AtomicUsize::new(0),
            sent_to_victim: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
            waiting_max: AtomicUsize::new(0),
            connections: Mutex::default(),
            is_over: AtomicBool::new(false),
        });
        let for_all = Arc::clone(&shared);
        std::thread::spawn(move || {
            for socket in listener.incoming().map_while(Result::ok) {
                if for_all.is_over.load(SeqCst) {
                    return;
                }
                let shared = Arc::clone(&for_all);
                let clone = socket.try_clone().expect("there are descriptors");
                shared.connections.lock().unwrap().push(clone);
                std::thread::spawn(move || shared.serve(socket));
            }
        });
        Self { address, shared }
    }

    /// Its URL, as `--server` takes it.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Publishes so far.
    pub fn publishes(&self) -> usize {
        self.shared.publishes.load(SeqCst)
    }

    /// Events that the victim was sent so far.
    pub fn sent_to_victim(&self) -> usize {
        self.shared.sent_to_victim.load(SeqCst)
    }

    /// The most subscriptions that ever waited for their head at a time.
    pub fn waiting_max(&self) -> usize {
        self.shared.waiting_max.load(SeqCst)
    }
}

impl Drop for Faulty {
    fn drop(&mut self) {
        self.shared.die();
        // Wakes the one that accepts.
        let _ = TcpStream::connect(self.address);
    }
}

impl Who {
    fn includes(self, subscription: usize) -> bool {
        match self {
            Who::All => true,
            Who::EveryThird => subscription % 3 == 2,
            Who::AllButTheFirst => subscription > 0,
        }
    }
}

impl Shared {
    fn die(&self) {
        self.is_over.store(true, SeqCst);
        for socket in self.connections.lock().unwrap().drain(..) {
            let _ = socket.shutdown(Shutdown::Both);
        }
        self.changed.notify_all();
    }

    fn serve(&self, mut socket: TcpStream) {
        socket.set_nodelay(true).expect("it is a socket");
        let mut reader = BufReader::new(socket.try_clone().expect("there are descriptors"));
        while let Some(request) = read_request(&mut reader) {
            if request.method == "GET" {
                self.subscribe(&request, &mut socket);
                return;
            }
            let Some(answer) = self.publish(&request) else { continue };
            if socket.write_all(answer.as_bytes()).is_err() {
                return;
            }
            self.answers.fetch_add(1, SeqCst);
            if self.fault == Fault::ClosesPublishers {
                let _ = socket.shutdown(Shutdown::Both);
                return;
            }
        }
    }

    // ---- publishing ------------------------------------------------------------------------------

    /// The answer, if there is to be one.
    fn publish(&self, request: &Request) -> Option<&'static str> {
        let publish = 1 + self.publishes.fetch_add(1, SeqCst);
        let times = match self.fault {
            Fault::RefusesPublishes(taken) if publish > taken => return Some(BUSY),
            Fault::RefusesOnePublish if publish == 4 => return Some(BUSY),
            Fault::Dies(at) if publish >= at => {
                if publish == at {
                    while self.answers.load(SeqCst) + 1 < at {
                        std::thread::yield_now();
                    }
                    self.die();
                }
                return None;
            }
            Fault::ForgetsPublish if publish == 4 => 0,
            Fault::PublishesTwice if publish == 4 => 2,
            _ => 1,
        };
        if let Fault::SlowPublishes(time) = self.fault {
            std::thread::sleep(time);
        }
        let mut streams = self.streams.lock().unwrap();
        if let (Fault::Stalls(time), 10) = (self.fault, publish) {
            std::thread::sleep(time);
        }
        let stream = streams.entry(request.stream.clone()).or_default();
        for _ in 0..times {
            stream.extend(request.body.lines().map(str::to_owned));
        }
        drop(streams);
        self.changed.notify_all();
        if self.fault == Fault::ClosesPublishers {
            return Some("HTTP/1.1 200 OK\r\n\r\ntaken");
        }
        let is_silent = matches!(self.fault, Fault::IsSilentToPublishers(taken) if publish > taken);
        (!is_silent).then_some("HTTP/1.1 204 No Content\r\n\r\n")
    }

    // ---- subscribing -----------------------------------------------------------------------------

    fn subscribe(&self, request: &Request, socket: &mut TcpStream) {
        let subscription = self.subscriptions.fetch_add(1, SeqCst);
        let waiting = 1 + self.waiting.fetch_add(1, SeqCst);
        self.waiting_max.fetch_max(waiting, SeqCst);
        std::thread::sleep(HEAD_WAIT);
        self.waiting.fetch_sub(1, SeqCst);
        match self.fault {
            Fault::Answers(who, answer) if who.includes(subscription) => {
                let _ = socket.write_all(answer.as_bytes());
                let _ = socket.shutdown(Shutdown::Both);
                return;
            }
            Fault::IsSilent(who) if who.includes(subscription) => {
                // Until the other side has had enough.
                let _ = socket.read(&mut [0; 1]);
                return;
            }
            _ => {}
        }
        let _ = self.stream(request, subscription, socket);
        let _ = socket.shutdown(Shutdown::Both);
    }

    fn stream(
        &self,
        request: &Request,
        subscription: usize,
        socket: &mut TcpStream,
    ) -> std::io::Result<()> {
        let coding =
            if self.fault == Fault::Chunks { "Transfer-Encoding: chunked\r\n" } else { "" };
        let head = format!("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n{coding}\r\n");
        let mut next = self.begin(request);
        socket.write_all(head.as_bytes())?;
        if self.fault == Fault::EndsStreams(0) {
            return Ok(());
        }
        if matches!(self.fault, Fault::CutsSlow | Fault::CutsSlowAndForgets)
            && request.cursor.is_none()
        {
            socket.set_write_timeout(Some(CUT_AFTER))?;
        }
        if self.fault == Fault::PublishesTwice {
            next = self.write_past(&request.stream, next, socket)?;
        }
        let mut sent = 0;
        let mut was_slow = false;
        while let Some(event) = self.wait_for(&request.stream, next) {
            let becomes_slow = !was_slow && self.is_far_behind(&request.stream, next);
            was_slow |= becomes_slow;
            let instead = match self.fault {
                Fault::DropsForSlow if becomes_slow => vec![],
                Fault::RepeatsForSlow if becomes_slow => vec![(next, event.clone()), (next, event)],
                _ => self.instead_of(request, subscription, next, event),
            };
            for (place, (index, line)) in instead.into_iter().enumerate() {
                if place > 0 && self.fault == Fault::Swaps {
                    std::thread::sleep(SWAP_WAIT);
                }
                self.write(index, &line, socket)?;
            }
            if self.fault != Fault::RepeatsForEver || subscription != VICTIM || sent < 3 {
                next += 1;
            } else {
                std::thread::sleep(REPEAT_EVERY);
            }
            sent += 1;
            self.sent_to_victim.fetch_add(usize::from(subscription == VICTIM), SeqCst);
            let ends = match self.fault {
                Fault::ClosesEarly => subscription == VICTIM && sent == 4,
                Fault::EndsStreams(after) | Fault::CutsEvents(after) => sent == after,
                _ => false,
            };
            if ends && matches!(self.fault, Fault::CutsEvents(_)) {
                let event = self.wait_for(&request.stream, next).unwrap_or_default();
                let half = &event[..event.len() / 2];
                return write!(socket, "id: {}\ndata: {event}\ndata: {half}", next + 1);
            }
            if ends {
                break;
            }
        }
        Ok(())
    }

    /// Where a subscriber begins.
    fn begin(&self, request: &Request) -> usize {
        let streams = self.streams.lock().unwrap();
        let end = streams.get(&request.stream).map_or(0, Vec::len);
        match (self.fault, request.cursor) {
            (Fault::LosesOnResume, Some(cursor)) => cursor + 1,
            (Fault::ForgetsOnResume | Fault::CutsSlowAndForgets, Some(_))
            | (Fault::StartsLive, None) => end,
            (Fault::RepeatsOnResume, Some(cursor)) => cursor - 1,
            (_, cursor) => cursor.unwrap_or_default(),
        }
    }

    /// The event at this place of the stream; none when all is over.
    fn wait_for(&self, stream: &str, index: usize) -> Option<String> {
        let is_there = |streams: &HashMap<String, Vec<String>>| {
            streams.get(stream).is_some_and(|events| events.len() > index)
        };
        let streams = self.streams.lock().unwrap();
        let waits = |streams: &mut _| !is_there(streams) && !self.is_over.load(SeqCst);
        let streams = self.changed.wait_while(streams, waits).unwrap();
        is_there(&streams).then(|| streams[stream][index].clone())
    }

    fn is_far_behind(&self, stream: &str, index: usize) -> bool {
        let streams = self.streams.lock().unwrap();
        let behind: usize = streams[stream][index..].iter().map(String::len).sum();
        behind > FAR_BEHIND_BYTES
    }

    /// What is sent where the event of this index is due, with the index that each is said to have.
    fn instead_of(
        &self,
        request: &Request,
        subscription: usize,
        index: usize,
        event: String,
    ) -> Vec<(usize, String)> {
        if subscription != VICTIM {
            return vec![(index, event)];
        }
        match (self.fault, index) {
            (Fault::Drops | Fault::Swaps, 3) => vec![],
            (Fault::Repeats, 3) => vec![(index, event.clone()), (index, event)],
            (Fault::Swaps, 4) => {
                let before = self.wait_for(&request.stream, 3).expect("it was there");
                vec![(index, event), (3, before)]
            }
            (Fault::SendsForeign, 3) => vec![(index, event), (index, self.foreign(request))],
            _ => vec![(index, event)],
        }
    }

    /// An event of another stream.
    fn foreign(&self, request: &Request) -> String {
        let streams = self.streams.lock().unwrap();
        let waits = |streams: &mut HashMap<String, Vec<String>>| streams.len() < 2;
        let streams = self.changed.wait_while(streams, waits).unwrap();
        let other = streams.iter().find(|(name, _)| **name != request.stream);
        other.expect("there are two").1[0].clone()
    }

    /// Writes what is there from this event on, all in one piece, and gives the end of it.
    fn write_past(
        &self,
        stream: &str,
        from: usize,
        socket: &mut TcpStream,
    ) -> std::io::Result<usize> {
        let streams = self.streams.lock().unwrap();
        let past = streams.get(stream).map_or(&[][..], |events| &events[from..]);
        let indices = from..from + past.len();
        let text: String =
            indices.clone().zip(past).map(|(index, line)| frame(index, line)).collect();
        socket.write_all(text.as_bytes())?;
        Ok(indices.end)
    }

    fn write(&self, index: usize, line: &str, socket: &mut TcpStream) -> std::io::Result<()> {
        let mut text = frame(index, line);
        if self.fault == Fault::CarriageReturns {
            text = text.replace('\n', "\r\n");
        }
        match self.fault {
            Fault::Bytes => text.bytes().try_for_each(|byte| socket.write_all(&[byte])),
            Fault::Chunks => text.as_bytes().chunks(7).try_for_each(|piece| {
                let mut chunk = format!("{:x}\r\n", piece.len()).into_bytes();
                chunk.extend_from_slice(piece);
                chunk.extend_from_slice(b"\r\n");
                socket.write_all(&chunk)
            }),
            _ => socket.write_all(text.as_bytes()),
        }
    }
}

fn frame(index: usize, line: &str) -> String {
    format!("id: {}\ndata: {line}\n\n", index + 1)
}

/// The next request of a connection; none at its end.
fn read_request(reader: &mut BufReader<TcpStream>) -> Option<Request> {
    let mut line = String::new();
    let mut next_line = |reader: &mut BufReader<TcpStream>| {
        line.clear();
        let count = reader.read_line(&mut line).ok()?;
        (count > 0).then(|| line.trim_end().to_owned())
    };
    let first = next_line(reader)?;
    let mut words = first.split(' ');
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    let (mut cursor, mut length) = (None, 0);
    loop {
        let header = next_line(reader)?;
        let Some((name, value)) = header.split_once(": ") else { break };
        match name.to_ascii_lowercase().as_str() {
            "last-event-id" => cursor = Some(value.parse().expect("it is one of its own ids")),
            "content-length" => length = value.parse().expect("a length is a number"),
            _ => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    let body = String::from_utf8(body).expect("JSON is UTF-8");
    Some(Request { method, stream: path.replace("/streams/", ""), cursor, body })
}
