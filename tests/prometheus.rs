//! Prometheus itself: `promtool` finds nothing wrong with what is served, and a server of it that
//! scrapes under load answers queries with what was done.
//!
//! Without the programs the tests are skipped, unless `TIDEWHEEL_TEST_ALL` is set: then they fail.

mod support;

use std::{
    fs,
    io::Write as _,
    net::{SocketAddr, TcpListener},
    process::{Child, Command, Stdio},
    thread,
};

use serde_json::Value;
use support::{Client, Server, eventually};

/// Whether a program is there. Says so if not, or fails when every program has to be there.
fn is_there(program: &str) -> bool {
    let mut command = Command::new(program);
    command.arg("--version").stdout(Stdio::null()).stderr(Stdio::null());
    let is_there = command.status().is_ok_and(|status| status.success());
    if !is_there {
        let all = std::env::var_os("TIDEWHEEL_TEST_ALL").is_some_and(|value| !value.is_empty());
        assert!(!all, "{program} is missing, and TIDEWHEEL_TEST_ALL is set");
        eprintln!("skipped: {program} is missing");
    }
    is_there
}

#[test]
fn promtool_finds_nothing_to_say_of_the_metrics() {
    if !is_there("promtool") {
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
struct Prometheus {
    child: Child,
    address: SocketAddr,
}

impl Prometheus {
    fn scraping(target: SocketAddr, directory: &std::path::Path) -> Prometheus {
        let config = directory.join("prometheus.yml");
        let text = format!(
            "global:\n  scrape_interval: 200ms\n  scrape_timeout: 200ms\nscrape_configs:\n\
             - job_name: tidewheel\n  static_configs:\n  - targets: ['{target}']\n"
        );
        fs::write(&config, text).expect("there is room");
        // A port that nobody has: it takes none from the kernel itself.
        let port = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
        let address = port.expect("there is a port");
        let child = Command::new("prometheus")
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.tsdb.path={}", directory.join("data").display()))
            .arg(format!("--web.listen-address={address}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("it is there");
        Prometheus { child, address }
    }

    /// The value of the first series that a query gives.
    fn query(&self, query: &str) -> Option<String> {
        let query = query.replace('{', "%7B").replace('}', "%7D").replace('"', "%22");
        let mut client = Client::try_connect(self.address).ok()?;
        let target = format!("/api/v1/query?query={query}");
        let answer = client.try_request("GET", &target, &[], "").ok()?;
        // While it starts it says something else.
        let read: Value = serde_json::from_str(answer.text()).ok()?;
        Some(read["data"]["result"][0]["value"][1].as_str()?.to_owned())
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn prometheus_scrapes_under_load_and_answers_queries() {
    const STREAMS: usize = 100;
    const EVENTS: usize = 200;
    if !is_there("prometheus") {
        return;
    }
    let server = Server::with(&["--workers", "2"]);
    let directory = tempfile::tempdir().expect("there is room for a directory");
    let prometheus = Prometheus::scraping(server.address(), directory.path());
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
    eventually("it scrapes", || prometheus.query("up").filter(|up| up == "1"));
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
    let found = prometheus.query(&quantile.replace(' ', "%20"));
    let seconds: Option<f64> = found.as_ref().and_then(|seconds| seconds.parse().ok());
    assert!(seconds > Some(0.0), "{found:?}");
    drop(streams);
    let gone = "sse_disconnects_total{reason=\"client\"}";
    eventually(gone, || prometheus.query(gone).filter(|found| *found == STREAMS.to_string()));
}
