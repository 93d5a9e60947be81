//! Cross-origin requests.

use crate::support::{Answer, Server};

const APP: &str = "https://app.example";

fn allowed_origin(answer: &Answer) -> Option<&str> {
    answer.header("Access-Control-Allow-Origin")
}

fn lists(value: Option<&str>, wanted: &[&str]) {
    let value = value.unwrap_or_default();
    let members: Vec<String> =
        value.split(',').map(|member| member.trim().to_ascii_lowercase()).collect();
    for member in wanted {
        assert!(members.contains(&member.to_ascii_lowercase()), "{member} is not in {value}");
    }
}

#[test]
fn a_preflight_is_answered() {
    let server = Server::with(&["--cors-origins", APP]);
    for (target, method) in [
        ("/runs", "POST"),
        ("/runs/1", "PATCH"),
        ("/runs/1", "DELETE"),
        ("/runs/1/events", "POST"),
        ("/runs/1/events/stream", "GET"),
        ("/events/stream", "GET"),
    ] {
        let headers = [
            ("Origin", APP),
            ("Access-Control-Request-Method", method),
            ("Access-Control-Request-Headers", "content-type, last-event-id"),
        ];
        let answer = server.request("OPTIONS", target, &headers, "").expect(204);
        assert_eq!(allowed_origin(&answer), Some(APP));
        lists(answer.header("Access-Control-Allow-Methods"), &[method]);
        lists(
            answer.header("Access-Control-Allow-Headers"),
            &[
                "Last-Event-ID",
                "Idempotency-Key",
                "If-Match",
                "Producer-Id",
                "Producer-Epoch",
                "Producer-Seq",
                "Content-Type",
                "Authorization",
            ],
        );
        assert!(answer.header("Access-Control-Max-Age").is_some());
        lists(answer.header("Vary"), &["Origin"]);
    }
}

#[test]
fn answers_errors_and_streams_carry_the_headers() {
    let server = Server::with(&["--cors-origins", &format!("https://other.example,{APP}")]);
    let run = server.new_run();
    let origin = [("Origin", APP)];
    let created = server.request("POST", "/runs", &origin, "{}").expect(201);
    let answers = [
        server.request("GET", &format!("/runs/{run}"), &origin, ""),
        server.request("GET", "/runs/99", &origin, "").expect(404),
        server.request("PUT", "/runs", &origin, "").expect(405),
        server.request("POST", "/runs", &origin, "{").expect(400),
        server.request("POST", "/runs", &origin, "[]").expect(422),
        server.request("DELETE", &format!("/runs/{run}"), &origin, "").expect(204),
        server.stream_with("/events/stream", &origin).head,
        server.stream_with("/health/sse", &origin).head,
        created,
    ];
    for answer in &answers {
        assert_eq!(allowed_origin(answer), Some(APP), "{answer:?}");
        lists(answer.header("Access-Control-Expose-Headers"), &["Location", "Retry-After"]);
        lists(answer.header("Vary"), &["Origin"]);
    }
}

#[test]
fn another_origin_gets_no_permission() {
    let server = Server::with(&["--cors-origins", APP]);
    for origin in ["https://evil.example", "http://app.example", "https://app.example:8443", "null"]
    {
        let headers = [("Origin", origin), ("Access-Control-Request-Method", "POST")];
        for method in ["OPTIONS", "GET"] {
            let answer = server.request(method, "/runs", &headers, "");
            assert_eq!(allowed_origin(&answer), None, "{origin}");
            lists(answer.header("Vary"), &["Origin"]);
        }
    }
    lists(server.get("/runs").header("Vary"), &["Origin"]);
}

#[test]
fn any_origin_may_be_allowed() {
    let server = Server::with(&["--cors-origins", "*"]);
    let headers = [("Origin", "https://any.example"), ("Access-Control-Request-Method", "POST")];
    for method in ["OPTIONS", "GET"] {
        let answer = server.request(method, "/runs", &headers, "");
        assert_eq!(allowed_origin(&answer), Some("*"));
        assert_eq!(answer.header("Access-Control-Allow-Credentials"), None);
    }
}

#[test]
fn nothing_is_said_when_no_origin_is_allowed() {
    let server = Server::start();
    let headers = [("Origin", APP), ("Access-Control-Request-Method", "POST")];
    for method in ["OPTIONS", "GET"] {
        let answer = server.request(method, "/runs", &headers, "");
        assert!(
            answer.headers.iter().all(|(name, _)| !name.starts_with("Access-Control")),
            "{answer:?}"
        );
    }
}

#[test]
fn exact_origins_may_send_credentials() {
    let server = Server::with(&["--cors-origins", APP, "--cors-credentials", "true"]);
    let headers = [("Origin", APP), ("Access-Control-Request-Method", "POST")];
    for method in ["OPTIONS", "GET"] {
        let answer = server.request(method, "/runs", &headers, "");
        assert_eq!(allowed_origin(&answer), Some(APP));
        assert_eq!(answer.header("Access-Control-Allow-Credentials"), Some("true"));
    }
    assert!(Server::try_with(&["--cors-origins", "*", "--cors-credentials", "true"]).is_err());
}
