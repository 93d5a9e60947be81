//! The bare ring over real sockets, byte for byte, with each thing that the kernel offers. What it
//! refuses is skipped, and said so.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

const DEADLINE: Duration = Duration::from_secs(30);
const STREAM_HEAD: &str =
    "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-store\r\n\r\n";
const ACCEPTED: &str = "HTTP/1.1 204 No Content\r\n\r\n";

/// Every option, beginning with none.
const VARIANTS: [&str; 17] = [
    "",
    "--driver send",
    "--files direct",
    "--completions all",
    "--send zero-copy --completions all",
    "--send zero-copy --completions all --files direct",
    "--eventfd",
    "--eventfd --completions all",
    "--eventfd --task-work coop",
    "--task-work coop",
    "--task-work interrupt",
    "--task-work interrupt --sqpoll 0",
    "--task-work interrupt --sqpoll 0 --entries 1 --eventfd --driver send",
    "--task-work interrupt --sqpoll 0 --send zero-copy --completions all",
    "--busy-poll 50",
    "--entries 1",
    "--registered-ring --files direct",
];

/// A server of this test's own, ended with it.
struct Server {
    process: Child,
    address: String,
}

impl Server {
    fn start() -> Server {
        Server::with("").expect("a bare ring can be had")
    }

    /// Nothing if the kernel refuses these options.
    fn with(options: &str) -> Option<Server> {
        match Server::spawn(options) {
            Ok(server) => Some(server),
            Err(error) => {
                assert!(error.contains("the kernel refuses"), "{options}: {error}");
                eprintln!("skipped, {options}: {error}");
                None
            }
        }
    }

    /// A server, or what it has said instead of becoming one.
    fn spawn(options: &str) -> Result<Server, String> {
        let mut process = Command::new(env!("CARGO_BIN_EXE_bare_ring"))
            .args(["--listen", "127.0.0.1:0", "--slice", "2"])
            .args(options.split_whitespace())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let mut server = Server { process, address: String::new() };
        let Some(address) = line.trim_end().strip_prefix("listening on ") else {
            let mut error = String::new();
            server.process.stderr.take().unwrap().read_to_string(&mut error).unwrap();
            return Err(error);
        };
        address.clone_into(&mut server.address);
        Ok(server)
    }

    /// One for each of these options, with what it was given.
    fn each(variants: &[&'static str]) -> impl Iterator<Item = (&'static str, Server)> {
        variants.iter().filter_map(|options| Some((*options, Server::with(options)?)))
    }

    fn connect(&self) -> TcpStream {
        let socket = TcpStream::connect(&self.address).unwrap();
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        socket
    }

    fn subscribe(&self) -> TcpStream {
        let mut socket = self.connect();
        socket.write_all(b"GET /streams/a HTTP/1.1\r\nHost: test\r\n\r\n").unwrap();
        expect(&mut socket, STREAM_HEAD);
        socket
    }

    /// How many descriptors the server has open.
    fn open_files(&self) -> usize {
        self.descriptors().len()
    }

    /// Its descriptors, each with what it is.
    fn descriptors(&self) -> Vec<(String, String)> {
        let directory = std::fs::read_dir(format!("/proc/{}/fd", self.process.id())).unwrap();
        let mut descriptors = Vec::new();
        for entry in directory.map(Result::unwrap) {
            // One may have been closed meanwhile.
            if let Ok(target) = entry.path().read_link() {
                let name = entry.file_name().into_string().unwrap();
                descriptors.push((name, target.display().to_string()));
            }
        }
        descriptors
    }

    /// What the kernel says about the ring: the rest of the line that begins so.
    fn ring_is(&self, name: &str) -> Option<String> {
        let descriptors = self.descriptors();
        let (ring, _) =
            descriptors.iter().find(|(_, target)| target == "anon_inode:[io_uring]").unwrap();
        let path = format!("/proc/{}/fdinfo/{ring}", self.process.id());
        // Newer kernels say nothing while the ring is at work.
        let mut text = String::new();
        wait_until("the kernel says nothing of the ring", || {
            text = std::fs::read_to_string(&path).unwrap();
            text.contains("CqTail:")
        });
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(":"));
        value.map(|value| value.trim().to_owned())
    }

    /// How many completions the ring has posted.
    fn completions(&self) -> u32 {
        self.ring_is("CqTail").unwrap().parse().unwrap()
    }

    /// Asks for what there is not, until it is hung up on.
    fn refuse_one(&self) {
        let mut refused = self.connect();
        refused.write_all(b"PUT / HTTP/1.1\r\n\r\n").unwrap();
        assert_eq!(refused.read(&mut [0; 1]).unwrap(), 0);
    }

    fn publish(&self, body: &str) {
        let mut publisher = self.connect();
        publisher.write_all(post(body).as_bytes()).unwrap();
        expect(&mut publisher, ACCEPTED);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn post(body: &str) -> String {
    let length = body.len();
    format!("POST /streams/a HTTP/1.1\r\nHost: test\r\nContent-Length: {length}\r\n\r\n{body}")
}

fn expect(socket: &mut TcpStream, bytes: &str) {
    let mut read = vec![0; bytes.len()];
    socket.read_exact(&mut read).unwrap();
    assert_eq!(String::from_utf8_lossy(&read), bytes);
}

#[test]
fn every_subscriber_gets_every_line() {
    for (options, server) in Server::each(&VARIANTS) {
        eprintln!("{options}");
        let mut subscribers: Vec<_> = (0..5).map(|_| server.subscribe()).collect();
        server.publish("{\"a\":1}\n{\"b\":2}\n");
        for subscriber in &mut subscribers {
            expect(subscriber, "id: 1\ndata: {\"a\":1}\n\nid: 2\ndata: {\"b\":2}\n\n");
        }
    }
}

#[test]
fn pipelined_requests_in_pieces_are_each_answered() {
    let server = Server::start();
    let mut subscriber = server.subscribe();
    let mut publisher = server.connect();
    publisher.set_nodelay(true).unwrap();
    let requests = post("one") + &post("two");
    for piece in requests.as_bytes().chunks(requests.len() / 3) {
        publisher.write_all(piece).unwrap();
        std::thread::sleep(Duration::from_millis(5));
    }
    expect(&mut publisher, &ACCEPTED.repeat(2));
    expect(&mut subscriber, "id: 1\ndata: one\n\nid: 2\ndata: two\n\n");
}

/// It once lay there until something else happened.
#[test]
fn what_is_published_during_a_delivery_follows_it() {
    for (options, server) in Server::each(&VARIANTS) {
        eprintln!("{options}");
        let mut subscribers: Vec<_> = (0..100).map(|_| server.subscribe()).collect();
        let mut publisher = server.connect();
        publisher.set_nodelay(true).unwrap();
        for round in 0..10 {
            for body in ["one", "two"] {
                publisher.write_all(post(body).as_bytes()).unwrap();
                // The answer says that the delivery has begun, or is about to.
                expect(&mut publisher, ACCEPTED);
            }
            let (first, second) = (2 * round + 1, 2 * round + 2);
            for subscriber in &mut subscribers {
                let events = format!("id: {first}\ndata: one\n\nid: {second}\ndata: two\n\n");
                expect(subscriber, &events);
            }
        }
    }
}

#[test]
fn a_hang_up_gives_the_descriptor_back() {
    for (options, server) in Server::each(&VARIANTS) {
        eprintln!("{options}");
        let mut stays = server.subscribe();
        let before = server.open_files();
        drop((server.subscribe(), server.subscribe()));
        wait_until("descriptors stay open", || server.open_files() <= before);
        server.publish("still here");
        expect(&mut stays, "id: 1\ndata: still here\n\n");
    }
}

/// A socket that stays in a table of the ring stays open.
#[test]
fn whoever_is_refused_is_hung_up_on() {
    for (options, server) in Server::each(&VARIANTS) {
        eprintln!("{options}");
        server.refuse_one();
        // Its place is taken by the next one.
        let mut next = server.subscribe();
        server.publish("next");
        expect(&mut next, "id: 1\ndata: next\n\n");
    }
}

#[test]
fn a_subscriber_that_does_not_read_is_dropped_alone() {
    const LINE_BYTES: usize = 512 * 1024;
    const POSTS_MAX: usize = 64;
    for (options, server) in Server::each(&VARIANTS) {
        eprintln!("{options}");
        let stuck = server.subscribe();
        let before = server.open_files();
        let mut reads = server.subscribe();
        let mut publisher = server.connect();
        let line = "x".repeat(LINE_BYTES);
        let mut id = 0;
        let mut publish = || {
            id += 1;
            publisher.write_all(post(&line).as_bytes()).unwrap();
            expect(&mut publisher, ACCEPTED);
            expect(&mut reads, &format!("id: {id}\ndata: {line}\n\n"));
            id
        };
        assert_eq!(publish(), 1);
        // The publisher has come besides the one that reads, until the stuck one has gone.
        while server.open_files() > before + 1 {
            assert!(publish() < POSTS_MAX, "the stuck one stays");
        }
        publish();
        assert_eq!(server.open_files(), before + 1);
        drop(stuck);
    }
}

/// Also when a part has found room: more would follow a gap. With `send(2)` it once went on until
/// something else happened.
#[test]
fn who_has_no_room_is_dropped_at_once() {
    // More than the buffers of a connection hold.
    const LINE_BYTES: usize = 10 * 1024 * 1024;
    for (options, server) in Server::each(&[
        "",
        "--driver send",
        "--completions all",
        "--send zero-copy --completions all",
    ]) {
        eprintln!("{options}");
        let mut publisher = server.connect();
        publisher.write_all(post("first").as_bytes()).unwrap();
        expect(&mut publisher, ACCEPTED);
        let before = server.open_files();
        let stuck = server.subscribe();
        publisher.write_all(post(&"x".repeat(LINE_BYTES)).as_bytes()).unwrap();
        expect(&mut publisher, ACCEPTED);
        wait_until("the stuck one stays", || server.open_files() == before);
        drop(stuck);
    }
}

#[test]
fn the_ring_is_set_up_as_asked() {
    let bare = Server::start();
    assert_eq!(bare.ring_is("SqMask").as_deref(), Some("0xff"));
    assert_eq!(bare.ring_is("UserFiles").as_deref(), Some("0"));
    assert!(bare.descriptors().iter().all(|(_, target)| !target.contains("eventfd")));

    for (_, server) in Server::each(&["--entries 1024"]) {
        assert_eq!(server.ring_is("SqMask").as_deref(), Some("0x3ff"));
    }
    for (_, server) in Server::each(&["--files direct"]) {
        assert_ne!(server.ring_is("UserFiles").as_deref(), Some("0"));
    }
    for (_, server) in Server::each(&["--busy-poll 50"]) {
        // Older kernels do not tell.
        if let Some(napi) = server.ring_is("NAPI") {
            assert_eq!(
                (napi.as_str(), bare.ring_is("NAPI").as_deref()),
                ("enabled", Some("disabled"))
            );
        }
    }
    for (_, server) in Server::each(&["--eventfd"]) {
        assert!(server.descriptors().iter().any(|(_, target)| target.contains("eventfd")));
    }
    for (_, server) in Server::each(&["--task-work interrupt --sqpoll 0"]) {
        // Older kernels do not say it while that thread is at work.
        wait_until("there is no thread", || server.ring_is("SqThread").as_deref() != Some("-1"));
    }
}

#[test]
fn sends_post_the_completions_that_are_asked_for() {
    const SUBSCRIBERS: u32 = 7;
    // A zero-copy send posts its result and a notification.
    for (options, for_each) in
        [("", 0), ("--completions all", 1), ("--send zero-copy --completions all", 2)]
    {
        let Some(server) = Server::with(options) else { continue };
        let mut subscribers: Vec<_> = (0..SUBSCRIBERS).map(|_| server.subscribe()).collect();
        let mut publisher = server.connect();
        publisher.write_all(post("first").as_bytes()).unwrap();
        expect(&mut publisher, ACCEPTED);
        for subscriber in &mut subscribers {
            expect(subscriber, "id: 1\ndata: first\n\n");
        }
        // The kernel posts in order: when one who comes now has had an answer, all that the first
        // event brought is posted, notifications too.
        server.refuse_one();

        let before = server.completions();
        publisher.write_all(post("second").as_bytes()).unwrap();
        expect(&mut publisher, ACCEPTED);
        for subscriber in &mut subscribers {
            expect(subscriber, "id: 2\ndata: second\n\n");
        }
        // And one of the publisher's: there was something to read.
        let posted = || server.completions() - before;
        wait_until("completions are missing", || posted() > for_each * SUBSCRIBERS);
        assert_eq!(posted(), for_each * SUBSCRIBERS + 1, "{options}");
    }
}

#[test]
fn options_that_exclude_one_another_are_refused() {
    for options in [
        "--send zero-copy",
        "--sqpoll 0",
        "--driver send --completions all",
        "--driver send --send zero-copy --completions all",
    ] {
        let error = Server::spawn(options).err().expect("it is refused");
        assert!(error.contains("needs") || error.contains("asks nothing"), "{options}: {error}");
    }
}

/// Fails with these words when it has not come to pass in time.
fn wait_until(otherwise: &str, mut has_happened: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !has_happened() {
        assert!(Instant::now() < deadline, "{otherwise}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
