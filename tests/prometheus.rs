//! Prometheus itself: `promtool` finds nothing wrong with what is served, and a server of it that
//! scrapes under load answers queries with what was done.
//!
//! Without the programs the tests are skipped, unless `TIDEWHEEL_TEST_ALL` is set: then they fail.

mod support;

use std::{
    fs,
    io::Write as _,
    net::SocketAddr,
    process::{Command, Stdio},
    thread,
};

use serde_json::Value;
use support::{
    Client, Server, eventually,
    programs::{Listening, is_there, runs},
};

#[test]
fn promtool_finds_nothing_to_say_of_the_metrics() {
    if !is_there("promtool", runs("promtool", &["--version"])) {
        return;
    }
    let server = Server::start();
    let run = server.new_run();
    let mut stream = server.stream(&format!("/runs/{run}/events/stream"));
    stream.ids(1);
    server.get("/nothing").expect(404);
    let metrics = server.get("/metrics").expect(200);
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it is there");
    let mut stdin = promtool.stdin.take().expect("it is piped");
    stdin.write_all(metrics.text().as_bytes()).expect("it reads");
    drop(stdin);
    let output = promtool.wait_with_output().expect("it ends");
    let said = [&output.stdout[..], &output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(output.status.success() && said.trim().is_empty(), "{}: {said}", output.status);
}

/// A Prometheus. It is killed when this is dropped.
struct Prometheus(Listening);

impl Prometheus {
    /// One that asks often, and waits for an answer as long as a busy machine may take.
    fn scraping(target: SocketAddr) -> Prometheus {
        let text = format!(
            "global:\n  scrape_interval: 1s\n  scrape_timeout: 1s\nscrape_configs:\n\
             - job_name: tidewheel\n  static_configs:\n  - targets: ['{target}']\n"
        );
        Prometheus(Listening::start("prometheus", |address, directory| {
            let config = directory.join("prometheus.yml");
            fs::write(&config, &text).expect("there is room");
            let mut command = Command::new("prometheus");
            command
                .arg(format!("--config.file={}", config.display()))
                .arg(format!("--storage.tsdb.path={}", directory.join("data").display()))
                .arg(format!("--web.listen-address={address}"));
            command
        }))
    }

    /// The value of the first series that a query gives.
    fn query(&self, query: &str) -> Option<String> {
        let query = query.replace('{', "%7B").replace('}', "%7D").replace('"', "%22");
        let mut client = Client::try_connect(self.0.address()).ok()?;
        let target = format!("/api/v1/query?query={query}");
        let answer = client.try_request("GET", &target, &[], "").ok()?;
        // While it starts it says something else.
        let read: Value = serde_json::from_str(answer.text()).ok()?;
        Some(read["data"]["result"][0]["value"][1].as_str()?.to_owned())
    }
}

#[test]
fn prometheus_scrapes_under_load_and_answers_queries() {
    const STREAMS: usize = 100;
    const EVENTS: usize = 200;
    if !is_there("prometheus", runs("prometheus", &["--version"])) {
        return;
    }
    let server = Server::with(&["--workers", "2"]);
    let prometheus = Prometheus::scraping(server.address());
    eventually("it scrapes", || prometheus.query("up").filter(|up| up == "1"));
    let run = server.new_run();
    let target = format!("/runs/{run}/events/stream");
    let streams: Vec<_> = (0..STREAMS).map(|_| server.stream(&target)).collect();
    let readers: Vec<_> = streams
        .into_iter()
        .map(|mut stream| {
            thread::spawn(move || {
                assert_eq!(stream.ids(1 + EVENTS).len(), 1 + EVENTS);
                stream
            })
        })
        .collect();
    let mut publisher = server.client();
    for _ in 0..EVENTS {
        let body = r#"{"type":"A"}"#;
        publisher.request("POST", &format!("/runs/{run}/events"), &[], body).expect(201);
    }
    let streams: Vec<_> =
        readers.into_iter().map(|reader| reader.join().expect("it has everything")).collect();
    let delivered = STREAMS * (1 + EVENTS);
    let expected = [
        ("up", 1),
        ("sse_active_connections", STREAMS),
        ("sse_events_delivered_total", delivered),
        ("journal_appended_events_total", 1 + EVENTS),
        ("http_requests_total{route=\"/runs/{id}/events\",status=\"201\"}", EVENTS),
        ("sse_disconnects_total{reason=\"client\"}", 0),
    ];
    for (query, value) in expected {
        eventually(query, || prometheus.query(query).filter(|found| *found == value.to_string()));
    }
    // Of histograms it can say how much of what was how small.
    let quantile = "histogram_quantile(0.99,sum by (le)(sse_delivery_latency_seconds_bucket))";
    eventually(quantile, || {
        let found = prometheus.query(&quantile.replace(' ', "%20"))?;
        found.parse().ok().filter(|seconds: &f64| *seconds > 0.0)
    });
    drop(streams);
    let gone = "sse_disconnects_total{reason=\"client\"}";
    eventually(gone, || prometheus.query(gone).filter(|found| *found == STREAMS.to_string()));
}
