//! What subscribers and pollers see of retention: what is gone is said to be gone, and everything
//! else comes.

use std::ops::Range;

use serde_json::{Value, json};

use crate::support::{DEADLINE, Frame, Server, Sse, eventually};

/// What `stream.truncated` says is not there: the ids between the two.
fn hole(frame: &Frame) -> Option<Range<u64>> {
    (frame.name() == "stream.truncated").then(|| {
        assert_eq!(frame.id, None);
        hole_of(&frame.json())
    })
}

fn hole_of(data: &Value) -> Range<u64> {
    let id = |name: &str| data[name].as_u64().unwrap_or_else(|| panic!("{name} in {data}"));
    id("requested_after_id") + 1..id("first_available_id")
}

/// The next frame that says something, which has to be about a hole.
#[track_caller]
fn next_hole(stream: &mut Sse) -> Range<u64> {
    let frame = stream.message().expect("the stream goes on");
    hole(&frame).unwrap_or_else(|| panic!("{frame:?}"))
}

/// The id of the next frame that says something, which has to be an event.
#[track_caller]
fn next_id(stream: &mut Sse) -> u64 {
    let frame = stream.message().expect("the stream goes on");
    frame.id.filter(|_| frame.is_event()).unwrap_or_else(|| panic!("{frame:?}"))
}

/// Appends so many events of this size at once, which pack badly, and says their ids.
fn append_many(server: &Server, run: u64, count: usize, bytes: usize) -> Vec<u64> {
    let event = || {
        let words = (0..bytes.div_ceil(16)).map(|_| format!("{:016x}", rand::random::<u64>()));
        let payload: String = words.collect();
        format!("{{\"type\":\"A\",\"payload\":\"{payload}\"}}")
    };
    let events: Vec<String> = (0..count).map(|_| event()).collect();
    let body = format!("[{}]", events.join(","));
    let answer = server.post(&format!("/runs/{run}/events"), &body).expect(201).json();
    answer.as_array().unwrap().iter().map(|event| event["id"].as_u64().unwrap()).collect()
}

fn journal(server: &Server) -> Value {
    server.json("/worker")["journal"].clone()
}

// ---- the number of events in a run --------------------------------------------------------------

#[test]
fn a_run_has_its_last_events_and_says_what_is_gone() {
    for mut server in Server::with_each_driver(&["--max-events-per-run", "10"]) {
        let run = server.new_run();
        let mut ids = vec![server.json(&format!("/runs/{run}"))["last_event_id"].as_u64().unwrap()];
        let mut live = server.stream(&format!("/runs/{run}/events/stream"));
        ids.extend((0..25).map(|number| server.append(run, "A", &number.to_string())));
        // Whoever was there has had everything.
        assert_eq!((0..26).map(|_| next_id(&mut live)).collect::<Vec<_>>(), ids);
        // And would have it for others, who want the same.
        drop(live);
        eventually("nobody is there", || (server.open_streams() == 0).then_some(()));
        keeps_the_last_ten(&server, run, &ids);
        server.restart();
        keeps_the_last_ten(&server, run, &ids);
        server.crash();
        keeps_the_last_ten(&server, run, &ids);

        let target = format!("/runs/{run}/events/stream");
        ids.push(
            server.end(run, "completed").expect(200).json()["last_event_id"].as_u64().unwrap(),
        );
        let mut ended = server.stream(&target);
        assert_eq!(next_hole(&mut ended), 1..ids[17]);
        assert_eq!(ended.ids_to_end(), ids[17..]);
        server.get(&format!("{target}?after_id={}", ids[26])).expect(204);
    }
}

/// Of 26 events the last ten are there, for everybody who comes.
fn keeps_the_last_ten(server: &Server, run: u64, ids: &[u64]) {
    let target = format!("/runs/{run}/events/stream");
    for (after, hole) in [
        (0, Some(1..ids[16])),
        (ids[3], Some(ids[3] + 1..ids[16])),
        (ids[14], Some(ids[15]..ids[16])),
        (ids[15], None),
        (ids[20], None),
    ] {
        let cursor = after.to_string();
        let mut stream = server.stream_with(&target, &[("Last-Event-ID", &cursor)]);
        let page = server.json(&format!("/runs/{run}/events?after_id={after}"));
        if let Some(hole) = hole {
            assert_eq!(next_hole(&mut stream), hole, "after {after}");
            assert_eq!(hole_of(&page["truncated"]), hole, "after {after}");
        } else {
            assert_eq!(page["truncated"], json!(null), "after {after}");
        }
        let there: Vec<u64> = ids[16..].iter().copied().filter(|id| *id > after).collect();
        let seen: Vec<u64> = there.iter().map(|_| next_id(&mut stream)).collect();
        assert_eq!(seen, there, "after {after}");
        let paged: Vec<u64> = page["events"]
            .as_array()
            .unwrap()
            .iter()
            .map(|event| event["id"].as_u64().unwrap())
            .collect();
        assert_eq!(paged, there, "after {after}");
        assert_eq!(page["next_after_id"], ids[25]);
    }
    let summary = server.json(&format!("/runs/{run}"));
    assert_eq!((&summary["event_count"], &summary["last_event_id"]), (&json!(26), &json!(ids[25])));
}

#[test]
fn a_stream_of_several_runs_says_that_some_are_gone_where_the_first_may_be() {
    for server in Server::with_each_driver(&["--max-events-per-run", "3"]) {
        let quiet = server.new_run_with(r#"{"project":"p","session":"s"}"#);
        let busy = server.new_run_with(r#"{"project":"p","session":"s"}"#);
        let mut there = vec![server.append(quiet, "A", "1")];
        let gone: Vec<u64> = (0..20).map(|_| server.append(busy, "A", "1")).collect();
        there.push(server.append(quiet, "A", "2"));
        there.extend((0..3).map(|_| server.append(busy, "A", "2")));
        for target in [
            "/projects/p/events/stream".to_owned(),
            "/api/sse/session/s".to_owned(),
            "/events/stream".to_owned(),
            format!("/events/stream?runs={quiet},{busy}"),
        ] {
            let mut stream = server.stream(&target);
            // Its creation is there; that of the other is not.
            assert_eq!(next_id(&mut stream), 1, "{target}");
            assert_eq!(next_hole(&mut stream), 2..there[0], "{target}");
            assert_eq!(stream.ids(there.len()), there, "{target}");
            let mut resumed =
                server.stream_with(&target, &[("Last-Event-ID", &gone[5].to_string())]);
            assert_eq!(next_hole(&mut resumed), gone[6]..there[1], "{target}");
            assert_eq!(resumed.ids(there.len() - 1), there[1..], "{target}");
        }
    }
}

// ---- windows ------------------------------------------------------------------------------------

/// Fills a journal of which little is kept until its first events are gone, and it has come to rest.
fn fill(server: &Server, run: u64, bytes_max: u64) {
    let first = append_many(server, run, 1, 10)[0];
    eventually("the first events are gone", || {
        append_many(server, run, 20, 1_000);
        let first_id = journal(server)["first_id"].as_u64();
        first_id.filter(|first_id| *first_id > first + 1)
    });
    eventually("no more than wanted is kept", || {
        let journal = journal(server);
        let bytes =
            journal["log_bytes"].as_u64().unwrap() + journal["cold_bytes"].as_u64().unwrap();
        (bytes <= bytes_max && journal["log_bytes"].as_u64().unwrap() < bytes_max / 10)
            .then_some(())
    });
}

#[test]
fn what_is_too_much_goes_from_the_front() {
    const BYTES: u64 = 100 * 1024;
    for mut server in Server::with_each_driver(&["--max-bytes", "100KiB"]) {
        let ended = server.new_run();
        server.end(ended, "completed").expect(200);
        let idle = server.new_run_with(r#"{"project":"idle"}"#);
        let busy = server.new_run_with(r#"{"project":"p"}"#);
        fill(&server, busy, BYTES);
        for round in 0..2 {
            goes_from_the_front(&server, busy, round == 0);
            server.restart();
        }
        // With its only event a run is gone that has ended, as if it had been deleted.
        for target in [format!("/runs/{ended}"), format!("/runs/{ended}/events/stream")] {
            server.get(&target).expect(404);
        }
        assert_eq!(server.json("/runs")["runs"].as_array().unwrap().len(), 2);
        // One that goes on stays.
        let summary = server.json(&format!("/runs/{idle}"));
        assert_eq!((&summary["event_count"], &summary["status"]), (&json!(1), &json!("running")));
        let page = server.json(&format!("/runs/{idle}/events?wait=60"));
        assert_eq!((&page["events"], &page["has_more"]), (&json!([]), &json!(false)));
        let after = page["next_after_id"].as_u64().unwrap();
        assert_eq!(hole_of(&page["truncated"]), 1..after + 1);
        let mut stream = server.stream("/projects/idle/events/stream");
        assert_eq!(next_hole(&mut stream).start, 1);
        let id = server.append(idle, "A", "1");
        assert_eq!(next_id(&mut stream), id);
        let page = server.json(&format!("/runs/{idle}/events?after_id={after}&wait=60"));
        assert_eq!((&page["truncated"], &page["events"][0]["seq"]), (&json!(null), &json!(2)));
        assert_eq!(page["events"][0]["id"], id);
    }
}

/// The events of a run that is the last to be there: each reader is told of the others.
fn goes_from_the_front(server: &Server, run: u64, is_at_rest: bool) {
    let journal = journal(server);
    let (first, last) =
        (journal["first_id"].as_u64().unwrap(), journal["last_id"].as_u64().unwrap());
    assert!(journal["moved_through"].as_u64().unwrap() > first, "{journal}");
    assert!(journal["windows"].as_u64().unwrap() > 0, "{journal}");
    for target in [
        format!("/runs/{run}/events/stream"),
        "/projects/p/events/stream".to_owned(),
        "/events/stream".to_owned(),
    ] {
        for after in [0, first - 2] {
            let mut stream = server.stream(&format!("{target}?after_id={after}"));
            let hole = next_hole(&mut stream);
            assert_eq!(hole.start, after + 1, "{target}");
            assert!(hole.end >= first && (hole.end == first || !is_at_rest), "{target}: {hole:?}");
            let ids: Vec<u64> = (hole.end..=last).map(|_| next_id(&mut stream)).collect();
            assert!(ids.into_iter().eq(hole.end..=last), "{target}");
        }
    }
    let page = server.json(&format!("/runs/{run}/events?limit=1000"));
    let hole = hole_of(&page["truncated"]);
    assert_eq!((hole.start, &json!(hole.end)), (1, &page["events"][0]["id"]));
    assert_eq!(server.events(run).len() as u64, last + 1 - hole.end);
}

#[test]
fn what_is_too_old_goes() {
    for server in Server::with_each_driver(&["--max-age", "2s"]) {
        // It is there first: on a busy machine a run may be too old before anybody comes.
        let mut live = server.stream("/events/stream");
        let run = server.new_run();
        let last = append_many(&server, run, 5, 10)[4];
        live.ids(6);
        eventually("all are too old", || journal(&server)["first_id"].is_null().then_some(()));
        let mut stream = server.stream(&format!("/runs/{run}/events/stream"));
        assert_eq!(next_hole(&mut stream), 1..last + 1);
        let page = server.json(&format!("/runs/{run}/events?wait=60"));
        assert_eq!(hole_of(&page["truncated"]), 1..last + 1);
        assert_eq!(page["next_after_id"], last);
        let id = server.append(run, "A", "1");
        assert_eq!((next_id(&mut stream), next_id(&mut live)), (id, id));
        assert_eq!(server.json(&format!("/runs/{run}"))["event_count"], 7);
    }
}

#[test]
fn steady_load_keeps_a_steady_file() {
    const KEPT: u64 = 4 << 20;
    let server = Server::with(&["--max-bytes", "4MiB", "--durability", "none"]);
    let run = server.new_run();
    let (mut written, mut largest) = (0, 0);
    while written < 8 * KEPT {
        append_many(&server, run, 50, 10_000);
        written += 50 * 10_000;
        // No more at a time than a busy machine can look after.
        eventually("the log is moved", || {
            (journal(&server)["log_bytes"].as_u64().unwrap() < KEPT).then_some(())
        });
        largest = largest.max(journal(&server)["disk_bytes"].as_u64().unwrap());
    }
    let journal = journal(&server);
    assert!(largest < 4 * KEPT, "{largest} bytes for {KEPT}: {journal}");
    assert!(journal["first_id"].as_u64().unwrap() > 1, "{journal}");
}

#[test]
fn a_key_has_its_first_answer_when_its_events_are_gone() {
    for mut server in Server::with_each_driver(&["--max-bytes", "100KiB"]) {
        let run = server.new_run();
        server.append(run, "A", "1");
        let target = format!("/runs/{run}/events");
        let append = |server: &Server| {
            let body = r#"[{"type":"B","payload":1},{"type":"C"}]"#;
            let answer = server.request("POST", &target, &[("Idempotency-Key", "k")], body);
            let answer = answer.expect(201);
            (answer.text().to_owned(), answer.header("ETag").map(str::to_owned))
        };
        let first = append(&server);
        // While it is in the log, after it has been read from there, and after it was moved.
        assert_eq!(append(&server), first);
        server.restart();
        assert_eq!(append(&server), first);
        fill(&server, run, 100 * 1024);
        let page = server.json(&format!("{target}?limit=1"));
        assert!(page["events"][0]["seq"].as_u64().unwrap() > 4, "{page}");
        assert_eq!(append(&server), first);
        server.restart();
        assert_eq!(append(&server), first);
    }
}

// ---- slow readers -------------------------------------------------------------------------------

/// Reads as long as there is something, and comes back when it is sent away.
struct Reader<'a> {
    server: &'a Server,
    target: String,
    stream: Sse,
    /// Up to here everything has come, or was said to be gone.
    position: u64,
    holes: usize,
}

impl Reader<'_> {
    fn read_to(&mut self, last: u64) {
        while self.position < last {
            if let Ok(Some(frame)) = self.stream.try_frame(DEADLINE) {
                self.take(&frame);
            } else {
                // It was inside an event that is gone.
                let cursor = self.position.to_string();
                let headers = [("Last-Event-ID", &*cursor)];
                self.stream = self.server.stream_with(&self.target, &headers);
            }
        }
    }

    fn take(&mut self, frame: &Frame) {
        if let Some(hole) = hole(frame) {
            assert_eq!(hole.start, self.position + 1, "it goes on from where it was");
            self.position = hole.end - 1;
            self.holes += 1;
        } else if frame.is_event() {
            assert_eq!(frame.id, Some(self.position + 1), "none is left out without a word");
            self.position += 1;
        }
    }
}

#[test]
fn a_reader_that_is_too_slow_for_what_is_kept_is_told() {
    // More than a connection and a tail hold, beside what is kept.
    const EVENTS: usize = 30;
    for flags in [["--max-events-per-run", "5"], ["--max-bytes", "4MiB"]] {
        for server in Server::with_each_driver(&flags) {
            let run = server.new_run();
            let target = format!("/runs/{run}/events/stream");
            let stream = server.stream(&target);
            let mut reader = Reader { server: &server, target, stream, position: 0, holes: 0 };
            reader.read_to(1);
            for _ in 0..EVENTS {
                append_many(&server, run, 1, 900_000);
            }
            let last = journal(&server)["last_id"].as_u64().unwrap();
            if flags[0] == "--max-bytes" {
                eventually("most of them are gone", || {
                    let first_id = journal(&server)["first_id"].as_u64();
                    first_id.filter(|first_id| *first_id > last - 10)
                });
            }
            reader.read_to(last);
            assert!(reader.holes > 0, "it was quick enough for everything");
        }
    }
}
