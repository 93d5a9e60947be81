//! Several workers behind one address: whichever of them a connection comes to, it is one server.

use rustix::process::Signal;

use crate::support::{Client, Server, Sse, eventually, http::request};

const COUNTS: [usize; 3] = [1, 2, 4];
/// Connections that are opened for each worker, so that most workers get some of them.
const FOR_EACH_WORKER: usize = 4;

/// Streams with this target, as many as it takes until every worker has some.
fn on_every_worker(server: &Server, target: &str) -> Vec<Sse> {
    let before = server.streams_by_worker();
    let mut streams = Vec::new();
    loop {
        streams.extend((0..FOR_EACH_WORKER * before.len()).map(|_| server.stream(target)));
        let now = eventually("all of them are counted", || {
            let now = server.streams_by_worker();
            (now.iter().sum::<u64>() == before.iter().sum::<u64>() + streams.len() as u64)
                .then_some(now)
        });
        if now.iter().zip(&before).all(|(now, before)| now > before) {
            return streams;
        }
        assert!(streams.len() < 1_000, "the kernel spreads connections: {now:?}");
    }
}

/// Connections that are there before they are needed, so that their requests overtake whatever
/// workers tell each other.
fn waiting(server: &Server, count: usize) -> Vec<Client> {
    (0..count)
        .map(|_| {
            let mut client = server.client();
            client.request("GET", "/health", &[], "").expect(200);
            client
        })
        .collect()
}

#[test]
fn every_worker_delivers_each_event_once() {
    for server in Server::with_workers(&COUNTS, &[]) {
        let run = server.new_run_with(r#"{"project":"p"}"#);
        let target = format!("/runs/{run}/events/stream");
        let mut streams: Vec<Sse> = ["/events/stream", "/projects/p/events/stream", &*target]
            .iter()
            .flat_map(|target| on_every_worker(&server, target))
            .collect();
        assert!(server.by_worker("connections").iter().all(|count| *count >= 3));
        // Each append comes over a connection of its own, so from any worker.
        let mut expected = vec![1];
        for number in 0..50 {
            expected.push(server.append(run, "A", &number.to_string()));
        }
        for stream in &mut streams {
            assert_eq!(stream.ids(expected.len()), expected);
        }
        let last = server.append(run, "A", "1");
        for stream in &mut streams {
            assert_eq!(stream.ids(1), [last], "none of them came twice");
        }
        drop(streams);
        eventually("nobody is left", || (server.open_streams() == 0).then_some(()));
    }
}

#[test]
fn an_id_that_was_just_answered_is_a_cursor_for_every_worker() {
    for server in Server::with_workers(&COUNTS, &[]) {
        let run = server.new_run_with(r#"{"project":"p","session":"s"}"#);
        let targets = [
            &*format!("/runs/{run}/events/stream"),
            "/projects/p/events/stream",
            "/api/sse/session/s",
            "/events/stream",
        ];
        let workers = server.streams_by_worker().len();
        for round in 0..15 {
            let clients = waiting(&server, 2 * targets.len() * workers);
            let mut publisher = server.client();
            let id = {
                let path = format!("/runs/{run}/events");
                let answer = publisher.request("POST", &path, &[], r#"{"type":"A"}"#).expect(201);
                answer.json()["id"].as_u64().expect("an id")
            };
            let asked: Vec<(Client, u64)> = clients
                .into_iter()
                .enumerate()
                .map(|(number, mut client)| {
                    // With the event itself, or with the one before it.
                    let cursor = id - number as u64 % 2;
                    let header = [("Last-Event-ID", &*cursor.to_string())];
                    let target = targets[number / 2 % targets.len()];
                    client.send(request("GET", target, &header, ""));
                    (client, cursor)
                })
                .collect();
            let mut streams: Vec<(Sse, u64)> = asked
                .into_iter()
                .map(|(client, cursor)| {
                    let opened = Sse::try_opened(client).expect("the server answers");
                    (opened.unwrap_or_else(|answer| panic!("{}", answer.text())), cursor)
                })
                .collect();
            let next = server.append(run, "A", "1");
            for (stream, cursor) in &mut streams {
                let frame = stream.message().expect("the stream goes on");
                assert!(frame.is_event(), "round {round}: {frame:?} after {cursor}");
                let mut ids = vec![frame.id.expect("an event has an id")];
                if *cursor < id {
                    ids.extend(stream.ids(1));
                    assert_eq!(ids, [id, next], "round {round}");
                } else {
                    assert_eq!(ids, [next], "round {round}");
                }
            }
        }
    }
}

#[test]
fn the_end_of_a_run_is_the_end_on_every_worker() {
    for server in Server::with_workers(&COUNTS, &[]) {
        for _ in 0..4 {
            let run = server.new_run_with(r#"{"project":"p"}"#);
            let target = format!("/runs/{run}/events/stream");
            let mut streams = on_every_worker(&server, &target);
            let mut late = waiting(&server, FOR_EACH_WORKER * streams.len());
            let answer = server.end(run, "completed").expect(200).json();
            let last = answer["last_event_id"].as_u64().expect("an id");
            // At once, wherever they are: those who have the end, and those who do not.
            for (number, client) in late.iter_mut().enumerate() {
                let cursor = (last - number as u64 % 2).to_string();
                // Each for a view of its own, which is made before or after its worker has heard of it.
                let target = format!("{target}?types=T{number}");
                client.send(request("GET", &target, &[("Last-Event-ID", &cursor)], ""));
            }
            for (number, client) in late.into_iter().enumerate() {
                match (number % 2, Sse::try_opened(client).expect("the server answers")) {
                    (0, Err(answer)) => assert_eq!(answer.status, 204),
                    (1, Ok(mut stream)) => assert_eq!(stream.ids_to_end(), [last]),
                    (_, other) => panic!("{:?}", other.err()),
                }
            }
            for stream in &mut streams {
                assert_eq!(stream.ids_to_end(), [last - 1, last]);
            }
            eventually("nobody is left", || (server.open_streams() == 0).then_some(()));
        }
    }
}

#[test]
fn a_deletion_ends_the_streams_of_every_worker() {
    for server in Server::with_workers(&COUNTS, &[]) {
        let run = server.new_run_with(r#"{"project":"p"}"#);
        let target = format!("/runs/{run}/events/stream");
        let mut streams = on_every_worker(&server, &target);
        let mut of_project = on_every_worker(&server, "/projects/p/events/stream");
        for stream in &mut of_project {
            assert_eq!(stream.ids(1), [1]);
        }
        let mut late = waiting(&server, streams.len());
        server.delete(&format!("/runs/{run}")).expect(204);
        for client in &mut late {
            client.request("GET", &target, &[], "").expect(404);
        }
        for stream in &mut streams {
            stream.read_to_end();
        }
        let next = server.new_run_with(r#"{"project":"p"}"#);
        for stream in &mut of_project {
            assert_eq!(stream.event().expect("it goes on").json()["run_id"], next);
        }
    }
}

#[test]
fn a_long_poll_of_one_worker_hears_of_appends_to_another() {
    for server in Server::with_workers(&COUNTS, &[]) {
        let run = server.new_run();
        let workers = server.streams_by_worker().len();
        for _ in 0..10 {
            let last = server.json(&format!("/runs/{run}"))["last_event_id"].as_u64().unwrap();
            // Longer than anybody waits here: who is not woken would find the event in the end, too.
            let target = format!("/runs/{run}/events?wait=60&after_id={last}");
            let mut clients = waiting(&server, FOR_EACH_WORKER * workers);
            for client in &mut clients {
                client.send(request("GET", &target, &[], ""));
            }
            let id = server.append(run, "A", "1");
            for client in &mut clients {
                assert_eq!(client.answer().expect(200).json()["events"][0]["id"], id);
            }
        }
    }
}

#[test]
fn all_workers_drain() {
    for mut server in Server::with_workers(&COUNTS, &["--drain-window", "300ms"]) {
        let run = server.new_run();
        let mut streams = on_every_worker(&server, &format!("/runs/{run}/events/stream"));
        for stream in &mut streams {
            assert_eq!(stream.ids(1), [1]);
        }
        let idle = waiting(&server, streams.len());
        let mut polls = waiting(&server, streams.len());
        let before = server.requests_by_worker().iter().sum::<u64>();
        for client in &mut polls {
            let target = format!("/runs/{run}/events?wait=60&after_id=1");
            client.send(request("GET", &target, &[], ""));
        }
        // What has not been read when the signal comes is refused.
        let mut asked = 0;
        eventually("the polls were taken", || {
            asked += 1;
            let taken = server.requests_by_worker().iter().sum::<u64>() - before;
            (taken == asked + polls.len() as u64).then_some(())
        });
        server.signal(Signal::TERM);
        for stream in &mut streams {
            let frames: Vec<_> = std::iter::from_fn(|| stream.frame()).collect();
            assert!(frames.last().expect("not empty").retry.is_some(), "{frames:?}");
        }
        for mut client in polls {
            assert_eq!(client.answer().status, 200);
        }
        for mut client in idle {
            client.end().expect("it is closed in order");
        }
        assert!(server.wait().success());
        assert!(server.log().contains("msg=stopped"), "{}", server.log());
        assert!(!server.log().contains("connections are left"), "waited for in vain");
    }
}

#[test]
fn every_worker_gets_its_share_of_what_comes_to_one_unix_socket() {
    for mut server in Server::local_with_each_driver(&["--workers", "4"]) {
        let run = server.new_run();
        let target = format!("/runs/{run}/events/stream");
        let mut expected = vec![1];
        // One after the other, so that whoever is asleep could be woken for each.
        let mut streams: Vec<Sse> = (0..40).map(|_| server.stream(&target)).collect();
        eventually("each has its share", || {
            (server.streams_by_worker() == [10, 10, 10, 10]).then_some(())
        });
        for number in 0..20 {
            expected.push(server.append(run, "A", &number.to_string()));
        }
        for stream in &mut streams {
            assert_eq!(stream.ids(expected.len()), expected);
        }
        // The socket that a killed server has left is no obstacle.
        server.crash();
        let last = expected[expected.len() - 1];
        let header = [("Last-Event-ID", &*(last - 1).to_string())];
        let mut again: Vec<Sse> = (0..20).map(|_| server.stream_with(&target, &header)).collect();
        let next = server.append(run, "A", "1");
        for stream in &mut again {
            assert_eq!(stream.ids(2), [last, next]);
        }
        server.signal(Signal::TERM);
        for stream in &mut again {
            stream.read_to_end();
        }
        assert!(server.wait().success());
        assert!(server.try_client().is_err(), "the socket is gone");
    }
}
