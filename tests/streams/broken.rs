//! Connections that break while they are sent to, many at once: the others notice nothing, and
//! nothing of them is left.

use std::{
    net::Shutdown,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread,
    time::Duration,
};

use rustix::net::sockopt;

use crate::support::{Client, Server, Sse, eventually, sse::Release};

/// More than a connection holds whose client keeps little, so that a send stops in its middle.
const EVENT_BYTES: usize = 900_000;
/// Subscribers that stay.
const WITNESSES: usize = 8;
/// Subscribers that break, each time, in equal parts in every way: nearly a slice of sends.
const BREAKING: usize = 96;
const ROUNDS: usize = 3;

/// How a connection ends.
#[derive(Clone, Copy)]
enum Break {
    /// With a reset.
    Reset,
    /// The client says no more, and reads no more.
    HalfClose,
    /// It closes while there is something that it has not read.
    Close,
}

const WAYS: [Break; 3] = [Break::Reset, Break::HalfClose, Break::Close];

impl Break {
    /// What is left of the connection.
    fn apply(self, stream: Sse) -> Option<Sse> {
        match self {
            Break::Reset => {
                sockopt::set_socket_linger(stream.socket(), Some(Duration::ZERO))
                    .expect("a socket");
                None
            }
            Break::HalfClose => {
                // The server may have been first.
                let _ = stream.socket().shutdown(Shutdown::Write);
                Some(stream)
            }
            Break::Close => None,
        }
    }
}

/// Runs `break_them` while witnesses read all that it appends, and checks that they got it and that
/// nothing else is left.
fn beside_witnesses(server: &Server, break_them: impl FnOnce(u64) -> Vec<u64>) {
    let run = server.new_run();
    let target = format!("/runs/{run}/events/stream");
    let files = server.files_with_streams(0);
    let witnesses: Vec<Sse> = (0..WITNESSES).map(|_| server.stream(&target)).collect();
    assert_eq!(server.files_with_streams(WITNESSES as u64), files + WITNESSES);
    let release = Release::of(&witnesses);
    thread::scope(|scope| {
        let _release = release;
        let reading: Vec<_> = witnesses
            .into_iter()
            .map(|mut witness| scope.spawn(move || witness.ids_to_end()))
            .collect();
        let mut expected = break_them(run);
        assert_eq!(server.files_with_streams(WITNESSES as u64), files + WITNESSES);
        let end = server.end(run, "completed").expect(200).json();
        expected.push(end["last_event_id"].as_u64().expect("an id"));
        for witness in reading {
            assert_eq!(witness.join().expect("it does not panic"), expected);
        }
    });
    assert_eq!(server.files_with_streams(0), files);
}

#[test]
fn who_breaks_in_the_middle_of_an_event_harms_nobody() {
    for server in Server::with_workers(&[1, 2], &[]) {
        beside_witnesses(&server, |run| {
            let target = format!("/runs/{run}/events/stream?after_id=now");
            let payload = format!("\"{}\"", "x".repeat(EVENT_BYTES));
            let mut appended = vec![1];
            for _ in 0..ROUNDS {
                let streams: Vec<Sse> = (0..BREAKING)
                    .map(|_| Sse::open(Client::connect_frugally(server.address()), &target, &[]))
                    .collect();
                let sent = || server.by_worker("bytes_sent").iter().sum::<u64>();
                let before = sent();
                appended.push(server.append(run, "A", &payload));
                // The witnesses have it whole, and nobody takes more: so the others have a part.
                let all = (WITNESSES * EVENT_BYTES) as u64;
                let now = eventually("the witnesses have it", || {
                    let now = sent() - before;
                    thread::sleep(Duration::from_millis(50));
                    (now > all && now == sent() - before).then_some(now)
                });
                let parts = (now - all) / BREAKING as u64;
                assert!(parts > 0 && parts < EVENT_BYTES as u64 / 2, "{parts} bytes of the event");
                // All at once, and into it the next event.
                let left: Vec<Sse> = streams
                    .into_iter()
                    .enumerate()
                    .filter_map(|(number, stream)| WAYS[number % WAYS.len()].apply(stream))
                    .collect();
                appended.push(server.append(run, "B", "1"));
                eventually("only the witnesses are left", || {
                    (server.open_streams() == WITNESSES as u64).then_some(())
                });
                drop(left);
            }
            appended
        });
    }
}

#[test]
fn who_breaks_between_two_sends_of_a_round_harms_nobody() {
    for server in Server::with_workers(&[1, 2], &[]) {
        beside_witnesses(&server, |run| {
            let target = format!("/runs/{run}/events/stream?after_id=now");
            let is_over = AtomicBool::new(false);
            thread::scope(|scope| {
                // One round after the other, so that some of those who break are in one.
                let publishing = scope.spawn(|| {
                    let mut publisher = server.client();
                    let mut ids = vec![1];
                    while !is_over.load(Relaxed) {
                        let path = format!("/runs/{run}/events");
                        let body = format!(r#"{{"type":"A","payload":"{}"}}"#, "x".repeat(20_000));
                        let answer = publisher.request("POST", &path, &[], &body).expect(201);
                        ids.push(answer.json()["id"].as_u64().expect("an id"));
                    }
                    ids
                });
                for _ in 0..3 * ROUNDS {
                    let streams: Vec<Sse> = (0..BREAKING).map(|_| server.stream(&target)).collect();
                    let left: Vec<Sse> = streams
                        .into_iter()
                        .enumerate()
                        .filter_map(|(number, stream)| WAYS[number % WAYS.len()].apply(stream))
                        .collect();
                    eventually("only the witnesses are left", || {
                        (server.open_streams() == WITNESSES as u64).then_some(())
                    });
                    drop(left);
                }
                is_over.store(true, Relaxed);
                publishing.join().expect("it does not panic")
            })
        });
    }
}
