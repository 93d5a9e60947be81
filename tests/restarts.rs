//! The server is restarted, and who uses it loses nothing: thousands of streams over a drain, requests
//! that are under way, a listening socket that outlives the process, and what a service manager is told.
//!
//! `SUBSCRIBERS=9000 cargo test --release --test restarts crowd` for more of them.

mod support;

use std::{
    collections::VecDeque,
    fs::File,
    io::{self, ErrorKind, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    os::{
        fd::OwnedFd,
        unix::{
            fs::FileExt as _,
            net::{UnixDatagram, UnixListener},
        },
    },
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use rustix::{
    event::{
        Timespec,
        epoll::{self, CreateFlags, EventData, EventFlags},
    },
    process::{Pid, Signal, kill_process},
};
use support::{
    Client, DEADLINE, Server, Sse, allow_open_files, eventually, from_environment,
    http::{chunked, request},
};

const EVENT: &str = r#"{"type":"A","payload":"what happens"}"#;

/// Says that a test is over when it is, also when it has failed: its threads go by that.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, SeqCst);
    }
}

/// A process that is killed when this is dropped.
struct Running(Child);

impl Running {
    /// SIGTERM, and waits for the end, which has to be in order.
    fn terminate(&mut self) {
        kill_process(Pid::from_child(&self.0), Signal::TERM).expect("it is ours");
        let status = eventually("the server ends", || self.0.try_wait().expect("it is ours"));
        assert!(status.success(), "{status}");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Connections that have asked for something, on every worker: they end when it drains.
fn idle_everywhere(server: &Server) -> Vec<Client> {
    let idle = || {
        let mut client = server.client();
        client.request("GET", "/health", &[], "").expect(200);
        client
    };
    (0..32).map(|_| idle()).collect()
}

/// Waits until every worker drains.
fn drains(idle: Vec<Client>) {
    for mut client in idle {
        client.end().expect("it is closed in order");
    }
}

// ---- the journal --------------------------------------------------------------------------------

/// Whether each file of the journal says that a program has it open: in bit 1 of its byte 9.
fn left_open(server: &Server) -> [bool; 2] {
    ["log.redb", "store.redb"].map(|name| {
        let file = File::open(server.journal().join("journal").join(name)).expect("it is there");
        let mut byte = [0];
        file.read_exact_at(&mut byte, 9).expect("it is not empty");
        byte[0] & 2 != 0
    })
}

#[test]
fn an_orderly_end_closes_the_journal() {
    for mut server in Server::with_workers(&[1, 2], &[]) {
        let run = server.new_run();
        server.append(run, "A", "1");
        let mut stream = server.stream(&format!("/runs/{run}/events/stream"));
        let _idle = server.client();
        assert_eq!(stream.ids(2).len(), 2);
        assert_eq!(left_open(&server), [true, true]);
        assert!(server.terminate().success());
        assert_eq!(left_open(&server), [false, false], "{}", server.arguments());
    }
}

#[test]
fn a_second_signal_ends_at_once_and_in_order() {
    for mut server in Server::with_each_driver(&["--drain-window", "1h"]) {
        let run = server.new_run();
        let streams: Vec<Sse> =
            (0..20).map(|_| server.stream(&format!("/runs/{run}/events/stream"))).collect();
        server.signal(Signal::TERM);
        eventually("the server drains", || server.log().contains("draining").then_some(()));
        server.signal(Signal::TERM);
        assert!(server.wait().success());
        assert!(server.log().contains("a second signal"), "{}", server.log());
        assert_eq!(left_open(&server), [false, false]);
        drop(streams);
    }
}

#[test]
fn when_patience_is_over_the_journal_is_closed_all_the_same() {
    let mut server = Server::with(&["--drain-window", "0s"]);
    let run = server.new_run();
    let mut slow = server.client();
    slow.send(format!("POST /runs/{run}/events HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\n"));
    server.get("/health").expect(200);
    assert!(server.terminate().success());
    assert!(server.log().contains("connections are left"), "{}", server.log());
    assert_eq!(left_open(&server), [false, false]);
}

// ---- requests -----------------------------------------------------------------------------------

#[test]
fn what_is_under_way_when_the_server_drains_is_finished() {
    for mut server in Server::with_workers(&[1, 2], &["--drain-window", "3s"]) {
        eventually("a machine that lets us ask in time", || {
            what_is_under_way_is_finished(&mut server).then_some(())
        });
    }
}

/// Over a restart. False when the machine was too busy for us to ask in the time that there is.
fn what_is_under_way_is_finished(server: &mut Server) -> bool {
    let run = server.new_run();
    let target = format!("/runs/{run}/events");
    let length = ("Content-Length", &*EVENT.len().to_string());
    let json = ("Content-Type", "application/json");
    // One whose body is still to come, one of which nothing has come, an upload, and a stream.
    let mut halfway = server.client();
    halfway.send(request("POST", &target, &[length, json], ""));
    let lines = [("Content-Type", "application/x-ndjson"), ("Transfer-Encoding", "chunked")];
    let upload = chunked(&["{\"type\":\"U\"}\n", "{\"type\":\"U\"}\n"]);
    let (first, rest) = upload.split_at(upload.len() / 2);
    let mut uploading = server.client();
    uploading.send(request("POST", &target, &lines, first));
    let mut stream = server.stream(&format!("{target}/stream"));
    let [created] = stream.ids(1)[..] else { unreachable!("one was asked for") };
    eventually("the upload has begun", || (server.events(run).len() > 1).then_some(()));
    let idle = idle_everywhere(server);
    // A connection that has not asked for anything yet has a second from here on.
    let mut new = server.client();
    let began = Instant::now();
    server.signal(Signal::TERM);
    drains(idle);
    new.send(request("POST", &target, &[], EVENT));
    halfway.send(EVENT);
    uploading.send(rest);
    if began.elapsed() >= PROMPT {
        drop((new, halfway, uploading, stream));
        assert!(server.wait().success());
        server.start_again();
        return false;
    }
    let answer = new.answer_to("POST").expect(201);
    assert_eq!(answer.header("Connection"), Some("close"));
    new.end().expect("it is closed in order");
    assert_eq!(halfway.answer_to("POST").expect(201).json()["type"], "A");
    assert_eq!(uploading.answer_to("POST").expect(201).json()["count"], 2);
    // Until its own end a stream is one like any other.
    let ids = stream.ids_to_end();
    assert!(server.wait().success());
    server.start_again();
    let events = server.events(run);
    assert_eq!(events.len(), 5, "{events:?}");
    assert!((created + 1..).zip(&ids).all(|(expected, id)| expected == *id), "{ids:?}");
    true
}

#[test]
fn while_the_server_drains_streams_are_refused_in_a_way_that_a_browser_survives() {
    let mut server = Server::with(&["--drain-window", "100ms", "--reconnect-backoff-max", "5s"]);
    eventually("a machine that lets us ask in time", || {
        streams_are_refused(&mut server).then_some(())
    });
}

/// The same, up to its end. False when the machine was too busy for us to ask in the time that there is.
fn streams_are_refused(server: &mut Server) -> bool {
    let run = server.new_run();
    let target = format!("/runs/{run}/events/stream");
    let idle = idle_everywhere(server);
    let [mut browser, mut program] = [server.client(), server.client()];
    let began = Instant::now();
    server.signal(Signal::TERM);
    drains(idle);
    browser.send(request("GET", &target, &[("Accept", "text/event-stream")], ""));
    program.send(request("GET", &target, &[], ""));
    if began.elapsed() >= PROMPT {
        drop((browser, program));
        assert!(server.wait().success());
        server.start_again();
        return false;
    }
    let refused = Sse::try_opened(browser).expect("it is answered");
    let mut refused = refused.unwrap_or_else(|answer| panic!("{}", answer.text()));
    let frame = refused.message().expect("a word");
    assert_eq!((frame.name(), &frame.json()["reason"]), ("stream.refused", &"draining".into()));
    assert!(frame.retry.is_some_and(|wait| wait <= 5_000), "{frame:?}");
    let answer = program.answer().expect(503);
    assert!(answer.header("Retry-After").is_some());
    drop(refused);
    assert!(server.wait().success());
    true
}

// ---- old streams --------------------------------------------------------------------------------

#[test]
fn a_stream_that_grows_old_ends_between_two_events_and_goes_on_where_it_was() {
    const LIFETIME: Duration = Duration::from_millis(300);
    for server in Server::with_each_driver(&["--max-stream-lifetime", "300ms", "--retry", "200ms"])
    {
        let run = server.new_run();
        let target = format!("/runs/{run}/events/stream");
        let is_over = AtomicBool::new(false);
        thread::scope(|scope| {
            let _over = Over(&is_over);
            scope.spawn(|| {
                while !is_over.load(SeqCst) {
                    server.append(run, "A", "\"x\"");
                    thread::sleep(Duration::from_millis(5));
                }
            });
            let mut seen = Vec::new();
            let mut streams = 0;
            while streams < 4 || seen.len() <= 10 {
                streams += 1;
                let cursor = seen.last().map(u64::to_string).unwrap_or_default();
                let began = Instant::now();
                let mut stream = server.stream_with(&target, &[("Last-Event-ID", &cursor)]);
                let frames: Vec<_> = std::iter::from_fn(|| stream.frame()).collect();
                assert!(began.elapsed() >= LIFETIME * 9 / 10, "{:?}", began.elapsed());
                let last = frames.last().expect("there are frames");
                assert!(last.retry.is_some_and(|wait| wait <= 200), "{last:?}");
                seen.extend(frames.iter().filter_map(|frame| frame.id));
            }
            assert!(seen.iter().copied().eq(1..=seen.len() as u64), "{seen:?}");
        });
    }
}

// ---- a crowd ------------------------------------------------------------------------------------

const THREADS: usize = 4;
const WINDOW: Duration = Duration::from_secs(4);
const BACKOFF_MAX_MS: u64 = 4_000;

/// A client of its own making: it goes by `retry:` and `Last-Event-ID`, and nothing else.
struct Follower {
    socket: Option<TcpStream>,
    unread: Vec<u8>,
    is_in_body: bool,
    cursor: u64,
    has_ended: bool,
    retry: Duration,
    back_at: Instant,
    /// When it was first cut off, and the last `retry:` before that.
    cut: Option<(Instant, u64)>,
    /// Frames since the last `retry:`.
    since_retry: usize,
}

impl Follower {
    fn new() -> Follower {
        Follower {
            socket: None,
            unread: Vec::new(),
            is_in_body: false,
            cursor: 0,
            has_ended: false,
            retry: Duration::ZERO,
            back_at: Instant::now(),
            cut: None,
            since_retry: 0,
        }
    }

    fn connect(&mut self, address: SocketAddr, run: u64) -> io::Result<&TcpStream> {
        let (mut socket, _) = Client::try_connect(address)?.into_parts();
        let cursor = self.cursor.to_string();
        let headers = [("Accept", "text/event-stream"), ("Last-Event-ID", &*cursor)];
        socket.write_all(&request("GET", &format!("/runs/{run}/events/stream"), &headers, ""))?;
        socket.set_nonblocking(true)?;
        (self.is_in_body, self.since_retry) = (false, 0);
        self.unread.clear();
        Ok(self.socket.insert(socket))
    }

    /// Reads what there is; false when the connection is over.
    fn read(&mut self, buffer: &mut [u8]) -> bool {
        loop {
            let socket = self.socket.as_mut().expect("only an open one is ready");
            match socket.read(buffer) {
                Ok(0) => return false,
                Ok(count) => self.unread.extend_from_slice(&buffer[..count]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return true,
                // It had not been taken when the server stopped listening.
                Err(_) if !self.is_in_body => return false,
                Err(error) => panic!("{error} at {}", self.cursor),
            }
            self.parse();
        }
    }

    fn parse(&mut self) {
        let mut start = 0;
        if !self.is_in_body {
            let Some(end) = memchr::memmem::find(&self.unread, b"\r\n\r\n") else { return };
            assert!(self.unread.starts_with(b"HTTP/1.1 200 "), "{}", self.unread.escape_ascii());
            (self.is_in_body, start) = (true, end + 4);
        }
        while let Some(at) = memchr::memmem::find(&self.unread[start..], b"\n\n") {
            let frame = std::str::from_utf8(&self.unread[start..start + at]).expect("UTF-8");
            start += at + 2;
            self.since_retry += 1;
            for line in frame.lines() {
                if let Some(id) = line.strip_prefix("id: ") {
                    let id: u64 = id.parse().expect("a number");
                    // There is one run, so that ids have no holes.
                    assert_eq!(id, self.cursor + 1, "missed, or twice");
                    self.cursor = id;
                } else if let Some(retry) = line.strip_prefix("retry: ") {
                    self.retry = Duration::from_millis(retry.parse().expect("a number"));
                    self.since_retry = 0;
                }
                self.has_ended |= line == "event: RUN_COMPLETED";
            }
        }
        self.unread.drain(..start);
    }

    /// Its connection is over.
    fn rest(&mut self) {
        assert!(self.unread.is_empty(), "cut in the middle of {}", self.unread.escape_ascii());
        self.socket = None;
        let now = Instant::now();
        self.back_at = now + self.retry;
        if self.cut.is_none() && self.is_in_body && self.since_retry == 0 && self.cursor > 0 {
            self.cut = Some((now, self.retry.as_millis() as u64));
        }
    }
}

/// Has so many follow a run to its end.
fn follow(address: SocketAddr, run: u64, count: usize, present: &AtomicUsize) -> Vec<Follower> {
    let epoll = epoll::create(CreateFlags::CLOEXEC).expect("there are descriptors");
    let mut followers: Vec<Follower> = (0..count).map(|_| Follower::new()).collect();
    let mut coming: VecDeque<usize> = (0..count).collect();
    let mut is_there = vec![false; count];
    let mut left = count;
    let mut buffer = vec![0; 64 * 1024];
    let mut ready = Vec::with_capacity(256);
    let began = Instant::now();
    while left > 0 {
        assert!(began.elapsed() < 4 * DEADLINE, "{left} have not seen the end");
        for _ in 0..coming.len() {
            let at = coming.pop_front().expect("it is not empty");
            let follower = &mut followers[at];
            if follower.back_at > Instant::now() {
                coming.push_back(at);
                continue;
            }
            let Ok(socket) = follower.connect(address, run) else {
                // The server is not there yet.
                follower.back_at = Instant::now() + Duration::from_millis(50);
                coming.push_back(at);
                continue;
            };
            let flags = EventFlags::IN | EventFlags::RDHUP;
            epoll::add(&epoll, socket, EventData::new_u64(at as u64), flags).expect("it is open");
        }
        ready.clear();
        let wait = Timespec { tv_sec: 0, tv_nsec: 5_000_000 };
        let _ = epoll::wait(&epoll, rustix::buffer::spare_capacity(&mut ready), Some(&wait));
        for event in &ready {
            let at = event.data.u64() as usize;
            if followers[at].socket.is_none() {
                // It is closed here, and still open in a program that another test just starts.
                continue;
            }
            let goes_on = followers[at].read(&mut buffer);
            if !is_there[at] && followers[at].cursor > 0 {
                is_there[at] = true;
                present.fetch_add(1, SeqCst);
            }
            if !goes_on {
                followers[at].rest();
                if followers[at].has_ended {
                    left -= 1;
                } else {
                    coming.push_back(at);
                }
            }
        }
    }
    followers
}

/// That values fill a range: each fifth of it has some of them, at least a quarter of its share.
fn assert_spread(what: &str, values: &[u64], range: u64) {
    let mut fifths = [0; 5];
    for value in values {
        fifths[((value * 5 / (range + 1)) as usize).min(4)] += 1;
    }
    eprintln!("{what}: {fifths:?} of {range} ms");
    assert!(fifths.iter().all(|count| *count > values.len() / 20), "{what}: {fifths:?}");
}

#[test]
fn a_crowd_is_drained_over_the_window_and_misses_nothing() {
    let wanted = from_environment("SUBSCRIBERS", 5_000);
    let count = wanted.min(allow_open_files(wanted + 512).saturating_sub(512));
    let mut server =
        Server::with(&["--drain-window", "4s", "--reconnect-backoff-max", "4s", "--retry", "1s"]);
    let run = server.new_run();
    let (address, present) = (server.address(), AtomicUsize::new(0));
    let (is_over, appended) = (AtomicBool::new(false), AtomicUsize::new(0));
    let followers: Vec<Follower> = thread::scope(|scope| {
        let _over = Over(&is_over);
        let following: Vec<_> = (0..THREADS)
            .map(|nth| {
                let present = &present;
                let share = count / THREADS + usize::from(nth < count % THREADS);
                scope.spawn(move || follow(address, run, share, present))
            })
            .collect();
        // They have given up when it takes too long.
        while present.load(SeqCst) < count {
            assert!(following.iter().all(|one| !one.is_finished()), "not all are there");
            thread::sleep(Duration::from_millis(5));
        }
        // Each event is asked for until there is an answer, and is there once.
        let publishing = scope.spawn(|| {
            for number in 0.. {
                let key = format!("\"{number}\"");
                let headers = [("Idempotency-Key", &*key)];
                let append = || {
                    let mut client = Client::try_connect(address)?;
                    client.try_request("POST", &format!("/runs/{run}/events"), &headers, EVENT)
                };
                eventually("an append is answered", || {
                    append().ok().filter(|answer| answer.status < 300)
                });
                appended.fetch_add(1, SeqCst);
                if is_over.load(SeqCst) {
                    return;
                }
                thread::sleep(Duration::from_millis(100));
            }
        });
        let some_more = |count: usize| {
            let before = appended.load(SeqCst);
            eventually("more events", || (appended.load(SeqCst) >= before + count).then_some(()));
        };
        some_more(3);
        let status = server.terminate();
        assert!(status.success(), "{status}");
        assert_eq!(left_open(&server), [false, false]);
        server.start_again();
        some_more(10);
        is_over.store(true, SeqCst);
        publishing.join().expect("it does not panic");
        server.end(run, "completed").expect(200);
        let followed = following.into_iter().map(|one| one.join().expect("it does not panic"));
        followed.flatten().collect()
    });
    let events = server.events(run).len() as u64;
    assert_eq!(events, appended.load(SeqCst) as u64 + 2);
    assert!(followers.iter().all(|follower| follower.cursor == events));
    let cuts: Vec<(Instant, u64)> = followers.iter().filter_map(|one| one.cut).collect();
    assert!(cuts.len() > count * 19 / 20, "only {} were told when to come back", cuts.len());
    let first = cuts.iter().map(|(at, _)| *at).min().expect("there are some");
    let closed: Vec<u64> = cuts.iter().map(|(at, _)| (*at - first).as_millis() as u64).collect();
    let waits: Vec<u64> = cuts.iter().map(|(_, wait)| *wait).collect();
    // That they are level is `hub::ending`'s to test: here a busy machine decides when each is noticed.
    let last = closed.iter().max().expect("there are some");
    assert!(*last >= WINDOW.as_millis() as u64 / 2, "all were closed within {last} ms");
    assert!(waits.iter().all(|wait| *wait <= BACKOFF_MAX_MS));
    assert_spread("told to wait", &waits, BACKOFF_MAX_MS);
}

// ---- the moment of stopping ------------------------------------------------------------------------

/// Who connects and asks within this time is served, also when the server has just begun to drain: it
/// hears whoever connects then for 300 ms more, and leaves each a second to ask.
const PROMPT: Duration = Duration::from_millis(500);

/// Connects again and again until nobody listens. Gives how many of those who asked at once were let
/// in and not answered.
fn knock(at: &At, answered: &AtomicUsize) -> usize {
    let mut lost = 0;
    loop {
        let began = Instant::now();
        let mut client = match at.connect() {
            Ok(client) => client,
            Err(error) => match error.kind() {
                ErrorKind::ConnectionRefused | ErrorKind::NotFound => return lost,
                _ => panic!("neither let in nor refused: {error}"),
            },
        };
        let asked = client.try_send(request("GET", "/health", &[("Connection", "close")], ""));
        let was_prompt = began.elapsed() < PROMPT;
        match asked.and_then(|()| client.try_answer_to("GET")) {
            Ok(answer) => {
                answer.expect(200);
                answered.fetch_add(1, SeqCst);
            }
            Err(_) => lost += usize::from(was_prompt),
        }
    }
}

#[test]
fn whoever_connects_when_the_server_stops_is_answered_or_refused() {
    const KNOCKING: usize = 16;
    const STOPS: usize = 5;
    let flags = ["--drain-window", "0s"];
    let over_tcp = Server::with_workers(&[1, 2], &flags);
    let local = Server::local_with_each_driver(&["--drain-window", "0s", "--workers", "2"]);
    let stop_under_load = |mut server: Server| {
        for stop in 0..STOPS {
            if stop > 0 {
                server.start_again();
            }
            let at = match server.socket_path() {
                Some(path) => At::Path(path.to_owned()),
                None => At::Port(server.address()),
            };
            let answered = AtomicUsize::new(0);
            let lost: usize = thread::scope(|scope| {
                let knocking: Vec<_> =
                    (0..KNOCKING).map(|_| scope.spawn(|| knock(&at, &answered))).collect();
                eventually("they are heard", || (answered.load(SeqCst) >= 200).then_some(()));
                assert!(server.terminate().success());
                knocking.into_iter().map(|one| one.join().expect("it is refused")).sum()
            });
            assert_eq!(lost, 0, "of {} with {}", answered.load(SeqCst), server.arguments());
        }
    };
    thread::scope(|scope| {
        for server in over_tcp.into_iter().chain(local) {
            scope.spawn(|| stop_under_load(server));
        }
    });
}

// ---- sockets that are handed over -----------------------------------------------------------------

/// A server whose listening socket this process holds, as a service manager does.
struct Activated {
    socket: OwnedFd,
    at: At,
    journal: tempfile::TempDir,
    arguments: Vec<&'static str>,
    running: Option<Running>,
}

#[derive(Clone)]
enum At {
    Port(SocketAddr),
    Path(PathBuf),
}

impl At {
    fn connect(&self) -> io::Result<Client> {
        match self {
            At::Port(address) => Client::try_connect(*address),
            At::Path(path) => Client::try_connect_local(path),
        }
    }
}

/// A command that is handed this descriptor as its third. It is its standard input before, so that no
/// other process has it.
fn activated(command: &Command, socket: OwnedFd) -> Command {
    let mut wrapped = Command::new("sh");
    let script =
        r#"exec 3<&0 0</dev/null; LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=http exec "$@""#;
    wrapped.args(["-c", script, "sh"]).arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => wrapped.env(name, value),
            None => wrapped.env_remove(name),
        };
    }
    wrapped.stdin(socket).stdout(Stdio::null()).stderr(Stdio::piped());
    wrapped
}

impl Activated {
    fn on(socket: OwnedFd, at: At, arguments: &[&'static str]) -> Activated {
        let journal = tempfile::tempdir().expect("there is room for a journal");
        let arguments = arguments.to_vec();
        let mut activated = Activated { socket, at, journal, arguments, running: None };
        activated.start();
        activated
    }

    fn start(&mut self) {
        // Where it would listen without the socket, nobody can.
        let mut command =
            support::server::serve("unix:/nowhere/at/all", &self.journal.path().join("journal"));
        command.args(&self.arguments).args(["--drain-window", "200ms"]);
        let socket = self.socket.try_clone().expect("there are descriptors");
        let mut child = activated(&command, socket).spawn().expect("there is a shell");
        // Nobody reads it, but it must not fill up.
        let mut log = child.stderr.take().expect("it is piped");
        thread::spawn(move || {
            let mut text = String::new();
            let _ = log.read_to_string(&mut text);
            if text.contains("ERROR") {
                eprintln!("{text}");
            }
        });
        self.running = Some(Running(child));
    }

    fn restart(&mut self) {
        self.running.take().expect("it runs").terminate();
        self.start();
    }
}

/// What hammers have done: requests that were answered, and streams that were opened.
#[derive(Default)]
struct Done {
    requests: AtomicUsize,
    streams: AtomicUsize,
}

/// One connection after the other, each of which must come to its end in order.
fn hammer(at: &At, run: u64, wants_streams: bool, done: &Done, is_over: &AtomicBool) {
    let mut number = 0;
    while !is_over.load(SeqCst) {
        let began = Instant::now();
        let mut client = at.connect().expect("nobody is refused");
        if !wants_streams {
            let headers = [("Connection", "close")];
            let asked = request("POST", &format!("/runs/{run}/events"), &headers, EVENT);
            let asked = client.try_send(asked);
            let was_prompt = began.elapsed() < PROMPT;
            match asked.and_then(|()| client.try_answer_to("POST")) {
                Ok(answer) => {
                    answer.expect(201);
                    done.requests.fetch_add(1, SeqCst);
                    client.end().expect("it ends in order");
                }
                Err(error) => assert!(!was_prompt, "it is answered, and not: {error}"),
            }
            continue;
        }
        let target = format!("/runs/{run}/events/stream?after_id=now");
        let asked =
            client.try_send(request("GET", &target, &[("Accept", "text/event-stream")], ""));
        let was_prompt = began.elapsed() < PROMPT;
        let mut stream = match asked.and_then(|()| Sse::try_opened(client)) {
            Ok(opened) => opened.unwrap_or_else(|answer| panic!("{}", answer.text())),
            Err(error) => {
                assert!(!was_prompt, "it is answered, and not: {error}");
                continue;
            }
        };
        done.streams.fetch_add(1, SeqCst);
        if number % 2 == 0 {
            // This one stays as long as it may.
            while !is_over.load(SeqCst) && stream.frame().is_some() {}
        } else {
            assert!(stream.message().is_some(), "it says something before it ends");
        }
        number += 1;
    }
}

fn nobody_is_refused(mut server: Activated) {
    const HAMMERS: usize = 6;
    const RESTARTS: usize = 3;
    let mut client = server.at.connect().expect("it is there");
    let run = client.request("POST", "/runs", &[], "").expect(201).json()["id"].as_u64().unwrap();
    drop(client);
    let (is_over, done, at) = (AtomicBool::new(false), Done::default(), server.at.clone());
    thread::scope(|scope| {
        let _over = Over(&is_over);
        let (streaming, appending): (Vec<_>, Vec<_>) = (0..HAMMERS)
            .map(|nth| {
                let (at, done, is_over) = (&at, &done, &is_over);
                (nth, scope.spawn(move || hammer(at, run, nth % 3 == 0, done, is_over)))
            })
            .partition(|(nth, _)| nth % 3 == 0);
        let mut streams = 0;
        for life in 0..=RESTARTS {
            if life > 0 {
                streams = done.streams.load(SeqCst);
                server.restart();
            }
            // Under load for a while, and until each life has had some of everything.
            let requests = done.requests.load(SeqCst);
            thread::sleep(Duration::from_millis(500));
            eventually("requests and streams go on", || {
                let more_streams = done.streams.load(SeqCst) - streams;
                let more_requests = done.requests.load(SeqCst) - requests;
                (more_streams > 0 && more_requests > 15).then_some(())
            });
        }
        is_over.store(true, SeqCst);
        let join = |(_, thread): (usize, thread::ScopedJoinHandle<'_, ()>)| {
            thread.join().expect("nobody was refused");
        };
        appending.into_iter().for_each(join);
        // Whoever still follows the run gets to its end.
        let mut client = at.connect().expect("it is there");
        let end = r#"{"status":"completed"}"#;
        client.request("PATCH", &format!("/runs/{run}"), &[], end).expect(200);
        streaming.into_iter().for_each(join);
    });
    let (requests, streams) = (done.requests.into_inner(), done.streams.into_inner());
    let mut client = at.connect().expect("it is there");
    let run = client.request("GET", &format!("/runs/{run}"), &[], "").expect(200).json();
    assert_eq!(run["event_count"], requests as u64 + 2, "each that was answered, and no other");
    let figures = client.request("GET", "/worker", &[], "").expect(200).json();
    let workers = figures["workers"].as_array().expect("there are some");
    let shares: Vec<_> = workers.iter().map(|worker| worker["requests"].to_string()).collect();
    eprintln!("{requests} requests and {streams} streams; since the last start {shares:?}");
}

#[test]
fn restarts_behind_a_socket_that_stays_refuse_nobody() {
    let is_uring_there = Server::try_with(&["--io", "uring"]).is_ok();
    let tcp = |arguments: &[&'static str]| {
        let listener = TcpListener::bind("127.0.0.1:0").expect("there is a port");
        let address = listener.local_addr().expect("it has one");
        Activated::on(listener.into(), At::Port(address), arguments)
    };
    thread::scope(|scope| {
        for driver in ["uring", "epoll"] {
            if driver == "uring" && !is_uring_there {
                eprintln!("skipped, no io_uring here");
                continue;
            }
            scope.spawn(move || nobody_is_refused(tcp(&["--io", driver, "--workers", "2"])));
        }
        scope.spawn(|| {
            let directory = tempfile::tempdir().expect("there is room for a name");
            let path = directory.path().join("socket");
            let listener = UnixListener::bind(&path).expect("it is new");
            nobody_is_refused(Activated::on(listener.into(), At::Path(path.clone()), &[]));
            assert!(path.exists(), "it is not the server's to remove");
        });
    });
}

#[test]
fn what_is_handed_over_and_is_no_listening_socket_is_refused() {
    let journal = tempfile::tempdir().expect("there is room for a journal");
    let serve = support::server::serve("127.0.0.1:0", journal.path());
    let file = File::open("/dev/null").expect("it is there");
    let output = activated(&serve, file.into()).output().expect("there is a shell");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("(LISTEN_FDS) cannot be used: http is no stream socket"), "{said}");
}

// ---- what a service manager hears ----------------------------------------------------------------

#[test]
fn a_service_manager_hears_of_the_beginning_the_middle_and_the_end() {
    let directory = tempfile::tempdir().expect("there is room for a name");
    let path = directory.path().join("notify");
    let socket = UnixDatagram::bind(&path).expect("it is new");
    let (sender, heard) = mpsc::channel();
    // The server waits for whom it tells.
    thread::spawn(move || {
        let mut text = [0; 1024];
        while let Ok(count) = socket.recv(&mut text) {
            if sender.send(String::from_utf8_lossy(&text[..count]).into_owned()).is_err() {
                return;
            }
        }
    });
    let hear = || heard.recv_timeout(DEADLINE).expect("the server says something");
    let mut command = support::server::serve("127.0.0.1:0", &directory.path().join("journal"));
    command.args(["--workers", "2", "--drain-window", "100ms"]);
    command.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "200000");
    let mut server = Running(command.stderr(Stdio::null()).spawn().expect("the binary was built"));
    let ready = hear();
    assert!(ready.starts_with("READY=1\nSTATUS=Serving on 127.0.0.1:"), "{ready}");
    for _ in 0..5 {
        assert_eq!(hear(), "WATCHDOG=1\n");
    }
    server.terminate();
    let mut last = hear();
    while last == "WATCHDOG=1\n" {
        last = hear();
    }
    assert!(last.starts_with("STOPPING=1\nSTATUS=draining"), "{last}");
}
