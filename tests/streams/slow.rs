//! Subscribers that read slowly, or not at all: `client_timeout` ends those that take nothing.

use std::{
    thread,
    time::{Duration, Instant},
};

use crate::support::{Server, Sse};

const TIMEOUT: Duration = Duration::from_secs(4);
const TIMEOUT_FLAG: [&str; 2] = ["--client-timeout", "4s"];
/// More than a connection holds.
const EVENTS: usize = 20;
const EVENT_BYTES: usize = 1_000_000;
/// What a slow reader takes at a time. Its window only opens again when half of it is free.
const SIP_BYTES: usize = 256 * 1024;
const SIP_EVERY: Duration = Duration::from_millis(800);
/// On a disk that is slower than that it would be quick enough.
const SLOW_READER_FLAGS: [&str; 4] = ["--keepalive-interval", "500ms", "--durability", "none"];

fn on_tcp_and_locally(arguments: &[&str]) -> Vec<Server> {
    let mut servers = Server::with_each_driver(arguments);
    servers.extend(Server::local_with_each_driver(arguments));
    servers
}

/// Appends more than a connection holds, and says the ids.
fn append_much(server: &Server, run: u64) -> Vec<u64> {
    let payload = format!("\"{}\"", "x".repeat(EVENT_BYTES));
    (0..EVENTS).map(|_| server.append(run, "A", &payload)).collect()
}

fn stalled_are_ended(server: &Server) {
    let run = server.new_run();
    let target = format!("/runs/{run}/events/stream");
    let mut quiet = server.stream(&format!("{target}?types=B"));
    let mut reader = server.stream(&target);
    let files = server.files_with_streams(2);
    let stalled: Vec<Sse> = (0..5).map(|_| server.stream(&target)).collect();
    let expected = thread::scope(|scope| {
        let reading = scope.spawn(|| reader.ids(1 + EVENTS));
        let mut expected = vec![1];
        expected.extend(append_much(server, run));
        assert_eq!(reading.join().expect("it does not panic"), expected);
        expected
    });
    // They are not counted any more, and their sockets are closed.
    assert_eq!(server.files_with_streams(2), files);
    // What they had been sent is a beginning of the stream, and then it ends.
    for mut stream in stalled {
        let mut ids = Vec::new();
        while let Ok(Some(frame)) = stream.try_frame(TIMEOUT) {
            ids.extend(frame.id.filter(|_| frame.is_event()));
        }
        assert!(ids.len() < expected.len() && expected.starts_with(&ids), "{ids:?}");
    }
    // Whoever reads stays, however little there is for it.
    let id = server.append(run, "B", "1");
    assert_eq!(quiet.ids(1), [id]);
    assert_eq!(reader.ids(1), [id]);
}

#[test]
fn who_takes_nothing_for_client_timeout_is_ended() {
    for server in Server::with_each_driver(&TIMEOUT_FLAG) {
        stalled_are_ended(&server);
    }
    // A local socket is looked at when a keepalive is due.
    let often = [&TIMEOUT_FLAG[..], &["--keepalive-interval", "500ms"]].concat();
    for server in Server::local_with_each_driver(&often) {
        stalled_are_ended(&server);
    }
}

#[test]
fn who_takes_little_in_time_stays_and_misses_nothing() {
    thread::scope(|scope| {
        for server in on_tcp_and_locally(&[&TIMEOUT_FLAG[..], &SLOW_READER_FLAGS].concat()) {
            scope.spawn(move || a_slow_reader_stays(&server));
        }
    });
}

fn a_slow_reader_stays(server: &Server) {
    let run = server.new_run();
    let mut stream = server.stream(&format!("/runs/{run}/events/stream"));
    thread::scope(|scope| {
        let appending = scope.spawn(|| append_much(server, run));
        // For twice as long as would end it, it is never quick enough for all there is.
        let began = Instant::now();
        let mut taken = 0;
        while began.elapsed() < 2 * TIMEOUT || !appending.is_finished() {
            taken += stream.sip(SIP_BYTES);
            thread::sleep(SIP_EVERY);
        }
        assert_eq!(server.open_streams(), 1);
        let mut expected = vec![1];
        expected.extend(appending.join().expect("it does not panic"));
        let sent = server.by_worker("bytes_sent")[0] as usize;
        assert!(sent < EVENTS * EVENT_BYTES, "of {taken} bytes all are out: it never was too slow");
        assert_eq!(stream.ids(expected.len()), expected);
    });
    let id = server.append(run, "B", "1");
    assert_eq!(stream.ids(1), [id]);
}

#[test]
fn a_local_reader_is_ended_in_time_however_rare_keepalives_are() {
    let seldom = [&TIMEOUT_FLAG[..], &["--keepalive-interval", "1h"]].concat();
    for server in Server::local_with_each_driver(&seldom) {
        stalled_are_ended(&server);
    }
}
