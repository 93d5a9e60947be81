//! `GET /runs/{id}/events`: pages, long polls, cursors.

use std::{
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::support::{DEADLINE, Server, eventually};

fn seqs(page: &Value) -> Vec<u64> {
    page["events"].as_array().unwrap().iter().map(|event| event["seq"].as_u64().unwrap()).collect()
}

/// A run with `RUN_CREATED` and `events` more, of types A and B in turn.
fn run_with(server: &Server, events: usize) -> u64 {
    let run = server.new_run();
    for number in 0..events {
        server.append(run, ["A", "B"][number % 2], &number.to_string());
    }
    run
}

#[test]
fn a_page_says_everything() {
    let server = Server::start();
    let run = run_with(&server, 2);
    let page = server.json(&format!("/runs/{run}/events"));
    assert_eq!(seqs(&page), [1, 2, 3]);
    assert_eq!(page["next_after_id"], page["events"][2]["id"]);
    assert_eq!(page["has_more"], false);
    assert_eq!(page["run_status"], "running");
    assert_eq!(page["truncated"], json!(null));
    assert_eq!(page["reset"], false);
    assert_eq!(page.as_object().unwrap().len(), 6);
}

#[test]
fn pages_follow_each_other() {
    let server = Server::start();
    let (run, other) = (server.new_run(), server.new_run());
    for number in 0..9 {
        server.append(run, "A", &number.to_string());
        server.append(other, "A", "0");
    }
    for limit in [1, 2, 3, 4, 5, 10, 11] {
        let (mut after, mut all) = (0, Vec::new());
        loop {
            let page = server.json(&format!("/runs/{run}/events?after_id={after}&limit={limit}"));
            let page_seqs = seqs(&page);
            assert!(page_seqs.len() <= limit);
            all.extend(page_seqs);
            after = page["next_after_id"].as_u64().unwrap();
            if page["has_more"] == false {
                break;
            }
            assert_eq!(page["events"].as_array().unwrap().len(), limit);
        }
        assert_eq!(all, (1..=10).collect::<Vec<u64>>(), "limit {limit}");
        let next = server.json(&format!("/runs/{run}/events?after_id={after}"));
        assert_eq!(seqs(&next), [0; 0]);
        assert!(next["next_after_id"].as_u64() >= Some(after));
    }
}

#[test]
fn a_page_has_100_events_unless_told_and_never_more_than_1000() {
    let server = Server::start();
    let run = server.new_run();
    let many = format!("[{}]", vec![r#"{"type":"A"}"#; 1_100].join(","));
    server.post(&format!("/runs/{run}/events"), &many).expect(201);
    let page = |query: &str| server.json(&format!("/runs/{run}/events?{query}"));
    assert_eq!(seqs(&page("")).len(), 100);
    assert_eq!(page("")["has_more"], true);
    assert_eq!(seqs(&page("limit=1000")).len(), 1_000);
}

#[test]
fn a_page_is_at_most_8_mib() {
    let server = Server::start();
    let run = server.new_run();
    let payload = format!("\"{}\"", "x".repeat(1_000_000));
    for _ in 0..10 {
        server.append(run, "A", &payload);
    }
    let mut after = 0;
    let mut all = Vec::new();
    let mut pages = 0;
    loop {
        let answer =
            server.get(&format!("/runs/{run}/events?limit=1000&after_id={after}")).expect(200);
        assert!(answer.body.len() <= 8 * 1024 * 1024 + 1_024, "{}", answer.body.len());
        let page = answer.json();
        all.extend(seqs(&page));
        pages += 1;
        after = page["next_after_id"].as_u64().unwrap();
        if page["has_more"] == false {
            break;
        }
    }
    assert_eq!(all, (1..=11).collect::<Vec<u64>>());
    assert_eq!(pages, 2);
}

#[test]
fn a_bad_query_of_a_page_is_refused() {
    let server = Server::start();
    let run = server.new_run();
    for (query, status) in [
        ("after_id=x", 400),
        ("after_id=-1", 400),
        ("after_id=%2B1", 400),
        ("after_id=18446744073709551616", 400),
        ("limit=x", 400),
        ("limit=0", 422),
        ("limit=1001", 422),
        ("wait=x", 400),
        ("wait=61", 422),
        ("types=a%20b", 422),
        ("types=,", 422),
    ] {
        server.get(&format!("/runs/{run}/events?{query}")).expect(status);
    }
    server.get(&format!("/runs/{run}/events?after_id=&limit=&wait=&types=")).expect(200);
    server.get(&format!("/runs/{run}/events?unknown=1")).expect(200);
}

#[test]
fn types_are_kept_and_the_closing_event_passes() {
    let server = Server::start();
    let run = run_with(&server, 4);
    let page = |query: &str| server.json(&format!("/runs/{run}/events?{query}"));
    assert_eq!(seqs(&page("types=A")), [2, 4]);
    assert_eq!(seqs(&page("types=A,B")), [2, 3, 4, 5]);
    assert_eq!(seqs(&page("types=RUN_CREATED")), [1]);
    let nothing = page("types=C");
    assert_eq!(seqs(&nothing), [0; 0]);
    assert_eq!(nothing["has_more"], false);
    let first = page("types=A&limit=1");
    assert_eq!(seqs(&first), [2]);
    assert_eq!(first["has_more"], true);
    let after = &first["next_after_id"];
    assert_eq!(seqs(&page(&format!("types=A&after_id={after}"))), [4]);
    server.end(run, "completed").expect(200);
    assert_eq!(seqs(&page("types=B")), [3, 5, 6]);
    assert_eq!(seqs(&page("types=C")), [6]);
}

#[test]
fn a_long_poll_wakes_at_once() {
    let server = Server::start();
    let run = run_with(&server, 3);
    let last = server.json(&format!("/runs/{run}"))["last_event_id"].as_u64().unwrap();
    let target = format!("/runs/{run}/events?after_id={last}&wait=60");
    let mut client = server.client();
    client.send(crate::support::http::request("GET", &target, &[], ""));
    assert!(client.is_quiet_for(Duration::from_millis(200)), "there is nothing to say yet");
    let started = Instant::now();
    server.append(run, "A", "7");
    let page = client.answer().expect(200).json();
    assert!(started.elapsed() < DEADLINE, "{:?}", started.elapsed());
    assert_eq!(seqs(&page), [5]);
    assert_eq!(page["events"][0]["payload"], 7);
    // The connection goes on as any other.
    assert_eq!(client.request("GET", "/health", &[], "").status, 200);
}

#[test]
fn a_long_poll_that_has_something_does_not_wait() {
    let server = Server::start();
    let run = run_with(&server, 1);
    let started = Instant::now();
    let page = server.json(&format!("/runs/{run}/events?wait=60"));
    assert_eq!(seqs(&page), [1, 2]);
    assert!(started.elapsed() < DEADLINE, "it has waited");
}

#[test]
fn a_long_poll_on_an_ended_run_returns_at_once() {
    let server = Server::start();
    let run = run_with(&server, 1);
    server.end(run, "completed").expect(200);
    let last = server.json(&format!("/runs/{run}"))["last_event_id"].as_u64().unwrap();
    let started = Instant::now();
    let page = server.json(&format!("/runs/{run}/events?wait=60&after_id={last}"));
    assert_eq!(seqs(&page), [0; 0]);
    assert_eq!(page["run_status"], "completed");
    assert!(started.elapsed() < DEADLINE, "it has waited");
}

#[test]
fn a_long_poll_wakes_at_the_end_of_the_run_and_at_its_deletion() {
    let server = Server::start();
    let wait = |run: u64| {
        let mut client = server.client();
        let target = format!("/runs/{run}/events?after_id=999&wait=60&types=X");
        // A cursor ahead of the journal would be a reset.
        let last = server.json(&format!("/runs/{run}"))["last_event_id"].as_u64().unwrap();
        let target = target.replace("999", &last.to_string());
        client.send(crate::support::http::request("GET", &target, &[], ""));
        assert!(client.is_quiet_for(Duration::from_millis(100)));
        client
    };
    let run = server.new_run();
    let mut client = wait(run);
    server.append(run, "Y", "1");
    assert!(client.is_quiet_for(Duration::from_millis(100)), "Y is not asked for");
    server.end(run, "failed").expect(200);
    let page = client.answer().expect(200).json();
    assert_eq!(seqs(&page), [3]);
    assert_eq!(page["run_status"], "failed");

    let run = server.new_run();
    let mut client = wait(run);
    server.delete(&format!("/runs/{run}")).expect(204);
    client.answer().expect(404);
}

#[test]
fn a_long_poll_ends_empty_when_its_time_is_up() {
    let server = Server::start();
    let run = server.new_run();
    let last = server.json(&format!("/runs/{run}"))["last_event_id"].as_u64().unwrap();
    let started = Instant::now();
    let page = server.json(&format!("/runs/{run}/events?wait=1&after_id={last}"));
    assert!(started.elapsed() >= Duration::from_millis(990), "{:?}", started.elapsed());
    assert_eq!(seqs(&page), [0; 0]);
    assert_eq!(page["has_more"], false);
    assert!(page["next_after_id"].as_u64() >= Some(last));
}

#[test]
fn many_long_polls_wake_together() {
    let server = Server::start();
    let run = server.new_run();
    let last = server.json(&format!("/runs/{run}"))["last_event_id"].as_u64().unwrap();
    thread::scope(|scope| {
        let target = format!("/runs/{run}/events?wait=60&after_id={last}");
        let polls: Vec<_> = (0..20)
            .map(|_| {
                let mut client = server.client();
                client.send(crate::support::http::request("GET", &target, &[], ""));
                scope.spawn(move || client.answer().expect(200).json())
            })
            .collect();
        server.append(run, "A", "1");
        for poll in polls {
            assert_eq!(seqs(&poll.join().unwrap()), [2]);
        }
    });
}

#[test]
fn a_cursor_ahead_of_the_journal_is_a_reset() {
    let server = Server::start();
    let run = run_with(&server, 2);
    for _ in 0..2 {
        for wait in ["", "&wait=60"] {
            let target = format!("/runs/{run}/events?after_id=1000000{wait}");
            let page = server.json(&target);
            assert_eq!(page["reset"], true);
            assert_eq!(seqs(&page)[..3], [1, 2, 3]);
        }
        // Also on an ended run.
        server.end(run, "completed").expect(200);
    }
}

#[test]
fn a_cursor_of_another_run_is_good() {
    let server = Server::start();
    let run = run_with(&server, 2);
    let later = run_with(&server, 5);
    let last = server.json(&format!("/runs/{later}"))["last_event_id"].as_u64().unwrap();
    let page = server.json(&format!("/runs/{run}/events?after_id={last}"));
    assert_eq!(page["reset"], false);
    assert_eq!(seqs(&page), [0; 0]);
}

#[test]
fn pages_are_not_stored_by_caches() {
    let server = Server::start();
    let run = server.new_run();
    let answer = server.get(&format!("/runs/{run}/events")).expect(200);
    assert_eq!(answer.header("Cache-Control"), Some("no-store"));
}

#[test]
fn a_long_poll_whose_client_goes_away_is_forgotten_with_its_wait() {
    let server = Server::start();
    let run = server.new_run();
    let last = server.json(&format!("/runs/{run}"))["last_event_id"].as_u64().unwrap();
    let target = format!("/runs/{run}/events?wait=2&after_id={last}");
    let connections = || -> u64 {
        let worker = server.json("/worker");
        worker["workers"][0]["connections"].as_u64().unwrap()
    };
    let clients: Vec<_> = (0..10)
        .map(|_| {
            let mut client = server.client();
            client.send(crate::support::http::request("GET", &target, &[], ""));
            client
        })
        .collect();
    eventually("they are counted", || (connections() >= 10).then_some(()));
    drop(clients);
    eventually("they are forgotten", || (connections() <= 1).then_some(()));
}
