//! HTTP itself: connections, methods, targets, framing, negotiation.

use std::{
    io::{Read as _, Write as _},
    net::Shutdown,
    thread,
    time::{Duration, Instant},
};

use serde_json::json;

use crate::support::{
    DEADLINE, Server,
    http::{chunked, request},
};

#[test]
fn a_connection_serves_one_request_after_the_other() {
    let server = Server::start();
    let mut client = server.client();
    for number in 1..=20 {
        let run = client.request("POST", "/runs", &[], "{}").expect(201).json();
        assert_eq!(run["id"], number);
        let answer = client.request("GET", &format!("/runs/{number}"), &[], "").expect(200);
        assert_eq!(answer.header("Connection"), None);
        assert!(answer.header("Date").is_some_and(|date| date.ends_with(" GMT")));
    }
}

#[test]
fn a_connection_survives_errors_that_leave_no_doubt() {
    let server = Server::start();
    let mut client = server.client();
    client.request("GET", "/nothing", &[], "").expect(404);
    client.request("PUT", "/runs", &[], "{}").expect(405);
    client.request("POST", "/runs", &[], "{").expect(400);
    client.request("POST", "/runs", &[], "[]").expect(422);
    client.request("POST", "/runs/9/events", &[], r#"{"type":"A"}"#).expect(404);
    client.request("GET", "/runs?limit=0", &[], "").expect(422);
    client.request("GET", "/runs", &[("Accept", "text/html")], "").expect(406);
    client.request("POST", "/runs", &[], "{}").expect(201);
}

#[test]
fn a_client_may_ask_for_the_close() {
    let server = Server::start();
    let mut client = server.client();
    let answer = client.request("GET", "/health", &[("Connection", "close")], "").expect(200);
    assert_eq!(answer.header("Connection"), Some("close"));
    client.end().unwrap();
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let server = Server::start();
    let run = server.new_run();
    let mut client = server.client();
    let mut bytes = Vec::new();
    for target in ["/health", "/runs/1", "/nothing", "/projects", "/runs/1/events"] {
        bytes.extend(request("GET", target, &[], ""));
    }
    bytes.extend(request("HEAD", "/runs/1", &[], ""));
    bytes.extend(request(
        "POST",
        "/runs",
        &[("Transfer-Encoding", "chunked")],
        &chunked(&["{", "}"]),
    ));
    bytes.extend(request("GET", "/runs/2", &[], ""));
    client.send(bytes);
    client.answer().expect(200);
    assert_eq!(client.answer().expect(200).json()["id"], run);
    client.answer().expect(404);
    assert!(client.answer().expect(200).json()["projects"].is_array());
    assert!(client.answer().expect(200).json()["events"].is_array());
    client.answer_to("HEAD").expect(200);
    client.answer().expect(201);
    assert_eq!(client.answer().expect(200).json()["id"], 2);
}

#[test]
fn pipelined_appends_are_answered_in_order() {
    let server = Server::start();
    let run = server.new_run();
    let target = format!("/runs/{run}/events");
    let mut client = server.client();
    let mut bytes = Vec::new();
    for number in 0..200 {
        let body = format!(r#"{{"type":"A","payload":{number}}}"#);
        bytes.extend(request("POST", &target, &[], &body));
    }
    client.send(bytes);
    let mut last_id = 0;
    for number in 0..200 {
        let event = client.answer().expect(201).json();
        assert_eq!(event["seq"], number + 2);
        assert!(event["id"].as_u64().unwrap() > last_id);
        last_id = event["id"].as_u64().unwrap();
    }
    for (number, event) in server.events(run)[1..].iter().enumerate() {
        assert_eq!(event["payload"], number);
    }
}

#[test]
fn a_request_may_come_byte_by_byte() {
    let server = Server::start();
    let mut client = server.client();
    for byte in request("POST", "/runs", &[], r#"{"project":"slow"}"#) {
        client.send([byte]);
    }
    assert_eq!(client.answer().expect(201).json()["project"], "slow");
}

#[test]
fn a_client_that_half_closes_gets_its_answers() {
    let server = Server::start();
    let mut client = server.client();
    client.send(request("POST", "/runs", &[], "{}").repeat(3));
    client.half_close();
    for number in 1..=3 {
        assert_eq!(client.answer().expect(201).json()["id"], number);
    }
    client.end().unwrap();
}

#[test]
fn head_is_get_without_the_content() {
    let server = Server::start();
    let run = server.new_run_with(r#"{"project":"p"}"#);
    for target in ["/runs", "/projects", "/health", "/health/ready", "/worker"]
        .map(str::to_owned)
        .into_iter()
        .chain([format!("/runs/{run}"), format!("/runs/{run}/events")])
    {
        let mut client = server.client();
        let head = client.request("HEAD", &target, &[], "").expect(200);
        let get = client.request("GET", &target, &[], "").expect(200);
        assert_eq!(head.header("Content-Type"), get.header("Content-Type"), "{target}");
        assert_eq!(head.header("ETag"), get.header("ETag"), "{target}");
        if target != "/worker" {
            assert_eq!(head.header("Content-Length"), get.header("Content-Length"), "{target}");
        }
    }
    let mut client = server.client();
    let head = client.request("HEAD", "/nothing", &[], "");
    assert_eq!(head.status, 404);
    client.request("GET", "/health", &[], "").expect(200);
}

const RUN_METHODS: &str = "DELETE, GET, HEAD, OPTIONS, PATCH";
const LIST_METHODS: &str = "GET, HEAD, OPTIONS, POST";
const READ_METHODS: &str = "GET, HEAD, OPTIONS";

/// Every resource, and what may be done with it.
const RESOURCES: [(&str, &str); 11] = [
    ("/runs", LIST_METHODS),
    ("/runs/1", RUN_METHODS),
    ("/runs/1/events", LIST_METHODS),
    ("/runs/1/events/stream", READ_METHODS),
    ("/projects", READ_METHODS),
    ("/projects/p/events/stream", READ_METHODS),
    ("/api/sse/session/s", READ_METHODS),
    ("/events/stream", READ_METHODS),
    ("/worker", READ_METHODS),
    ("/health", READ_METHODS),
    ("/health/ready", READ_METHODS),
];

fn members(value: Option<&str>) -> Vec<String> {
    let mut members: Vec<String> = value
        .expect("there is an Allow")
        .split(',')
        .map(|member| member.trim().to_owned())
        .collect();
    members.sort();
    members
}

#[test]
fn options_says_what_may_be_done() {
    let server = Server::start();
    let mut client = server.client();
    for (target, methods) in RESOURCES {
        let answer = client.request("OPTIONS", target, &[], "").expect(204);
        assert_eq!(members(answer.header("Allow")), members(Some(methods)), "{target}");
    }
    assert!(client.request("OPTIONS", "*", &[], "").expect(204).header("Allow").is_some());
    client.request("OPTIONS", "/nothing", &[], "").expect(404);
}

#[test]
fn another_method_is_405_and_says_what_may_be_done() {
    let server = Server::start();
    server.new_run();
    let mut client = server.client();
    for (target, methods) in RESOURCES {
        for method in ["PUT", "POST", "PATCH", "DELETE", "TRACE", "BREW", "get"] {
            if members(Some(methods)).iter().any(|known| known == method) {
                continue;
            }
            let answer = client.request(method, target, &[], "").expect(405);
            assert_eq!(
                members(answer.header("Allow")),
                members(Some(methods)),
                "{method} {target}"
            );
        }
    }
}

#[test]
fn there_is_nothing_at_other_paths() {
    let server = Server::start();
    server.new_run();
    let mut client = server.client();
    for target in [
        "/",
        "/run",
        "/Runs",
        "/runs/",
        "//runs",
        "/runs//events",
        "/runs/1/",
        "/runs/1/event",
        "/runs/1/events/",
        "/runs/1/events/stream/",
        "/runs/1/events/stream/x",
        "/projects/",
        "/projects/p",
        "/projects//events/stream",
        "/projects/a%20b/events/stream",
        "/api/sse/session/",
        "/api/sse",
        "/events",
        "/events/",
        "/health/",
        "/health/live",
        "/worker/1",
        "/runs/1%2Fevents",
        "/runs/1;x",
        "/favicon.ico",
    ] {
        client.request("GET", target, &[], "").expect(404);
    }
    let long = "x".repeat(129);
    client.request("GET", &format!("/projects/{long}/events/stream"), &[], "").expect(404);
    client.request("GET", &format!("/api/sse/session/{long}"), &[], "").expect(404);
}

#[test]
fn percent_escapes_are_decoded() {
    let server = Server::start();
    server.new_run_with(r#"{"project":"a:b"}"#);
    let mut client = server.client();
    client.request("GET", "/%72uns", &[], "").expect(200);
    client.request("GET", "/runs/%31", &[], "").expect(200);
    client.request("GET", "/%72%75%6e%73/%31/%65vents", &[], "").expect(200);
    let page = client.request("GET", "/runs?project=a%3Ab", &[], "").expect(200).json();
    assert_eq!(page["runs"][0]["id"], 1);
    let page = client.request("GET", "/runs?%70roject=a%3ab", &[], "").expect(200).json();
    assert_eq!(page["runs"][0]["id"], 1);
    assert!(server.stream("/projects/a%3Ab/events/stream").event().is_some());
}

#[test]
fn a_target_may_be_a_whole_url() {
    let server = Server::start();
    server.new_run();
    let mut client = server.client();
    let address = server.address();
    let target = format!("http://{address}/runs?limit=1");
    assert_eq!(client.request("GET", &target, &[], "").expect(200).json()["has_more"], false);
    client.request("GET", "http://other.example/runs/1", &[], "").expect(200);
    client.request("GET", "HTTPS://other.example/health", &[], "").expect(200);
    client.request("GET", "http://other.example", &[], "").expect(404);
}

#[test]
fn an_old_client_gets_its_answer_and_the_close() {
    let server = Server::start();
    server.new_run();
    let mut client = server.client();
    client.send("GET /runs/1 HTTP/1.0\r\n\r\n");
    let answer = client.answer().expect(200);
    assert_eq!(answer.header("Connection"), Some("close"));
    assert_eq!(answer.json()["id"], 1);
    client.end().unwrap();

    let mut client = server.client();
    for _ in 0..3 {
        client.send("GET /runs/1 HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
        let answer = client.answer().expect(200);
        assert_eq!(answer.header("Connection"), Some("keep-alive"));
    }
    let body = r#"{"type":"A"}"#;
    client.send(format!(
        "POST /runs/1/events HTTP/1.0\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    ));
    client.answer().expect(201);
    client.end().unwrap();
}

#[test]
fn an_old_client_can_stream() {
    let server = Server::start();
    let run = server.new_run();
    server.end(run, "completed").expect(200);
    let mut client = server.client();
    client.send("GET /runs/1/events/stream HTTP/1.0\r\n\r\n");
    let text = String::from_utf8(client.rest()).unwrap();
    assert!(text.starts_with("HTTP/1.1 200 OK\r\n"), "{text}");
    assert!(text.contains("event: RUN_COMPLETED\n") && text.ends_with("\n\n"), "{text}");
}

#[test]
fn a_body_may_be_chunked() {
    let server = Server::start();
    let mut client = server.client();
    let coding = [("Transfer-Encoding", "chunked")];
    let post = |client: &mut crate::support::Client, target: &str, pieces: &[&str]| {
        client.request("POST", target, &coding, &chunked(pieces))
    };
    post(&mut client, "/runs", &[]).expect(201);
    let run = post(&mut client, "/runs", &["{\"pro", "ject\":", "\"p\"}"]).expect(201).json();
    assert_eq!(run["project"], "p");
    post(&mut client, "/runs/1/events", &["{\"type\":\"A\"}"]).expect(201);
    post(&mut client, "/runs/1/events", &["{\"type\":", "7}"]).expect(422);
    let patch = client.request("PATCH", "/runs/1", &coding, &chunked(&["{\"status\":\"failed\"}"]));
    patch.expect(200);
}

#[test]
fn a_client_that_waits_for_100_is_asked_for_its_body() {
    let server = Server::start();
    let run = server.new_run();
    let body = r#"{"type":"A"}"#;
    let mut client = server.client();
    for _ in 0..2 {
        client.send(format!(
            "POST /runs/{run}/events HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\n\
             Content-Length: {}\r\n\r\n",
            body.len()
        ));
        assert_eq!(client.answer().status, 100);
        client.send(body);
        client.answer().expect(201);
    }
    // Whoever sends the body all the same needs no 100; if it comes, it comes first.
    client.send(request(
        "POST",
        &format!("/runs/{run}/events"),
        &[("Expect", "100-continue")],
        body,
    ));
    let mut answer = client.answer();
    if answer.status == 100 {
        answer = client.answer();
    }
    answer.expect(201);
    assert_eq!(server.events(run).len(), 4);
}

#[test]
fn a_client_that_waits_for_100_is_spared_a_body_that_would_be_refused() {
    let server = Server::start();
    let run = server.new_run();
    for (target, headers, status) in [
        (format!("/runs/{run}/events"), "Content-Length: 999999999\r\n", 413),
        (format!("/runs/{run}/events"), "Content-Length: 9\r\nContent-Type: text/plain\r\n", 415),
        (format!("/runs/{run}/events"), "Content-Length: 9\r\nAccept: text/html\r\n", 406),
        ("/nothing".to_owned(), "Content-Length: 9\r\n", 404),
        ("/health".to_owned(), "Content-Length: 9\r\n", 405),
    ] {
        let mut client = server.client();
        client.send(format!(
            "POST {target} HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\n{headers}\r\n"
        ));
        client.answer().expect(status);
    }
}

#[test]
fn any_other_expectation_is_417() {
    let server = Server::start();
    for expectation in ["200-ok", "100-continue, x"] {
        server.request("POST", "/runs", &[("Expect", expectation)], "{}").expect(417);
    }
    assert_eq!(server.json("/runs")["runs"], json!([]));
}

#[test]
fn a_body_that_is_missing_is_411() {
    let server = Server::start();
    server.new_run();
    for (method, target) in [("POST", "/runs/1/events"), ("PATCH", "/runs/1")] {
        let mut client = server.client();
        client.send(format!("{method} {target} HTTP/1.1\r\nHost: h\r\n\r\n"));
        client.answer().expect(411);
    }
}

#[test]
fn what_the_client_does_not_accept_is_406() {
    let server = Server::start();
    server.new_run();
    let get = |target: &str, accept: &str| server.request("GET", target, &[("Accept", accept)], "");
    for accept in ["text/html", "application/xml", "application/json;q=0", "*/*;q=0", "image/*"] {
        for target in ["/runs", "/runs/1", "/runs/1/events", "/projects", "/worker"] {
            get(target, accept).expect(406);
        }
        // Who asks whether all is well reads the status only.
        for target in ["/health", "/health/ready"] {
            get(target, accept).expect(200);
        }
    }
    for accept in
        ["", "*/*", "application/*", "text/html, application/json;q=0.1", "APPLICATION/JSON"]
    {
        get("/runs", accept).expect(200);
    }
    for accept in ["application/json", "text/html", "text/event-stream;q=0"] {
        get("/runs/1/events/stream", accept).expect(406);
        get("/events/stream", accept).expect(406);
        get("/health/sse", accept).expect(406);
    }
    for accept in ["text/event-stream", "*/*", "text/*", "text/html, text/event-stream;q=0.5"] {
        server.stream_with("/runs/1/events/stream", &[("Accept", accept)]).event().unwrap();
    }
    server.request("DELETE", "/runs/1", &[("Accept", "text/html")], "").expect(204);
}

#[test]
fn an_idle_connection_is_closed_in_time_and_a_busy_one_is_not() {
    const IDLE: Duration = Duration::from_secs(3);
    let server = Server::with(&["--idle-timeout", "3s", "--header-timeout", "1h"]);
    let mut idle = server.client();
    idle.request("GET", "/health", &[], "").expect(200);
    let mut busy = server.client();
    let started = Instant::now();
    // Each pause is far shorter, and all of them are longer.
    while started.elapsed() < IDLE + IDLE / 3 {
        busy.request("GET", "/health", &[], "").expect(200);
        assert!(busy.is_quiet_for(Duration::from_millis(100)));
    }
    idle.end().expect("it is closed without a word");
}

#[test]
fn an_upload_may_stand_in_a_pipeline() {
    let server = Server::start();
    let run = server.new_run();
    let target = format!("/runs/{run}/events");
    let ndjson = [("Content-Type", "application/x-ndjson")];
    let coding = [ndjson[0], ("Transfer-Encoding", "chunked")];
    let mut bytes = Vec::new();
    for _ in 0..5 {
        bytes.extend(request("POST", &target, &ndjson, "{\"type\":\"A\"}\n{\"type\":\"B\"}\n"));
        bytes.extend(request("POST", &target, &[], r#"{"type":"C"}"#));
        let chunks = chunked(&["{\"type\":\"D\"}\n{\"ty", "pe\":\"E\"}"]);
        bytes.extend(request("POST", &target, &coding, &chunks));
    }
    let mut client = server.client();
    client.send(bytes);
    for _ in 0..5 {
        assert_eq!(client.answer().expect(201).json()["count"], 2);
        assert_eq!(client.answer().expect(201).json()["type"], "C");
        assert_eq!(client.answer().expect(201).json()["count"], 2);
    }
    let events = server.events(run);
    let types: String = events[1..].iter().map(|event| event["type"].as_str().unwrap()).collect();
    assert_eq!(types, "ABCDE".repeat(5));
}

#[test]
fn a_body_that_drips_is_given_up_and_one_that_flows_is_not() {
    for server in Server::with_each_driver(&["--body-timeout", "3s"]) {
        server.new_run();
        let head = "POST /runs/1/events HTTP/1.1\r\nHost: h\r\nContent-Length: 100000\r\n\r\n";
        // Each byte comes long before the time for one is up.
        let mut dripping = server.client();
        dripping.send(head);
        // A slow one, of more than a timeout, but no drip, also when it is much slower than here.
        let payload = "x".repeat(800_000);
        let body = format!("{{\"type\":\"A\",\"payload\":\"{payload}\"}}");
        let mut flowing = server.client();
        flowing.send(format!(
            "POST /runs/1/events HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\n\r\n",
            body.len()
        ));
        let mut pieces = body.as_bytes().chunks(10_000);
        let mut dripped = 0;
        while !dripping.has_something() {
            dripping.try_send(" ").expect("an early answer is no reset");
            dripped += 1;
            assert!(dripped < 600, "{dripped} bytes");
            flowing.send(pieces.next().unwrap_or_default());
            thread::sleep(Duration::from_millis(50));
        }
        dripping.answer().expect(408);
        for piece in pieces {
            flowing.send(piece);
            thread::sleep(Duration::from_millis(50));
        }
        flowing.answer().expect(201);
    }
}

#[test]
fn a_client_that_never_waits_keeps_nobody_waiting() {
    let requests = request("GET", "/health", &[], "").repeat(500);
    let headers = "Content-Type: application/x-ndjson\r\nContent-Length: 99999999999\r\n";
    let upload = format!("POST /runs/1/events HTTP/1.1\r\nHost: h\r\n{headers}\r\n");
    for server in Server::with_each_driver(&[]) {
        server.new_run();
        let empty_lines = vec![b'\n'; 64 * 1024];
        for (first, rest) in [("", requests.clone()), (&*upload, empty_lines)] {
            let (mut writing, _) = server.client().into_parts();
            let (socket, mut reading) =
                (writing.try_clone().unwrap(), writing.try_clone().unwrap());
            writing.write_all(first.as_bytes()).unwrap();
            thread::spawn(move || while writing.write_all(&rest).is_ok() {});
            thread::spawn(move || {
                let mut answers = vec![0; 1 << 20];
                while reading.read(&mut answers).is_ok_and(|count| count > 0) {}
            });
            thread::sleep(Duration::from_millis(200));
            let started = Instant::now();
            for _ in 0..3 {
                server.get("/health").expect(200);
            }
            assert!(started.elapsed() < DEADLINE, "{:?}", started.elapsed());
            socket.shutdown(Shutdown::Both).unwrap();
        }
    }
}
