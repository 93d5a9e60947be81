//! Silence. It is the longest test here, and by its name the first to be started.

use std::{
    thread,
    time::{Duration, Instant},
};

use super::{
    proxy::{Kind, Proxy, next_id},
    support::{DEADLINE, Server, programs::Running},
};

/// Longer than the 60 s after which proxies end a connection that says nothing. All wait at once.
#[test]
fn silence_of_75_s_ends_nothing() {
    const SILENCE: Duration = Duration::from_secs(75);
    let server = Server::start();
    let run = server.new_run();
    let proxies = Proxy::start_each(&Kind::all(), server.address());
    let target = format!("/runs/{run}/events/stream");
    let streams: Vec<Running> = proxies.iter().map(|proxy| proxy.follow(&target, &[])).collect();
    for stream in &streams {
        next_id(stream);
    }
    let started = Instant::now();
    thread::sleep(SILENCE);
    let id = server.append(run, "A", "1");
    for (stream, proxy) in streams.iter().zip(&proxies) {
        let mut keepalives = 0;
        let found = loop {
            let line = stream.line();
            keepalives += u32::from(line == ": keepalive");
            if let Some(id) = line.strip_prefix("id: ") {
                break id.parse::<u64>().expect("an id is a number");
            }
            assert!(started.elapsed() < SILENCE + DEADLINE, "{:?}: no event", proxy.kind);
        };
        assert_eq!(found, id, "{:?} after {:?}", proxy.kind, started.elapsed());
        assert!(keepalives >= 4, "{:?}: {keepalives} keepalives", proxy.kind);
    }
    assert_eq!(server.open_streams(), streams.len() as u64);
}
