//! `/openapi.json` says what the server does: its routes and bounds are those of the code, and what
//! the server answers is what the document says, to us and to schemathesis.

mod support;

use std::{collections::BTreeSet, path::Path, process::Command, sync::LazyLock, time::Instant};

use rand::RngExt as _;
use serde_json::{Value, json};
use support::{
    Answer, Server, Sse,
    programs::{clients_directory, is_there, python, runs},
    seeded,
};
use tidewheel::{
    limits,
    route::{Route, route},
    wire::request::parse_head,
};

const METHODS: [&str; 7] = ["GET", "POST", "PATCH", "DELETE", "PUT", "TRACE", "QUERY"];

static DOCUMENT: LazyLock<Value> = LazyLock::new(|| {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/api/openapi.json");
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
});

/// What stands at this place, or where a reference there leads.
fn at(pointer: &str) -> &'static Value {
    let found = DOCUMENT.pointer(pointer).unwrap_or_else(|| panic!("there is no {pointer}"));
    resolved(found)
}

fn resolved(value: &'static Value) -> &'static Value {
    value["$ref"].as_str().map_or(value, |reference| at(reference.trim_start_matches('#')))
}

fn operation(method: &str, template: &str) -> &'static Value {
    let operation = &DOCUMENT["paths"][template][method.to_lowercase()];
    assert!(operation.is_object(), "{method} {template} is not documented");
    operation
}

/// Every operation: method and path.
fn operations() -> BTreeSet<(String, String)> {
    let paths = DOCUMENT["paths"].as_object().unwrap();
    let methods = |(path, item): (&String, &Value)| -> Vec<(String, String)> {
        let methods = item.as_object().unwrap().keys().filter(|key| *key != "parameters");
        methods.map(|method| (method.to_uppercase(), path.clone())).collect()
    };
    paths.iter().flat_map(methods).collect()
}

fn is_stream(template: &str) -> bool {
    template.ends_with("/stream") || template.starts_with("/api/sse/") || template == "/health/sse"
}

// ---- the code -----------------------------------------------------------------------------------

fn route_of(method: &str, template: &str) -> Option<Route> {
    let path = template.replace("{id}", "7").replace("{project}", "p").replace("{session}", "s");
    let request = format!("{method} {path} HTTP/1.1\r\nHost: h\r\n\r\n");
    let (head, _) = parse_head(request.as_bytes()).unwrap().expect("a whole head");
    route(&head).ok()
}

#[test]
fn paths_and_methods_are_those_of_the_router() {
    let source = std::fs::read_to_string("src/route.rs").unwrap();
    let (_, templates) = source.split_once("fn template(").expect("routes have templates");
    let public = |text: &&str| text.starts_with('/') && !text.starts_with("/admin/");
    let mut routed = BTreeSet::new();
    for template in templates.split('"').skip(1).step_by(2).filter(public) {
        for method in METHODS {
            if let Some(route) = route_of(method, template) {
                assert_eq!(route.template(), template, "{method} {template} is another route");
                routed.insert((method.to_owned(), template.to_owned()));
            }
        }
    }
    assert_eq!(operations(), routed);
}

#[test]
fn bounds_are_those_of_the_code() {
    let parameter = |operation: &str, name: &str| -> &'static Value {
        let parameters = at(operation)["parameters"].as_array().unwrap().iter().map(resolved);
        let mut found = parameters.filter(|parameter| parameter["name"] == name);
        &found.next().unwrap_or_else(|| panic!("{operation} has no {name}"))["schema"]
    };
    let schema = |name: &str| at(&format!("/components/schemas/{name}"));
    for (bound, limit) in [
        (&schema("Label")["maxLength"], limits::LABEL_BYTES_MAX),
        (&schema("EventType")["maxLength"], limits::EVENT_TYPE_BYTES_MAX),
        (&schema("Key")["maxLength"], limits::KEY_BYTES_MAX),
        (&schema("NewEvents")["maxItems"], limits::ARRAY_EVENTS_MAX),
        (&schema("EventsPage")["properties"]["events"]["maxItems"], limits::PAGE_EVENTS_MAX),
        (&schema("RunsPage")["properties"]["runs"]["maxItems"], limits::PAGE_RUNS_MAX),
        (&parameter("/paths/~1runs/get", "limit")["maximum"], limits::PAGE_RUNS_MAX),
        (
            &parameter("/paths/~1runs~1{id}~1events/get", "limit")["maximum"],
            limits::PAGE_EVENTS_MAX,
        ),
        (
            &parameter("/paths/~1runs~1{id}~1events/get", "wait")["maximum"],
            limits::WAIT_SECONDS_MAX as usize,
        ),
        (&parameter("/paths/~1events~1stream/get", "runs")["maxItems"], limits::STREAM_RUNS_MAX),
        (&parameter("/paths/~1events~1stream/get", "types")["maxItems"], limits::STREAM_TYPES_MAX),
    ] {
        assert_eq!(*bound, json!(limit));
    }
    let says = |text: &Value, words: String| {
        assert!(text.as_str().unwrap().contains(&words), "{text} does not say {words}");
    };
    let kib = |bytes: usize| format!("{} KiB", bytes / 1024);
    let description = |name: &str| &at(&format!("/components/responses/{name}"))["description"];
    says(description("UriTooLong"), kib(limits::TARGET_BYTES_MAX));
    says(description("HeadersTooLarge"), kib(limits::HEADER_BYTES_MAX));
    says(description("HeadersTooLarge"), format!("{} fields", limits::HEADERS_MAX));
    says(&schema("Json")["description"], format!("{} deep", limits::PAYLOAD_DEPTH_MAX));
    let page = format!("{} MiB", limits::PAGE_BYTES_MAX >> 20);
    says(&operation("GET", "/runs/{id}/events")["description"], page);
    let hours = format!("{} hours", limits::IDEMPOTENCY_SECONDS / 3600);
    says(&at("/components/parameters/IdempotencyKey")["description"], hours);
    let probe = format!("every {} s", limits::PROBE_INTERVAL_MS / 1000);
    says(&operation("GET", "/health/sse")["description"], probe);
}

/// Types of problems and statuses; those of `docs/api.md` are held to the code elsewhere.
#[test]
fn problems_and_statuses_are_those_of_the_contract_for_people() {
    let api = std::fs::read_to_string("docs/api.md").unwrap();
    let types = at("/components/schemas/ProblemType")["enum"].as_array().unwrap();
    let types =
        types.iter().map(|kind| kind.as_str().unwrap()).filter(|kind| *kind != "about:blank");
    let rows = api.lines().filter_map(|line| line.strip_prefix("| `urn:"));
    let known = rows.map(|row| format!("urn:{}", row.split('`').next().unwrap()));
    assert_eq!(types.map(str::to_owned).collect::<BTreeSet<_>>(), known.collect());

    let (_, table) = api.split_once("### Statuses").unwrap();
    let rows = table.split("\n#").next().unwrap().lines().filter_map(|row| row.strip_prefix("| "));
    let in_table: BTreeSet<String> = rows
        .filter_map(|row| row.split(' ').next())
        .filter(|word| word.parse::<u16>().is_ok())
        .map(str::to_owned)
        .collect();
    let mut documented = BTreeSet::from(["405".to_owned()]); // of a method that is no operation
    for (method, path) in operations() {
        let responses = operation(&method, &path)["responses"].as_object().unwrap();
        documented.extend(responses.keys().cloned());
    }
    assert_eq!(documented, in_table);
}

// ---- the server ---------------------------------------------------------------------------------

/// The schema that a value must match, which for objects that the server makes is also one that
/// has no members but those that are documented.
fn strict(schema: &Value) -> Value {
    match schema {
        Value::Object(members) => {
            let mut strict: serde_json::Map<_, _> =
                members.iter().map(|(name, member)| (name.clone(), self::strict(member))).collect();
            if members.get("properties").is_some_and(Value::is_object) {
                strict.insert("additionalProperties".to_owned(), json!(false));
            }
            Value::Object(strict)
        }
        Value::Array(items) => items.iter().map(self::strict).collect(),
        other => other.clone(),
    }
}

fn validate(schema: &Value, value: &Value, what: &str) {
    static COMPONENTS: LazyLock<Value> = LazyLock::new(|| strict(&DOCUMENT["components"]));
    let schema = json!({"allOf": [strict(schema)], "components": *COMPONENTS});
    let validator = jsonschema::validator_for(&schema).unwrap_or_else(|error| panic!("{error}"));
    if let Err(error) = validator.validate(value) {
        panic!("{what}: {error} at {} in {value}", error.instance_path());
    }
}

/// Checks an answer against what the document says of it; of a stream there is the head only.
fn check(method: &str, template: &str, answer: &Answer) {
    let status = answer.status.to_string();
    let what = format!("{method} {template}: {status} {}", answer.text());
    let documented = resolved(&operation(method, template)["responses"][&status]);
    assert!(documented.is_object(), "{what} is not documented");
    for (name, header) in documented["headers"].as_object().into_iter().flatten() {
        let header = resolved(header);
        match answer.header(name) {
            Some(value) if header["schema"]["type"] == "integer" => {
                validate(&header["schema"], &json!(value.parse::<u64>().unwrap()), &what);
            }
            Some(value) => validate(&header["schema"], &json!(value), &what),
            None => assert!(header["required"] != true, "{what} has no {name}"),
        }
    }
    let Some(content) = documented["content"].as_object() else {
        assert!(answer.body.is_empty(), "{what}");
        return;
    };
    let media_type = answer.header("Content-Type").unwrap_or_else(|| panic!("{what}: of no type"));
    let content = content.get(media_type).unwrap_or_else(|| panic!("{what}: {media_type}"));
    if media_type.ends_with("json") {
        validate(&content["schema"], &answer.json(), &what);
    }
}

/// Asks, on a connection of its own since the answer may be a stream.
fn ask(
    server: &Server,
    (method, target): (&str, &str),
    headers: &[(&str, &str)],
    body: &str,
) -> Answer {
    if method != "GET" {
        return server.request(method, target, headers, body);
    }
    match Sse::try_open_on(server.client(), target, headers).unwrap() {
        Ok(stream) => stream.head,
        Err(answer) => answer,
    }
}

#[test]
fn every_operation_answers_as_documented() {
    const PRODUCER: [(&str, &str); 2] = [("Producer-Id", "p"), ("Producer-Epoch", "1")];
    let server = Server::with(&["--max-body-bytes", "2KiB", "--max-event-bytes", "1KiB"]);
    let mut seen = BTreeSet::new();
    let mut answers =
        |method, template, target: &str, headers: &[(&str, &str)], body: &str, status| {
            let answer = ask(&server, (method, target), headers, body);
            assert_eq!(answer.status, status, "{method} {target} {headers:?}: {}", answer.text());
            check(method, template, &answer);
            seen.insert((method.to_owned(), template.to_owned(), status));
        };
    let (none, large) =
        (&[][..], format!("{{\"type\":\"A\",\"payload\":\"{}\"}}", "x".repeat(1_500)));
    let ndjson = &[("Content-Type", "application/x-ndjson")][..];
    let run = "/runs/{id}";
    let events = "/runs/{id}/events";
    let stream = "/runs/{id}/events/stream";

    let labelled = r#"{"project":"p","session":"s","metadata":[1,null]}"#;
    answers("POST", "/runs", "/runs", none, labelled, 201);
    answers("POST", "/runs", "/runs", none, "", 201);
    answers("POST", "/runs", "/runs", &[("Idempotency-Key", "k")], "", 201);
    answers("POST", "/runs", "/runs", &[("Idempotency-Key", "k")], "{}", 409);
    answers("POST", "/runs", "/runs", none, "[", 400);
    answers("POST", "/runs", "/runs", none, r#"{"project":1}"#, 422);
    answers("POST", "/runs", "/runs", none, &"x".repeat(3_000), 413);
    answers("POST", "/runs", "/runs", &[("Content-Type", "text/plain")], "{}", 415);
    answers("POST", "/runs", "/runs", &[("Expect", "much")], "", 417);
    answers("GET", "/runs", "/runs", none, "", 200);
    answers("GET", "/runs", "/runs?limit=1&project=&status=running", none, "", 200);
    answers("GET", "/runs", "/runs?limit=1001", none, "", 422);
    answers("GET", "/runs", "/runs?before_id=x", none, "", 400);
    answers("GET", run, "/runs/1", none, "", 200);
    answers("GET", run, "/runs/99", none, "", 404);
    answers("GET", run, "/runs/x", none, "", 404);
    answers("GET", run, "/runs/1", &[("Accept", "text/html")], "", 406);
    answers("GET", run, "/runs/1", &[("Transfer-Encoding", "gzip")], "", 501);

    answers("POST", events, "/runs/1/events", none, r#"{"type":"A","payload":{"x":1.50}}"#, 201);
    answers("POST", events, "/runs/1/events", none, r#"[{"type":"A"},{"type":"B"}]"#, 201);
    answers("POST", events, "/runs/1/events", ndjson, "{\"type\":\"A\"}\n", 201);
    answers("POST", events, "/runs/1/events", ndjson, "\n", 200);
    answers("POST", events, "/runs/1/events", ndjson, "{\"type\":\"A\"}\n{}\n", 422);
    answers("POST", events, "/runs/1/events", none, r#"[{"type":"A"},{"type":"RUN_FAILED"}]"#, 422);
    answers("POST", events, "/runs/1/events", none, &large, 413);
    answers("POST", events, "/runs/99/events", none, r#"{"type":"A"}"#, 404);
    answers("POST", events, "/runs/1/events", &[("If-Match", "\"1\"")], r#"{"type":"A"}"#, 412);
    for (epoch, seq, status) in [("1", "0", 201), ("1", "0", 200), ("1", "7", 409), ("0", "1", 403)]
    {
        let producer = [PRODUCER[0], ("Producer-Epoch", epoch), ("Producer-Seq", seq)];
        answers("POST", events, "/runs/1/events", &producer, r#"{"type":"A"}"#, status);
    }
    answers("POST", events, "/runs/1/events", &PRODUCER, r#"{"type":"A"}"#, 400);
    answers("GET", events, "/runs/1/events", none, "", 200);
    answers("GET", events, "/runs/1/events?after_id=999999&limit=1&types=A", none, "", 200);
    answers("GET", events, "/runs/1/events?wait=61", none, "", 422);

    answers("PATCH", run, "/runs/2", none, r#"{"status":"failed","payload":7}"#, 200);
    answers("PATCH", run, "/runs/2", none, r#"{"status":"completed"}"#, 409);
    answers("PATCH", run, "/runs/2", none, r#"{"status":"running"}"#, 422);
    answers("PATCH", run, "/runs/99", none, r#"{"status":"failed"}"#, 404);
    answers("PATCH", run, "/runs/1", &[("If-Match", "\"1\"")], r#"{"status":"failed"}"#, 412);
    answers("GET", events, "/runs/2/events?after_id=2&wait=60", none, "", 200);

    answers("GET", stream, "/runs/1/events/stream", none, "", 200);
    answers("GET", stream, "/runs/1/events/stream?after_id=x", none, "", 400);
    answers("GET", stream, "/runs/99/events/stream", none, "", 404);
    answers("GET", stream, "/runs/2/events/stream", &[("Last-Event-ID", "now")], "", 204);
    answers("GET", stream, "/runs/1/events/stream?format=x", none, "", 422);
    let of_project = "/projects/{project}/events/stream";
    answers("GET", of_project, "/projects/p/events/stream", none, "", 200);
    answers("GET", of_project, "/projects/%20/events/stream", none, "", 404);
    let of_session = "/api/sse/session/{session}";
    answers("GET", of_session, "/api/sse/session/s", none, "", 200);
    answers("GET", of_session, "/api/sse/session/s?runs=1", none, "", 422);
    answers("GET", "/events/stream", "/events/stream?heartbeat=event", none, "", 200);
    answers("GET", "/events/stream", "/events/stream?runs=1,99", none, "", 404);
    answers("GET", "/events/stream", "/events/stream?runs=2&after_id=now", none, "", 204);

    answers("DELETE", run, "/runs/1", &[("If-Match", "\"1\"")], "", 412);
    answers("DELETE", run, "/runs/1", none, "", 204);
    answers("DELETE", run, "/runs/1", none, "", 404);
    for path in [
        "/projects",
        "/worker",
        "/health",
        "/health/ready",
        "/health/sse",
        "/metrics",
        "/openapi.json",
    ] {
        answers("GET", path, path, none, "", 200);
    }
    answers("GET", "/openapi.json", "/openapi.json", &[("If-None-Match", "*")], "", 304);
    let openmetrics = ("Accept", "application/openmetrics-text");
    answers("GET", "/metrics", "/metrics", &[openmetrics], "", 200);

    for (method, path) in operations() {
        for status in operation(&method, &path)["responses"].as_object().unwrap().keys() {
            let status: u16 = status.parse().unwrap();
            let is_seen = seen.contains(&(method.clone(), path.clone(), status));
            assert!(is_seen || status >= 400, "{method} {path} was never seen to be {status}");
        }
    }
}

/// What the document shows is what the server takes, and what it shows of answers is valid.
#[test]
fn examples_work() {
    let server = Server::start();
    let mut sent = 0;
    for (method, template) in operations() {
        let operation = operation(&method, &template);
        for (media_type, content) in
            operation["requestBody"]["content"].as_object().into_iter().flatten()
        {
            for (name, example) in content["examples"].as_object().expect("bodies have examples") {
                let body = &example["value"];
                let body = body.as_str().map_or_else(|| body.to_string(), str::to_owned);
                let target = template.replace("{id}", &server.new_run().to_string());
                let answer =
                    server.request(&method, &target, &[("Content-Type", media_type)], &body);
                assert!((200..300).contains(&answer.status), "{name}: {}", answer.text());
                check(&method, &template, &answer);
                sent += 1;
            }
        }
        for response in operation["responses"].as_object().unwrap().values().map(resolved) {
            for content in response["content"].as_object().into_iter().flatten() {
                let (media_type, content) = content;
                if let Some(example) = content.get("example") {
                    validate(&content["schema"], example, &format!("{template}: {media_type}"));
                }
            }
        }
    }
    assert!(sent >= 8, "{sent} examples");
}

#[test]
fn the_document_is_served() {
    let server = Server::with(&["--cors-origins", "http://page.example"]);
    let headers = [("Origin", "http://page.example")];
    let answer = server.request("GET", "/openapi.json", &headers, "").expect(200);
    let document = answer.json();
    assert_eq!(document["info"]["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(document["paths"], DOCUMENT["paths"]);
    assert_eq!(answer.header("Access-Control-Allow-Origin"), Some("http://page.example"));
    let etag = answer.header("ETag").expect("it has one");
    let again = |tag: &str| {
        let mut client = server.client();
        client.request("GET", "/openapi.json", &[("If-None-Match", tag)], "").status
    };
    assert_eq!(again(etag), 304);
    assert_eq!(again(&format!("\"x\", W/{etag}")), 304);
    assert_eq!(again("\"x\""), 200);

    // HEAD of everything: what GET answers, without the content.
    for (_, template) in operations().into_iter().filter(|(method, _)| method == "GET") {
        let run = server.new_run().to_string();
        let target = template.replace("{id}", &run);
        let target = target.replace("{project}", "p").replace("{session}", "s");
        let mut client = server.client();
        client.send(format!("HEAD {target} HTTP/1.1\r\nHost: h\r\n\r\n"));
        let head = client.answer_to("HEAD");
        assert_eq!(head.status, 200, "{target}");
        let media_type = head.header("Content-Type").unwrap();
        assert_eq!(media_type == "text/event-stream", is_stream(&template), "{target}");
        assert!(operation("GET", &template)["responses"]["200"].is_object());
    }
}

// ---- schemathesis -------------------------------------------------------------------------------

/// Requests that nobody has thought of, good and bad ones, from the document alone. What is asked
/// and what is looked at is in `tests/clients/schemathesis.toml`.
#[test]
fn schemathesis_finds_nothing() {
    let there = runs(python(), &["-m", "schemathesis.cli", "--version"]);
    if !is_there("Python's schemathesis", there) {
        return;
    }
    let server = Server::with(&["--keepalive-interval", "50ms"]);
    let started = Instant::now();
    // It leaves things where it works, and finds its hooks there.
    let place = tempfile::tempdir().unwrap();
    for name in ["schemathesis.toml", "schemathesis_hooks.py"] {
        std::fs::copy(clients_directory().join(name), place.path().join(name)).unwrap();
    }
    let mut command = Command::new(python());
    command.current_dir(place.path()).args(["-m", "schemathesis.cli"]);
    command.args(["--config-file", "schemathesis.toml", "run"]);
    command.args(["--seed", &seeded().random_range(0..u32::MAX).to_string()]);
    command.arg(format!("http://{}/openapi.json", server.address()));
    let output = command.output().expect("it is there");
    let said = String::from_utf8_lossy(&output.stdout);
    let wrong = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}\n{wrong}\nthe server says\n{}", server.log());
    eprintln!("{said}\nin {:?}", started.elapsed());
    let worker = server.json("/worker");
    assert!(worker["journal"]["appended_events"].as_u64() > Some(10), "{worker}");
}
