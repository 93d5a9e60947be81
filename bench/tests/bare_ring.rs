//! The bare ring over real sockets, byte for byte.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    process::{Child, Command, Stdio},
    time::Duration,
};

const DEADLINE: Duration = Duration::from_secs(30);
const STREAM_HEAD: &str =
    "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-store\r\n\r\n";
const ACCEPTED: &str = "HTTP/1.1 204 No Content\r\n\r\n";

/// A server of this test's own, ended with it.
struct Server {
    process: Child,
    address: String,
}

impl Server {
    fn start(driver: &str) -> Server {
        let mut process = Command::new(env!("CARGO_BIN_EXE_bare_ring"))
            .args(["--listen", "127.0.0.1:0", "--slice", "2", "--driver", driver])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim_end().strip_prefix("listening on ").unwrap().to_owned();
        Server { process, address }
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
        std::fs::read_dir(format!("/proc/{}/fd", self.process.id())).unwrap().count()
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
    for driver in ["uring", "send"] {
        let server = Server::start(driver);
        let mut subscribers: Vec<_> = (0..5).map(|_| server.subscribe()).collect();
        let mut publisher = server.connect();
        publisher.write_all(post("{\"a\":1}\n{\"b\":2}\n").as_bytes()).unwrap();
        expect(&mut publisher, ACCEPTED);
        for subscriber in &mut subscribers {
            expect(subscriber, "id: 1\ndata: {\"a\":1}\n\nid: 2\ndata: {\"b\":2}\n\n");
        }
    }
}

#[test]
fn pipelined_requests_in_pieces_are_each_answered() {
    let server = Server::start("uring");
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
    let server = Server::start("uring");
    let mut subscribers: Vec<_> = (0..200).map(|_| server.subscribe()).collect();
    let mut publisher = server.connect();
    publisher.set_nodelay(true).unwrap();
    for round in 0..20 {
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

#[test]
fn a_hang_up_gives_the_descriptor_back() {
    let server = Server::start("uring");
    let mut stays = server.subscribe();
    let before = server.open_files();
    drop((server.subscribe(), server.subscribe()));
    let deadline = std::time::Instant::now() + DEADLINE;
    while server.open_files() > before {
        assert!(std::time::Instant::now() < deadline, "descriptors stay open");
        std::thread::sleep(Duration::from_millis(5));
    }
    server.connect().write_all(post("still here").as_bytes()).unwrap();
    expect(&mut stays, "id: 1\ndata: still here\n\n");
}

#[test]
fn a_subscriber_that_does_not_read_is_dropped_alone() {
    const LINE_BYTES: usize = 512 * 1024;
    const POSTS: usize = 64;
    for driver in ["uring", "send"] {
        let server = Server::start(driver);
        let stuck = server.subscribe();
        let before = server.open_files();
        let mut reads = server.subscribe();
        let mut publisher = server.connect();
        let line = "x".repeat(LINE_BYTES);
        for id in 1..=POSTS {
            publisher.write_all(post(&line).as_bytes()).unwrap();
            expect(&mut publisher, ACCEPTED);
            expect(&mut reads, &format!("id: {id}\ndata: {line}\n\n"));
        }
        // The publisher has come, the stuck one has gone.
        assert_eq!(server.open_files(), before + 1);
        drop(stuck);
    }
}
