//! What the server says about itself: projects, workers, health.

use std::io::Write as _;

use rustix::process::Signal;
use serde_json::json;

use crate::support::{Server, eventually, server};

#[test]
fn projects_are_counted() {
    let mut server = Server::start();
    assert_eq!(server.json("/projects"), json!({"projects": []}));
    for project in ["b", "a", "a", "a"] {
        server.new_run_with(&json!({ "project": project }).to_string());
    }
    server.new_run();
    server.end(2, "completed").expect(200);
    server.delete("/runs/3").expect(204);
    let expected = json!({"projects": [
        {"project": "a", "runs": 2, "running": 1},
        {"project": "b", "runs": 1, "running": 1},
    ]});
    assert_eq!(server.json("/projects"), expected);
    server.restart();
    assert_eq!(server.json("/projects"), expected);
    server.delete("/runs/1").expect(204);
    assert_eq!(server.json("/projects")["projects"].as_array().unwrap().len(), 1);
}

#[test]
fn the_worker_tells_of_each_event_loop_and_of_the_journal() {
    for server in Server::with_each_driver(&["--workers", "2"]) {
        let driver = if server.arguments().contains("uring") { "uring" } else { "epoll" };
        server.new_run();
        let worker = server.json("/worker");
        let workers = worker["workers"].as_array().unwrap();
        assert_eq!(workers.len(), 2, "{worker}");
        for worker in workers {
            assert!(worker["connections"].is_u64(), "{worker}");
            assert!(worker["io_driver"].as_str().unwrap().contains(driver), "{worker}");
        }
        let journal = &worker["journal"];
        assert!(journal["queue_events"].is_u64(), "{worker}");
        assert_eq!(journal["waiting_for_room"], 0, "{worker}");
        assert!(journal["last_commit"].is_object(), "{worker}");
        assert_eq!(journal["durability"], "immediate", "{worker}");
        let means = journal["durability_means"].as_str().unwrap();
        assert_eq!(means, "what is answered or delivered is on disk");
    }
}

#[test]
fn the_first_id_is_that_of_the_oldest_event_that_is_left() {
    let mut server = Server::start();
    let first_id = |server: &Server| server.json("/worker")["journal"]["first_id"].clone();
    assert_eq!(first_id(&server), json!(null));
    let (gone, kept) = (server.new_run(), server.new_run());
    assert_eq!(first_id(&server), 1);
    server.append(gone, "A", "1");
    server.delete(&format!("/runs/{gone}")).expect(204);
    assert_eq!(first_id(&server), 2);
    server.restart();
    assert_eq!(first_id(&server), 2);
    server.delete(&format!("/runs/{kept}")).expect(204);
    assert_eq!(first_id(&server), json!(null));
}

#[test]
fn connections_are_counted() {
    let server = Server::start();
    let connections = || -> u64 {
        let worker = server.json("/worker");
        let workers = worker["workers"].as_array().unwrap();
        workers.iter().map(|worker| worker["connections"].as_u64().unwrap()).sum()
    };
    let clients: Vec<_> = (0..10)
        .map(|_| {
            let mut client = server.client();
            client.request("GET", "/health", &[], "").expect(200);
            client
        })
        .collect();
    // The one that asks counts too, and one before it may not be forgotten yet.
    assert!(connections() >= 11);
    drop(clients);
    eventually("closed connections are forgotten", || (connections() <= 1).then_some(()));
}

#[test]
fn health_and_readiness() {
    let server = Server::start();
    for target in ["/health", "/health/ready"] {
        let answer = server.get(target).expect(200);
        assert_eq!(answer.header("Content-Type"), Some("application/json"));
        assert!(answer.json()["status"].is_string());
        server.request("GET", target, &[("Accept", "text/html")], "").expect(200);
    }
}

#[test]
fn while_it_drains_the_server_is_healthy_but_not_ready() {
    let mut server = Server::with(&["--drain-grace", "1h", "--drain-window", "100ms"]);
    server.new_run();
    server.signal(Signal::TERM);
    let answer = eventually("the server is not ready", || {
        let answer = server.get("/health/ready");
        (answer.status != 200).then_some(answer)
    });
    let answer = answer.expect(503);
    assert!(answer.header("Retry-After").is_some());
    server.get("/health").expect(200);
    server.get("/runs/1").expect(200);
    // A second signal cuts the grace short.
    assert!(server.terminate().success());
}

#[test]
fn a_signal_ends_the_server_and_its_streams() {
    for signal in [Signal::TERM, Signal::INT] {
        let mut server = Server::with(&["--drain-window", "300ms"]);
        let run = server.new_run();
        let mut streams: Vec<_> =
            (0..5).map(|_| server.stream(&format!("/runs/{run}/events/stream"))).collect();
        for stream in &mut streams {
            assert_eq!(stream.ids(1).len(), 1);
        }
        let _idle = server.client();
        server.signal(signal);
        for stream in &mut streams {
            stream.read_to_end();
        }
        let status = server.wait();
        assert!(status.success(), "{status}");
    }
}

#[test]
fn uploads_in_full_flight_end_with_the_server() {
    let headers = "Content-Type: application/x-ndjson\r\nContent-Length: 99999999999\r\n";
    let upload = format!("POST /runs/1/events HTTP/1.1\r\nHost: h\r\n{headers}\r\n");
    for lines in [1, 1_000] {
        // A disk that stands still would keep them for longer than the server has patience.
        for mut server in Server::with_each_driver(&["--durability", "none"]) {
            server.new_run();
            let mut client = server.client();
            client.send(&upload);
            let mut writing = client.socket().try_clone().unwrap();
            let lines = "{\"type\":\"A\"}\n".repeat(lines);
            std::thread::spawn(move || while writing.write_all(lines.as_bytes()).is_ok() {});
            eventually("events arrive", || {
                (server.json("/runs/1")["event_count"].as_u64() > Some(100)).then_some(())
            });
            server.signal(Signal::TERM);
            let answer = client.answer().expect(503).json();
            assert!(answer["count"].as_u64() > Some(99), "{answer}");
            assert!(server.wait().success());
            assert!(!server.log().contains("are left"), "{}", server.log());
        }
    }
}

#[test]
fn workers_that_share_a_unix_socket_end_together() {
    for driver in ["auto", "epoll"] {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let listen = format!("unix:{}", path.display());
        let mut command = server::serve(&listen, &directory.path().join("journal"));
        let mut child = command.args(["--workers", "4", "--io", driver]).spawn().unwrap();
        eventually("the server listens", || {
            std::os::unix::net::UnixStream::connect(&path).ok().map(drop)
        });
        rustix::process::kill_process(rustix::process::Pid::from_child(&child), Signal::TERM)
            .unwrap();
        eventually("it ends", || child.try_wait().unwrap());
        let log = child.wait_with_output().unwrap().stderr;
        let log = String::from_utf8_lossy(&log);
        assert!(log.contains("stopped") && !log.contains("are left"), "{log}");
    }
}

#[test]
fn two_servers_on_one_journal_or_one_port_are_refused() {
    let server = Server::start();
    let journal = server.journal().join("journal");
    let start = |listen: &str, journal: &std::path::Path| {
        let mut child = server::serve(listen, journal).spawn().unwrap();
        let started = std::time::Instant::now();
        loop {
            if let Some(status) = child.try_wait().unwrap() {
                let output = child.wait_with_output().unwrap();
                return (status, String::from_utf8_lossy(&output.stderr).into_owned());
            }
            if started.elapsed() > crate::support::DEADLINE {
                child.kill().unwrap();
                child.wait().unwrap();
                panic!("a second server runs");
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    };
    let (status, log) = start("127.0.0.1:0", &journal);
    assert!(!status.success() && log.contains("journal"), "{log}");
    let elsewhere = tempfile::tempdir().unwrap();
    let (status, log) = start(&server.address().to_string(), &elsewhere.path().join("journal"));
    assert!(!status.success() && log.contains(&server.address().to_string()), "{log}");
    server.new_run();
}

#[test]
fn a_unix_socket_serves_requests_and_streams() {
    use std::{
        io::{Read as _, Write as _},
        os::unix::net::UnixStream,
        process::{Child, Stdio},
    };

    struct Killed(Child);
    impl Drop for Killed {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("socket");
    let listen = format!("unix:{}", path.display());
    let mut command = server::serve(&listen, &directory.path().join("journal"));
    // Nobody reads its log here.
    command.stderr(Stdio::null());
    let _server = Killed(command.spawn().unwrap());
    let connect = || {
        let stream = UnixStream::connect(&path).ok()?;
        stream.set_read_timeout(Some(crate::support::DEADLINE)).unwrap();
        Some(stream)
    };
    let ask = |request: &str| -> String {
        let mut stream = eventually("the server listens", connect);
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    let head = "HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n";
    assert!(ask(&format!("POST /runs {head}\r\n")).starts_with("HTTP/1.1 201 "));
    let body = r#"{"status":"completed"}"#;
    let length = body.len();

    let mut subscriber = connect().unwrap();
    subscriber.write_all(b"GET /runs/1/events/stream HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    let mut gone = connect().unwrap();
    gone.write_all(b"GET /events/stream HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    let streams = || ask(&format!("GET /worker {head}\r\n"));
    eventually("both are there", || streams().contains(r#""streams":2"#).then_some(()));
    drop(gone);
    eventually("one is gone", || streams().contains(r#""streams":1"#).then_some(()));

    let ended = ask(&format!("PATCH /runs/1 {head}Content-Length: {length}\r\n\r\n{body}"));
    assert!(ended.starts_with("HTTP/1.1 200 "), "{ended}");
    let mut text = String::new();
    subscriber.read_to_string(&mut text).unwrap();
    assert!(text.contains("event: RUN_COMPLETED\n") && text.ends_with("\n\n"), "{text}");
}
