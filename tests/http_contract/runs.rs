//! Runs: created, shown, listed, ended, deleted.

use serde_json::json;

use crate::support::Server;

#[test]
fn a_run_is_created_with_its_first_event() {
    let server = Server::start();
    let body = r#"{"project":"p:1","session":"s.-_","metadata":{ "b": 1.50, "a": [1, 2] }}"#;
    let created = server.post("/runs", body).expect(201);
    assert_eq!(created.header("Content-Type"), Some("application/json"));
    let run = created.json();
    let id = run["id"].as_u64().unwrap();
    assert_eq!(created.header("Location"), Some(&*format!("/runs/{id}")));
    assert_eq!(created.header("ETag"), Some(&*format!("\"{}\"", run["last_event_id"])));
    assert_eq!(run["project"], "p:1");
    assert_eq!(run["session"], "s.-_");
    assert_eq!(run["status"], "running");
    assert_eq!(run["event_count"], 1);
    assert_eq!(run["created_at"], run["updated_at"]);
    assert!(created.text().contains(r#""metadata":{"b":1.50,"a":[1,2]}"#), "{}", created.text());

    let events = server.events(id);
    assert_eq!(events.len(), 1);
    assert_eq!(events[0]["type"], "RUN_CREATED");
    assert_eq!(events[0]["seq"], 1);
    assert_eq!(events[0]["id"], run["last_event_id"]);
    assert_eq!(
        events[0]["payload"],
        json!({"project": "p:1", "session": "s.-_", "metadata": {"b": 1.5, "a": [1, 2]}})
    );
    assert_eq!(server.get(&format!("/runs/{id}")).expect(200).json(), run);
}

#[test]
fn a_run_needs_no_body_at_all() {
    let server = Server::start();
    let mut client = server.client();
    client.send("POST /runs HTTP/1.1\r\nHost: h\r\n\r\n");
    let run = client.answer().expect(201).json();
    assert_eq!(run["id"], 1, "runs are counted from 1");
    assert_eq!(run["project"], json!(null));
    assert_eq!(run["metadata"], json!(null));
    assert_eq!(server.new_run_with("{}"), 2);
    assert_eq!(server.new_run_with(r#"{"project":null,"session":null,"metadata":null}"#), 3);
}

#[test]
fn a_bad_body_of_a_run_is_refused() {
    let server = Server::start();
    for (body, status, field) in [
        ("{", 400, None),
        ("nul", 400, None),
        ("{} {}", 400, None),
        ("[]", 422, None),
        (r#"["p","s",1]"#, 422, None),
        ("7", 422, None),
        (r#"{"project":7}"#, 422, Some("project")),
        (r#"{"project":""}"#, 422, Some("project")),
        (r#"{"project":"a b"}"#, 422, Some("project")),
        (r#"{"session":"ä"}"#, 422, Some("session")),
        (r#"{"name":"x"}"#, 422, Some("name")),
    ] {
        let answer = server.post("/runs", body).expect(status);
        if let Some(field) = field {
            assert_eq!(answer.wrong_fields(), [field], "{body}");
        } else if status == 422 {
            assert_eq!(answer.wrong_fields().len(), 1, "{body}");
        }
    }
    let label = |length: usize| format!(r#"{{"project":"{}"}}"#, "x".repeat(length));
    server.post("/runs", &label(128)).expect(201);
    server.post("/runs", &label(129)).expect(422);
}

#[test]
fn there_is_no_such_run() {
    let server = Server::start();
    server.new_run();
    for id in ["2", "0", "01", "-1", "+1", "x", "18446744073709551615", "18446744073709551616", ""]
    {
        server.get(&format!("/runs/{id}")).expect(404);
        server.get(&format!("/runs/{id}/events")).expect(404);
        server.get(&format!("/runs/{id}/events/stream")).expect(404);
        server.patch(&format!("/runs/{id}"), r#"{"status":"failed"}"#).expect(404);
        server.delete(&format!("/runs/{id}")).expect(404);
        server.post(&format!("/runs/{id}/events"), r#"{"type":"A"}"#).expect(404);
    }
}

#[test]
fn runs_are_listed_newest_first_page_by_page() {
    let server = Server::start();
    assert_eq!(
        server.json("/runs"),
        json!({"runs": [], "next_before_id": null, "has_more": false})
    );
    for _ in 0..5 {
        server.new_run();
    }
    let ids = |target: &str| {
        let page = server.json(target);
        let ids: Vec<u64> = page["runs"]
            .as_array()
            .unwrap()
            .iter()
            .map(|run| run["id"].as_u64().unwrap())
            .collect();
        (ids, page["next_before_id"].as_u64(), page["has_more"].as_bool().unwrap())
    };
    assert_eq!(ids("/runs"), (vec![5, 4, 3, 2, 1], None, false));
    assert_eq!(ids("/runs?limit=2"), (vec![5, 4], Some(4), true));
    assert_eq!(ids("/runs?limit=2&before_id=4"), (vec![3, 2], Some(2), true));
    assert_eq!(ids("/runs?limit=2&before_id=2"), (vec![1], None, false));
    assert_eq!(ids("/runs?limit=5"), (vec![5, 4, 3, 2, 1], None, false));
    assert_eq!(ids("/runs?before_id=1").0, [0; 0]);
    assert_eq!(ids("/runs?before_id=999").0.len(), 5);
    assert_eq!(server.json("/runs?limit=1")["runs"][0], server.json("/runs/5"));
}

#[test]
fn runs_are_filtered_by_project_session_and_status() {
    let server = Server::start();
    for (project, session) in [("a", "x"), ("a", "y"), ("b", "x"), ("b", "y"), ("a", "x")] {
        server.new_run_with(&json!({"project": project, "session": session}).to_string());
    }
    server.end(1, "completed").expect(200);
    server.end(3, "failed").expect(200);
    server.end(4, "cancelled").expect(200);
    let ids = |query: &str| -> Vec<u64> {
        let page = server.json(&format!("/runs?{query}"));
        page["runs"].as_array().unwrap().iter().map(|run| run["id"].as_u64().unwrap()).collect()
    };
    assert_eq!(ids("project=a"), [5, 2, 1]);
    assert_eq!(ids("session=x"), [5, 3, 1]);
    assert_eq!(ids("project=a&session=x"), [5, 1]);
    assert_eq!(ids("status=running"), [5, 2]);
    assert_eq!(ids("status=completed"), [1]);
    assert_eq!(ids("status=failed"), [3]);
    assert_eq!(ids("status=cancelled"), [4]);
    assert_eq!(ids("project=a&status=running&limit=1"), [5]);
    assert_eq!(ids("project=a&status=running&before_id=5"), [2]);
    assert_eq!(ids("project=c"), [0; 0]);
    assert_eq!(ids("project="), [5, 4, 3, 2, 1], "an empty value counts as none");
}

#[test]
fn a_bad_query_of_the_list_is_refused() {
    let server = Server::start();
    for (query, status) in [
        ("limit=x", 400),
        ("limit=-1", 400),
        ("limit=+1", 400),
        ("limit=0", 422),
        ("limit=1001", 422),
        ("before_id=x", 400),
        ("status=dead", 422),
        ("project=a%20b", 422),
        ("session=%C3%A4", 422),
    ] {
        server.get(&format!("/runs?{query}")).expect(status);
    }
    server.get("/runs?limit=1000").expect(200);
}

#[test]
fn a_run_ends_with_its_closing_event() {
    let server = Server::start();
    for (status, event_type) in
        [("completed", "RUN_COMPLETED"), ("failed", "RUN_FAILED"), ("cancelled", "RUN_CANCELLED")]
    {
        let run = server.new_run();
        server.append(run, "A", "1");
        let body = format!(r#"{{"status":"{status}","payload":{{"why": "x", "n": 1.0}}}}"#);
        let target = format!("/runs/{run}");
        let answer = server.patch(&target, &body).expect(200);
        let summary = answer.json();
        assert_eq!(summary["status"], status);
        assert_eq!(summary["event_count"], 3);
        assert_eq!(answer.header("ETag"), Some(&*format!("\"{}\"", summary["last_event_id"])));
        assert_eq!(server.json(&target), summary);

        let page = server.get(&format!("{target}/events?after_id=0")).expect(200);
        assert_eq!(page.json()["run_status"], status);
        let last = &page.json()["events"][2];
        assert_eq!(last["type"], event_type);
        assert_eq!(last["seq"], 3);
        assert_eq!(last["id"], summary["last_event_id"]);
        assert_eq!(last["created_at"], summary["updated_at"]);
        assert!(page.text().contains(r#""payload":{"why":"x","n":1.0}"#), "{}", page.text());
    }
}

#[test]
fn ending_a_run_twice_is_200_in_the_same_way_and_409_in_another() {
    let server = Server::start();
    let run = server.new_run();
    let first = server.end(run, "failed").expect(200).json();
    assert_eq!(server.end(run, "failed").expect(200).json(), first);
    let body = r#"{"status":"failed","payload":"again"}"#;
    assert_eq!(server.patch(&format!("/runs/{run}"), body).expect(200).json(), first);
    for other in ["completed", "cancelled"] {
        let problem = server.end(run, other).expect(409).problem();
        assert_eq!(problem["run_status"], "failed");
    }
    assert_eq!(server.events(run).len(), 2);
}

#[test]
fn an_ended_run_takes_no_more_events() {
    let server = Server::start();
    let run = server.new_run();
    server.end(run, "completed").expect(200);
    let target = format!("/runs/{run}/events");
    server.post(&target, r#"{"type":"A"}"#).expect(409);
    server.post(&target, r#"[{"type":"A"},{"type":"B"}]"#).expect(409);
    let ndjson = [("Content-Type", "application/x-ndjson")];
    server.request("POST", &target, &ndjson, "{\"type\":\"A\"}\n").expect(409);
    assert_eq!(server.events(run).len(), 2);
}

#[test]
fn a_bad_end_is_refused_and_the_run_goes_on() {
    let server = Server::start();
    let run = server.new_run();
    let target = format!("/runs/{run}");
    for (body, status) in [
        ("", 400),
        ("{", 400),
        ("{}", 422),
        (r#"{"status":"running"}"#, 422),
        (r#"{"status":"done"}"#, 422),
        (r#"{"status":7}"#, 422),
        (r#"{"payload":1}"#, 422),
        (r#"["failed",1]"#, 422),
        (r#"{"status":"failed","reason":"x"}"#, 422),
    ] {
        let answer = server.patch(&target, body).expect(status);
        assert!(status != 422 || !answer.wrong_fields().is_empty(), "{body}");
    }
    assert_eq!(server.json(&target)["status"], "running");
    server.append(run, "A", "1");
}

#[test]
fn a_deleted_run_is_gone_and_nothing_of_it_is_used_again() {
    let mut server = Server::start();
    let (first, second) = (server.new_run(), server.new_run());
    let last_id = server.append(second, "A", "1");
    let deleted = server.delete(&format!("/runs/{second}")).expect(204);
    assert_eq!(deleted.header("Content-Length"), None);
    for restarted in [false, true] {
        if restarted {
            server.restart();
        }
        server.get(&format!("/runs/{second}")).expect(404);
        server.get(&format!("/runs/{second}/events")).expect(404);
        server.get(&format!("/runs/{second}/events/stream")).expect(404);
        server.post(&format!("/runs/{second}/events"), r#"{"type":"A"}"#).expect(404);
        server.end(second, "failed").expect(404);
        server.delete(&format!("/runs/{second}")).expect(404);
        assert_eq!(server.json("/runs")["runs"].as_array().unwrap().len(), 1);
    }
    let third = server.new_run();
    assert!(third > second, "ids of runs are not used again: {third}");
    let next_id = server.append(first, "A", "1");
    assert!(next_id > last_id + 1, "ids of events are not used again: {next_id}");
}

#[test]
fn an_ended_run_can_be_deleted() {
    let server = Server::start();
    let run = server.new_run();
    server.end(run, "cancelled").expect(200);
    server.delete(&format!("/runs/{run}")).expect(204);
    server.get(&format!("/runs/{run}")).expect(404);
}

#[test]
fn runs_are_the_same_after_a_restart() {
    let mut server = Server::start();
    let run = server.new_run_with(r#"{"project":"p","metadata":{"a":1e300,"a":2}}"#);
    server.append(run, "A", r#"{"x":12345678901234567890123}"#);
    let ended = server.new_run();
    server.end(ended, "failed").expect(200);
    let all = |server: &Server| {
        let texts = ["/runs", "/projects", "/runs/1/events", "/runs/2/events"]
            .map(|target| server.get(target).expect(200).text().to_owned());
        texts.join("\n")
    };
    let before = all(&server);
    server.restart();
    assert_eq!(all(&server), before);
    server.crash();
    assert_eq!(all(&server), before);
}
