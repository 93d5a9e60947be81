//! How a stream ends, and what is known of it then.

use std::{net::Shutdown, thread, time::Duration};

use rustix::process::Signal;

use crate::support::{Server, Sse, eventually, http::request};

#[test]
fn a_stream_ends_after_the_closing_event() {
    for server in Server::with_each_driver(&[]) {
        for status in ["completed", "failed", "cancelled"] {
            let run = server.new_run();
            let target = format!("/runs/{run}/events/stream");
            let mut stream = server.stream(&target);
            server.append(run, "A", "1");
            let last = server.end(run, status).expect(200).json()["last_event_id"].as_u64();
            let last = last.unwrap();
            assert_eq!(stream.ids_to_end(), [last - 2, last - 1, last]);
            assert_eq!(server.stream(&target).ids_to_end(), [last - 2, last - 1, last]);
            let before = format!("{target}?after_id={}", last - 1);
            assert_eq!(server.stream(&before).ids_to_end(), [last]);
        }
        eventually("they are not counted any more", || (server.open_streams() == 0).then_some(()));
    }
}

#[test]
fn a_cursor_at_or_past_the_end_is_204() {
    let mut server = Server::start();
    let run = server.new_run();
    let later = server.new_run();
    let last = server.end(run, "completed").expect(200).json()["last_event_id"].clone();
    let last = last.as_u64().unwrap();
    let past = server.append(later, "A", "1");
    let check = |server: &Server| {
        for id in [last, past] {
            let target = format!("/runs/{run}/events/stream");
            let header = [("Last-Event-ID", &*id.to_string())];
            let mut client = server.client();
            let answer = client.request("GET", &target, &header, "").expect(204);
            assert!(answer.body.is_empty());
            client.request("GET", &format!("{target}?after_id={id}"), &[], "").expect(204);
            let types = format!("{target}?after_id={id}&types=A&format=payload");
            client.request("GET", &types, &[], "").expect(204);
            let several = format!("/events/stream?runs={run}&after_id={id}");
            client.request("GET", &several, &[], "").expect(204);
        }
        let now = format!("/runs/{run}/events/stream?after_id=now");
        server.get(&now).expect(204);
    };
    check(&server);
    server.restart();
    check(&server);
    let both = format!("/events/stream?runs={run},{later}&after_id={past}");
    let mut stream = server.stream(&both);
    let next = server.append(later, "A", "1");
    assert_eq!(stream.ids(1), [next], "one of the runs goes on");
}

#[test]
fn a_deletion_ends_the_streams_of_the_run() {
    for server in Server::with_each_driver(&[]) {
        let run = server.new_run_with(r#"{"project":"p"}"#);
        let target = format!("/runs/{run}/events/stream");
        let mut streams: Vec<Sse> = ["", "?types=B", "?format=payload"]
            .map(|query| server.stream(&format!("{target}{query}")))
            .into();
        let mut project = server.stream("/projects/p/events/stream");
        server.append(run, "A", "1");
        assert_eq!(project.ids(2).len(), 2);
        server.delete(&format!("/runs/{run}")).expect(204);
        for stream in &mut streams {
            stream.read_to_end();
        }
        server.get(&target).expect(404);
        // A stream of several runs goes on.
        let next = server.new_run_with(r#"{"project":"p"}"#);
        assert_eq!(project.event().unwrap().json()["run_id"], next);
        // What is gone is not replayed.
        let mut replayed = server.stream("/projects/p/events/stream");
        assert_eq!(replayed.event().unwrap().json()["run_id"], next);
    }
}

#[test]
fn a_client_that_closes_is_gone_at_once() {
    // So that no keepalive finds it out.
    for server in Server::with_each_driver(&["--keepalive-interval", "1h"]) {
        let run = server.new_run();
        let target = format!("/runs/{run}/events/stream");
        for how in ["close", "half-close", "reset"] {
            let mut streams: Vec<Sse> = (0..20).map(|_| server.stream(&target)).collect();
            for stream in &mut streams {
                stream.ids(1);
            }
            assert_eq!(server.open_streams(), 20);
            match how {
                "close" => streams.clear(),
                "half-close" => {
                    for stream in &streams {
                        stream.socket().shutdown(Shutdown::Write).unwrap();
                    }
                }
                _ => {
                    for stream in &streams {
                        let zero = Some(Duration::ZERO);
                        rustix::net::sockopt::set_socket_linger(stream.socket(), zero).unwrap();
                    }
                    streams.clear();
                }
            }
            eventually(how, || (server.open_streams() == 0).then_some(()));
            for stream in &mut streams {
                stream.read_to_end();
            }
        }
    }
}

#[test]
fn a_client_that_closes_while_it_is_written_to_is_gone_too() {
    let server = Server::start();
    let run = server.new_run();
    let target = format!("/runs/{run}/events/stream");
    let streams: Vec<Sse> = (0..10).map(|_| server.stream(&target)).collect();
    let payload = format!("\"{}\"", "x".repeat(500_000));
    for _ in 0..20 {
        server.append(run, "A", &payload);
    }
    drop(streams);
    eventually("they are gone", || (server.open_streams() == 0).then_some(()));
}

#[test]
fn a_client_that_half_closes_at_once_may_be_let_go_but_does_no_harm() {
    let server = Server::start();
    let run = server.new_run();
    for _ in 0..20 {
        let mut client = server.client();
        client.send(request("GET", &format!("/runs/{run}/events/stream"), &[], ""));
        client.half_close();
        client.rest();
    }
    eventually("nobody is left", || (server.open_streams() == 0).then_some(()));
}

#[test]
fn a_server_that_goes_down_says_when_to_come_back() {
    let mut server = Server::with(&["--drain-window", "300ms", "--reconnect-backoff-max", "5s"]);
    let run = server.new_run();
    let mut streams: Vec<Sse> =
        (0..20).map(|_| server.stream(&format!("/runs/{run}/events/stream"))).collect();
    for stream in &mut streams {
        assert_eq!(stream.ids(1), [1]);
    }
    server.signal(Signal::TERM);
    let mut waits = Vec::new();
    for stream in &mut streams {
        let frames: Vec<_> = std::iter::from_fn(|| stream.frame()).collect();
        let wait = frames.last().unwrap().retry.expect("the last frame is a retry");
        assert!(wait <= 5_000, "{wait}");
        waits.push(wait);
    }
    waits.sort_unstable();
    waits.dedup();
    assert!(waits.len() > 3, "each is told a time of its own: {waits:?}");
    assert!(server.wait().success());
}

#[test]
fn a_stream_whose_request_was_under_way_ends_with_the_server() {
    for mut server in Server::with_each_driver(&["--drain-window", "100ms"]) {
        server.new_run();
        let mut client = server.client();
        client.send("GET /events/stream HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\n");
        // It has been read when a request that came later has been answered.
        server.get("/health").expect(200);
        server.signal(Signal::TERM);
        eventually("the server drains", || {
            server.log().contains("draining").then(|| thread::sleep(Duration::from_millis(100)))
        });
        client.send("{}");
        assert!(client.rest().ends_with(b"\n\n"));
        assert!(server.wait().success());
        assert!(server.log().contains("msg=stopped"), "{}", server.log());
        assert!(!server.log().contains("connections are left"), "{}", server.log());
    }
}

#[test]
fn a_full_server_refuses_streams_in_a_way_that_a_browser_survives() {
    let server = Server::with(&["--max-connections", "4", "--reconnect-backoff-max", "5s"]);
    let run = server.new_run();
    let target = format!("/runs/{run}/events/stream");
    let held = eventually("four streams", || {
        let held: Vec<Sse> = (0..4)
            .filter_map(|_| Sse::try_open(server.address(), &target, &[]).ok()?.ok())
            .collect();
        (held.len() == 4).then_some(held)
    });
    let mut refused = server.stream_with(&target, &[("Accept", "text/event-stream")]);
    let frame = refused.message().unwrap();
    assert_eq!(frame.event.as_deref(), Some("stream.refused"));
    assert!(frame.json()["reason"].is_string());
    assert_eq!(frame.id, None);
    assert!(frame.retry.is_some_and(|wait| wait <= 5_000), "{frame:?}");
    assert_eq!(refused.frame(), None);

    for accept in ["*/*", "text/*"] {
        let answer = server.request("GET", &target, &[("Accept", accept)], "").expect(503);
        assert!(answer.header("Retry-After").is_some());
    }
    drop(held);
    eventually("there is room again", || Sse::try_open(server.address(), &target, &[]).ok()?.ok());
}

#[test]
fn subscribers_resume_across_a_restart_on_the_same_port() {
    for mut server in Server::with_workers(&[1, 2, 4], &[]) {
        resume_across_restarts(&mut server);
    }
}

fn resume_across_restarts(server: &mut Server) {
    let run = server.new_run();
    let target = format!("/runs/{run}/events/stream");
    let mut seen = Vec::new();
    for round in 0..6 {
        let header = seen.last().map(u64::to_string).unwrap_or_default();
        let mut stream = server.stream_with(&target, &[("Last-Event-ID", &header)]);
        for _ in 0..5 {
            server.append(run, "A", "1");
        }
        // Some of them are left for the next life.
        seen.extend(stream.ids(3));
        if round % 2 == 0 {
            server.restart();
        } else {
            server.crash();
        }
        thread::sleep(Duration::from_millis(1));
    }
    server.end(run, "completed").expect(200);
    let header = [("Last-Event-ID", &*seen.last().unwrap().to_string())];
    seen.extend(server.stream_with(&target, &header).ids_to_end());
    let expected: Vec<u64> =
        server.events(run).iter().map(|event| event["id"].as_u64().unwrap()).collect();
    assert_eq!(seen, expected);
}
