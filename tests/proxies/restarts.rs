//! What clients see through a proxy while the server is away, and afterwards.

use std::{collections::BTreeSet, process::Command};

use super::{
    proxy::{Kind, PAGE, Proxy},
    support::{
        Server,
        programs::{Running, clients_directory, is_there, runs},
    },
};

/// An answer as curl shows it with `-i`.
struct Shown {
    status: u16,
    head: String,
    body: String,
}

impl Shown {
    fn of(text: &str) -> Shown {
        let (head, body) = text.split_once("\r\n\r\n").expect("a head ends");
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
        Shown {
            status: status.unwrap_or_else(|| panic!("no status: {text}")),
            head: head.to_owned(),
            body: body.to_owned(),
        }
    }

    fn header(&self, name: &str) -> Option<&str> {
        let mut fields = self.head.lines().filter_map(|line| line.split_once(": "));
        fields.find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }
}

#[test]
fn who_finds_the_server_away_is_told_what_to_do() {
    let mut server = Server::start();
    let run = server.new_run();
    let proxies = Proxy::start_each(&Kind::ours(), server.address());
    server.kill();
    let origin = format!("Origin: {PAGE}");
    for proxy in proxies {
        let kind = proxy.kind;
        let ask = |headers: &[&str], target: &str| {
            let headers = headers.iter().flat_map(|header| ["-H", header]);
            let arguments: Vec<&str> = ["-i"].into_iter().chain(headers).collect();
            Shown::of(&proxy.curl(target, &arguments))
        };
        let stream = format!("/runs/{run}/events/stream");
        let mut waits = BTreeSet::new();
        for _ in 0..12 {
            let answer = ask(&["Accept: text/event-stream", &origin], &stream);
            assert_eq!(answer.status, 200, "{kind:?}: {}", answer.head);
            assert_eq!(answer.header("Content-Type"), Some("text/event-stream"), "{kind:?}");
            let origin = answer.header("Access-Control-Allow-Origin");
            assert_eq!(origin, kind.answers_pages().then_some(PAGE), "{kind:?}");
            let (retry, rest) = answer.body.split_once('\n').expect("a line");
            assert_eq!(rest, "event: stream.refused\ndata: {\"reason\":\"away\"}\n\n", "{kind:?}");
            let wait = retry.strip_prefix("retry: ").and_then(|wait| wait.parse::<u64>().ok());
            waits.insert(wait.unwrap_or_else(|| panic!("{kind:?}: {retry:?}")));
        }
        assert!(waits.iter().all(|wait| (2_000..=11_000).contains(wait)), "{kind:?}: {waits:?}");
        assert!(waits.len() > 1, "{kind:?}: all after {waits:?} ms");

        let other = ask(&["Accept: text/event-stream", "Origin: https://other.example"], &stream);
        assert_eq!(other.header("Access-Control-Allow-Origin"), None, "{kind:?}");
        assert_eq!(ask(&[], &stream).status / 100, 5, "{kind:?}: curl is no EventSource");

        // A publisher's library may accept anything.
        let append = ["-i", "-H", "Accept: text/event-stream", "--json", r#"{"type":"A"}"#];
        let append = Shown::of(&proxy.curl(&format!("/runs/{run}/events"), &append));
        assert!([502, 503].contains(&append.status), "{kind:?}: {}", append.head);
        assert!(append.header("Retry-After").is_some(), "{kind:?}: {}", append.head);
        let problem: serde_json::Value = serde_json::from_str(&append.body).expect("it is JSON");
        assert_eq!(problem["status"], append.status, "{kind:?}");
    }
}

/// A browser that asks while the server is away comes back by itself, and misses nothing. Where
/// nginx answers 502 it does not.
#[test]
fn browsers_come_back_by_themselves() {
    let there = runs("node", &["--version"])
        && clients_directory().join("node_modules/eventsource").is_dir();
    if !is_there("npm's eventsource", there) {
        return;
    }
    let mut server = Server::with(&["--retry", "50ms", "--reconnect-backoff-max", "100ms"]);
    let run = server.new_run();
    let proxies = Proxy::start_each(&Kind::all(), server.address());
    let browsers: Vec<(Kind, Running)> = proxies
        .iter()
        .map(|proxy| {
            let mut command = Command::new("node");
            command.arg(clients_directory().join("eventsource.mjs"));
            command.arg(proxy.url(&format!("/runs/{run}/events/stream")));
            command.args(["RUN_CREATED", "A"]).env("NODE_TLS_REJECT_UNAUTHORIZED", "0");
            (proxy.kind, Running::start(command))
        })
        .collect();
    let mut seen = vec![1, server.append(run, "A", "1")];
    for (kind, browser) in &browsers {
        assert_eq!([browser.event().0, browser.event().0], seen[..], "{kind:?}");
    }
    server.kill();
    for (kind, browser) in &browsers {
        let answer = if *kind == Kind::NginxGuide { "end" } else { "open" };
        assert_eq!(browser.line(), answer, "{kind:?}");
    }
    server.start_again();
    seen.extend([server.append(run, "A", "2"), server.append(run, "A", "3")]);
    for (kind, browser) in browsers.iter().filter(|(kind, _)| *kind != Kind::NginxGuide) {
        assert_eq!([browser.event().0, browser.event().0], seen[2..], "{kind:?}");
    }
}
