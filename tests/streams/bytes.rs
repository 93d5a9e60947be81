//! What stands on the wire: heads, frames, payloads that would like to break them.

use std::time::{Duration, Instant};

use eventsource_stream::Eventsource as _;
use futures::{executor::block_on_stream, stream};
use serde_json::json;

use crate::support::{Server, eventually, http::request};

#[test]
fn the_head_is_sent_at_once_and_says_what_a_proxy_must_know() {
    let server = Server::start();
    let run = server.new_run();
    for target in [
        &*format!("/runs/{run}/events/stream"),
        "/projects/p/events/stream",
        "/api/sse/session/s",
        "/events/stream",
        "/health/sse",
    ] {
        let stream = server.stream(target);
        let mut names: Vec<&str> =
            stream.head.headers.iter().map(|(name, _)| name.as_str()).collect();
        names.sort_unstable();
        assert_eq!(
            names,
            ["Cache-Control", "Connection", "Content-Type", "Date", "X-Accel-Buffering"],
            "{target}"
        );
        assert_eq!(stream.head.header("Content-Type"), Some("text/event-stream"));
        assert_eq!(stream.head.header("Cache-Control"), Some("no-cache, no-transform"));
        assert_eq!(stream.head.header("X-Accel-Buffering"), Some("no"));
        assert_eq!(stream.head.header("Connection"), Some("close"));
    }
}

#[test]
fn the_first_line_is_retry() {
    let server = Server::with(&["--retry", "1234ms"]);
    let run = server.new_run();
    for target in [
        &*format!("/runs/{run}/events/stream"),
        "/projects/p/events/stream",
        "/api/sse/session/s",
        "/events/stream?after_id=now",
        "/health/sse",
    ] {
        let frame = server.stream(target).frame().unwrap();
        assert!(frame.raw.starts_with("retry: 1234\n"), "{target}: {frame:?}");
    }
    let server = Server::start();
    assert_eq!(server.stream("/events/stream").frame().unwrap().raw, "retry: 3000\n\n");
}

#[test]
fn an_event_is_these_bytes() {
    for server in Server::with_each_driver(&[]) {
        let run = server.new_run_with(r#"{"project":"p","session":"s"}"#);
        let id = server.append(run, "AGENT_THINKING", r#"{"text":"…"}"#);
        let page = server.json(&format!("/runs/{run}/events"));
        let at = page["events"][1]["created_at"].as_str().unwrap();
        let expected = format!(
            "id: {id}\nevent: AGENT_THINKING\ndata: {{\"id\":{id},\"run_id\":{run},\"seq\":2,\
             \"type\":\"AGENT_THINKING\",\"payload\":{{\"text\":\"…\"}},\"created_at\":\"{at}\"}}\n\n"
        );
        for target in [
            &*format!("/runs/{run}/events/stream"),
            "/projects/p/events/stream",
            "/api/sse/session/s",
            "/events/stream",
            &*format!("/events/stream?runs={run}"),
            &*format!("/events/stream?format=event&after_id={}", id - 1),
        ] {
            let mut stream = server.stream(target);
            let events: Vec<_> = std::iter::from_fn(|| stream.event())
                .take_while(|event| event.id <= Some(id))
                .take(if target.contains("after_id") { 1 } else { 2 })
                .collect();
            assert_eq!(events.last().unwrap().raw, expected, "{target}");
        }
    }
}

#[test]
fn live_events_are_the_same_bytes_as_replayed_ones() {
    for server in Server::with_each_driver(&[]) {
        let run = server.new_run();
        let target = format!("/runs/{run}/events/stream");
        let mut live = server.stream(&target);
        let mut payload_only = server.stream(&format!("{target}?format=payload"));
        live.ids(1);
        payload_only.ids(1);
        for number in 0..20 {
            server.append(run, "A", &format!("{{\"n\":{number}}}"));
        }
        server.end(run, "completed").expect(200);
        let rest = |stream: &mut crate::support::Sse| -> String {
            std::iter::from_fn(|| stream.frame()).map(|frame| frame.raw).collect()
        };
        let (live, payload_only) = (rest(&mut live), rest(&mut payload_only));
        let mut again = server.stream(&target);
        again.ids(1);
        assert_eq!(rest(&mut again), live);
        let mut again = server.stream(&format!("{target}?format=payload"));
        again.ids(1);
        assert_eq!(rest(&mut again), payload_only);
    }
}

#[test]
fn the_payload_alone_has_no_event_line() {
    let server = Server::start();
    let run = server.new_run_with(r#"{"project":"p"}"#);
    let id = server.append(run, "A", r#"{ "type" : "TEXT_MESSAGE", "delta": "x" }"#);
    let empty = server.append(run, "B", "null");
    server.end(run, "completed").expect(200);
    let mut stream = server.stream(&format!("/runs/{run}/events/stream?format=payload&after_id=1"));
    let expected = format!("id: {id}\ndata: {{\"type\":\"TEXT_MESSAGE\",\"delta\":\"x\"}}\n\n");
    assert_eq!(stream.event().unwrap().raw, expected);
    assert_eq!(stream.event().unwrap().raw, format!("id: {empty}\ndata: null\n\n"));
    assert_eq!(stream.event().unwrap().raw, format!("id: {}\ndata: null\n\n", empty + 1));
    assert_eq!(stream.frame(), None);
}

#[test]
fn payloads_that_would_break_the_framing_do_not() {
    let long = "data: ä\u{2028}\\n\\n".repeat(60_000);
    let payloads = [
        (r#""\n\ndata: {}\n\nid: 99\n\n""#.to_owned(), None),
        (r#""\r\n\r\nevent: x\r\r""#.to_owned(), None),
        (r#""id: 7""#.to_owned(), None),
        (r#"{"data: x":"retry: 1","\n":"\r",": c":"\u000a\u000d"}"#.to_owned(), None),
        (
            "\"\u{2028}\u{2029}\u{85}\u{b}\u{c}\u{feff}\\u0000\"".replace(['\u{b}', '\u{c}'], ""),
            None,
        ),
        ("{\r\n  \"a\" : [\n\t1 ,\n\n 2\r ]\n}".to_owned(), Some(r#"{"a":[1,2]}"#.to_owned())),
        ("\" leading and trailing \"".to_owned(), None),
        (r#""\"\\\/\b\f\t😀\ud83d\ude00""#.to_owned(), None),
        ("123456789012345678901234567890.10".to_owned(), None),
        (r#"{"b":1,"a":2,"b":1E+400}"#.to_owned(), None),
        (format!("\"{long}\""), None),
        (format!("[\"{}\"]", "x".repeat(1_000_000)), None),
    ];
    let server = Server::start();
    let run = server.new_run();
    let mut live = server.stream(&format!("/runs/{run}/events/stream?format=payload"));
    live.ids(1);
    let mut kept = Vec::new();
    for (sent, expected) in &payloads {
        let id = server.append(run, "A", sent);
        kept.push((id, expected.as_ref().unwrap_or(sent).clone()));
    }
    server.end(run, "completed").expect(200);
    for (id, payload) in &kept {
        let event = live.event().unwrap();
        assert_eq!(event.id, Some(*id));
        assert!(event.data.as_ref() == Some(payload), "{payload:.200}");
    }
    let mut whole = server.stream(&format!("/runs/{run}/events/stream?after_id=1"));
    for (id, payload) in &kept {
        let event = whole.event().unwrap();
        assert_eq!(event.id, Some(*id));
        let data = event.data.unwrap();
        assert!(data.contains(&format!("\"type\":\"A\",\"payload\":{payload},\"created_at\":\"")));
        serde_json::from_str::<serde::de::IgnoredAny>(&data).unwrap();
    }

    // Somebody else's parser sees the same.
    let mut client = server.client();
    client.send(request("GET", &format!("/runs/{run}/events/stream?format=payload"), &[], ""));
    client.try_head().unwrap();
    let bytes = client.rest();
    let pieces = bytes.chunks(200_003).map(Ok::<_, std::convert::Infallible>);
    let read: Vec<(String, String)> = block_on_stream(stream::iter(pieces).eventsource())
        .map(Result::unwrap)
        .map(|event| (event.id, event.data))
        .collect();
    let expected: Vec<(String, String)> =
        kept.iter().map(|(id, payload)| (id.to_string(), payload.clone())).collect();
    assert!(read[1..read.len() - 1] == expected);
}

#[test]
fn a_quiet_stream_is_kept_alive() {
    for server in Server::with_each_driver(&["--keepalive-interval", "200ms"]) {
        let run = server.new_run();
        let mut stream = server.stream(&format!("/runs/{run}/events/stream"));
        stream.ids(1);
        for _ in 0..3 {
            assert_eq!(stream.frame().unwrap().raw, ": keepalive\n\n");
        }
        let id = server.append(run, "A", "1");
        assert_eq!(stream.ids(1), [id]);
        assert_eq!(stream.frame().unwrap().raw, ": keepalive\n\n");
    }
}

#[test]
fn a_client_that_sees_no_comments_may_have_heartbeats() {
    let server = Server::with(&["--keepalive-interval", "200ms"]);
    let run = server.new_run();
    let mut stream = server.stream(&format!("/runs/{run}/events/stream?heartbeat=event"));
    stream.ids(1);
    for _ in 0..3 {
        assert_eq!(stream.frame().unwrap().raw, "event: heartbeat\ndata: {}\n\n");
    }
    let mut stream = server.stream(&format!("/runs/{run}/events/stream?heartbeat=comment"));
    stream.ids(1);
    assert_eq!(stream.frame().unwrap().raw, ": keepalive\n\n");
}

#[test]
fn a_busy_stream_needs_no_keepalive() {
    const INTERVAL: Duration = Duration::from_secs(2);
    let server = Server::with(&["--keepalive-interval", "2s", "--durability", "none"]);
    let run = server.new_run();
    let mut stream = server.stream(&format!("/runs/{run}/events/stream"));
    stream.ids(1);
    let next = || {
        let asked = Instant::now();
        server.append(run, "A", "1");
        (asked, Instant::now())
    };
    // Between which times each event has come, for three intervals in which the stream was busy.
    let mut times = vec![next()];
    let mut busy = Duration::ZERO;
    // No keepalive comes after a silence of less than a third of its interval.
    let was_busy = |before: &(Instant, Instant), now: &(Instant, Instant)| {
        now.1.duration_since(before.0) < INTERVAL / 4
    };
    while busy < 3 * INTERVAL {
        std::thread::sleep(Duration::from_millis(100));
        let now = next();
        let before = times[times.len() - 1];
        busy += if was_busy(&before, &now) { now.0 - before.0 } else { Duration::ZERO };
        times.push(now);
    }
    stream.ids(1);
    // What stands before an event that a busy machine has held up is no wonder.
    let mut keepalives = 0;
    for pair in times.windows(2) {
        while stream.frame().unwrap().comment.is_some() {
            keepalives += u32::from(was_busy(&pair[0], &pair[1]));
        }
    }
    // One may come while the stream has just begun.
    assert!(keepalives <= 1, "{keepalives}");
}

#[test]
fn the_probe_says_something_at_once_and_then_every_five_seconds() {
    let server = Server::start();
    // A busy machine may hold one up, but not each.
    eventually("in time", || {
        let started = Instant::now();
        let mut probe = server.stream("/health/sse");
        let first = probe.message().unwrap();
        if started.elapsed() >= Duration::from_secs(3) {
            return None;
        }
        assert_eq!(first.id, None, "a browser must not take it for a cursor");
        assert!(first.event.is_some());
        first.json();
        let second = probe.message().unwrap();
        assert_ne!(second.data, first.data);
        let elapsed = started.elapsed();
        assert!(elapsed >= Duration::from_millis(4_500), "{elapsed:?}");
        (elapsed < Duration::from_secs(10)).then_some(())
    });
}

#[test]
fn head_of_a_stream_is_its_head_alone() {
    let server = Server::start();
    let run = server.new_run();
    for target in [&*format!("/runs/{run}/events/stream"), "/events/stream", "/health/sse"] {
        let mut client = server.client();
        client.send(request("HEAD", target, &[], ""));
        let head = client.try_head().unwrap();
        assert_eq!(head.status, 200);
        assert_eq!(head.header("Content-Type"), Some("text/event-stream"));
        if head.header("Connection") == Some("close") {
            client.end().unwrap();
        } else {
            assert_eq!(client.request("GET", "/health", &[], "").status, 200);
        }
    }
    server.request("HEAD", "/runs/99/events/stream", &[("Connection", "close")], "");
}

#[test]
fn a_request_behind_a_stream_is_not_answered() {
    let server = Server::start();
    let run = server.new_run();
    let mut client = server.client();
    let mut bytes = request("GET", &format!("/runs/{run}/events/stream"), &[], "");
    bytes.extend(request("POST", "/runs", &[], "{}"));
    client.send(bytes);
    server.end(run, "completed").expect(200);
    let text = String::from_utf8(client.rest()).unwrap();
    assert_eq!(text.matches("HTTP/1.1 ").count(), 1, "{text}");
    assert!(text.ends_with("\n\n"));
}

#[test]
fn a_stream_may_follow_other_requests_on_its_connection() {
    let server = Server::start();
    let run = server.new_run();
    let mut client = server.client();
    client.request("GET", "/health", &[], "").expect(200);
    let mut bytes = request("POST", &format!("/runs/{run}/events"), &[], r#"{"type":"A"}"#);
    bytes.extend(request("GET", &format!("/runs/{run}/events/stream"), &[], ""));
    client.send(bytes);
    client.answer().expect(201);
    assert_eq!(client.try_head().unwrap().status, 200);
    server.end(run, "completed").expect(200);
    let text = String::from_utf8(client.rest()).unwrap();
    assert_eq!(text.matches("\nid: ").count(), 3, "{text}");
}

#[test]
fn what_a_stream_refuses_is_a_problem() {
    let server = Server::start();
    let run = server.new_run();
    for (target, status) in [
        ("/runs/99/events/stream".to_owned(), 404),
        (format!("/runs/{run}/events/stream?format=xml"), 422),
        (format!("/runs/{run}/events/stream?heartbeat=yes"), 422),
        (format!("/runs/{run}/events/stream?types=a%20b"), 422),
        ("/events/stream?runs=1,x".to_owned(), 400),
        ("/events/stream?runs=0".to_owned(), 400),
        (
            format!(
                "/events/stream?runs={}",
                (1..=65).map(|id| id.to_string()).collect::<Vec<_>>().join(",")
            ),
            422,
        ),
    ] {
        server.get(&target).expect(status);
    }
    assert_eq!(server.json("/health"), json!({"status": "ok"}));
}
