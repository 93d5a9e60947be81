//! Answers that come before the request has: they must arrive, whatever the client still sends
//! (RFC 9112 §9.6), and slow requests end.

use std::{
    thread,
    time::{Duration, Instant},
};

use crate::support::{Client, DEADLINE, Server};

/// Sends these bytes on a thread of its own and says how that went, while the answer is read.
fn send_aside(client: &Client, bytes: Vec<u8>) -> thread::JoinHandle<()> {
    use std::io::Write as _;
    let mut stream = client.socket().try_clone().expect("a descriptor more");
    // The server need not take it all; what counts is that the answer arrives.
    thread::spawn(move || drop(stream.write_all(&bytes)))
}

#[test]
fn an_early_413_can_be_read_by_a_client_that_goes_on_sending() {
    let server = Server::with(&["--max-body-bytes", "64KiB", "--max-event-bytes", "64KiB"]);
    let run = server.new_run();
    for (headers, prefix) in [
        ("Content-Length: 3000000\r\n", String::new()),
        ("Transfer-Encoding: chunked\r\n", format!("{:x}\r\n", 3_000_000)),
        (
            "Content-Type: application/x-ndjson\r\nContent-Length: 3000000\r\n",
            "{\"type\":\"A\",\"payload\":\"".to_owned(),
        ),
    ] {
        let mut client = server.client();
        client
            .send(format!("POST /runs/{run}/events HTTP/1.1\r\nHost: h\r\n{headers}\r\n{prefix}"));
        let sender = send_aside(&client, vec![b'x'; 3_000_000 - prefix.len()]);
        let answer = client.answer().expect(413);
        assert_eq!(answer.header("Connection"), Some("close"), "{headers}");
        client.end().expect("an orderly close, no reset");
        sender.join().unwrap();
    }
    server.append(run, "A", "1");
}

#[test]
fn an_early_431_can_be_read_by_a_client_that_goes_on_sending() {
    let server = Server::start();
    let mut client = server.client();
    client.send("GET /health HTTP/1.1\r\nHost: h\r\nX-Long: ");
    let sender = send_aside(&client, vec![b'x'; 2_000_000]);
    client.answer().expect(431);
    client.end().expect("an orderly close, no reset");
    sender.join().unwrap();
}

#[test]
fn a_client_that_never_stops_sending_is_left_in_the_end() {
    let server = Server::with(&["--max-body-bytes", "64KiB", "--max-event-bytes", "64KiB"]);
    let run = server.new_run();
    let mut client = server.client();
    client.send(format!(
        "POST /runs/{run}/events HTTP/1.1\r\nHost: h\r\nContent-Length: 9000000000\r\n\r\n"
    ));
    let started = Instant::now();
    let piece = [b'x'; 16 * 1024];
    while client.try_send(piece).is_ok() {
        assert!(started.elapsed() < DEADLINE, "it is listened to for ever");
    }
}

#[test]
fn a_413_of_a_body_that_nobody_sends_arrives_at_once() {
    let limits = ["--max-body-bytes", "64KiB", "--max-event-bytes", "64KiB"];
    let server = Server::with(&[&limits[..], &["--body-timeout", "1h"]].concat());
    let run = server.new_run();
    let mut client = server.client();
    client.send(format!(
        "POST /runs/{run}/events HTTP/1.1\r\nHost: h\r\nContent-Length: 70000\r\n\r\n"
    ));
    client.answer().expect(413);
}

#[test]
fn a_header_that_never_ends_is_408() {
    let server = Server::with(&["--header-timeout", "3s"]);
    let beginnings =
        ["G", "GET /health HTTP/1.1\r\nHost: h\r\n", "GET /health HTTP/1.1\r\nHost: h\r\n\r"];
    // They wait together, for longer than it may take one of them to begin.
    let clients = beginnings.map(|beginning| {
        let mut client = server.client();
        client.send(beginning);
        client
    });
    for mut client in clients {
        let answer = client.answer().expect(408);
        assert_eq!(answer.header("Connection"), Some("close"));
        client.end().unwrap();
    }
    server.get("/health").expect(200);
}

#[test]
fn a_header_that_trickles_is_408_all_the_same() {
    let server = Server::with(&["--header-timeout", "3s"]);
    let mut client = server.client();
    client.send("GET /health HTTP/1.1\r\nHost: h\r\nX: ");
    let started = Instant::now();
    while client.is_quiet_for(Duration::from_millis(20)) {
        assert!(started.elapsed() < DEADLINE, "every byte gives it more time");
        if client.try_send("x").is_err() {
            break;
        }
    }
    client.answer().expect(408);
}

#[test]
fn a_body_that_stops_halfway_is_408() {
    let server = Server::with(&["--body-timeout", "300ms"]);
    let run = server.new_run();
    for (headers, half) in [
        ("Content-Length: 30\r\n", "{\"type\":"),
        ("Content-Length: 30\r\n", ""),
        ("Transfer-Encoding: chunked\r\n", "8\r\n{\"ty"),
        ("Transfer-Encoding: chunked\r\n", "8\r\n{\"type\":\r\n"),
        ("Transfer-Encoding: chunked\r\n", ""),
    ] {
        let mut client = server.client();
        client.send(format!("POST /runs/{run}/events HTTP/1.1\r\nHost: h\r\n{headers}\r\n{half}"));
        let answer = client.answer().expect(408);
        assert_eq!(answer.header("Connection"), Some("close"));
        client.end().unwrap();
    }
    assert_eq!(server.events(run).len(), 1);
}

#[test]
fn a_body_that_is_cut_off_appends_nothing() {
    let server = Server::start();
    let run = server.new_run();
    for (headers, half) in [
        ("Content-Length: 30\r\n", "{\"type\":\"A\"}"),
        ("Transfer-Encoding: chunked\r\n", "c\r\n{\"type\":\"A\"}\r\n"),
    ] {
        let mut client = server.client();
        client.send(format!("POST /runs/{run}/events HTTP/1.1\r\nHost: h\r\n{headers}\r\n{half}"));
        client.half_close();
        let rest = String::from_utf8(client.rest()).unwrap();
        assert!(rest.is_empty() || rest.starts_with("HTTP/1.1 4"), "{rest}");
    }
    assert_eq!(server.events(run).len(), 1);
}

#[test]
fn a_connection_that_says_nothing_is_closed() {
    let server = Server::with(&["--idle-timeout", "300ms", "--header-timeout", "300ms"]);
    let mut client = server.client();
    let rest = String::from_utf8(client.rest()).unwrap();
    assert!(rest.is_empty() || rest.starts_with("HTTP/1.1 408"), "{rest}");
}

#[test]
fn connections_that_are_dropped_anywhere_leave_the_server_alone() {
    let server = Server::start();
    let run = server.new_run();
    let whole = format!(
        "POST /runs/{run}/events HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n\
         c\r\n{{\"type\":\"A\"}}\r\n"
    );
    for end in 0..whole.len() {
        let mut client = server.client();
        client.send(&whole[..end]);
    }
    server.get("/health").expect(200);
    assert_eq!(server.events(run).len(), 1);
}
