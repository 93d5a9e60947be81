//! Clients that others wrote: live events, resuming after the server was restarted under them, and
//! the 204 that ends them.
//!
//! A client that is not there is skipped, unless `TIDEWHEEL_TEST_ALL` is set: then it fails.

mod support;

use std::{process::Command, thread, time::Duration};

use support::{
    Client, Server, Sse, eventually, nginx,
    programs::{Listening, Running, clients_directory, is_there, python, runs},
};

/// A server that a client comes back to soon.
fn server() -> Server {
    Server::with(&["--retry", "50ms", "--reconnect-backoff-max", "100ms"])
}

/// Everything that a client should do, given how to start it on a URL.
fn follows_resumes_and_ends(start: impl Fn(&str) -> Command) {
    let mut server = server();
    let run = server.new_run();
    let mut expected = vec![server.json("/runs/1")["last_event_id"].as_u64().unwrap()];
    expected.push(server.append(run, "A", "1"));
    let client =
        Running::start(start(&format!("http://{}/runs/{run}/events/stream", server.address())));
    let mut seen = Vec::new();
    let mut see = |expected: &[u64]| {
        while seen.len() < expected.len() {
            seen.push(client.event().0);
        }
        assert_eq!(seen, expected);
    };
    see(&expected);
    for _ in 0..3 {
        expected.push(server.append(run, "A", "{\"text\":\"ä\\n\u{2028}\"}"));
        see(&expected);
    }
    server.restart();
    for _ in 0..3 {
        expected.push(server.append(run, "B", "1"));
    }
    see(&expected);
    server.crash();
    expected.push(server.append(run, "A", "1"));
    see(&expected);
    // What is appended while nobody can see it.
    server.kill();
    thread::sleep(Duration::from_millis(200));
    server.start_again();
    let end = server.end(run, "completed").expect(200).json();
    expected.push(end["last_event_id"].as_u64().unwrap());
    see(&expected);
    client.ends();
}

#[test]
fn npm_eventsource_follows_resumes_and_ends() {
    follows_with_node("eventsource", "eventsource.mjs");
}

/// A run of which the first events are gone, with its server, its URL and the events that are left.
fn truncated_run() -> (Server, String, Vec<u64>) {
    let server = Server::with(&["--retry", "50ms", "--max-events-per-run", "3"]);
    let run = server.new_run();
    let mut ids: Vec<u64> = (0..9).map(|_| server.append(run, "A", "1")).collect();
    let end = server.end(run, "completed").expect(200).json();
    ids.push(end["last_event_id"].as_u64().unwrap());
    let url = format!("http://{}/runs/{run}/events/stream", server.address());
    (server, url, ids.split_off(7))
}

/// What is said of the events that are gone is for those who ask for it.
fn goes_on_after_a_hole(start: impl Fn(&str) -> Command) {
    let (_server, url, ids) = truncated_run();
    let client = Running::start(start(&url));
    let seen: Vec<u64> = ids.iter().map(|_| client.event().0).collect();
    assert_eq!(seen, ids);
    client.ends();
}

#[test]
fn npm_eventsource_goes_on_after_a_hole() {
    with_node("eventsource", "eventsource.mjs", |start| goes_on_after_a_hole(start));
}

#[test]
fn curl_shows_a_hole_and_goes_on() {
    if !is_there("curl", runs("curl", &["--version"])) {
        return;
    }
    let (_server, url, ids) = truncated_run();
    let output = Command::new("curl").args(["-sS", "-N", &url]).output().expect("it is there");
    let text = String::from_utf8(output.stdout).expect("a stream is UTF-8");
    let frame = format!(
        "event: stream.truncated\ndata: {{\"requested_after_id\":0,\"first_available_id\":{}}}",
        ids[0]
    );
    let shown: Vec<&str> = text.split("\n\n").collect();
    assert_eq!(shown[1], frame, "{text}");
    for (shown, id) in shown[2..].iter().zip(&ids) {
        assert!(shown.starts_with(&format!("id: {id}\n")), "{text}");
    }
    assert_eq!(shown.len(), 3 + ids.len(), "{text}");
}

#[test]
fn tail_says_that_there_was_more() {
    let (_server, url, ids) = truncated_run();
    let mut tail = Command::new(env!("CARGO_BIN_EXE_tidewheel"));
    let output = tail.args(["tail", "--json", &url]).output().expect("the binary was built");
    assert!(output.status.success(), "{}", output.status);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains(&format!("\"first_available_id\":{}", ids[0])), "{said}");
    let events = String::from_utf8(output.stdout).expect("events are UTF-8");
    assert_eq!(events.lines().count(), ids.len(), "{events}");
    for (line, id) in events.lines().zip(&ids) {
        assert!(line.starts_with(&format!("{{\"id\":{id},")), "{events}");
    }
}

#[test]
fn npm_event_source_polyfill_follows_resumes_and_ends() {
    follows_with_node("event-source-polyfill", "polyfill.mjs");
}

fn follows_with_node(package: &str, script: &str) {
    with_node(package, script, |start| follows_resumes_and_ends(start));
}

/// Has a test start a script with a URL, if its package is there.
fn with_node(package: &str, script: &str, test: impl Fn(&dyn Fn(&str) -> Command)) {
    let there = runs("node", &["--version"])
        && clients_directory().join("node_modules").join(package).is_dir();
    if !is_there(&format!("npm's {package}"), there) {
        return;
    }
    test(&|url| {
        let mut command = Command::new("node");
        command.arg(clients_directory().join(script)).arg(url);
        command.args(["RUN_CREATED", "A", "B", "RUN_COMPLETED"]);
        command
    });
}

#[test]
fn python_httpx_sse_follows_resumes_and_ends() {
    if !is_there("Python's httpx-sse", runs(python(), &["-c", "import httpx_sse"])) {
        return;
    }
    follows_resumes_and_ends(|url| {
        let mut command = Command::new(python());
        command.arg(clients_directory().join("httpx_sse_client.py")).arg(url);
        command
    });
}

/// A browser's kind of client that is refused asks again by itself, until it is let in.
#[test]
fn npm_eventsource_comes_back_after_a_refusal() {
    with_node("eventsource", "eventsource.mjs", |start| {
        let backoff = ["--retry", "50ms", "--reconnect-backoff-max", "100ms"];
        for limit in ["--max-connections-per-run", "--max-connections-per-ip"] {
            let server = Server::with(&[&backoff[..], &[limit, "1"]].concat());
            // On one connection: a second might come before the server has seen the first one end.
            let mut client = server.client();
            let run = client.request("POST", "/runs", &[], "").expect(201).json()["id"].clone();
            let path = format!("/runs/{run}/events/stream");
            let url = format!("http://{}{path}", server.address());
            let first = Sse::open(client, &path, &[]);
            let client = Running::start(start(&url));
            for _ in 0..3 {
                assert_eq!(client.line(), "open", "it is a stream to it, and ends");
            }
            drop(first);
            assert_eq!(client.event().1, "RUN_CREATED");
        }
    });
}

/// Two of which only one may be there take turns, and neither misses anything.
#[test]
fn npm_eventsource_that_made_room_comes_back_and_misses_nothing() {
    with_node("eventsource", "eventsource.mjs", |start| {
        let limit = ["--max-connections-per-session", "1", "--over-limit", "close_oldest"];
        let backoff = ["--retry", "50ms", "--reconnect-backoff-max", "200ms", "--log", "debug"];
        let server = Server::with(&[&limit[..], &backoff].concat());
        let run = server.new_run_with(r#"{"session":"s"}"#);
        let url = format!("http://{}/api/sse/session/s", server.address());
        let tabs = [Running::start(start(&url)), Running::start(start(&url))];
        let mut expected: Vec<u64> = vec![1];
        expected.extend((0..5).map(|_| server.append(run, "A", "1")));
        eventually("they have taken turns", || {
            expected.push(server.append(run, "A", "1"));
            thread::sleep(Duration::from_millis(50));
            (server.log().matches("reason=limit").count() >= 6).then_some(())
        });
        for tab in &tabs {
            let seen: Vec<u64> = expected.iter().map(|_| tab.event().0).collect();
            assert_eq!(seen, expected);
        }
    });
}

/// nginx as most people set it up, in front of a server that trusts it.
fn nginx_in_front_of(server: &Server) -> Listening {
    nginx::start(|address, _| {
        format!(
            "server {{ listen {address}; chunked_transfer_encoding off;\n\
             location / {{ proxy_pass http://{}; proxy_http_version 1.1;\n\
             proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for; }} }}",
            server.address()
        )
    })
}

#[test]
fn nginx_says_who_the_client_is_and_nobody_else_can() {
    if !nginx::is_installed() {
        return;
    }
    let server = Server::with(&["--max-connections-per-ip", "3", "--trusted-proxies", "127.0.0.1"]);
    let nginx = nginx_in_front_of(&server);
    let open = |source: [u8; 4], claim: &str| {
        let client = Client::connect_from(source, nginx.address());
        let headers = [("X-Forwarded-For", claim), ("Forwarded", &*format!("for={claim}"))];
        Sse::try_open_on(client, "/events/stream", &headers).expect("nginx answers")
    };
    let streams = |source| (0..3).map(move |number| open(source, &format!("192.0.2.{number}")));
    let one: Vec<Sse> = streams([127, 0, 0, 2]).map(|stream| stream.expect("free")).collect();
    for claim in ["192.0.2.77", "127.0.0.1", "nonsense", "127.0.0.3"] {
        let refused = open([127, 0, 0, 2], claim).err().expect("it has three");
        assert_eq!(refused.expect(429).json()["type"], "urn:tidewheel:problem:ip");
    }
    let other: Vec<Sse> = streams([127, 0, 0, 3]).map(|stream| stream.expect("free")).collect();
    drop(one);
    eventually("nginx has let go of them", || open([127, 0, 0, 2], "192.0.2.1").ok());
    eventually("it is in the log", || server.log().contains("client=127.0.0.2").then_some(()));
    drop(other);
}

/// The ids in what curl prints of a stream.
fn next_id(curl: &Running) -> u64 {
    loop {
        if let Some(id) = curl.line().strip_prefix("id: ") {
            return id.parse().expect("an id is a number");
        }
    }
}

#[test]
fn curl_appends_follows_and_resumes() {
    if !is_there("curl", runs("curl", &["--version"])) {
        return;
    }
    let mut server = server();
    let url = format!("http://{}", server.address());
    let curl = |arguments: &[&str]| -> String {
        let output = Command::new("curl").arg("-sS").args(arguments).output().expect("it is there");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("answers are UTF-8")
    };
    let json = "Content-Type: application/json";
    let created = curl(&["-H", json, "-d", r#"{"project":"p"}"#, &format!("{url}/runs")]);
    assert!(created.contains(r#""id":1"#), "{created}");
    let events = format!("{url}/runs/1/events");
    let stream = format!("{events}/stream");

    let follow = |headers: &[&str]| {
        let mut command = Command::new("curl");
        command.args(["-sS", "-N"]).args(headers).arg(&stream);
        Running::start(command)
    };
    let live = follow(&[]);
    assert_eq!(next_id(&live), 1);
    curl(&["-H", json, "-d", r#"{"type":"A"}"#, &events]);
    assert_eq!(next_id(&live), 2);
    // A file of lines, as it is; a large one waits for 100 Continue.
    let ndjson = "Content-Type: application/x-ndjson";
    let lines = tempfile::NamedTempFile::new().unwrap();
    let line = format!("{{\"type\":\"LINE\",\"payload\":\"{}\"}}\n", "x".repeat(1_000));
    std::fs::write(lines.path(), line.repeat(3_000)).unwrap();
    let file = format!("@{}", lines.path().display());
    let uploaded = curl(&["-H", ndjson, "--data-binary", &file, &events]);
    assert!(uploaded.contains(r#""count":3000"#), "{uploaded}");
    for id in 3..=3_002 {
        assert_eq!(next_id(&live), id);
    }
    // The same from a pipe: chunked, and of a length that nobody knows.
    let chunked = curl(&[
        "-H",
        ndjson,
        "-T",
        lines.path().to_str().unwrap(),
        "-X",
        "POST",
        "-H",
        "Transfer-Encoding: chunked",
        &events,
    ]);
    assert!(chunked.contains(r#""count":3000"#), "{chunked}");

    server.restart();
    let resumed = follow(&["-H", "Last-Event-ID: 6001"]);
    assert_eq!(next_id(&resumed), 6_002);
    curl(&["-H", json, "-d", r#"{"type":"A"}"#, &events]);
    assert_eq!(next_id(&resumed), 6_003);
    curl(&["-X", "PATCH", "-H", json, "-d", r#"{"status":"completed"}"#, &format!("{url}/runs/1")]);
    assert_eq!(next_id(&resumed), 6_004);
    let status = ["-o", "/dev/null", "-w", "%{http_code}", "-H", "Last-Event-ID: 6004", &stream];
    assert_eq!(curl(&status), "204");
    let ended = resumed.wait();
    assert!(ended.success(), "{ended}");
}
