//! Appends that happen once only: idempotency keys, producers, `If-Match`.

use crate::support::{Answer, Server};

const EVENT: &str = r#"{"type":"A","payload":1}"#;

fn post_with_key(server: &Server, target: &str, key: &str, body: &str) -> Answer {
    server.request("POST", target, &[("Idempotency-Key", key)], body)
}

#[test]
fn the_same_key_again_is_the_first_answer() {
    let mut server = Server::start();
    let run = server.new_run();
    let target = format!("/runs/{run}/events");
    let array = r#"[{"type":"A"},{"type":"B","payload":[1,2]}]"#;
    let single = post_with_key(&server, &target, "one", EVENT).expect(201);
    let several = post_with_key(&server, &target, "two", array).expect(201);
    for how in ["at once", "after a restart", "after a crash"] {
        match how {
            "after a restart" => server.restart(),
            "after a crash" => server.crash(),
            _ => {}
        }
        for (key, body, first) in [("one", EVENT, &single), ("two", array, &several)] {
            let again = post_with_key(&server, &target, key, body).expect(201);
            assert_eq!(again.text(), first.text(), "{how}");
            assert_eq!(again.header("ETag"), first.header("ETag"), "{how}");
        }
        assert_eq!(server.events(run).len(), 4, "{how}");
    }
}

#[test]
fn the_same_key_with_another_body_is_409() {
    let mut server = Server::start();
    let run = server.new_run();
    let target = format!("/runs/{run}/events");
    post_with_key(&server, &target, "k", EVENT).expect(201);
    post_with_key(&server, &target, "k", r#"{"type":"B"}"#).expect(409);
    server.restart();
    post_with_key(&server, &target, "k", r#"{"type":"B"}"#).expect(409);
    assert_eq!(server.events(run).len(), 2);
}

#[test]
fn keys_of_different_runs_and_of_creation_are_different_keys() {
    let server = Server::start();
    let run = post_with_key(&server, "/runs", "k", "{}").expect(201).json()["id"].clone();
    let other = server.new_run();
    post_with_key(&server, &format!("/runs/{run}/events"), "k", EVENT).expect(201);
    post_with_key(&server, &format!("/runs/{other}/events"), "k", EVENT).expect(201);
    assert_eq!(server.events(other).len(), 2);
}

#[test]
fn a_run_is_created_once_with_a_key() {
    let mut server = Server::start();
    let body = r#"{"project":"p","metadata":{"a":1.0}}"#;
    let first = post_with_key(&server, "/runs", "k", body).expect(201);
    let target = format!("/runs/{}", first.json()["id"]);
    // The answer is the first one, also when the run has gone on since.
    server.post(&format!("{target}/events"), EVENT).expect(201);
    server.patch(&target, r#"{"status":"completed"}"#).expect(200);
    for how in ["at once", "after a restart"] {
        if how == "after a restart" {
            server.restart();
        }
        let again = post_with_key(&server, "/runs", "k", body).expect(201);
        assert_eq!(again.text(), first.text(), "{how}");
        assert_eq!(again.header("Location"), Some(&*target), "{how}");
        post_with_key(&server, "/runs", "k", "{}").expect(409);
        assert_eq!(server.json("/runs")["runs"].as_array().unwrap().len(), 1);
    }
}

#[test]
fn a_refused_append_leaves_its_key_free() {
    let server = Server::start();
    let run = server.new_run();
    let target = format!("/runs/{run}/events");
    post_with_key(&server, &target, "k", r#"{"type":"a b"}"#).expect(422);
    let stale = [("Idempotency-Key", "k"), ("If-Match", "\"999\"")];
    server.request("POST", &target, &stale, EVENT).expect(412);
    post_with_key(&server, &target, "k", EVENT).expect(201);
    assert_eq!(server.events(run).len(), 2);
}

#[test]
fn a_key_wins_over_a_precondition_and_over_ended() {
    let server = Server::start();
    let run = server.new_run();
    let target = format!("/runs/{run}/events");
    let tag = server.get(&format!("/runs/{run}")).header("ETag").unwrap().to_owned();
    let headers = [("Idempotency-Key", "k"), ("If-Match", &*tag)];
    let first = server.request("POST", &target, &headers, EVENT).expect(201);
    let again = server.request("POST", &target, &headers, EVENT).expect(201);
    assert_eq!(again.text(), first.text());
    server.end(run, "completed").expect(200);
    let again = server.request("POST", &target, &headers, EVENT).expect(201);
    assert_eq!(again.text(), first.text());
    post_with_key(&server, &target, "k", r#"{"type":"B"}"#).expect(409);
    let problem = post_with_key(&server, &target, "new", EVENT).expect(409).problem();
    assert_eq!(problem["run_status"], "completed");
    assert_eq!(server.events(run).len(), 3);
}

#[test]
fn a_duplicate_under_way_waits_for_the_first() {
    let server = Server::start();
    let run = server.new_run();
    let target = format!("/runs/{run}/events");
    for round in 0..5 {
        let key = format!("round {round}");
        let post = || post_with_key(&server, &target, &key, EVENT).expect(201);
        let answers: Vec<String> = std::thread::scope(|scope| {
            let threads: Vec<_> =
                (0..8).map(|_| scope.spawn(|| post().text().to_owned())).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:?}");
        assert_eq!(server.events(run).len(), 2 + round);
    }
}

#[test]
fn duplicates_in_one_pipeline_are_one_append() {
    let server = Server::start();
    let run = server.new_run();
    let target = format!("/runs/{run}/events");
    let request =
        crate::support::http::request("POST", &target, &[("Idempotency-Key", "k")], EVENT);
    let mut client = server.client();
    client.send(request.repeat(4));
    let first = client.answer().expect(201);
    for _ in 1..4 {
        assert_eq!(client.answer().expect(201).text(), first.text());
    }
    assert_eq!(server.events(run).len(), 2);
}

#[test]
fn a_bad_key_is_400() {
    let server = Server::start();
    let run = server.new_run();
    let target = format!("/runs/{run}/events");
    let long = "k".repeat(256);
    for key in ["", "ä", &*long] {
        post_with_key(&server, &target, key, EVENT).expect(400);
        post_with_key(&server, "/runs", key, "{}").expect(400);
    }
    let twice = [("Idempotency-Key", "a"), ("Idempotency-Key", "b")];
    server.request("POST", &target, &twice, EVENT).expect(400);
    post_with_key(&server, &target, &long[1..], EVENT).expect(201);
    assert_eq!(server.events(run).len(), 2);
}

fn produce(server: &Server, run: u64, epoch: u64, seq: u64) -> Answer {
    let (epoch, seq) = (epoch.to_string(), seq.to_string());
    let headers = [("Producer-Id", "p"), ("Producer-Epoch", &*epoch), ("Producer-Seq", &*seq)];
    server.request("POST", &format!("/runs/{run}/events"), &headers, EVENT)
}

#[test]
fn a_producer_appends_each_of_its_requests_once() {
    let mut server = Server::start();
    let run = server.new_run();
    assert_eq!(produce(&server, run, 0, 3).expect(409).problem()["expected"], 0);
    produce(&server, run, 0, 0).expect(201);
    produce(&server, run, 0, 1).expect(201);
    for how in ["at once", "after a restart", "after a crash"] {
        match how {
            "after a restart" => server.restart(),
            "after a crash" => server.crash(),
            _ => {}
        }
        for seq in [0, 1] {
            let duplicate = produce(&server, run, 0, seq).expect(200).json();
            assert_eq!(duplicate["duplicate"], true, "{how}");
        }
        let gap = produce(&server, run, 0, 3).expect(409).problem();
        assert_eq!(gap["expected"], 2, "{how}: {gap}");
    }
    produce(&server, run, 0, 2).expect(201);
    assert_eq!(server.events(run).len(), 4);
}

#[test]
fn a_higher_epoch_starts_at_0_and_fences_off_the_lower() {
    let mut server = Server::start();
    let run = server.new_run();
    produce(&server, run, 5, 0).expect(201);
    assert_eq!(produce(&server, run, 7, 1).expect(409).problem()["expected"], 0);
    produce(&server, run, 7, 0).expect(201);
    for how in ["at once", "after a restart"] {
        if how == "after a restart" {
            server.restart();
        }
        for seq in [0, 1, 9] {
            produce(&server, run, 5, seq).expect(403);
            produce(&server, run, 6, seq).expect(403);
        }
        produce(&server, run, 7, 0).expect(200);
    }
    produce(&server, run, 7, 1).expect(201);
    assert_eq!(server.events(run).len(), 4);
}

#[test]
fn producers_of_different_runs_and_names_are_different() {
    let server = Server::start();
    let (run, other) = (server.new_run(), server.new_run());
    produce(&server, run, 0, 0).expect(201);
    produce(&server, other, 0, 0).expect(201);
    let headers = [("Producer-Id", "q"), ("Producer-Epoch", "0"), ("Producer-Seq", "0")];
    server.request("POST", &format!("/runs/{run}/events"), &headers, EVENT).expect(201);
    assert_eq!(server.events(run).len(), 3);
}

#[test]
fn a_producer_says_all_three_or_none() {
    let server = Server::start();
    let run = server.new_run();
    let target = format!("/runs/{run}/events");
    let all = [("Producer-Id", "p"), ("Producer-Epoch", "0"), ("Producer-Seq", "0")];
    for some in 1..7_usize {
        let headers: Vec<(&str, &str)> =
            (0..3).filter(|bit| some >> bit & 1 == 1).map(|bit| all[bit]).collect();
        server.request("POST", &target, &headers, EVENT).expect(400);
    }
    for (index, value) in [(0, ""), (1, "x"), (1, "-1"), (2, "+1"), (2, ""), (2, "1.0")] {
        let mut headers = all;
        headers[index].1 = value;
        server.request("POST", &target, &headers, EVENT).expect(400);
    }
    let both = [&all[..], &[("Idempotency-Key", "k")]].concat();
    server.request("POST", &target, &both, EVENT).expect(422);
    assert_eq!(server.events(run).len(), 1);
}

#[test]
fn a_producer_stops_at_the_end_of_the_run() {
    let server = Server::start();
    let run = server.new_run();
    produce(&server, run, 0, 0).expect(201);
    server.end(run, "failed").expect(200);
    produce(&server, run, 0, 0).expect(200);
    produce(&server, run, 0, 1).expect(409);
}

#[test]
fn if_match_is_412_when_the_run_has_moved_on() {
    let server = Server::start();
    let run = server.new_run();
    let target = format!("/runs/{run}");
    let events = format!("{target}/events");
    let append = |tag: &str| server.request("POST", &events, &[("If-Match", tag)], EVENT);
    // A tag may have a comma in it, and is then another's: found by schemathesis.
    for none_of_ours in ["\"a,b\"", "\")L+F,L_X!J#@50rXR\", W/\"1\"", ", \"1,\" ,"] {
        append(none_of_ours).expect(412);
    }
    for malformed in ["1", "\"1", "1\"", "\"1\" \"2\"", "\"1\"x", "W/1", ","] {
        append(malformed).expect(400);
    }
    let tag = server.get(&target).header("ETag").unwrap().to_owned();
    let next = append(&tag).expect(201).header("ETag").unwrap().to_owned();
    let problem = append(&tag).expect(412).problem();
    assert_eq!(format!("\"{}\"", problem["last_event_id"]), next);
    append(&format!("W/{next}")).expect(412);
    append("\"x\"").expect(412);
    let last = append(&format!("\"999\", {next}")).expect(201);
    append("*").expect(201);
    for bad in ["", "1", "\"1", "x"] {
        append(bad).expect(400);
    }
    let last = last.header("ETag").unwrap();
    let body = r#"{"status":"failed"}"#;
    server.request("PATCH", &target, &[("If-Match", last)], body).expect(412);
    server.request("DELETE", &target, &[("If-Match", last)], "").expect(412);
    let tag = server.get(&target).header("ETag").unwrap().to_owned();
    server.request("PATCH", &target, &[("If-Match", &tag)], body).expect(200);
    let tag = server.get(&target).header("ETag").unwrap().to_owned();
    server.request("DELETE", &target, &[("If-Match", &tag)], "").expect(204);
}

#[test]
fn only_one_of_many_writers_with_the_same_precondition_wins() {
    let server = Server::start();
    let run = server.new_run();
    let target = format!("/runs/{run}/events");
    let tag = server.get(&format!("/runs/{run}")).header("ETag").unwrap().to_owned();
    let post = || server.request("POST", &target, &[("If-Match", &tag)], EVENT).status;
    let statuses: Vec<u16> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(post)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(statuses.iter().filter(|status| **status == 201).count(), 1, "{statuses:?}");
    assert!(statuses.iter().all(|status| matches!(status, 201 | 412)), "{statuses:?}");
}
