//! A server with nothing to do does nothing at all: no thread of it runs, however many subscribers
//! it has, whatever they have just been sent, and whoever of them has left.
//!
//! `SUBSCRIBERS=19500 cargo test --test idle` for a crowd.

mod support;

use std::{
    thread,
    time::{Duration, Instant},
};

use support::{
    DEADLINE, Server, Sse, allow_open_files, eventually, from_environment,
    threads::{Thread, that_ran, threads},
};

/// For so long nothing may run.
const REST: Duration = Duration::from_secs(3);
/// After so long without anything running a server is taken to have come to rest: twice the time
/// after which memory is given back.
const SETTLED: Duration = Duration::from_secs(1);
/// No keepalive is due before a third of this.
const KEEPALIVE_INTERVAL: &str = "1h";
/// Files that this process needs beside the subscribers'.
const FILES_RESERVED: usize = 512;

/// Waits until nothing runs in any of the servers, and then checks that nothing does.
fn all_rest(servers: &[(Server, Vec<Sse>)], after: &str) {
    let look = || -> Vec<Vec<Thread>> {
        servers.iter().map(|(server, _)| threads(server.pid())).collect()
    };
    let mut before = look();
    let mut since = Instant::now();
    let started = Instant::now();
    let settled = loop {
        thread::sleep(Duration::from_millis(50));
        let now = look();
        if now != before {
            assert!(
                started.elapsed() < DEADLINE,
                "no rest after {after}: {}",
                differences(servers, &before, &now)
            );
            (before, since) = (now, Instant::now());
        } else if since.elapsed() >= SETTLED && all_sleep(&now) {
            break now;
        }
    };
    thread::sleep(REST);
    let now = look();
    assert!(
        now == settled,
        "{REST:?} of rest after {after}: {}",
        differences(servers, &settled, &now)
    );
}

/// One that would like to run and has no processor does not rest.
fn all_sleep(servers: &[Vec<Thread>]) -> bool {
    servers.iter().flatten().all(|thread| thread.state == 'S')
}

fn differences(
    servers: &[(Server, Vec<Sse>)],
    before: &[Vec<Thread>],
    now: &[Vec<Thread>],
) -> String {
    let of_each = servers.iter().zip(before).zip(now).flat_map(|(((server, _), before), now)| {
        that_ran(before, now)
            .into_iter()
            .map(|(then, now)| format!("\n{}: {then:?}, then {now:?}", server.arguments()))
    });
    of_each.collect()
}

fn nothing_runs(servers: Vec<Server>, subscribers: usize) {
    let mut servers: Vec<(Server, Vec<Sse>)> = servers
        .into_iter()
        .map(|server| {
            server.new_run();
            let target = "/runs/1/events/stream";
            let streams = (0..subscribers).map(|_| server.stream(target)).collect();
            (server, streams)
        })
        .collect();
    all_rest(&servers, "the subscribers have come");
    for (server, streams) in &mut servers {
        let id = server.append(1, "A", "1");
        for stream in streams {
            assert_eq!(stream.ids(2), [1, id]);
        }
    }
    all_rest(&servers, "a fan-out");
    for (server, streams) in &mut servers {
        streams.truncate(subscribers / 2);
        eventually("half of them have left", || {
            (server.open_streams() == streams.len() as u64).then_some(())
        });
    }
    all_rest(&servers, "half of them have left");
    // They were not asleep for ever.
    for (server, streams) in &mut servers {
        let id = server.append(1, "A", "1");
        for stream in streams {
            assert_eq!(stream.ids(1), [id]);
        }
    }
}

#[test]
fn a_server_with_nothing_to_do_does_nothing() {
    let subscribers = from_environment("SUBSCRIBERS", 2_000);
    let allowed = allow_open_files(4 * subscribers + FILES_RESERVED);
    let possible = allowed - FILES_RESERVED.min(allowed);
    let subscribers = subscribers.min(possible);
    let mut servers = Server::with_workers(&[1, 4], &["--keepalive-interval", KEEPALIVE_INTERVAL]);
    // As many at one time as there are descriptors for.
    let at_once = possible / subscribers;
    while !servers.is_empty() {
        let rest = servers.split_off(servers.len().min(at_once));
        nothing_runs(std::mem::replace(&mut servers, rest), subscribers);
    }
}
