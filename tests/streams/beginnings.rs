//! Where a stream begins.

use std::time::Duration;

use crate::support::{Server, Sse};

/// Events 1 to 5 in run 1, which goes on.
fn with_five_events() -> Server {
    let server = Server::start();
    let run = server.new_run_with(r#"{"project":"p","session":"s"}"#);
    for number in 2..=5 {
        assert_eq!(server.append(run, "A", "0"), number, "ids are counted from 1");
    }
    server
}

/// The id of the first event of a stream.
fn first(mut stream: Sse) -> u64 {
    stream.ids(1)[0]
}

#[test]
fn the_header_wins_over_the_query_and_the_query_over_after_id() {
    let server = with_five_events();
    let path = "/runs/1/events/stream";
    let with_header = |target: &str, id: &str| {
        first(server.stream_with(&format!("{path}{target}"), &[("Last-Event-ID", id)]))
    };
    let without = |target: &str| first(server.stream(&format!("{path}{target}")));
    assert_eq!(without(""), 1);
    assert_eq!(without("?after_id=1"), 2);
    assert_eq!(without("?after_id=1&lastEventId=2"), 3);
    assert_eq!(without("?after_id=1&lastEventId=2&last_event_id=3"), 4);
    assert_eq!(without("?last_event_id=3&after_id=1"), 4);
    assert_eq!(with_header("?after_id=1&lastEventId=2&last_event_id=3", "4"), 5);
    assert_eq!(with_header("?after_id=4", "0"), 1, "0 is an id");
    assert_eq!(with_header("?after_id=now", "2"), 3);
}

#[test]
fn an_empty_cursor_counts_as_none() {
    let server = with_five_events();
    let path = "/runs/1/events/stream";
    let with_header = |target: &str| {
        first(server.stream_with(&format!("{path}{target}"), &[("Last-Event-ID", "")]))
    };
    assert_eq!(with_header(""), 1);
    assert_eq!(with_header("?after_id=3"), 4);
    assert_eq!(with_header("?last_event_id=&lastEventId=2"), 3);
    assert_eq!(first(server.stream(&format!("{path}?last_event_id=&lastEventId=&after_id=3"))), 4);
    assert_eq!(first(server.stream(&format!("{path}?after_id="))), 1);
}

#[test]
fn a_cursor_that_is_no_id_is_400() {
    let server = with_five_events();
    for path in ["/runs/1/events/stream", "/events/stream", "/projects/p/events/stream"] {
        for bad in ["x", "-1", "1.5", "0x1", "18446744073709551616", "NOW", "1 "] {
            let escaped = bad.replace(' ', "%20");
            for name in ["last_event_id", "lastEventId", "after_id"] {
                server.get(&format!("{path}?{name}={escaped}")).expect(400);
                // Also where another counts.
                let target = format!("{path}?{name}={escaped}");
                server.request("GET", &target, &[("Last-Event-ID", "1")], "").expect(400);
            }
        }
        for bad in ["x", "-1", "+1", "1.5", "18446744073709551616", "1 2"] {
            // Also when the query has a good one: the header wins.
            let header = [("Last-Event-ID", bad)];
            server.request("GET", &format!("{path}?after_id=1"), &header, "").expect(400);
        }
        server.get(&format!("{path}?after_id=%2B1")).expect(400);
    }
}

#[test]
fn every_cursor_of_every_stream_resumes_right_behind_it() {
    let server = with_five_events();
    for path in [
        "/runs/1/events/stream",
        "/events/stream",
        "/projects/p/events/stream",
        "/api/sse/session/s",
        "/events/stream?runs=1",
    ] {
        for cursor in 0..5 {
            let header = [("Last-Event-ID", &*cursor.to_string())];
            let mut stream = server.stream_with(path, &header);
            let expected: Vec<u64> = (cursor + 1..=5).collect();
            assert_eq!(stream.ids(expected.len()), expected, "{path} after {cursor}");
        }
    }
    let mut streams: Vec<Sse> = ["/runs/1/events/stream", "/events/stream"]
        .map(|path| server.stream_with(path, &[("Last-Event-ID", "5")]))
        .into();
    let next = server.append(1, "A", "1");
    for stream in &mut streams {
        assert_eq!(stream.ids(1), [next]);
    }
}

#[test]
fn now_is_the_live_end_and_says_where_that_is() {
    let server = with_five_events();
    for path in ["/runs/1/events/stream", "/events/stream", "/projects/p/events/stream"] {
        let mut stream = server.stream(&format!("{path}?after_id=now"));
        let frame = stream.message().unwrap();
        let last = server.json("/runs/1")["last_event_id"].as_u64().unwrap();
        assert_eq!(frame.event.as_deref(), Some("stream.cursor"));
        assert_eq!(frame.id, Some(last));
        assert_eq!(
            frame.raw,
            format!("event: stream.cursor\nid: {last}\ndata: {{\"id\":{last}}}\n\n")
        );
        let next = server.append(1, "A", "1");
        assert_eq!(stream.ids(1), [next], "{path}");
    }
}

#[test]
fn a_client_that_drops_before_its_first_event_resumes_where_now_was() {
    let mut server = with_five_events();
    let cursor = server.stream("/events/stream?after_id=now").message().unwrap().id.unwrap();
    let missed = server.append(1, "A", "1");
    server.restart();
    let header = [("Last-Event-ID", &*cursor.to_string())];
    // A browser repeats the URL.
    let mut stream = server.stream_with("/events/stream?after_id=now", &header);
    assert_eq!(stream.ids(1), [missed]);
}

#[test]
fn a_cursor_ahead_of_the_journal_is_reset() {
    for server in Server::with_workers(&[1, 4], &[]) {
        let run = server.new_run_with(r#"{"project":"p"}"#);
        server.append(run, "A", "1");
        let check = |ends: bool| {
            for path in ["/runs/1/events/stream", "/events/stream", "/projects/p/events/stream"] {
                let header = [("Last-Event-ID", "1000000")];
                let mut stream = server.stream_with(path, &header);
                let reset = stream.message().unwrap();
                assert_eq!(reset.event.as_deref(), Some("stream.reset"), "{path}");
                assert_eq!(reset.id, Some(0));
                assert_eq!(stream.ids(2), [1, 2], "{path}");
                if ends && path.starts_with("/runs") {
                    assert_eq!(stream.ids_to_end(), [3]);
                }
            }
        };
        check(false);
        server.end(run, "completed").expect(200);
        check(true);
    }
}

#[test]
fn the_newest_id_is_no_reset() {
    let server = with_five_events();
    let mut stream = server.stream_with("/events/stream", &[("Last-Event-ID", "5")]);
    let next = server.append(1, "A", "1");
    assert_eq!(stream.message().unwrap().id, Some(next));
}

#[test]
fn a_filtered_stream_says_where_it_is_when_it_falls_far_behind() {
    let server = Server::with(&["--keepalive-interval", "200ms"]);
    let (quiet, busy) = (server.new_run(), server.new_run());
    let mut streams = [
        server.stream(&format!("/runs/{quiet}/events/stream")),
        server.stream(&format!("/runs/{busy}/events/stream?types=NEVER")),
    ];
    let many = format!("[{}]", vec![r#"{"type":"A"}"#; 3_000].join(","));
    server.post(&format!("/runs/{busy}/events"), &many).expect(201);
    let last = server.json(&format!("/runs/{busy}"))["last_event_id"].as_u64().unwrap();
    for stream in &mut streams {
        loop {
            let frame = stream.message().unwrap();
            if frame.name() == "stream.cursor" {
                let id = frame.id.unwrap();
                assert!(id <= last && id + 1_000 >= last, "{id} of {last}");
                assert_eq!(frame.json()["id"], id);
                break;
            }
        }
    }
    // What comes later has a later id all the same.
    let next = server.append(quiet, "A", "1");
    assert_eq!(streams[0].ids(1), [next]);
}

#[test]
fn a_stream_goes_over_from_history_to_live_without_a_seam() {
    for server in Server::with_workers(&[1, 2, 4], &[]) {
        let run = server.new_run();
        let target = format!("/runs/{run}/events/stream");
        std::thread::scope(|scope| {
            let publisher = scope.spawn(|| {
                let mut client = server.client();
                for number in 0..60 {
                    let body = format!(
                        "[{}]",
                        vec![format!(r#"{{"type":"A","payload":{number}}}"#); 20].join(",")
                    );
                    client.request("POST", &format!("/runs/{run}/events"), &[], &body).expect(201);
                }
                server.end(run, "completed").expect(200);
            });
            let readers: Vec<_> = (0..20)
                .map(|_| {
                    let mut stream = server.stream(&target);
                    std::thread::sleep(Duration::from_millis(5));
                    scope.spawn(move || stream.ids_to_end())
                })
                .collect();
            publisher.join().unwrap();
            let expected: Vec<u64> =
                server.events(run).iter().map(|event| event["id"].as_u64().unwrap()).collect();
            assert_eq!(expected.len(), 1_202);
            for reader in readers {
                assert!(reader.join().unwrap() == expected);
            }
        });
    }
}
