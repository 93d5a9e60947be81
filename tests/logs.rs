//! The log: what is said of streams and requests, in both formats, and that nobody waits for it.

mod support;

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::Shutdown,
    process::Command,
    sync::{Arc, Mutex},
    thread,
};

use serde_json::Value;
use support::{
    Client, Server, Sse, eventually,
    http::{find, request},
    server,
};
use tidewheel::limits::{LOG_LINES_BURST, LOG_QUEUE_BYTES_MAX};

/// The keys and values of a line in logfmt.
fn pairs(line: &str) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut rest = line.trim_end();
    while let Some((key, value)) = rest.split_once('=') {
        let end = match value.strip_prefix('"') {
            // A quoted text is as JSON has it.
            Some(_) => {
                let mut texts = serde_json::Deserializer::from_str(value).into_iter::<String>();
                texts.next().expect("a text").expect("a text");
                texts.byte_offset()
            }
            None => value.find(' ').unwrap_or(value.len()),
        };
        let (value, after) = value.split_at(end);
        let value = serde_json::from_str(value).unwrap_or_else(|_| value.to_owned());
        assert_eq!(found.insert(key.trim_start().to_owned(), value), None, "{line}");
        rest = after;
    }
    assert_eq!(rest, "", "{line}");
    found
}

/// The lines of a server with this message.
fn lines(server: &Server, message: &str) -> Vec<BTreeMap<String, String>> {
    let log = server.log();
    let whole = &log[..log.rfind('\n').map_or(0, |end| end + 1)];
    let lines = whole.lines().map(|line| {
        if line.starts_with('{') {
            let read: BTreeMap<String, Value> = serde_json::from_str(line).expect("JSON");
            let text = |value: Value| value.as_str().map_or(value.to_string(), str::to_owned);
            return read.into_iter().map(|(key, value)| (key, text(value))).collect();
        }
        pairs(line)
    });
    lines.filter(|line: &BTreeMap<String, String>| line["msg"] == message).collect()
}

fn values<'a>(line: &'a BTreeMap<String, String>, keys: &str) -> Vec<&'a str> {
    keys.split(' ').map(|key| &*line[key]).collect()
}

#[test]
fn a_stream_is_told_of_when_it_is_resumed_and_when_it_ends() {
    for format in ["logfmt", "json"] {
        let server = Server::with(&["--log-format", format, "--log-requests", "true"]);
        let run = server.new_run();
        for _ in 0..4 {
            server.append(run, "A", "{}");
        }
        let target = format!("/runs/{run}/events/stream?after_id=0");
        let mut new = server.stream(&target);
        new.ids(5);
        let mut resumed = server.stream_with(&target, &[("Last-Event-ID", "2")]);
        resumed.ids(3);
        drop(new);
        eventually("one has ended", || (lines(&server, "stream ended").len() == 1).then_some(()));
        server.end(run, "completed").expect(200);
        resumed.read_to_end();
        let ended = eventually("both have ended", || {
            let ended = lines(&server, "stream ended");
            (ended.len() == 2).then_some(ended)
        });
        let came_back = lines(&server, "stream resumed");
        assert_eq!(came_back.len(), 1);
        let route = "/runs/{id}/events/stream";
        let expected = ["info", "127.0.0.1", route, "2", "3"];
        assert_eq!(values(&came_back[0], "level client route cursor distance"), expected);
        let keys = "level client route reason events";
        assert_eq!(values(&ended[0], keys), ["info", "127.0.0.1", route, "client", "5"]);
        assert_eq!(values(&ended[1], keys), ["info", "127.0.0.1", route, "run_ended", "4"]);
        assert_eq!(ended[1]["conn"], came_back[0]["conn"]);
        assert_ne!(ended[0]["conn"], ended[1]["conn"]);
        for line in &ended {
            assert!(line["bytes"].parse::<u64>().unwrap() > 400, "{line:?}");
            assert!(line["duration_ms"].parse::<u64>().unwrap() < 60_000, "{line:?}");
        }
        // A line a request, with the connection that became a stream.
        let requests = lines(&server, "request");
        let of_stream = requests.iter().find(|line| line["conn"] == ended[1]["conn"]);
        let of_stream = of_stream.expect("its request was logged");
        assert_eq!(values(of_stream, "method route status"), ["GET", route, "200"]);
        assert!(requests.iter().any(|line| {
            values(line, "method route status") == ["POST", "/runs/{id}/events", "201"]
        }));
    }
}

#[test]
fn a_client_that_vanishes_is_told_of() {
    // On a `unix:` socket it is the server that notices.
    let flags = ["--client-timeout", "300ms", "--keepalive-interval", "100ms"];
    for server in Server::local_with_each_driver(&flags) {
        let run = server.new_run();
        let mut stream = server.client();
        stream.send(request("GET", &format!("/runs/{run}/events/stream"), &[], ""));
        let payload = format!("\"{}\"", "x".repeat(500_000));
        server.append(run, "A", &payload);
        let line = eventually("it is told", || lines(&server, "keepalive timeout").pop());
        assert_eq!(values(&line, "level client"), ["warn", "local"]);
        let ended = eventually("and that it ended", || lines(&server, "stream ended").pop());
        assert_eq!(values(&ended, "conn reason"), [&*line["conn"], "timeout"]);
    }
}

#[test]
fn who_is_turned_away_is_told_of() {
    let server = Server::with(&["--max-connections", "1"]);
    let run = server.new_run();
    let target = format!("/runs/{run}/events/stream");
    // The connection that made the run may not be gone yet.
    let _stream = eventually("there is room for one", || {
        Sse::try_open(server.address(), &target, &[]).ok()?.ok()
    });
    eventually("it is full", || (server.get("/runs").status == 503).then_some(()));
    let line = eventually("it is told", || lines(&server, "connection refused").pop());
    assert_eq!(values(&line, "level client reason"), ["warn", "127.0.0.1", "full"]);
}

#[test]
fn a_flood_of_streams_does_not_fill_the_log() {
    let server = Server::start();
    let run = server.new_run();
    let mut opened = 0;
    let target = format!("/runs/{run}/events/stream");
    let is_left_out =
        |kind: &str| lines(&server, "log lines left out").iter().any(|line| line["kind"] == kind);
    // As long as it takes to use up what may be logged, since some of it comes back each second.
    while !is_left_out("stream ended") || !is_left_out("stream resumed") {
        assert!(opened < 5 * LOG_LINES_BURST as usize, "all of them are logged");
        for _ in 0..100 {
            let mut client = server.client();
            client.send(request("GET", &target, &[("Last-Event-ID", "1")], ""));
            // Its head is there, so it is a stream.
            client.try_head().expect("a head");
            client.socket().shutdown(Shutdown::Both).expect("it is open");
            opened += 1;
        }
    }
    let told = |kind: &str| -> usize {
        let written = lines(&server, kind).len();
        let left_out = lines(&server, "log lines left out");
        let left_out = left_out.iter().filter(|line| line["kind"] == kind);
        written + left_out.map(|line| line["lines"].parse::<usize>().unwrap()).sum::<usize>()
    };
    for kind in ["stream ended", "stream resumed"] {
        eventually("every line was written or counted", || (told(kind) == opened).then_some(()));
    }
    let ended = lines(&server, "stream ended").len();
    assert!(ended >= LOG_LINES_BURST as usize && ended < opened, "{ended} of {opened}");
}

#[test]
fn what_cannot_be_read_does_not_fill_the_log() {
    let mut server = Server::with(&["--window-bytes", "200KB"]);
    let run = server.new_run();
    let needle = format!("\"needle{}\"", "x".repeat(20_000));
    let ids: Vec<u64> = (0..20).map(|_| server.append(run, "A", &needle)).collect();
    eventually("a window is made", || {
        server.append(run, "A", &needle);
        let moved_through = server.json("/worker")["journal"]["moved_through"].as_u64();
        moved_through.is_some_and(|id| id >= ids[19]).then_some(())
    });
    assert!(server.terminate().success());
    // As a bad disk would: what was written there is something else.
    let path = server.journal().join("journal/store.redb");
    let mut bytes = fs::read(&path).expect("it is there");
    let mut from = 0;
    while let Some(at) = find(&bytes[from..], b"needle") {
        bytes[from + at] ^= 4;
        from += at + 1;
    }
    assert!(from > 0);
    fs::write(&path, bytes).expect("it is ours");
    server.start_again();

    let kind = "history cannot be read";
    let line = format!("level=error module=followers msg=\"{kind}: ");
    let written = || server.log().matches(&line).count() as u64;
    server.stream(&format!("/runs/{run}/events/stream?after_id=0")).read_to_end();
    let ended = eventually("it is told", || lines(&server, "stream ended").pop());
    assert_eq!(ended["reason"], "error");
    let of_stream = written();
    assert!(of_stream > 0, "a stream has its share in it");
    let mut client = server.client();
    let page = format!("/runs/{run}/events?limit=1000");
    let mut asked = 0;
    // As long as it takes to use up what may be logged.
    while lines(&server, "log lines left out").is_empty() {
        assert!(asked < 20 * LOG_LINES_BURST, "all of them are logged");
        for _ in 0..100 {
            let problem = client.request("GET", &page, &[], "").expect(503).problem();
            assert_eq!(problem["type"], "urn:tidewheel:problem:unreadable");
            asked += 1;
        }
    }
    eventually("every line was written or counted", || {
        let left_out = lines(&server, "log lines left out");
        assert!(left_out.iter().all(|line| line["kind"] == kind));
        let left_out = left_out.iter().map(|line| line["lines"].parse::<u64>().unwrap());
        (written() + left_out.sum::<u64>() == of_stream + asked).then_some(())
    });
    let all = of_stream + asked;
    assert!((LOG_LINES_BURST..all).contains(&written()), "{} of {all}", written());
}

#[test]
fn a_server_whose_log_nobody_reads_serves_on() {
    let directory = tempfile::tempdir().expect("there is room");
    let journal = directory.path().join("journal");
    let mut command: Command = server::serve("127.0.0.1:0", &journal);
    let mut child = command.args(["--log-requests", "true"]).spawn().expect("it was built");
    let mut stderr = child.stderr.take().expect("it is piped");
    // Up to the address, and then no more.
    let mut log = Vec::new();
    let address = loop {
        let mut piece = [0; 512];
        let count = stderr.read(&mut piece).expect("it is open");
        assert!(count > 0, "it ended");
        log.extend_from_slice(&piece[..count]);
        let text = String::from_utf8_lossy(&log);
        if let Some((_, rest)) = text.split_once("listening on ")
            && text.ends_with('\n')
        {
            break rest.split(' ').next().unwrap().parse().expect("an address");
        }
    };
    // Each leaves a line as long as its method.
    let method = "M".repeat(8_000);
    let mut client = Client::connect(address);
    let count = (LOG_QUEUE_BYTES_MAX + (1 << 20)) / method.len();
    for _ in 0..count {
        client.send(format!("{method} /nothing HTTP/1.1\r\nHost: a\r\n\r\n"));
        client.answer().expect(404);
    }
    let mut dropped = || -> usize {
        let metrics = client.request("GET", "/metrics", &[], "").expect(200);
        let found =
            metrics.text().lines().find_map(|line| line.strip_prefix("log_lines_dropped_total "));
        found.expect("it is counted").parse().expect("a number")
    };
    let before = dropped();
    assert!(before > 0 && before < count, "{before} of {count}");
    // Now somebody reads, and hears of each, those of the last requests too.
    let read = Arc::new(Mutex::new(String::new()));
    let reader = thread::spawn({
        let read = Arc::clone(&read);
        move || {
            for line in BufReader::new(stderr).lines() {
                read.lock().unwrap().extend([&*line.expect("it is text"), "\n"]);
            }
        }
    });
    eventually("what was dropped is told", || {
        let read = read.lock().unwrap().clone();
        let told = read.lines().filter(|line| line.contains("msg=\"log lines dropped\""));
        let told = told.map(|line| pairs(line)["lines"].parse::<usize>().expect("a number"));
        (told.sum::<usize>() == dropped()).then_some(())
    });
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("it is ours");
    let status = eventually("it ends", || child.try_wait().expect("it is ours"));
    assert!(status.success(), "{status}");
    reader.join().expect("it does not panic");
    let rest = read.lock().unwrap().clone();
    assert!(rest.trim_end().ends_with("msg=stopped"), "the last line");
    std::io::stderr().flush().expect("it is open");
}
