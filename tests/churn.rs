//! Connections that come and go in every way leave nothing behind: no descriptor, no memory, and
//! no subscriber that is taken for its successor.
//!
//! `CONNECTIONS=1000000 cargo test --release --test churn` takes a minute or two.

mod support;

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpStream},
    sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use rustix::net::sockopt;
use socket2::{Domain, Socket, Type};
use support::{Server, eventually, from_environment, seeded, sse::Release};

const THREADS: usize = 4;
/// Subscribers that stay and must get each event once, whoever comes and goes beside them.
const WITNESSES: usize = 8;
/// Each is larger than a client takes that does not read, so that sends stop in its middle.
const EVENT_BYTES: usize = 64 * 1024;
const HISTORY_EVENTS: u64 = 30;
const APPEND_EVERY: Duration = Duration::from_millis(20);
/// What a server may have more afterwards: a tail with some events, and what an allocator keeps.
const MEMORY_LEFT_MAX: u64 = 16 << 20;

/// How a client leaves.
#[derive(Clone, Copy, Debug)]
enum Leave {
    /// Before it has asked for anything.
    AtOnce,
    /// With half a request.
    WithHalfARequest,
    /// As soon as its request is out.
    BeforeTheHead,
    /// With a reset, while it is written to.
    WithAReset,
    /// In order, after it has read something.
    InOrder,
    /// By ending its half, and waiting for the server's end.
    HalfClosed,
}

const WAYS: [Leave; 6] = [
    Leave::AtOnce,
    Leave::WithHalfARequest,
    Leave::BeforeTheHead,
    Leave::WithAReset,
    Leave::InOrder,
    Leave::HalfClosed,
];

/// A connection whose client takes little, and of whose segments, which are small, the server's
/// kernel keeps little: far less than the history.
fn connect(address: SocketAddr, source: u8) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("there are descriptors");
    socket.set_recv_buffer_size(4096).expect("it is a socket");
    socket.set_tcp_mss(1_000).expect("it is not connected yet");
    // Ports rest for a minute after their use, so there must be more than one address has.
    let source: SocketAddr = ([127, 77, 0, source], 0).into();
    socket.bind(&source.into()).expect("there are ports");
    socket.connect(&address.into()).expect("the server listens");
    TcpStream::from(socket)
}

/// Comes and goes, and says whether it has seen its stream begin. Errors are the point: the server
/// may be gone first.
fn come_and_go(address: SocketAddr, run: u64, leave: Leave, random: &mut StdRng) -> bool {
    let mut socket = connect(address, random.random_range(1..=250));
    let request = format!("GET /runs/{run}/events/stream HTTP/1.1\r\nHost: test\r\n\r\n");
    let mut piece = [0; 4096];
    match leave {
        Leave::AtOnce => false,
        Leave::WithHalfARequest => {
            let _ = socket.write_all(&request.as_bytes()[..request.len() / 2]);
            false
        }
        Leave::BeforeTheHead => {
            let _ = socket.write_all(request.as_bytes());
            false
        }
        Leave::WithAReset => {
            let _ = socket.write_all(request.as_bytes());
            let has_begun = socket.read(&mut piece).is_ok_and(|count| count > 0);
            let _ = sockopt::set_socket_linger(&socket, Some(Duration::ZERO));
            has_begun
        }
        Leave::InOrder => {
            let _ = socket.write_all(request.as_bytes());
            let mut has_begun = false;
            for _ in 0..random.random_range(1..8) {
                has_begun |= socket.read(&mut piece).is_ok_and(|count| count > 0);
            }
            has_begun
        }
        Leave::HalfClosed => {
            let _ = socket.write_all(request.as_bytes());
            let _ = socket.shutdown(Shutdown::Write);
            while socket.read(&mut piece).is_ok_and(|count| count > 0) {}
            false
        }
    }
}

fn connections_come_and_go(server: &Server, connections: usize) {
    let run = server.new_run();
    let text = format!("\"{}\"", "x".repeat(EVENT_BYTES));
    let mut last = 0;
    for _ in 0..HISTORY_EVENTS {
        last = server.append(run, "STEP", &text);
    }
    let target = format!("/runs/{run}/events/stream?after_id={last}");
    let witnesses: Vec<_> = (0..WITNESSES).map(|_| server.stream(&target)).collect();
    let files = server.files_with_streams(WITNESSES as u64);
    let (bytes, sent) = (server.memory(), server.by_worker("bytes_sent")[0]);

    let mut random = seeded();
    let began = Instant::now();
    let (done, begun) = (&AtomicUsize::new(0), &AtomicUsize::new(0));
    let is_over = &AtomicBool::new(false);
    let release = Release::of(&witnesses);
    let appended = thread::scope(|scope| {
        let _release = release;
        let witnesses: Vec<_> = witnesses
            .into_iter()
            .map(|mut witness| {
                scope.spawn(move || {
                    let mut ids = Vec::new();
                    while let Some(event) = witness.event() {
                        ids.push(event.id.expect("an event has an id"));
                    }
                    ids
                })
            })
            .collect();
        let comers: Vec<_> = (0..THREADS)
            .map(|_| {
                let mut random = StdRng::seed_from_u64(random.random());
                scope.spawn(move || {
                    while done.fetch_add(1, Relaxed) < connections {
                        let way = WAYS[random.random_range(0..WAYS.len())];
                        let has_begun = come_and_go(server.address(), run, way, &mut random);
                        begun.fetch_add(usize::from(has_begun), Relaxed);
                    }
                })
            })
            .collect();
        let publisher = scope.spawn(move || {
            let mut ids = Vec::new();
            while !is_over.load(Relaxed) {
                // Small ones, so that the tail and the journal stay small however long it takes.
                ids.push(server.append(run, "TICK", "null"));
                thread::sleep(APPEND_EVERY);
            }
            ids
        });
        for comer in comers {
            comer.join().expect("it does not panic");
        }
        is_over.store(true, Relaxed);
        let mut appended = publisher.join().expect("it does not panic");
        // Only the witnesses are left, and no descriptor of the others.
        eventually("all other files are closed", || {
            (server.files_with_streams(WITNESSES as u64) == files).then_some(())
        });
        // Whoever has got less than the history has gone in the middle of it, where the server
        // would have sent more: in the middle of a send.
        let sent = server.by_worker("bytes_sent")[0] - sent;
        let begun = begun.load(Relaxed);
        let whole = (sent / (HISTORY_EVENTS * EVENT_BYTES as u64)) as usize;
        let time = began.elapsed();
        eprintln!(
            "{}: {connections} connections in {time:?}, {begun} streams begun, at most {whole} of \
             them sent whole",
            server.arguments()
        );
        assert!(whole < begun / 2 && begun > connections / 4, "{begun} streams begun");
        // Their last event has the id after those.
        server.end(run, "completed").expect(200);
        let end = server.json(&format!("/runs/{run}"))["last_event_id"].as_u64().unwrap();
        appended.push(end);
        for witness in witnesses {
            assert_eq!(witness.join().expect("it does not panic"), appended);
        }
        appended.len()
    });
    assert!(appended > 1);
    eventually("no file is left of the witnesses", || {
        (server.files_with_streams(0) == files - WITNESSES).then_some(())
    });
    eventually("memory goes back", || {
        let left = server.memory().saturating_sub(bytes);
        (left < MEMORY_LEFT_MAX).then(|| eprintln!("{} KiB are left", left / 1024))
    });
}

#[test]
fn connections_that_come_and_go_leave_nothing() {
    let connections = from_environment("CONNECTIONS", 4_000);
    for server in Server::with_each_driver(&[]) {
        connections_come_and_go(&server, connections);
    }
}
