//! A server that has no file descriptor left: it waits and does not spin, those who are connected
//! notice nothing, and those who are not are served as soon as it can.

mod support;

use std::{
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};
use support::{
    Client, DEADLINE, Server, Sse, eventually,
    http::request,
    threads::{Thread, that_ran, threads},
};

/// Subscribers that are there before the descriptors run out.
const SUBSCRIBERS: usize = 20;
/// Descriptors that are left then.
const DESCRIPTORS_LEFT: usize = 10;
/// Clients that want one.
const CLIENTS: usize = 60;
const STARVED: Duration = Duration::from_secs(2);
/// A worker looks again ten times a second, and needs a few turns to go back to sleep.
const SWITCHES_A_SECOND_MAX: u64 = 100;
/// The part of one processor that it may need for that, in the slowest build.
const LOAD_MAX: f64 = 0.1;
const WARNING: &str = "cannot accept a connection";

/// Sets how many descriptors a running server may have.
fn allow_descriptors(server: &Server, count: usize) {
    let limit =
        Rlimit { current: Some(count as u64), maximum: getrlimit(Resource::Nofile).maximum };
    let pid = Pid::from_raw(server.pid().cast_signed());
    prlimit(pid, Resource::Nofile, limit).expect("the process is ours");
}

/// What the threads of a server do in a while: how often they wake in a second, and how much of a
/// processor they need.
fn watch(server: &Server) -> Vec<(Thread, u64, f64)> {
    let (began, before) = (Instant::now(), threads(server.pid()));
    thread::sleep(STARVED);
    let (after, time) = (threads(server.pid()), began.elapsed());
    that_ran(&before, &after)
        .into_iter()
        .map(|(then, now)| {
            let (run, switches) = then.map_or((0, 0), |then| (then.run_nanos, then.switches));
            let load = (now.run_nanos - run) as f64 / time.as_nanos() as f64;
            let switches = (now.switches - switches) * 1_000 / time.as_millis() as u64;
            (now.clone(), switches, load)
        })
        .collect()
}

fn ask(server: &Server, target: &str) -> Client {
    let mut client = server.client();
    client.send(request("GET", target, &[], ""));
    client
}

/// Those of the clients that are answered, up to so many, as streams.
fn answered(clients: &mut Vec<Client>, count: usize) -> Vec<Sse> {
    let mut streams = Vec::new();
    eventually("they are served", || {
        let mut at = 0;
        while at < clients.len() && streams.len() < count {
            if clients[at].has_something() {
                let opened = Sse::try_opened(clients.swap_remove(at)).expect("it is served");
                streams.push(opened.unwrap_or_else(|answer| panic!("{}", answer.text())));
            } else {
                at += 1;
            }
        }
        (streams.len() == count).then_some(())
    });
    streams
}

#[test]
fn without_descriptors_the_server_waits_and_goes_on() {
    for server in Server::with_workers(&[1, 4], &[]) {
        let run = server.new_run();
        let target = format!("/runs/{run}/events/stream");
        let mut publisher = server.client();
        let mut append = || {
            let target = format!("/runs/{run}/events");
            let answer = publisher.request("POST", &target, &[], r#"{"type":"A"}"#).expect(201);
            answer.json()["id"].as_u64().expect("an id")
        };
        let mut streams: Vec<Sse> = (0..SUBSCRIBERS).map(|_| server.stream(&target)).collect();
        append();
        for stream in &mut streams {
            assert_eq!(stream.ids(2), [1, 2]);
        }
        eventually("connections that were requests are closed", || {
            (server.by_worker("connections").iter().sum::<u64>() == SUBSCRIBERS as u64 + 2)
                .then_some(())
        });
        // The one that asked for this has gone by now.
        let allowed = server.open_files() + DESCRIPTORS_LEFT;
        allow_descriptors(&server, allowed);
        let mut waiting: Vec<Client> = (0..CLIENTS).map(|_| ask(&server, &target)).collect();
        eventually("it says so", || server.log().contains(WARNING).then_some(()));
        let mut served = answered(&mut waiting, DESCRIPTORS_LEFT);

        let workers = threads(server.pid());
        let workers = workers.iter().filter(|thread| thread.name.starts_with("worker")).count();
        for (thread, switches, load) in watch(&server) {
            let what = format!("{}: {thread:?}, {switches} a second", server.arguments());
            assert!(switches < SWITCHES_A_SECOND_MAX, "{what}");
            assert!(load < LOAD_MAX, "{what}, {load}");
            eprintln!("{what}, {load:.4} of a processor");
        }
        let warnings = server.log().matches(WARNING).count();
        assert!((1..=workers).contains(&warnings), "{}", server.log());

        // Whoever is there notices nothing.
        for _ in 0..5 {
            let id = append();
            for stream in &mut streams {
                assert_eq!(stream.ids(1), [id]);
            }
            for stream in &mut served {
                let mut last = 0;
                while last < id {
                    last = stream.ids(1)[0];
                }
            }
        }
        // For each who goes somebody comes who waits, on that worker or, a little later, on another.
        streams.truncate(SUBSCRIBERS / 2);
        served.extend(answered(&mut waiting, SUBSCRIBERS / 2));
        assert!(!waiting.is_empty());
        // And with descriptors enough, all.
        allow_descriptors(&server, allowed + CLIENTS);
        let rest = waiting.len();
        served.extend(answered(&mut waiting, rest));
        assert_eq!(served.len(), CLIENTS);
        let last = append();
        for stream in streams.iter_mut().chain(&mut served) {
            let began = Instant::now();
            while stream.ids(1)[0] < last {
                assert!(began.elapsed() < DEADLINE);
            }
        }
        eventually("the server answers", || server.get("/health").expect(200).json().into());
    }
}
