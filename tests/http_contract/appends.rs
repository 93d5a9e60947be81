//! Appends: one event, an array, NDJSON.

use serde_json::json;

use crate::support::{Client, Server, http::chunked};

const NDJSON: (&str, &str) = ("Content-Type", "application/x-ndjson");

#[test]
fn one_event_is_answered_without_its_payload() {
    let server = Server::start();
    let run = server.new_run();
    let target = format!("/runs/{run}/events");
    let answer = server.post(&target, r#"{"type":"A","payload":{"x":1}}"#).expect(201);
    let event = answer.json();
    assert_eq!(answer.header("ETag"), Some(&*format!("\"{}\"", event["id"])));
    let keys: Vec<&str> = event.as_object().unwrap().keys().map(String::as_str).collect::<Vec<_>>();
    assert_eq!(keys.len(), 5, "{event}");
    assert_eq!(event["run_id"], run);
    assert_eq!(event["seq"], 2);
    assert_eq!(event["type"], "A");
    let (id, created_at) = (&event["id"], event["created_at"].as_str().unwrap());
    assert_eq!(
        answer.text(),
        format!(r#"{{"id":{id},"run_id":{run},"seq":2,"type":"A","created_at":"{created_at}"}}"#)
    );
    assert!(is_timestamp(created_at), "{created_at}");
    let page = server.get(&target).expect(200);
    let whole = format!(
        r#"{{"id":{id},"run_id":{run},"seq":2,"type":"A","payload":{{"x":1}},"created_at":"{created_at}"}}"#
    );
    assert!(page.text().contains(&whole), "{}", page.text());
}

/// RFC 3339, UTC, milliseconds.
fn is_timestamp(text: &str) -> bool {
    let pattern = "dddd-dd-ddTdd:dd:dd.dddZ";
    text.len() == pattern.len()
        && text.chars().zip(pattern.chars()).all(|(character, wanted)| match wanted {
            'd' => character.is_ascii_digit(),
            _ => character == wanted,
        })
}

#[test]
fn a_payload_left_out_is_null() {
    let server = Server::start();
    let run = server.new_run();
    server.post(&format!("/runs/{run}/events"), r#"{"type":"A"}"#).expect(201);
    assert_eq!(server.events(run)[1]["payload"], json!(null));
}

#[test]
fn an_array_is_answered_by_an_array() {
    let server = Server::start();
    let run = server.new_run();
    let target = format!("/runs/{run}/events");
    let body = r#"[{"type":"A","payload":1},{"type":"B"},{"payload":[3],"type":"C"}]"#;
    let answer = server.post(&target, body).expect(201);
    let events = answer.json();
    let seqs: Vec<u64> =
        events.as_array().unwrap().iter().map(|event| event["seq"].as_u64().unwrap()).collect();
    assert_eq!(seqs, [2, 3, 4]);
    assert_eq!(events[1]["type"], "B");
    assert!(events[0].get("payload").is_none());
    assert_eq!(answer.header("ETag"), Some(&*format!("\"{}\"", events[2]["id"])));
    let one = server.post(&target, r#"[{"type":"A"}]"#).expect(201).json();
    assert_eq!(one.as_array().unwrap().len(), 1, "an array of one is an array");
}

#[test]
fn an_array_is_appended_whole_or_not_at_all() {
    let server = Server::start();
    let run = server.new_run();
    let target = format!("/runs/{run}/events");
    for (body, status, field) in [
        (r#"[{"type":"A"},{"type":"a b"}]"#, 422, "[1].type"),
        (r#"[{"type":"A"},{"payload":1}]"#, 422, "[1].type"),
        (r#"[{"type":"A"},{"type":"B"},{"type":"RUN_FAILED"}]"#, 422, "[2].type"),
        (r#"[{"type":"A"},{"type":"B","x":1}]"#, 422, "[1].x"),
        (r#"[{"type":"A"},7]"#, 422, "[1]"),
    ] {
        assert_eq!(server.post(&target, body).expect(status).wrong_fields(), [field], "{body}");
    }
    server.post(&target, r#"[{"type":"A"},{"type":"B"}"#).expect(400);
    server.post(&target, "[]").expect(422);
    let many = |count: usize| format!("[{}]", vec![r#"{"type":"A"}"#; count].join(","));
    server.post(&target, &many(10_001)).expect(422);
    assert_eq!(server.events(run).len(), 1);
    server.post(&target, &many(10_000)).expect(201);
    assert_eq!(server.json(&format!("/runs/{run}"))["event_count"], 10_001);
}

#[test]
fn a_bad_event_is_refused() {
    let server = Server::start();
    let run = server.new_run();
    let target = format!("/runs/{run}/events");
    for body in ["", " ", "{", "{]", r#"{"type":"A"} x"#, "{\"type\":\"\n\"}", "{\"type\":\"A\",}"]
    {
        server.post(&target, body).expect(400);
    }
    for (body, field) in [
        ("{}", "type"),
        (r#"{"type":null}"#, "type"),
        (r#"{"type":7}"#, "type"),
        (r#"{"type":""}"#, "type"),
        (r#"{"type":"a b"}"#, "type"),
        (r#"{"type":"a\nb"}"#, "type"),
        (r#"{"type":"ä"}"#, "type"),
        (r#"{"type":"RUN_CREATED"}"#, "type"),
        (r#"{"type":"RUN_COMPLETED"}"#, "type"),
        (r#"{"type":"RUN_FAILED"}"#, "type"),
        (r#"{"type":"RUN_CANCELLED"}"#, "type"),
        (r#"{"type":"A","payloud":1}"#, "payloud"),
        (r#"{"type":"A","id":1}"#, "id"),
    ] {
        assert_eq!(server.post(&target, body).expect(422).wrong_fields(), [field], "{body}");
    }
    // Nor is an array of its values an event.
    for body in ["7", "null", r#"[["A",1]]"#, r#"[["A"]]"#, "[[]]"] {
        server.post(&target, body).expect(422);
    }
    let of_length = |length: usize| format!(r#"{{"type":"{}"}}"#, "T".repeat(length));
    server.post(&target, &of_length(65)).expect(422);
    server.post(&target, &of_length(64)).expect(201);
    let nested = |depth: usize| {
        format!(r#"{{"type":"A","payload":{}{}}}"#, "[".repeat(depth), "]".repeat(depth))
    };
    server.post(&target, &nested(129)).expect(422);
    server.post(&target, &nested(5_000)).expect(422);
    server.post(&target, &nested(128)).expect(201);
    assert_eq!(server.json(&format!("/runs/{run}"))["event_count"], 3);
}

#[test]
fn a_body_that_is_not_utf8_is_refused() {
    let server = Server::start();
    let run = server.new_run();
    let mut client = server.client();
    for body in [
        &b"{\"type\":\"A\",\"payload\":\"\xff\"}"[..],
        b"{\"type\":\"A\",\"payload\":\"\xed\xa0\x80\"}",
    ] {
        client.send(format!(
            "POST /runs/{run}/events HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\n\r\n",
            body.len()
        ));
        client.send(body);
        client.answer().expect(400);
    }
}

#[test]
fn an_event_that_is_too_large_is_413() {
    let server = Server::with(&["--max-event-bytes", "1KiB"]);
    let run = server.new_run();
    let target = format!("/runs/{run}/events");
    let event = |bytes: usize| format!(r#"{{"type":"A","payload":"{}"}}"#, "x".repeat(bytes - 2));
    server.post(&target, &event(1024)).expect(201);
    server.post(&target, &event(1025)).expect(413);
    server.post(&target, &format!("[{},{}]", event(10), event(1025))).expect(413);
    let metadata = format!("{{\"metadata\":{:?}}}", "x".repeat(1_023));
    server.post("/runs", &metadata).expect(413);
    let end = format!("{{\"status\":\"failed\",\"payload\":{:?}}}", "x".repeat(1_023));
    server.patch(&format!("/runs/{run}"), &end).expect(413);
    assert_eq!(server.events(run).len(), 2);
}

#[test]
fn another_media_type_is_415() {
    let server = Server::start();
    let run = server.new_run();
    let target = format!("/runs/{run}/events");
    let body = r#"{"type":"A"}"#;
    let post = |target: &str, media_type: &str| {
        server.request("POST", target, &[("Content-Type", media_type)], body)
    };
    for media_type in ["text/plain", "application/xml", "application/json; charset=latin1", "json"]
    {
        post(&target, media_type).expect(415);
        post("/runs", media_type).expect(415);
    }
    post("/runs", "application/x-ndjson").expect(415);
    for media_type in ["application/json", "Application/JSON; charset=UTF-8", "application/json;"] {
        post(&target, media_type).expect(201);
    }
    assert_eq!(server.events(run).len(), 4);
}

#[test]
fn ndjson_is_answered_by_what_it_appended() {
    let server = Server::start();
    let run = server.new_run();
    let target = format!("/runs/{run}/events");
    // The last line may have no end, and a line may end in CRLF.
    let body = "{\"type\":\"A\",\"payload\":1}\n{\"type\":\"B\"}\r\n{ \"type\" : \"C\" }";
    let answer = server.request("POST", &target, &[NDJSON], body).expect(201).json();
    let events = server.events(run);
    assert_eq!(
        answer,
        json!({
            "count": 3, "first_id": events[1]["id"], "last_id": events[3]["id"], "last_seq": 4
        })
    );
    assert_eq!(events[3]["type"], "C");
    assert_eq!(events[3]["payload"], json!(null));
}

#[test]
fn ndjson_in_chunks_that_cut_lines_is_the_same() {
    let server = Server::start();
    let run = server.new_run();
    let pieces = ["{\"ty", "pe\":\"A\"}", "\n{\"type\":\"B\",\"payload\":\"", "ä", "\"}\n"];
    let headers = [NDJSON, ("Transfer-Encoding", "chunked")];
    let target = format!("/runs/{run}/events");
    let answer = server.request("POST", &target, &headers, &chunked(&pieces)).expect(201);
    assert_eq!(answer.json()["count"], 2);
    assert_eq!(server.events(run)[2]["payload"], "ä");
}

#[test]
fn ndjson_of_many_lines_has_no_hole() {
    let server = Server::start();
    let run = server.new_run();
    let mut body = String::new();
    for number in 0..20_000 {
        body.push_str(&format!("{{\"type\":\"LINE\",\"payload\":{number}}}\n"));
    }
    let target = format!("/runs/{run}/events");
    let answer = server.request("POST", &target, &[NDJSON], &body).expect(201).json();
    assert_eq!(answer["count"], 20_000);
    assert_eq!(answer["last_seq"], 20_001);
    let events = server.events(run);
    assert_eq!(events.len(), 20_001);
    for (index, event) in events.iter().enumerate() {
        assert_eq!(event["seq"], index + 1);
        assert!(index == 0 || event["payload"] == index - 1, "{event}");
    }
}

#[test]
fn empty_ndjson_appends_nothing() {
    let server = Server::start();
    let run = server.new_run();
    let target = format!("/runs/{run}/events");
    for body in ["", "\n", "\n\r\n\n"] {
        let answer = server
            .request("POST", &target, &[NDJSON, ("Content-Length", &body.len().to_string())], body)
            .expect(200)
            .json();
        assert_eq!(
            answer,
            json!({"count": 0, "first_id": null, "last_id": null, "last_seq": null})
        );
    }
    assert_eq!(server.events(run).len(), 1);
}

#[test]
fn a_bad_line_of_ndjson_leaves_the_lines_before_it() {
    let server = Server::start();
    for (bad, status) in [
        ("{\"type\":\"a b\"}", 422),
        ("{\"type\":\"RUN_FAILED\"}", 422),
        ("{", 400),
        ("not json", 400),
        ("[{\"type\":\"A\"}]", 422),
        ("[\"A\",1]", 422),
    ] {
        let run = server.new_run();
        let target = format!("/runs/{run}/events");
        let body = format!("{{\"type\":\"A\"}}\n{{\"type\":\"B\"}}\n{bad}\n{{\"type\":\"C\"}}\n");
        let problem = server.request("POST", &target, &[NDJSON], &body).expect(status).problem();
        let events = server.events(run);
        assert_eq!(events.len(), 3, "{bad}");
        assert_eq!(problem["count"], 2, "{problem}");
        assert_eq!(problem["first_id"], events[1]["id"], "{problem}");
        assert_eq!(problem["last_id"], events[2]["id"], "{problem}");
        assert_eq!(problem["last_seq"], 3, "{problem}");
        assert!(problem.to_string().contains("line 3") || problem["line"] == 3, "{problem}");
    }
}

#[test]
fn a_first_line_that_is_bad_appends_nothing() {
    let server = Server::start();
    let run = server.new_run();
    let target = format!("/runs/{run}/events");
    let problem = server.request("POST", &target, &[NDJSON], "{}\n").expect(422).problem();
    assert_eq!(problem["count"], 0);
    assert_eq!(problem["last_id"], json!(null));
    assert_eq!(server.events(run).len(), 1);
}

#[test]
fn a_line_of_ndjson_that_is_too_large_is_413() {
    let server = Server::with(&["--max-event-bytes", "1KiB"]);
    let run = server.new_run();
    let target = format!("/runs/{run}/events");
    // Far more than what is kept of a line, with and without an end.
    for bytes in [1_100, 2_000_000] {
        for end in ["\n", ""] {
            let long = "x".repeat(bytes);
            let body =
                format!("{{\"type\":\"A\"}}\n{{\"type\":\"B\",\"payload\":\"{long}\"}}{end}");
            let problem = server.request("POST", &target, &[NDJSON], &body).expect(413).problem();
            assert_eq!(problem["count"], 1, "{problem}");
        }
    }
    assert_eq!(server.events(run).len(), 5);
}

#[test]
fn ndjson_takes_neither_key_nor_producer() {
    let server = Server::start();
    let run = server.new_run();
    let target = format!("/runs/{run}/events");
    for headers in [
        &[NDJSON, ("Idempotency-Key", "k")][..],
        &[NDJSON, ("Producer-Id", "p"), ("Producer-Epoch", "0"), ("Producer-Seq", "0")],
    ] {
        server.request("POST", &target, headers, "{\"type\":\"A\"}\n").expect(422);
    }
    assert_eq!(server.events(run).len(), 1);
}

#[test]
fn a_lone_line_of_ndjson_is_visible_while_the_body_is_still_open() {
    let server = Server::start();
    let run = server.new_run();
    let mut subscriber = server.stream(&format!("/runs/{run}/events/stream?types=LINE"));
    let mut publisher = server.client();
    publisher.send(format!(
        "POST /runs/{run}/events HTTP/1.1\r\nHost: h\r\nContent-Type: application/x-ndjson\r\n\
         Transfer-Encoding: chunked\r\n\r\n"
    ));
    for number in 0..5 {
        let line = format!("{{\"type\":\"LINE\",\"payload\":{number}}}\n");
        publisher.send(format!("{:x}\r\n{line}\r\n", line.len()));
        assert_eq!(subscriber.event().unwrap().json()["payload"], number);
    }
    publisher.send("0\r\n\r\n");
    assert_eq!(publisher.answer().expect(201).json()["count"], 5);
    // The connection is still good for another request.
    assert_eq!(publisher.request("GET", "/health", &[], "").status, 200);
}

#[test]
fn a_lone_line_is_visible_with_a_length_too() {
    let server = Server::start();
    let run = server.new_run();
    let mut subscriber = server.stream(&format!("/runs/{run}/events/stream?types=LINE"));
    let mut publisher = server.client();
    let line = "{\"type\":\"LINE\"}\n";
    publisher.send(format!(
        "POST /runs/{run}/events HTTP/1.1\r\nHost: h\r\nContent-Type: application/x-ndjson\r\n\
         Content-Length: {}\r\n\r\n{line}",
        2 * line.len()
    ));
    subscriber.event().unwrap();
    publisher.send(line);
    assert_eq!(publisher.answer().expect(201).json()["count"], 2);
}

#[test]
fn lines_stay_when_their_publisher_goes_away() {
    let server = Server::start();
    let run = server.new_run();
    let mut subscriber = server.stream(&format!("/runs/{run}/events/stream?types=LINE"));
    let mut publisher = server.client();
    publisher.send(format!(
        "POST /runs/{run}/events HTTP/1.1\r\nHost: h\r\nContent-Type: application/x-ndjson\r\n\
         Content-Length: 1000\r\n\r\n{{\"type\":\"LINE\"}}\n{{\"type\":"
    ));
    subscriber.event().unwrap();
    drop(publisher);
    server.append(run, "LINE", "2");
    assert_eq!(subscriber.event().unwrap().json()["seq"], 3);
    assert_eq!(server.events(run).len(), 3, "half a line is no event");
}

#[test]
fn events_of_concurrent_publishers_have_no_hole_and_each_its_order() {
    let server = Server::start();
    let run = server.new_run();
    std::thread::scope(|scope| {
        for publisher in 0..4 {
            let server = &server;
            scope.spawn(move || {
                let mut client = server.client();
                let target = format!("/runs/{run}/events");
                for number in 0..50 {
                    let body = format!(r#"{{"type":"P{publisher}","payload":{number}}}"#);
                    client.request("POST", &target, &[], &body).expect(201);
                }
            });
        }
    });
    let events = server.events(run);
    assert_eq!(events.len(), 201);
    let mut next = [0; 4];
    for (index, event) in events.iter().enumerate() {
        assert_eq!(event["seq"], index + 1);
        if let Some(publisher) = event["type"].as_str().unwrap().strip_prefix('P') {
            let publisher: usize = publisher.parse().unwrap();
            assert_eq!(event["payload"], next[publisher]);
            next[publisher] += 1;
        }
    }
    for pair in events.windows(2) {
        assert!(pair[0]["id"].as_u64() < pair[1]["id"].as_u64());
        assert!(pair[0]["created_at"].as_str() <= pair[1]["created_at"].as_str());
    }
}

#[test]
fn what_was_sent_is_given_back_exactly() {
    let server = Server::start();
    let run = server.new_run();
    let target = format!("/runs/{run}/events");
    for (sent, kept) in [
        ("12345678901234567890123456789", "12345678901234567890123456789"),
        ("-0", "-0"),
        ("1.50e+10", "1.50e+10"),
        ("1E400", "1E400"),
        ("18446744073709551616", "18446744073709551616"),
        ("0.1000000000000000055511151231257827", "0.1000000000000000055511151231257827"),
        (r#"{"b":1,"a":2,"b":3}"#, r#"{"b":1,"a":2,"b":3}"#),
        (r#""\u0041\/\n\ud83d\ude00""#, r#""\u0041\/\n\ud83d\ude00""#),
        ("{ \"a\" :\t[ 1 ,\r\n 2 ] }", r#"{"a":[1,2]}"#),
        (r#"" two  spaces ""#, r#"" two  spaces ""#),
        ("true", "true"),
        ("[]", "[]"),
    ] {
        server.post(&target, &format!(r#"{{"type":"A","payload":{sent}}}"#)).expect(201);
        let last = server.json(&format!("/runs/{run}"))["last_event_id"].as_u64().unwrap();
        let page = server.get(&format!("{target}?after_id={}", last - 1)).expect(200);
        assert!(page.text().contains(&format!(r#""payload":{kept},"created_at""#)), "{sent}");
    }
}

/// An NDJSON body that is still open, and its first line appended.
fn open_upload(server: &Server, run: u64) -> Client {
    let mut subscriber = server.stream(&format!("/runs/{run}/events/stream?types=LINE"));
    let mut publisher = server.client();
    publisher.send(format!(
        "POST /runs/{run}/events HTTP/1.1\r\nHost: h\r\nContent-Type: application/x-ndjson\r\n\
         Content-Length: 1000\r\n\r\n{LINE}"
    ));
    subscriber.event().unwrap();
    publisher
}

const LINE: &str = "{\"type\":\"LINE\"}\n";

#[test]
fn an_upload_says_what_it_appended_when_its_run_ends_or_goes() {
    let server = Server::start();
    let run = server.new_run();
    let mut publisher = open_upload(&server, run);
    server.end(run, "completed").expect(200);
    publisher.send(LINE);
    let problem = publisher.answer().expect(409).problem();
    assert_eq!((&problem["count"], &problem["last_seq"]), (&json!(1), &json!(2)), "{problem}");
    assert_eq!(problem["run_status"], "completed");

    let run = server.new_run();
    let mut publisher = open_upload(&server, run);
    server.delete(&format!("/runs/{run}")).expect(204);
    publisher.send(LINE);
    assert_eq!(publisher.answer().expect(404).problem()["count"], 1);
}

#[test]
fn an_upload_to_a_run_that_is_not_there_is_404_before_its_body() {
    let server = Server::start();
    let mut client = server.client();
    client.send(
        "POST /runs/7/events HTTP/1.1\r\nHost: h\r\nContent-Type: application/x-ndjson\r\n\
         Transfer-Encoding: chunked\r\n\r\n",
    );
    client.answer().expect(404);
}

#[test]
fn an_upload_hears_how_far_it_came_when_the_server_goes_down() {
    let mut server = Server::start();
    let run = server.new_run();
    let mut publisher = open_upload(&server, run);
    server.signal(rustix::process::Signal::TERM);
    let answer = publisher.answer().expect(503);
    assert_eq!(answer.problem()["count"], 1);
    assert!(server.wait().success());
    server.start_again();
    assert_eq!(server.events(run).len(), 2);
}

#[test]
fn a_run_with_more_than_1024_producers_forgets_the_most_silent() {
    let server = Server::with(&["--durability", "none"]);
    let run = server.new_run();
    let target = format!("/runs/{run}/events");
    let mut client = server.client();
    let mut produce = |number: usize, seq: &str| {
        let name = format!("producer {number}");
        let headers = [("Producer-Id", &*name), ("Producer-Epoch", "0"), ("Producer-Seq", seq)];
        client.request("POST", &target, &headers, r#"{"type":"A"}"#)
    };
    for number in 0..1_024 {
        produce(number, "0").expect(201);
    }
    produce(1_024, "0").expect(201);
    for number in [1, 2, 1_023, 1_024] {
        produce(number, "0").expect(200);
        produce(number, "1").expect(201);
    }
    assert_eq!(produce(0, "1").expect(409).problem()["expected"], 0, "it is as a new one");
}
