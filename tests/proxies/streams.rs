//! What passes a proxy while the server is there.

use std::{
    io::{Read as _, Write as _},
    iter,
    net::{SocketAddr, TcpListener},
    process::Stdio,
    sync::{
        Arc,
        mpsc::{Receiver, channel},
    },
    thread,
    time::Duration,
};

use super::{
    proxy::{FRONTEND, Kind, PAGE, Proxy, next_id},
    support::{DEADLINE, Server, eventually, programs::Running},
};

/// Each event is at the client before the next one is appended.
#[test]
fn events_come_one_by_one_and_streams_resume() {
    let server = Server::start();
    for proxy in Proxy::start_each(&Kind::all(), server.address()) {
        let run = server.new_run();
        let target = format!("/runs/{run}/events/stream");
        let stream = proxy.follow(&target, &["-i"]);
        let head: Vec<String> = iter::repeat_with(|| stream.line().to_ascii_lowercase())
            .take_while(|line| !line.trim_end().is_empty())
            .collect();
        let is_compressed = head.iter().any(|line| line.starts_with("content-encoding:"));
        assert!(!is_compressed, "{:?}: {head:?}", proxy.kind);
        let mut last = next_id(&stream);
        for _ in 0..5 {
            last = proxy.append(run);
            assert_eq!(next_id(&stream), last, "{:?}", proxy.kind);
        }
        drop(stream);
        let missed = [proxy.append(run), proxy.append(run)];
        let cursor = format!("Last-Event-ID: {last}");
        let stream = proxy.follow(&target, &["-H", &cursor]);
        assert_eq!(missed.map(|_| next_id(&stream)), missed, "{:?}", proxy.kind);

        let end = ["-X", "PATCH", "--json", r#"{"status":"completed"}"#];
        proxy.curl(&format!("/runs/{run}"), &end);
        let end = next_id(&stream);
        assert!(stream.wait().success(), "{:?}: the stream ends as it should", proxy.kind);
        let status = ["-o", "/dev/null", "-w", "%{http_code}", "-H"];
        let cursor = format!("Last-Event-ID: {end}");
        let again = proxy.curl(&target, &[&status[..], &[&cursor]].concat());
        assert_eq!(again, "204", "{:?}", proxy.kind);
    }
}

#[test]
fn a_client_that_goes_is_gone_at_the_server() {
    // So that no keepalive finds it out.
    let server = Server::with(&["--keepalive-interval", "10m"]);
    let run = server.new_run();
    for proxy in Proxy::start_each(&Kind::all(), server.address()) {
        let stream = proxy.follow(&format!("/runs/{run}/events/stream"), &[]);
        next_id(&stream);
        eventually("it is counted", || (server.open_streams() == 1).then_some(()));
        drop(stream);
        eventually("the server notices", || (server.open_streams() == 0).then_some(()));
    }
}

#[test]
fn a_long_poll_passes() {
    let server = Server::start();
    for proxy in Proxy::start_each(&Kind::all(), server.address()) {
        let run = server.new_run();
        let after = server.json(&format!("/runs/{run}"))["last_event_id"].to_string();
        let target = format!("/runs/{run}/events?after_id={after}&wait=20");
        let poll = Running::start(proxy.curl_command(&target, &["-w", "\n"]));
        thread::sleep(Duration::from_millis(200));
        let id = server.append(run, "A", "1");
        let page: serde_json::Value = serde_json::from_str(&poll.line()).expect("a page is JSON");
        assert_eq!(page["events"][0]["id"], id, "{:?}: {page}", proxy.kind);
    }
}

/// The server says who may read what, and no proxy says it again: twice is as good as never.
#[test]
fn pages_of_other_origins_are_allowed_once() {
    let server = Server::with(&["--cors-origins", PAGE]);
    for proxy in Proxy::start_each(&Kind::all(), server.address()) {
        let head = proxy.curl("/runs", &["-i", "-H", &format!("Origin: {PAGE}")]);
        let head = head.to_ascii_lowercase();
        let count = head.matches("access-control-allow-origin:").count();
        assert_eq!(count, 1, "{:?}: {head}", proxy.kind);
    }
}

/// One host for a frontend and the server.
#[test]
fn a_frontend_stands_beside_the_server() {
    let server = Server::start();
    let kinds = Kind::all().into_iter().filter(|kind| kind.has_frontend()).collect::<Vec<_>>();
    for proxy in Proxy::start_each(&kinds, server.address()) {
        for target in ["/", "/runs-of-this-week", "/assets/health.js"] {
            let answer = proxy.curl(target, &[]);
            // The guide's location for runs is a prefix, and takes what only begins like it.
            let is_ours = proxy.kind == Kind::NginxGuide && target.starts_with("/runs");
            assert_eq!(answer == FRONTEND, !is_ours, "{:?} {target}: {answer}", proxy.kind);
        }
        for target in ["/runs", "/projects", "/worker", "/health", "/health/ready"] {
            let answer = proxy.curl(target, &["-f"]);
            assert!(answer.starts_with('{'), "{:?} {target}: {answer}", proxy.kind);
        }
    }
}

/// Of an upload that pauses each line is an event before the next line is there.
#[test]
fn lines_of_an_upload_pass_as_they_come() {
    let server = Server::start();
    let kinds: Vec<Kind> =
        Kind::ours().into_iter().filter(|kind| kind.streams_requests()).collect();
    for proxy in Proxy::start_each(&kinds, server.address()) {
        let run = server.new_run();
        let stream = proxy.follow(&format!("/runs/{run}/events/stream"), &[]);
        next_id(&stream);
        let mut upload = proxy.upload(run);
        for _ in 0..3 {
            upload.line();
            next_id(&stream);
        }
        let (kind, answer) = upload.end();
        assert!(answer.contains("\"count\":3"), "{kind:?}: {answer}");
    }
}

/// More streams than the six connections that a browser opens to a host.
#[test]
fn http_2_carries_many_streams_over_one_connection() {
    let kind = Kind::NginxComplete;
    if !Kind::ours().contains(&kind) {
        return;
    }
    let server = Server::start();
    let run = server.new_run();
    let proxy = Proxy::start(kind, server.address());
    let target = format!("/runs/{run}/events/stream");
    let mut command = proxy.curl_command(&target, &["--http2", "--parallel"]);
    command.args((1..10).map(|_| proxy.url(&target)));
    // Its progress, which is shown whatever one says.
    command.stderr(Stdio::null());
    let client = Running::start(command);
    for _ in 0..10 {
        assert_eq!(next_id(&client), 1);
    }
    eventually("all are counted", || (server.open_streams() == 10).then_some(()));
    // The kernel's table may leave something out while others come and go.
    eventually("over one connection", || (connections_of(client.id(), &proxy) == 1).then_some(()));
    let version = ["--http2", "-o", "/dev/null", "-w", "%{http_version}"];
    assert_eq!(proxy.curl("/health", &version), "2");
}

/// How many connections to the proxy a process has.
fn connections_of(process: u32, proxy: &Proxy) -> usize {
    let table = std::fs::read_to_string("/proc/net/tcp").expect("Linux has it");
    let remote = format!("0100007F:{:04X}", proxy.address().port());
    let inodes = table.lines().skip(1).filter_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        (fields[2] == remote).then(|| format!("socket:[{}]", fields[9]))
    });
    let inodes: Vec<String> = inodes.collect();
    let files = std::fs::read_dir(format!("/proc/{process}/fd")).expect("it runs");
    let links = files.filter_map(|file| std::fs::read_link(file.expect("it runs").path()).ok());
    links.filter(|link| inodes.iter().any(|inode| link.as_os_str() == inode.as_str())).count()
}

/// A server that is well, but reads each other request and hangs up; what it has read.
fn hangs_up() -> (SocketAddr, Receiver<String>) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("there are ports");
    let address = listener.local_addr().expect("it is bound");
    let (sender, requests) = channel();
    thread::spawn(move || {
        let sender = Arc::new(sender);
        for connection in listener.incoming().map_while(Result::ok) {
            let sender = Arc::clone(&sender);
            thread::spawn(move || {
                let mut connection = connection;
                connection.set_read_timeout(Some(DEADLINE)).expect("it is a socket");
                let mut request = Vec::new();
                let mut piece = [0; 4096];
                while !request.ends_with(b"\r\n\r\n") && !request.ends_with(b"0}") {
                    match connection.read(&mut piece) {
                        Ok(count @ 1..) => request.extend_from_slice(&piece[..count]),
                        _ => return,
                    }
                }
                let request = String::from_utf8_lossy(&request).into_owned();
                if request.contains(" /health") {
                    // A check that hangs up first has its answer.
                    let _ = connection.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
                    return;
                }
                // Nobody may want to know any more.
                let _ = sender.send(request);
            });
        }
    });
    (address, requests)
}

/// An append that was sent may have been made. And whoever sends it is known by the address that
/// the proxy has seen, whatever else is claimed.
#[test]
fn an_append_is_sent_once_and_with_its_address() {
    for kind in Kind::all() {
        let (server, requests) = hangs_up();
        let proxy = Proxy::start(kind, server);
        let status = proxy.curl(
            "/runs/1/events",
            &[
                "-o",
                "/dev/null",
                "-w",
                "%{http_code}",
                "-H",
                "X-Forwarded-For: 192.0.2.1",
                "--json",
                r#"{"type":"A","payload":0}"#,
            ],
        );
        assert!(["502", "503"].contains(&&*status), "{kind:?}: {status}");
        // The proxy has answered, so it sends nothing more of this.
        let appends: Vec<String> = requests.try_iter().collect();
        assert_eq!(appends.len(), 1, "{kind:?}: {appends:?}");
        let forwarded = appends[0].lines().filter_map(|line| {
            let (name, value) = line.split_once(": ")?;
            name.eq_ignore_ascii_case("x-forwarded-for").then_some(value)
        });
        let forwarded: Vec<&str> = forwarded.collect();
        assert!(forwarded.len() == 1, "{kind:?}: {forwarded:?}");
        assert!(forwarded[0].ends_with("127.0.0.1"), "{kind:?}: {forwarded:?}");
    }
}
