//! A disk that is full, that fails, or that has not kept what was written, under a real server.
//!
//! The disks are those of `support/small_disk.rs`, which take root.

mod support;

use std::{
    fs,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use rand::RngExt;
use serde_json::Value;
use support::{
    Answer, Server, eventually, seeded,
    server::serve,
    small_disk::{MIB, SmallDisk},
};

const NDJSON: (&str, &str) = ("Content-Type", "application/x-ndjson");
/// Appends until something must have happened to the disk.
const APPENDS_MAX: usize = 20_000;
/// What a program ends with that could not do what it was asked.
const EXIT_FAILED: i32 = 1;

/// One event, with a payload of so many bytes; its id, or what was answered instead.
fn append(server: &Server, run: u64, bytes: usize) -> Result<u64, Answer> {
    let body = format!("{{\"type\":\"A\",\"payload\":\"{}\"}}", "x".repeat(bytes));
    let answer = server.post(&format!("/runs/{run}/events"), &body);
    match answer.status {
        201 => Ok(answer.json()["id"].as_u64().unwrap()),
        _ => Err(answer),
    }
}

/// Appends until one is refused: the ids of the others, and the refusal.
fn append_until_refused(server: &Server, run: u64, bytes: usize) -> (Vec<u64>, Answer) {
    let mut ids = Vec::new();
    for _ in 0..APPENDS_MAX {
        match append(server, run, bytes) {
            Ok(id) => ids.push(id),
            Err(answer) => return (ids, answer),
        }
    }
    panic!("nothing was refused");
}

#[track_caller]
fn expect_full(answer: Answer) -> Value {
    let answer = answer.expect(507);
    assert!(answer.header("Retry-After").is_some(), "{answer:?}");
    let problem = answer.problem();
    assert_eq!(problem["type"], "urn:tidewheel:problem:disk-full", "{problem}");
    problem
}

fn ids(events: &[Value]) -> Vec<u64> {
    events.iter().map(|event| event["id"].as_u64().unwrap()).collect()
}

#[test]
fn a_full_disk_refuses_writes_and_nothing_else_until_there_is_room() {
    for driver in ["uring", "epoll"] {
        let Some(disk) = SmallDisk::new(96 * MIB) else { return };
        let mut server = match Server::try_in(&disk.path(), &["--io", driver]) {
            Ok(server) => server,
            Err(log) if driver == "uring" => {
                eprintln!("skipped, no io_uring here: {log}");
                continue;
            }
            Err(log) => panic!("{log}"),
        };
        let run = server.new_run();
        let mut subscriber = server.stream(&format!("/runs/{run}/events/stream"));
        let mut there = vec![subscriber.event().unwrap().id.unwrap()];
        disk.fill();
        let (mut appended, refusal) = append_until_refused(&server, run, 10_000);
        expect_full(refusal);
        // A small one may have had its room, up to here.
        appended.extend(append_until_refused(&server, run, 1).0);
        there.extend(&appended);

        // Every kind of write.
        let events = format!("/runs/{run}/events");
        expect_full(server.post(&events, "[{\"type\":\"A\"},{\"type\":\"B\"}]"));
        let lines =
            server.request("POST", &events, &[NDJSON], "{\"type\":\"A\"}\n{\"type\":\"B\"}\n");
        assert_eq!(expect_full(lines)["count"], 0);
        expect_full(server.post("/runs", "{}"));
        expect_full(server.end(run, "completed"));
        expect_full(server.delete(&format!("/runs/{run}")));

        // Everything else goes on.
        server.get("/health/ready").expect(200);
        assert_eq!(ids(&server.events(run)), there);
        assert_eq!(subscriber.ids(appended.len()), appended);
        assert_eq!(server.stream(&format!("/runs/{run}/events/stream")).ids(there.len()), there);

        // A restart on a full disk, too.
        server.restart();
        assert_eq!(ids(&server.events(run)), there);
        expect_full(server.post("/runs", "{}"));
        let mut subscriber = server.stream(&format!("/runs/{run}/events/stream"));
        assert_eq!(subscriber.ids(there.len()), there);

        // And with room writes do.
        disk.clear();
        let id = eventually("the journal goes on", || append(&server, run, 10).ok());
        there.push(id);
        assert_eq!(subscriber.ids(1), [id]);
        server.crash();
        assert_eq!(ids(&server.events(run)), there);
    }
}

#[test]
fn the_lines_that_were_appended_before_the_disk_was_full_stay() {
    let Some(disk) = SmallDisk::new(96 * MIB) else { return };
    let mut server = Server::try_in(&disk.path(), &[]).unwrap();
    let run = server.new_run();
    disk.fill_up_to(8 * MIB);
    let line = format!("{{\"type\":\"A\",\"payload\":\"{}\"}}\n", "x".repeat(20_000));
    let mut client = server.client();
    let head = format!("Content-Length: {}\r\n{}: {}", 2_000 * line.len(), NDJSON.0, NDJSON.1);
    client.send(format!("POST /runs/{run}/events HTTP/1.1\r\nHost: x\r\n{head}\r\n\r\n"));
    for _ in 0..2_000 {
        // It is answered before it has ended, and then not listened to for long.
        if client.has_something() || client.try_send(&line).is_err() {
            break;
        }
    }
    let problem = expect_full(client.answer_to("POST"));
    let count = problem["count"].as_u64().unwrap();
    assert!(0 < count && count < 2_000, "{problem}");
    let events = server.events(run);
    assert_eq!(events.len() as u64, count + 1, "{problem}");
    assert_eq!(problem["last_id"], events.last().unwrap()["id"], "{problem}");
    server.crash();
    assert_eq!(server.events(run), events);
}

/// The room that is held is enough although another program takes every block that becomes free.
#[test]
fn a_disk_that_another_program_fills_up_is_not_the_end_of_the_journal() {
    let Some(disk) = SmallDisk::new(96 * MIB) else { return };
    let mut server = Server::try_in(&disk.path(), &[]).unwrap();
    let run = server.new_run();
    let mut there = ids(&server.events(run));
    for bytes in [10, 60_000, 900_000] {
        disk.fill_up_to(4 * MIB);
        let is_over = AtomicBool::new(false);
        let appended = thread::scope(|scope| {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    disk.fill();
                }
            });
            let (appended, refusal) = append_until_refused(&server, run, bytes);
            is_over.store(true, Ordering::Relaxed);
            expect_full(refusal);
            appended
        });
        there.extend(appended);
        disk.clear();
        there.push(eventually("the journal goes on", || append(&server, run, 10).ok()));
    }
    server.crash();
    assert_eq!(ids(&server.events(run)), there);
}

#[test]
fn after_a_failed_sync_nothing_is_written_until_a_restart() {
    let Some(disk) = SmallDisk::whose_syncs_can_fail() else { return };
    let mut server = Server::try_in(&disk.path(), &[]).unwrap();
    let run = server.new_run();
    let mut there = ids(&server.events(run));
    there.extend((0..20).map(|_| append(&server, run, 5_000).ok().unwrap()));
    let mut subscriber = server.stream(&format!("/runs/{run}/events/stream"));
    assert_eq!(subscriber.ids(there.len()), there);

    disk.fail_syncs();
    let (appended, refusal) = append_until_refused(&server, run, 50_000);
    there.extend(&appended);
    let expect_failed = |answer: Answer| {
        let problem = answer.expect(503).problem();
        assert_eq!(problem["type"], "urn:tidewheel:problem:journal-failed", "{problem}");
    };
    expect_failed(refusal);
    expect_failed(server.get("/health/ready"));
    server.get("/health").expect(200);
    assert_eq!(server.json("/worker")["journal"]["failed"], true);
    disk.mend_syncs();
    // Room is no reason to go on: what is on the disk is not known.
    expect_failed(append(&server, run, 10).unwrap_err());
    expect_failed(server.post("/runs", "{}"));
    assert_eq!(ids(&server.events(run)), there);
    assert_eq!(subscriber.ids(appended.len()), appended);
    assert!(subscriber.has_no_event_for(std::time::Duration::from_millis(200)));
    eventually("it is in the log", || {
        server.log().contains("the journal has failed").then_some(())
    });

    server.restart();
    let found = ids(&server.events(run));
    assert!(found.starts_with(&there), "{found:?}, {there:?} were answered");
    assert!(found.len() <= there.len() + 1, "{found:?}, {there:?} were answered");
    let id = append(&server, run, 10).expect("the disk is as good as new");
    assert!(found.iter().all(|found| *found < id));
}

/// The exit code and the log of a server that does not start.
fn refused(journal: &Path) -> (Option<i32>, String) {
    let mut command = serve("127.0.0.1:0", journal);
    let output = command.output().expect("the binary was built with the tests");
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn a_damaged_journal_is_refused_or_served_as_it_was() {
    let mut rng = seeded();
    let mut server = Server::start();
    let runs: Vec<u64> = (0..10).map(|_| server.new_run()).collect();
    for run in &runs {
        let line = |number| format!("{{\"type\":\"A\",\"payload\":\"{}\"}}\n", "x".repeat(number));
        let lines = (0..300).map(line).collect::<Vec<_>>().concat();
        server.request("POST", &format!("/runs/{run}/events"), &[NDJSON], &lines).expect(201);
    }
    let read = |server: &Server| runs.iter().map(|run| server.events(*run)).collect::<Vec<_>>();
    let events = read(&server);
    server.terminate();
    let journal = server.journal().join("journal");
    let log = journal.join("log.redb");
    let original = fs::read(&log).unwrap();
    let mut outcomes = [0, 0];
    for damage in 0..24 {
        let mut content = original.clone();
        if damage % 3 == 0 {
            content.truncate(rng.random_range(1..content.len()));
        } else {
            // Most of the file is room for later.
            let used: Vec<usize> = (0..content.len()).filter(|byte| content[*byte] != 0).collect();
            let byte = used[rng.random_range(0..used.len())];
            content[byte] ^= 1 << rng.random_range(0..8);
        }
        fs::write(&log, &content).unwrap();
        if let Ok(()) = server.try_start_again() {
            outcomes[0] += 1;
            assert!(read(&server) == events, "other events are served");
            assert!(server.terminate().success());
            continue;
        }
        outcomes[1] += 1;
        let (code, said) = refused(&journal);
        assert_eq!(code, Some(EXIT_FAILED), "{said}");
        for wanted in ["log.redb", "is damaged", "Restore it from a backup"] {
            assert!(said.contains(wanted), "{said}");
        }
        assert!(!said.contains("panicked"), "{said}");
    }
    println!("served and refused: {outcomes:?}");
    assert!(outcomes[1] > 0, "what was cut off cannot be served");
    fs::write(&log, &original).unwrap();
    server.start_again();
    assert!(read(&server) == events);
}

#[test]
fn a_journal_that_cannot_be_had_is_refused_with_what_to_do() {
    let server = Server::start();
    let expect = |journal: &Path, wanted: &[&str]| {
        let (code, said) = refused(journal);
        assert_eq!(code, Some(EXIT_FAILED), "{said}");
        assert!(wanted.iter().all(|wanted| said.contains(wanted)), "{said}");
        assert!(!said.contains("panicked"), "{said}");
    };
    let journal = server.journal().join("journal");
    expect(&journal, &["log.redb is in use by another process", "Stop that server first"]);
    let file = server.journal().join("file");
    fs::write(&file, "").unwrap();
    expect(&file, &["must be on a local disk"]);
    expect(&file.join("journal"), &["must be on a local disk"]);
    server.new_run();
    assert_eq!(server.json("/runs")["runs"].as_array().unwrap().len(), 1, "it goes on");
}

#[test]
fn a_disk_that_cannot_be_written_is_said() {
    let Some(disk) = SmallDisk::new(64 * MIB) else { return };
    let mut server = Server::try_in(&disk.path(), &[]).unwrap();
    server.terminate();
    disk.forbid_writing();
    let (code, said) = refused(&server.journal().join("journal"));
    assert_eq!(code, Some(EXIT_FAILED), "{said}");
    assert!(said.contains("Read-only file system") && said.contains("allowed to write"), "{said}");
}
