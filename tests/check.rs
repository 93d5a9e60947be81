//! `tidewheel check` finds what is in the way of streams, names it, and finds nothing where nothing is.

mod support;

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::{Command, Output, Stdio},
    thread,
    time::{Duration, SystemTime},
};

use rustix::process::Signal;
use serde_json::Value;
use support::{
    Fault, FaultyProxy, Server, nginx,
    programs::{Listening, is_there, runs},
};

const BEAT: Duration = Duration::from_millis(50);
/// How long streams are watched whose first events must come: longer than who sends them may be held up.
const WATCH: &str = "3s";
/// Where a check ends with its streams, and not when its time is up.
const WATCH_TO_THE_END: &str = "60s";

fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

fn run(program: impl AsRef<Path>, arguments: &[&str]) -> Output {
    let mut command = Command::new(program.as_ref());
    command.args(arguments).stdin(Stdio::null());
    command.env("TIDEWHEEL", env!("CARGO_BIN_EXE_tidewheel")).env_remove("TIDEWHEEL_URL");
    for name in ["http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"]
    {
        command.env_remove(name);
    }
    command.output().expect("the program is there")
}

/// The exit code, and what was found.
fn check(url: &str, arguments: &[&str]) -> (i32, Value) {
    // A disk may need some seconds for a single event of those that are resumed, and who sends the
    // others may be held up: only where that is what is looked for are they late.
    let late = if arguments.contains(&"--late") { &[][..] } else { &["--late", "60s"] };
    let arguments = [&["check", url, "--json", "--answer", "60s"], late, arguments].concat();
    let output = run(env!("CARGO_BIN_EXE_tidewheel"), &arguments);
    let said = String::from_utf8_lossy(&output.stderr);
    let report =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {said}"));
    (output.status.code().expect("no signal"), report)
}

fn names(report: &Value, verdict: &str) -> Vec<String> {
    let checks = report["checks"].as_array().expect("there are checks");
    let found = checks.iter().filter(|check| check["verdict"] == verdict);
    found.map(|check| check["name"].as_str().expect("a name").to_owned()).collect()
}

fn finding<'a>(report: &'a Value, name: &str) -> &'a Value {
    let mut checks = report["checks"].as_array().expect("there are checks").iter();
    checks.find(|check| check["name"] == name).unwrap_or_else(|| panic!("no {name}: {report}"))
}

/// Has exactly this found, and said to be so.
#[track_caller]
fn finds(url: &str, arguments: &[&str], name: &str, detail: &str, cause: &str) {
    let (code, report) = check(url, arguments);
    assert_eq!(names(&report, "failed"), [name], "{report:#}");
    let found = finding(&report, name);
    let says =
        |member: &str, wanted: &str| found[member].as_str().unwrap_or_default().contains(wanted);
    assert!(says("detail", detail), "{found:#}");
    assert!(says("cause", cause), "{found:#}");
    assert_eq!((code, &report["ok"]), (1, &Value::Bool(false)));
}

/// What a server of streams does, but with a probe every 50 ms, and a heartbeat at this interval.
fn imitation(heartbeat: Duration) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("there are ports");
    let address = listener.local_addr().expect("it is bound");
    thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            // A client that has gone has seen enough.
            thread::spawn(move || stream(client, heartbeat));
        }
    });
    address
}

fn stream(mut client: TcpStream, heartbeat: Duration) -> std::io::Result<()> {
    let mut request = vec![0; 4096];
    let length = client.read(&mut request)?;
    let request = String::from_utf8_lossy(&request[..length]).to_ascii_lowercase();
    if request.contains("last-event-id: none") {
        return client.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n");
    }
    let is_probe = request.starts_with("get /health/sse ");
    let probe = || {
        let now = humantime::format_rfc3339_millis(SystemTime::now());
        format!("event: probe\ndata: {{\"time\":\"{now}\"}}\n\n")
    };
    // The first event is there with the head, however soon the connection is cut.
    let first = if is_probe { probe() } else { String::new() };
    client.write_all(
        format!(
            "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-cache\r\n\
             Connection: close\r\n\r\nretry: 3000\n\n{first}"
        )
        .as_bytes(),
    )?;
    loop {
        if is_probe {
            thread::sleep(BEAT);
            client.write_all(probe().as_bytes())?;
        } else {
            thread::sleep(heartbeat);
            client.write_all(b"event: heartbeat\ndata: {}\n\n")?;
        }
    }
}

#[test]
fn a_healthy_server_passes() {
    let server = Server::with(&["--keepalive-interval", "500ms"]);
    let proxy = FaultyProxy::start(server.address(), Fault::None);
    // Long enough for a second event of the probe, which comes each 5 s, and for two keepalives.
    let arguments = ["--for", "12s", "--keepalive", "5s", "--publish"];
    let (code, report) = check(&proxy.url(), &arguments);
    assert_eq!(code, 0, "{report:#}");
    let all = [
        "connect",
        "answer",
        "headers",
        "first_event",
        "buffering",
        "keepalive",
        "stability",
        "resume",
    ];
    assert_eq!(names(&report, "ok"), all, "{report:#}");
    assert!(
        finding(&report, "resume")["detail"].as_str().unwrap().starts_with("25 events over 7 ")
    );
    assert_eq!(server.json("/runs")["runs"], Value::Array(Vec::new()), "the run is deleted");
}

#[test]
fn a_given_run_is_resumed_in_its_middle_and_an_ended_one_cannot_be_followed() {
    let server = Server::with(&["--keepalive-interval", "500ms"]);
    let url = format!("http://{}", server.address());
    let run = server.new_run();
    server.append(run, "A", "1");
    let arguments = ["--for", WATCH, "--run", &run.to_string()];
    let (code, report) = check(&url, &arguments);
    assert_eq!(code, 0, "{report:#}");
    assert_eq!(finding(&report, "resume")["detail"], "after 1 comes 2");
    server.end(run, "completed").expect(200);
    finds(&url, &arguments, "answer", "204", "the run has ended");
}

#[test]
fn buffering_is_found() {
    let proxy = FaultyProxy::start(imitation(BEAT), Fault::Buffers(ms(700)));
    let arguments = ["--for", "5s", "--late", "300ms"];
    finds(&proxy.url(), &arguments, "buffering", "came together", "buffers");
    proxy.set(Fault::Buffers(ms(3_600_000)));
    let (code, report) = check(&proxy.url(), &["--for", "1s"]);
    assert_eq!((code, names(&report, "failed")), (1, vec!["first_event".to_owned()]), "{report:#}");
}

#[test]
fn compression_is_found() {
    let proxy = FaultyProxy::start(imitation(BEAT), Fault::Compresses);
    finds(&proxy.url(), &["--for", WATCH], "headers", "Content-Encoding: gzip", "gzip off");
}

#[test]
fn answers_that_end_an_event_source_are_found() {
    let proxy = FaultyProxy::start(imitation(BEAT), Fault::None);
    for (status, cause) in [(502, "does not reach the server"), (503, "for dead"), (429, "a limit")]
    {
        proxy.set(Fault::Answers(status));
        let detail = format!("{status}, a page in HTML \"{status} Not today\", from \"faulty\"");
        finds(&proxy.url(), &["--for", "1s"], "answer", &detail, cause);
        finds(&proxy.url(), &["--for", "1s"], "answer", &detail, "EventSource never asks again");
    }
}

#[test]
fn cuts_are_found() {
    let proxy = FaultyProxy::start(imitation(BEAT), Fault::Closes(ms(400)));
    // On a busy machine one of its two streams may live on for long enough to be another's cause.
    finds(&proxy.url(), &["--for", WATCH_TO_THE_END], "stability", "closed (FIN)", "was");
    proxy.set(Fault::Resets(ms(400)));
    finds(&proxy.url(), &["--for", WATCH_TO_THE_END], "stability", "reset (RST)", "was");
    let proxy = FaultyProxy::start(imitation(ms(60_000)), Fault::IdleTimeout(ms(500)));
    finds(
        &proxy.url(),
        &["--for", "9s"],
        "stability",
        "/events/stream",
        "silence shorter than the keepalives",
    );
}

#[test]
fn keepalives_that_come_too_rarely_are_found() {
    let address = imitation(ms(60_000));
    let arguments = ["--for", "7s", "--keepalive", "1s"];
    finds(
        &format!("http://{address}"),
        &arguments,
        "keepalive",
        "and given up",
        "keepalive_interval",
    );
}

#[test]
fn cursors_that_get_lost_are_found() {
    let server = Server::start();
    let proxy = FaultyProxy::start(server.address(), Fault::LosesCursors);
    let run = server.new_run();
    server.append(run, "A", "1");
    let cause = "does not reach the server";
    finds(&proxy.url(), &["--for", WATCH, "--publish"], "resume", "came twice", cause);
    finds(&proxy.url(), &["--for", WATCH, "--run", "1"], "resume", "after 1 came 1, not 2", cause);
    finds(&proxy.url(), &["--for", WATCH], "resume", "not refused", cause);
}

#[test]
fn a_server_that_says_goodbye_has_cut_nothing_and_one_that_dies_has() {
    for (signal, code) in [(Signal::TERM, 0), (Signal::KILL, 1)] {
        let server = Server::start();
        let url = format!("http://{}", server.address());
        let found = thread::scope(|scope| {
            let checked = scope.spawn(|| check(&url, &["--for", WATCH_TO_THE_END]));
            // Resuming is one request, with a cursor that is refused.
            let resumed = r#"http_requests_total{route="/events/stream",status="400"} 1"#;
            support::eventually("both are open, and resuming is over", || {
                let is_resumed = server.get("/metrics").text().contains(resumed);
                (is_resumed && server.open_streams() == 2).then_some(())
            });
            thread::sleep(ms(300));
            server.signal(signal);
            checked.join().expect("it does not panic")
        });
        assert_eq!(found.0, code, "{:#}", found.1);
        let detail = finding(&found.1, "stability")["detail"].as_str().unwrap();
        assert_eq!(detail.contains("said when to come back"), code == 0, "{detail}");
    }
}

#[test]
fn a_server_that_is_full_is_told_from_one_that_is_away() {
    let server = Server::with(&["--max-connections", "1"]);
    let _stream = server.stream("/health/sse");
    finds(
        &format!("http://{}", server.address()),
        &["--for", "1s"],
        "answer",
        "full",
        "connections_refused_total",
    );
    finds("http://127.0.0.1:1", &["--for", "1s"], "connect", "refused", "nothing listens");
}

/// nginx with TLS in front of a server, for those who have the password. Its certificate is `cert`.
fn nginx_with_a_password(upstream: SocketAddr) -> Listening {
    nginx::start(|address, directory| {
        let request = "[req]\ndistinguished_name = dn\nx509_extensions = v3\nprompt = no\n[dn]\nCN = localhost\n\
                       [v3]\nsubjectAltName = IP:127.0.0.1\nbasicConstraints = critical,CA:FALSE\n";
        fs::write(directory.join("request"), request).unwrap();
        let mut openssl = Command::new("openssl");
        openssl.args([
            "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-config", "request",
        ]);
        openssl.args(["-keyout", "key", "-out", "cert"]).current_dir(directory);
        assert!(openssl.output().expect("it is there").status.success());
        format!(
            "server {{ listen {address} ssl; ssl_certificate cert; ssl_certificate_key key;\n\
             if ($http_authorization != \"Bearer x\") {{ return 401; }}\n\
             location / {{ proxy_pass http://{upstream}; proxy_http_version 1.1; }} }}"
        )
    })
}

#[test]
fn a_server_behind_tls_and_a_password_is_checked_with_both() {
    if !nginx::is_installed() || !is_there("openssl", runs("openssl", &["version"])) {
        return;
    }
    let server = Server::start();
    let nginx = nginx_with_a_password(server.address());
    let url = format!("https://{}", nginx.address());
    let certificate = nginx.directory().join("cert");
    let trusting = ["--for", WATCH, "--cacert", certificate.to_str().unwrap()];
    let password = ["--header", "Authorization: Bearer x"];
    let arguments = [&trusting[..], &password, &["--publish"]].concat();
    let (code, report) = check(&url, &arguments);
    assert_eq!((code, names(&report, "failed").len()), (0, 0), "{report:#}");
    finds(&url, &trusting, "answer", "401", "give them with --header");
    finds(&url, &["--for", "1s"], "answer", "certificate", "TLS fails");
    let wrong = nginx.directory().join("request");
    let output =
        run(env!("CARGO_BIN_EXE_tidewheel"), &["check", "--cacert", wrong.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn the_script_takes_seconds_and_a_url_and_has_the_same_exit_codes() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/validate-sse.sh");
    let server = Server::start();
    let url = format!("http://{}", server.address());
    let output = run(&script, &["3", &url, "--keepalive", "5s"]);
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(said.contains("ok      stability    open for 3"), "{said}");
    assert!(said.ends_with(" s\n") && said.contains(&format!("\nok: {url} in ")), "{said}");
    assert_eq!(run(&script, &["1", "http://127.0.0.1:1"]).status.code(), Some(1));
    for wrong in [&["five"][..], &["1", "nowhere"], &["1", &url, "--dance"]] {
        assert_eq!(run(&script, wrong).status.code(), Some(2), "{wrong:?}");
    }
}
