//! `/metrics`: what is counted is what has happened, and the document has every name.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    time::Instant,
};

use rustix::process::Signal;

use crate::support::{DEADLINE, Server, Sse, eventually};

/// Every sample, by its name with its labels.
fn samples(server: &Server) -> BTreeMap<String, String> {
    let answer = server.get("/metrics").expect(200);
    assert_eq!(answer.header("Content-Type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    let lines = answer.text().lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| {
            let (name, value) = line.rsplit_once(' ').expect("a name and a value");
            (name.to_owned(), value.to_owned())
        })
        .collect()
}

/// The whole part of one.
fn sample(samples: &BTreeMap<String, String>, name: &str) -> u64 {
    let value = samples.get(name).unwrap_or_else(|| panic!("there is no {name} in {samples:#?}"));
    let whole = value.split('.').next().unwrap_or_default();
    whole.parse().unwrap_or_else(|_| panic!("{name} is {value}"))
}

/// Reads so many events, and says how many bytes the frames had.
fn read(stream: &mut Sse, events: usize) -> usize {
    let mut bytes = 0;
    let mut left = events;
    while left > 0 {
        let frame = stream.frame().expect("the stream goes on");
        left -= usize::from(frame.is_event());
        bytes += if frame.retry.is_some() { 0 } else { frame.raw.len() };
    }
    bytes
}

#[test]
fn metrics_count_exactly_what_has_happened() {
    // However long the disk takes, no stream is silent for long enough to be kept alive.
    for server in Server::with_workers(&[1, 2], &["--keepalive-interval", "1h"]) {
        let run = server.new_run();
        let target = format!("/runs/{run}/events/stream");
        for _ in 0..3 {
            server.append(run, "A", "{}");
        }
        // Four events from the journal, to one who was never here.
        let mut first = server.stream(&target);
        let mut bytes = read(&mut first, 4);
        // Two as they come.
        for _ in 0..2 {
            server.append(run, "B", "{}");
            bytes += read(&mut first, 1);
        }
        // The same two again, to one who comes back.
        let mut second = server.stream_with(&target, &[("Last-Event-ID", "4")]);
        bytes += read(&mut second, 2);
        // One of its own who leaves, and one whose run is deleted.
        let mut third = server.stream_with("/events/stream", &[("Last-Event-ID", "6")]);
        server.append(run, "C", "{}");
        for stream in [&mut first, &mut second, &mut third] {
            bytes += read(stream, 1);
        }
        drop(third);
        // It gets nothing of what comes now.
        eventually("it has left", || {
            let left = sample(&samples(&server), "sse_disconnects_total{reason=\"client\"}");
            (left == 1).then_some(())
        });
        let doomed = server.new_run();
        let mut fourth = server.stream(&format!("/runs/{doomed}/events/stream"));
        bytes += read(&mut fourth, 1);
        server.delete(&format!("/runs/{doomed}")).expect(204);
        fourth.read_to_end();
        server.end(run, "completed").expect(200);
        for stream in [&mut first, &mut second] {
            bytes += read(stream, 1);
            stream.read_to_end();
        }
        server.get("/nothing").expect(404);
        server.request("BREW", "/a/pot", &[], "").expect(404);
        server.request("PUT", "/runs", &[], "{}").expect(405);

        // With others a worker may hear of an event a moment after it was answered, so that it is
        // news to a stream that came meanwhile; and what one has in memory another has to read.
        let depends = ["sse_replayed_events_total", "sse_delivery_latency_seconds_count"];
        let is_alone = server.arguments().contains("--workers 1");
        let expected = [
            ("sse_disconnects_total{reason=\"client\"}", 1),
            ("sse_disconnects_total{reason=\"run_ended\"}", 2),
            ("sse_disconnects_total{reason=\"run_deleted\"}", 1),
            ("sse_disconnects_total{reason=\"timeout\"}", 0),
            ("sse_disconnects_total{reason=\"error\"}", 0),
            ("sse_disconnects_total{reason=\"drain\"}", 0),
            ("sse_active_connections", 0),
            ("sse_connection_duration_seconds_count", 4),
            ("sse_reconnects_total", 2),
            ("sse_events_delivered_total", 8 + 3 + 1 + 2),
            ("sse_replayed_events_total", 4 + 1),
            ("sse_bytes_sent_total", bytes as u64),
            ("sse_keepalives_total", 0),
            ("sse_lagging_connections", 0),
            // Who was there when they came: two, three and two.
            ("sse_delivery_latency_seconds_count", 2 + 3 + 2),
            ("journal_appended_events_total", 9),
            ("journal_commit_seconds_count", 10),
            ("journal_commit_events_count", 10),
            ("journal_commit_events_sum", 9),
            ("journal_queue_depth", 0),
            ("journal_failed", 0),
            ("server_draining", 0),
            ("http_requests_total{route=\"/runs\",status=\"201\"}", 2),
            ("http_requests_total{route=\"/runs/{id}/events\",status=\"201\"}", 6),
            ("http_requests_total{route=\"/runs/{id}/events/stream\",status=\"200\"}", 3),
            ("http_requests_total{route=\"/events/stream\",status=\"200\"}", 1),
            ("http_requests_total{route=\"/runs/{id}\",status=\"200\"}", 1),
            ("http_requests_total{route=\"/runs/{id}\",status=\"204\"}", 1),
            ("http_requests_total{route=\"none\",status=\"404\"}", 2),
            ("http_requests_total{route=\"none\",status=\"405\"}", 1),
            ("http_request_duration_seconds_count{route=\"/runs\"}", 2),
            ("http_request_duration_seconds_count{route=\"none\"}", 3),
        ];
        let is_as_expected = |found: &BTreeMap<String, String>, name: &str, value: u64| {
            let is = if found.contains_key(name) { sample(found, name) } else { 0 };
            let is_exact = is_alone || !depends.contains(&name);
            if is_exact { is == value } else { (value / 2..value + 6).contains(&is) }
        };
        // A request is counted when its answer was sent, which its client may know a moment before.
        let mut found = samples(&server);
        let started = Instant::now();
        while expected.iter().any(|(name, value)| !is_as_expected(&found, name, *value))
            && started.elapsed() < DEADLINE
        {
            found = samples(&server);
        }
        for (name, value) in expected {
            assert!(is_as_expected(&found, name, value), "{name} is not {value}: {found:#?}");
        }
        assert!(sample(&found, "journal_bytes") > 1_000);
        assert!(sample(&found, "journal_disk_free_bytes") > 1_000_000);
        assert!(sample(&found, "journal_last_commit_timestamp_seconds") > 1_600_000_000);
        // The one that asks.
        assert!(sample(&found, "http_connections") >= 1);
    }
}

#[test]
fn keepalives_and_lagging_streams_are_counted() {
    let server = Server::with(&["--keepalive-interval", "50ms"]);
    let run = server.new_run();
    let mut stream = server.stream(&format!("/runs/{run}/events/stream"));
    let mut heard = 0;
    while heard < 3 {
        heard += u64::from(stream.frame().expect("it goes on").comment.is_some());
    }
    assert!(sample(&samples(&server), "sse_keepalives_total") >= heard);
    // It reads no more, until neither its socket nor the server's takes anything.
    let payload = format!("\"{}\"", "x".repeat(200_000));
    eventually("it lags behind", || {
        server.append(run, "A", &payload);
        (sample(&samples(&server), "sse_lagging_connections") == 1).then_some(())
    });
    drop(stream);
    eventually("nobody lags", || {
        (sample(&samples(&server), "sse_lagging_connections") == 0).then_some(())
    });
}

#[test]
fn metrics_are_there_when_the_server_is_full_and_when_it_goes_down() {
    let mut server = Server::with(&["--max-connections", "1", "--drain-grace", "1h"]);
    // On one connection: a second might come before the server has seen the first one end.
    let mut client = server.client();
    let run = client.request("POST", "/runs", &[], "").expect(201).json()["id"].clone();
    let stream = Sse::open(client, &format!("/runs/{run}/events/stream"), &[]);
    eventually("it is full", || (server.get("/runs").status == 503).then_some(()));
    let found = samples(&server);
    assert!(sample(&found, "connections_refused_total{reason=\"full\"}") >= 1);
    assert_eq!(sample(&found, "connections_max"), 1);
    assert_eq!(sample(&found, "server_draining"), 0);
    server.signal(Signal::TERM);
    eventually("it drains", || (sample(&samples(&server), "server_draining") == 1).then_some(()));
    drop(stream);
    // A second signal cuts the grace short.
    assert!(server.terminate().success());
}

#[test]
fn prometheus_gets_the_form_that_it_asks_for() {
    let server = Server::start();
    let accept = "application/openmetrics-text;version=1.0.0;q=0.6,text/plain;version=0.0.4;q=0.3";
    let answer = server.request("GET", "/metrics", &[("Accept", accept)], "").expect(200);
    let form = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    assert_eq!(answer.header("Content-Type"), Some(form));
    assert!(answer.text().contains("# TYPE sse_reconnects counter\nsse_reconnects_total 0\n"));
    assert!(answer.text().ends_with("# EOF\n"));
    for accept in ["text/html", "application/json", "*/*"] {
        server.request("GET", "/metrics", &[("Accept", accept)], "").expect(200);
    }
}

#[test]
fn the_document_has_every_metric_and_no_other() {
    let server = Server::start();
    server.new_run();
    let answer = server.get("/metrics").expect(200);
    // And again, when a request was answered.
    let served = eventually("a request was counted", || {
        let served = server.get("/metrics").expect(200);
        served.text().contains("http_requests_total{").then_some(served)
    });
    let types = |text: &str| -> BTreeMap<String, String> {
        let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
        types.map(|(name, metric_type)| (name.to_owned(), metric_type.to_owned())).collect()
    };
    assert!(types(answer.text()).len() > 20);
    let served_types = types(served.text());
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/metrics.md");
    let page = fs::read_to_string(page).unwrap();
    let mut documented = BTreeMap::new();
    let mut labels = BTreeMap::new();
    for row in page.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = row.trim_matches('|').split(" | ").map(str::trim).collect();
        let (name, of) = cells[0]
            .trim_matches('`')
            .split_once('{')
            .unwrap_or_else(|| (cells[0].trim_matches('`'), ""));
        documented.insert(name.to_owned(), cells[1].to_owned());
        labels.insert(name.to_owned(), of.trim_end_matches('}').to_owned());
    }
    assert_eq!(documented, served_types);
    // Their labels, and no others: nothing that a client can make up is one.
    let lines = served.text().lines().filter(|line| !line.starts_with('#'));
    for (name, of) in lines.filter_map(|line| line.split_once('{')) {
        let of = of.split_once('}').map_or("", |(of, _)| of);
        let of = of.split("\",").filter_map(|label| label.split_once('='));
        let of: BTreeSet<&str> =
            of.map(|(label, _)| label).filter(|label| *label != "le").collect();
        let family = name.trim_end_matches("_bucket").trim_end_matches("_count");
        let family = family.trim_end_matches("_sum");
        let known: BTreeSet<&str> = labels[family].split(',').filter(|of| !of.is_empty()).collect();
        assert_eq!(of, known, "{name}");
    }
}
