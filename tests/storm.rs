//! Everybody at once: all subscribers are cut by `kill -9`, and come back to the restarted server
//! together, each with a cursor some hundred events behind.
//!
//! `SUBSCRIBERS=9000 cargo test --release --test storm` for more of them.

mod support;

use std::{thread, time::Instant};

use support::{Client, Server, Sse, allow_open_files, from_environment, http::request};

/// Events that a subscriber has missed, at least.
const MISSED: usize = 100;
/// How far apart cursors are, so that the subscribers do not all miss the same.
const CURSORS: usize = 7;
const THREADS: usize = 4;
/// Files that this process, or a server, needs beside the subscribers'.
const FILES_RESERVED: usize = 512;

fn append(server: &Server, run: u64, count: usize) -> Vec<u64> {
    let event = r#"{"type":"A","payload":"what has happened meanwhile"}"#;
    let body = format!("[{}]", vec![event; count].join(","));
    let events = server.post(&format!("/runs/{run}/events"), &body).expect(201).json();
    let events = events.as_array().expect("an array is answered by one");
    events.iter().map(|event| event["id"].as_u64().expect("an id")).collect()
}

fn everybody_comes_back(server: &mut Server, subscribers: usize) {
    let run = server.new_run_with(r#"{"project":"p"}"#);
    let targets = [
        &*format!("/runs/{run}/events/stream"),
        &*format!("/runs/{run}/events/stream?types=A"),
        &*format!("/events/stream?runs={run}"),
    ];
    let target = |number: usize| targets[number % targets.len()];
    // All are there, live, and have seen the first few.
    let mut streams: Vec<Sse> =
        (0..subscribers).map(|number| server.stream(target(number))).collect();
    let first = append(server, run, CURSORS);
    for stream in &mut streams {
        while stream.ids(1)[0] < first[CURSORS - 1] {}
    }
    // Then they read no more, and all of it ends.
    let mut known = first.clone();
    known.extend(append(server, run, MISSED));
    server.kill();
    drop(streams);
    server.start_again();

    let began = Instant::now();
    let address = server.address();
    let expected = thread::scope(|scope| {
        let coming: Vec<_> = (0..THREADS)
            .map(|thread| {
                let (known, target) = (&known, &target);
                scope.spawn(move || {
                    let numbers: Vec<usize> = (thread..subscribers).step_by(THREADS).collect();
                    // All ask before the first of them reads.
                    let asked: Vec<Client> = numbers
                        .iter()
                        .map(|number| {
                            let cursor = known[number % CURSORS].to_string();
                            let header = [("Last-Event-ID", &*cursor)];
                            let mut client = Client::connect(address);
                            client.send(request("GET", target(*number), &header, ""));
                            client
                        })
                        .collect();
                    let read = asked.into_iter().map(|client| {
                        let opened = Sse::try_opened(client).expect("the server answers");
                        opened.unwrap_or_else(|answer| panic!("{}", answer.text())).ids_to_end()
                    });
                    numbers.iter().copied().zip(read).collect::<Vec<(usize, Vec<u64>)>>()
                })
            })
            .collect();
        // And it goes on meanwhile.
        let mut expected = known.clone();
        for _ in 0..20 {
            expected.extend(append(server, run, 1));
        }
        let end = server.end(run, "completed").expect(200).json();
        expected.push(end["last_event_id"].as_u64().expect("an id"));
        for coming in coming {
            for (number, ids) in coming.join().expect("it does not panic") {
                let missed = &expected[number % CURSORS + 1..];
                assert!(ids == missed, "{number}: {ids:?} and not {missed:?}");
            }
        }
        expected
    });
    let time = began.elapsed();
    eprintln!("{}: {subscribers} back, {} events, {time:?}", server.arguments(), expected.len());
}

#[test]
fn all_come_back_after_a_crash_and_each_gets_exactly_what_it_missed() {
    let subscribers = from_environment("SUBSCRIBERS", 2_000);
    let allowed = allow_open_files(subscribers + FILES_RESERVED);
    let subscribers = subscribers.min(allowed.saturating_sub(FILES_RESERVED));
    for mut server in Server::with_workers(&[1, 2, 4], &[]) {
        everybody_comes_back(&mut server, subscribers);
    }
}
