//! Silence. It is the longest test here, and by its name the first to be started.

use std::{
    thread,
    time::{Duration, Instant},
};

use super::{
    proxy::{Kind, Proxy, Upload, next_id},
    support::{DEADLINE, Server, eventually, programs::Running},
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
    // And uploads, of which one line is there and the next comes afterwards.
    let uploaded = server.new_run();
    let mut uploads: Vec<Upload> = proxies
        .iter()
        .filter(|proxy| proxy.kind.streams_requests())
        .map(|proxy| proxy.upload(uploaded))
        .collect();
    for (count, upload) in (1..).zip(&mut uploads) {
        upload.line();
        let appended = || server.json(&format!("/runs/{uploaded}"))["event_count"] == 1 + count;
        eventually("the line is an event", || appended().then_some(()));
    }
    let started = Instant::now();
    thread::sleep(SILENCE);
    for mut upload in uploads {
        upload.line();
        let (kind, answer) = upload.end();
        assert!(answer.contains("\"count\":2"), "{kind:?}: {answer}");
    }
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
