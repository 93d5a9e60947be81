//! How many connections and streams there may be: each limit holds exactly, whichever worker they come
//! to; who is refused is told so, and what is closed makes room.

use std::{
    net::Shutdown,
    time::{Duration, Instant},
};

use crate::support::{Answer, Client, Frame, Server, Sse, eventually, http::request};

const WORKERS: [usize; 2] = [1, 2];
/// Connections that come at once.
const CROWD: usize = 200;
const BROWSER: (&str, &str) = ("Accept", "text/event-stream");

/// What has come of asking for many streams at once.
#[derive(Default)]
struct Crowd {
    open: Vec<Sse>,
    /// Why browsers were refused, each with the wait that it was asked for.
    told: Vec<Frame>,
    answers: Vec<Answer>,
}

impl Crowd {
    /// So many connections that ask for this target before any answer is read; every other one as a
    /// browser does.
    fn ask(clients: Vec<Client>, target: &str, headers: &[(&str, &str)]) -> Crowd {
        let mut clients = clients;
        for (number, client) in clients.iter_mut().enumerate() {
            let browser = if number % 2 == 0 { &[BROWSER][..] } else { &[] };
            client.send(request("GET", target, &[headers, browser].concat(), ""));
        }
        let mut crowd = Crowd::default();
        for (number, client) in clients.into_iter().enumerate() {
            let is_browser = number % 2 == 0;
            match Sse::try_opened(client).expect("the server answers") {
                Err(answer) => {
                    assert!(!is_browser, "it would never come back after {}", answer.status);
                    crowd.answers.push(answer);
                }
                Ok(mut stream) => match stream.frame().expect("each begins with a frame") {
                    frame if frame.name() == "stream.refused" => {
                        assert!(is_browser, "others are told by a status");
                        assert_eq!(stream.frame(), None, "a refused stream ends");
                        crowd.told.push(frame);
                    }
                    _ => crowd.open.push(stream),
                },
            }
        }
        crowd
    }

    fn refused(&self) -> usize {
        self.told.len() + self.answers.len()
    }

    /// Checks how many are in, and that the others were told why in words that they understand.
    #[track_caller]
    fn expect(self, open: usize, refused: usize, status: u16, reason: &str) -> Vec<Sse> {
        assert_eq!((self.open.len(), self.refused()), (open, refused));
        for frame in &self.told {
            assert_eq!(frame.json(), serde_json::json!({ "reason": reason }));
            assert!(frame.id.is_none() && frame.retry.is_some_and(|wait| wait <= 30_000));
        }
        for answer in &self.answers {
            assert_eq!(answer.status, status);
            let problem = format!("urn:tidewheel:problem:{reason}");
            assert_eq!(answer.problem()["type"], problem);
            let seconds: u32 = answer.header("Retry-After").expect("it says when").parse().unwrap();
            assert!((1..=30).contains(&seconds));
        }
        self.open
    }
}

fn clients(server: &Server, count: usize) -> Vec<Client> {
    (0..count).map(|_| server.client()).collect()
}

fn clients_from(source: [u8; 4], server: &Server, count: usize) -> Vec<Client> {
    (0..count).map(|_| Client::connect_from(source, server.address())).collect()
}

/// Waits until the server has so many streams and has closed all that it should close.
fn settles_at(server: &Server, streams: u64) {
    eventually("streams are closed", || (server.open_streams() == streams).then_some(()));
}

/// How many `/worker` says were refused for this reason.
fn refused(server: &Server, reason: &str) -> u64 {
    server.json("/worker")["refused"][reason].as_u64().expect("a number")
}

#[test]
fn a_run_and_a_session_have_as_many_streams_as_they_may() {
    let flags = ["--max-connections-per-run", "50", "--max-connections-per-session", "30"];
    for mut server in Server::with_workers(&WORKERS, &flags) {
        let run = server.new_run_with(r#"{"session":"s"}"#);
        let other = server.new_run();
        let target = format!("/runs/{run}/events/stream");
        let of_run = Crowd::ask(clients(&server, CROWD), &target, &[]);
        let mut of_run = of_run.expect(50, CROWD - 50, 429, "run");
        assert_eq!(refused(&server, "run"), CROWD as u64 - 50);
        let of_session = Crowd::ask(clients(&server, CROWD), "/api/sse/session/s", &[]);
        let of_session = of_session.expect(30, CROWD - 30, 429, "session");
        // A stream of several runs is one of each; those of everything are of none.
        let several = format!("/events/stream?runs={run},{other}");
        let surplus = Crowd::ask(clients(&server, 2), &several, &[]);
        assert_eq!(surplus.expect(0, 2, 429, "run").len(), 0);
        let free = Crowd::ask(clients(&server, 20), "/events/stream", &[]);
        let free = free.expect(20, 0, 0, "");
        let of_other = format!("/runs/{other}/events/stream");
        let of_other = Crowd::ask(clients(&server, CROWD), &of_other, &[]);
        drop(of_other.expect(50, CROWD - 50, 429, "run"));
        settles_at(&server, 100);
        for reason in ["full", "ip", "rate", "draining"] {
            assert_eq!(refused(&server, reason), 0, "{reason}");
        }

        // Who goes makes room for as many.
        of_run.truncate(35);
        settles_at(&server, 85);
        of_run.extend(Crowd::ask(clients(&server, 40), &target, &[]).expect(15, 25, 429, "run"));
        // HEAD opens no stream, and what can bring nothing more is no stream either.
        server.request("HEAD", &target, &[], "");
        server.request("GET", "/runs/99/events/stream", &[], "").expect(404);

        // Events come to all of them, and the end of the run makes room.
        let last = server.append(run, "A", "1");
        for stream in &mut of_run {
            assert_eq!(stream.ids(2)[1], last);
        }
        server.end(run, "completed").expect(200);
        for stream in &mut of_run {
            stream.read_to_end();
        }
        settles_at(&server, 50);
        let streams = (of_session, free);
        assert!(server.terminate().success());
        drop(streams);
    }
}

#[test]
fn a_full_server_is_exactly_full_and_still_says_how_it_is() {
    let flags = ["--max-connections", "50"];
    for server in Server::with_workers(&WORKERS, &flags) {
        let run = server.new_run();
        let target = format!("/runs/{run}/events/stream");
        let crowd = eventually("as many as may be", || {
            settles_at(&server, 0);
            eventually("nobody but who asks is there", || {
                (server.by_worker("connections").iter().sum::<u64>() == 1).then_some(())
            });
            // And who asked may not be gone yet.
            let crowd = Crowd::ask(clients(&server, CROWD), &target, &[]);
            (crowd.open.len() == 50).then_some(crowd)
        });
        let open = crowd.expect(50, CROWD - 50, 503, "full");
        assert!(refused(&server, "full") >= CROWD as u64 - 50);
        for target in ["/health", "/health/ready", "/worker"] {
            let mut client = server.client();
            client.request("GET", target, &[], "").expect(200);
            client.end().expect("one answer, and no more");
        }
        server.get("/runs").expect(503);
        settles_at(&server, 50);
        drop(open);
        settles_at(&server, 0);
        eventually("there is room again", || (server.get("/runs").status == 200).then_some(()));
    }
}

#[test]
fn who_administers_is_let_in_when_the_server_is_full() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("admin");
    let admin = format!("unix:{}", path.display());
    let flags = ["--max-connections", "1", "--admin-listen", &*admin, "--accept-rate", "1"];
    let server = Server::with(&flags);
    let _only = server.client();
    eventually("it is full", || (server.get("/runs").status != 200).then_some(()));
    let mut streams = Vec::new();
    for _ in 0..5 {
        let mut client = Client::try_connect_local(&path).unwrap();
        client.request("GET", "/worker", &[], "").expect(200);
        streams.push(Sse::open(client, "/health/sse", &[]));
    }
}

#[test]
fn an_address_has_as_many_connections_as_it_may() {
    const ONE: [u8; 4] = [127, 0, 0, 2];
    const OTHER: [u8; 4] = [127, 0, 0, 3];
    for server in Server::with_workers(&WORKERS, &["--max-connections-per-ip", "20"]) {
        let from = |source, count| clients_from(source, &server, count);
        let target = format!("/runs/{}/events/stream", server.new_run());
        // Nobody believes what they say they are.
        let lies = [("X-Forwarded-For", "9.9.9.9"), ("Forwarded", "for=9.9.9.9")];
        let open = Crowd::ask(from(ONE, CROWD), &target, &lies).expect(20, CROWD - 20, 429, "ip");
        let others = Crowd::ask(from(OTHER, 30), &target, &[]).expect(20, 10, 429, "ip");
        let mut refused = Client::connect_from(ONE, server.address());
        refused.request("GET", "/health", &[], "").expect(200);
        refused.end().expect("one answer, and no more");
        let log = eventually("it is logged", || {
            let log = server.log();
            let line = log.lines().find(|line| line.contains("reason=ip"))?.to_owned();
            Some(line)
        });
        assert!(log.contains("connection refused") && log.contains("client=127.0.0."), "{log}");
        assert!(!server.log().contains("9.9.9.9"));

        // Whoever goes makes room, in order or not, and nobody who was refused takes any.
        drop((open, others));
        settles_at(&server, 0);
        // An idle connection counts as well.
        let mut idle = from(ONE, 15);
        for client in &mut idle {
            client.request("GET", "/health", &[], "").expect(200);
        }
        let open = Crowd::ask(from(ONE, 10), &target, &[]).expect(5, 5, 429, "ip");
        drop((idle, open));
        // To come and go fast is no way around it, and leaves nothing behind.
        for _ in 0..20 {
            let mut churn = from(ONE, 40);
            for (number, client) in churn.iter_mut().enumerate() {
                match number % 4 {
                    0 => {}
                    1 => drop(client.try_send("GET /health HT")),
                    2 => drop(client.try_send(request("GET", &target, &[], ""))),
                    // Who is one too many may have been closed.
                    _ => drop(client.socket().shutdown(Shutdown::Write)),
                }
            }
        }
        let crowd = eventually("all of it is free again", || {
            let crowd = Crowd::ask(from(ONE, 40), &target, &[]);
            assert!(crowd.open.len() <= 20);
            (crowd.open.len() == 20).then_some(crowd)
        });
        crowd.expect(20, 20, 429, "ip");
    }
}

#[test]
fn who_is_refused_is_counted_and_logged() {
    // So that the only one stays, however long the others take.
    let flags = ["--max-connections-per-ip", "1", "--header-timeout", "1h"];
    let server = Server::with(&flags);
    let _only = Client::connect_from([127, 0, 0, 2], server.address());
    let crowd = clients_from([127, 0, 0, 2], &server, CROWD);
    Crowd::ask(crowd, "/events/stream", &[]).expect(0, CROWD, 429, "ip");
    assert_eq!(refused(&server, "ip"), CROWD as u64);
    let line = "msg=\"connection refused\" client=127.0.0.2 reason=ip";
    eventually("a line for each", || (server.log().matches(line).count() == CROWD).then_some(()));
}

/// Streams through a proxy: from this connection's peer, whose client has this address.
fn through(connect: &dyn Fn() -> Client, client: &str, count: usize) -> Crowd {
    let clients = (0..count).map(|_| connect()).collect();
    let target = "/events/stream";
    // What stands to the left the client itself has sent.
    let header = [("X-Forwarded-For", &*format!("10.0.0.1, {client}"))];
    Crowd::ask(clients, target, &header)
}

#[test]
fn behind_a_trusted_proxy_its_clients_are_counted() {
    const PROXY: [u8; 4] = [127, 0, 0, 9];
    let flags = ["--max-connections-per-ip", "5", "--trusted-proxies", "127.0.0.8/31,unix"];
    let over_tcp = Server::with_workers(&WORKERS, &flags);
    let local = Server::local_with_each_driver(&flags);
    for (server, is_local) in
        over_tcp.iter().map(|one| (one, false)).chain(local.iter().map(|one| (one, true)))
    {
        let connect = || {
            if is_local { server.client() } else { Client::connect_from(PROXY, server.address()) }
        };
        // The connections that a proxy keeps for later are nobody's.
        let mut kept: Vec<Client> = (0..20).map(|_| connect()).collect();
        for client in &mut kept {
            let header = [("X-Forwarded-For", "192.0.2.1")];
            client.request("GET", "/runs", &header, "").expect(200);
        }
        let one = through(&connect, "192.0.2.1", 30).expect(5, 25, 429, "ip");
        let other = through(&connect, "192.0.2.2:4711, 127.0.0.8", 30);
        let other = other.expect(5, 25, 429, "ip");
        // One /64 is one client.
        let mut v6 = through(&connect, "2001:db8::1", 3).expect(3, 0, 0, "");
        let more = through(&connect, "[2001:db8::ffff:2]:80", 3);
        v6.extend(more.expect(2, 1, 429, "ip"));
        let mut probe = connect();
        let header = [("X-Forwarded-For", "192.0.2.1")];
        probe.request("GET", "/health/sse", &header, "").expect(429);
        settles_at(server, 15);
        drop((one, v6));
        settles_at(server, 5);
        through(&connect, "192.0.2.1", 6).expect(5, 1, 429, "ip");
        drop((kept, other));
        if !is_local {
            // The same words from somebody else.
            let stranger = || Client::connect_from([127, 0, 0, 10], server.address());
            eventually("they are gone", || (server.open_streams() == 0).then_some(()));
            let crowd = through(&stranger, "192.0.2.7", 6).expect(5, 1, 429, "ip");
            let again = through(&stranger, "192.0.2.8", 6).expect(0, 6, 429, "ip");
            assert_eq!((crowd.len(), again.len()), (5, 0));
        }
    }
}

#[test]
fn the_oldest_stream_makes_room_when_it_is_asked_to() {
    let flags = [
        "--over-limit",
        "close_oldest",
        "--max-connections-per-session",
        "3",
        "--max-connections-per-run",
        "4",
        "--reconnect-backoff-max",
        "20s",
        "--log",
        "debug",
    ];
    for mut server in Server::with_workers(&WORKERS, &flags) {
        let run = server.new_run_with(r#"{"session":"s"}"#);
        let target = "/api/sse/session/s";
        let mut streams: Vec<Sse> = Vec::new();
        for round in 0..12 {
            let mut stream = server.stream(target);
            assert_eq!(stream.ids(1).len(), 1);
            streams.push(stream);
            if round >= 3 {
                let mut oldest = streams.remove(0);
                let frame = oldest.message().expect("a last word");
                assert_eq!(frame.name(), "stream.refused");
                assert_eq!(frame.json(), serde_json::json!({"reason": "session"}));
                // Not soon: it would throw out another one.
                assert_eq!((frame.retry, frame.id), (Some(20_000), None));
                assert_eq!(oldest.frame(), None);
            }
        }
        let id = server.append(run, "A", "1");
        for stream in &mut streams {
            assert_eq!(stream.ids(1), [id], "the others do not notice");
        }
        settles_at(&server, 3);
        // All at once: each is let in, and the newest are left.
        let crowd = Crowd::ask(clients(&server, CROWD), target, &[]);
        assert_eq!(crowd.open.len(), CROWD);
        settles_at(&server, 3);
        drop((crowd, streams));
        settles_at(&server, 0);

        // A stream of several runs makes room in each of them.
        let other = server.new_run();
        let one = format!("/runs/{run}/events/stream");
        let mut of_run: Vec<Sse> = (0..4).map(|_| server.stream(&one)).collect();
        let of_other = format!("/runs/{other}/events/stream");
        let mut of_other: Vec<Sse> = (0..4).map(|_| server.stream(&of_other)).collect();
        let both = server.stream(&format!("/events/stream?runs={run},{other}"));
        for oldest in [of_run.remove(0), of_other.remove(0)] {
            let mut oldest = oldest;
            let last = std::iter::from_fn(|| oldest.frame()).last().expect("a last word");
            assert_eq!(last.json(), serde_json::json!({"reason": "run"}));
        }
        settles_at(&server, 7);
        drop((of_run, of_other, both));
        settles_at(&server, 0);
        let kept: Vec<Sse> = (0..3).map(|_| server.stream(target)).collect();
        settles_at(&server, 3);
        eventually("it is logged", || server.log().contains("reason=limit").then_some(()));
        assert!(server.terminate().success());
        drop(kept);
    }
}

#[test]
fn more_than_the_rate_allows_are_told_to_come_back() {
    const RATE: usize = 40;
    for server in Server::with_workers(&WORKERS, &["--accept-rate", "40"]) {
        let started = Instant::now();
        let crowd = Crowd::ask(clients(&server, CROWD), "/events/stream", &[]);
        // However long it took, there were no more than came in that time.
        let most = RATE + started.elapsed().as_millis() as usize * RATE / 1_000 + 1;
        let open = crowd.open.len();
        assert!((1..=most).contains(&open), "{open} of {most}");
        crowd.expect(open, CROWD - open, 429, "rate");
        server.get("/health").expect(200);
        eventually("it is let in later", || {
            std::thread::sleep(Duration::from_millis(20));
            Sse::try_open(server.address(), "/events/stream", &[]).ok()?.ok()
        });
    }
}
