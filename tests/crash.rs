//! `kill -9` in the middle of concurrent appends, many times over: what was answered is there
//! afterwards, nothing came twice, and nothing that a subscriber saw is missing.
//!
//! `CRASHES=… SEED=…` for more of them, or the same again.

mod support;

use std::{
    collections::{BTreeMap, HashMap},
    net::SocketAddr,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    thread,
    time::Duration,
};

use rand::{Rng, RngExt, SeedableRng, rngs::StdRng};
use serde_json::Value;
use support::{Answer, Client, Server, Sse, from_environment, http::chunked, seeded};

/// How a publisher appends.
#[derive(Clone, Copy, Debug)]
enum Kind {
    /// One event a request, given up when the server dies.
    Single,
    /// Arrays, sent again with their key until there is an answer.
    KeyedArray,
    /// NDJSON, given up when the server dies.
    Ndjson,
    /// One event a request, sent again as its producer until there is an answer.
    Producer,
}

const KINDS: [Kind; 6] =
    [Kind::Single, Kind::Single, Kind::KeyedArray, Kind::KeyedArray, Kind::Ndjson, Kind::Producer];

/// What a publisher knows.
struct Publisher {
    number: usize,
    kind: Kind,
    run: u64,
    rng: StdRng,
    /// Values of its events: each is used once.
    next_value: u64,
    /// The request that is not answered yet: its number, its body, its values.
    pending: Option<(u64, String, Vec<u64>)>,
    requests: u64,
    /// Value and id of what was answered with 201, ids only where the answer has them.
    acknowledged: Vec<(u64, Option<u64>)>,
    /// Values that must be there once, answered or not at first.
    retried: bool,
}

impl Publisher {
    fn new(number: usize, run: u64, seed: u64) -> Publisher {
        let kind = KINDS[number];
        Publisher {
            number,
            kind,
            run,
            rng: StdRng::seed_from_u64(seed),
            next_value: 0,
            pending: None,
            requests: 0,
            acknowledged: Vec::new(),
            retried: matches!(kind, Kind::KeyedArray | Kind::Producer),
        }
    }

    /// Appends until the server is gone.
    fn publish(&mut self, address: SocketAddr, is_over: &AtomicBool) {
        let Ok(mut client) = Client::try_connect(address) else { return };
        while !is_over.load(SeqCst) {
            if self.one(&mut client).is_err() {
                return;
            }
        }
    }

    fn one(&mut self, client: &mut Client) -> std::io::Result<()> {
        let (request, body, values) = match self.pending.take() {
            Some(pending) if self.retried => pending,
            _ => self.next_request(),
        };
        let target = format!("/runs/{}/events", self.run);
        let (key, name) = (format!("{}-{request}", self.number), format!("p{}", self.number));
        let seq = request.to_string();
        let headers: &[(&str, &str)] = match self.kind {
            Kind::Single => &[],
            Kind::KeyedArray => &[("Idempotency-Key", &key)],
            Kind::Ndjson => {
                &[("Content-Type", "application/x-ndjson"), ("Transfer-Encoding", "chunked")]
            }
            Kind::Producer => {
                &[("Producer-Id", &name), ("Producer-Epoch", "0"), ("Producer-Seq", &seq)]
            }
        };
        self.pending = Some((request, body.clone(), values.clone()));
        let answer = client.try_request("POST", &target, headers, &body)?;
        self.pending = None;
        self.acknowledge(&answer, &values);
        Ok(())
    }

    fn next_request(&mut self) -> (u64, String, Vec<u64>) {
        let count = match self.kind {
            Kind::Single | Kind::Producer => 1,
            Kind::KeyedArray => self.rng.random_range(1..10),
            Kind::Ndjson => self.rng.random_range(1..80),
        };
        let values: Vec<u64> = (self.next_value..self.next_value + count).collect();
        self.next_value += count;
        let filler = "x".repeat(self.rng.random_range(0..300));
        let events: Vec<String> = values
            .iter()
            .map(|value| {
                let (number, value) = (self.number, value);
                format!(r#"{{"type":"P{number}","payload":{{"v":{value},"f":"{filler}"}}}}"#)
            })
            .collect();
        let body = match self.kind {
            Kind::Single | Kind::Producer => events[0].clone(),
            Kind::KeyedArray => format!("[{}]", events.join(",")),
            Kind::Ndjson => {
                let lines: Vec<String> = events.iter().map(|event| format!("{event}\n")).collect();
                chunked(&lines.iter().map(String::as_str).collect::<Vec<_>>())
            }
        };
        self.requests += 1;
        (self.requests - 1, body, values)
    }

    fn acknowledge(&mut self, answer: &Answer, values: &[u64]) {
        let body = answer.json();
        let id = |event: &Value| event["id"].as_u64().expect("an event has an id");
        match (self.kind, answer.status) {
            (Kind::Producer, 200) => {
                assert_eq!(body["duplicate"], true);
                self.acknowledged.push((values[0], None));
            }
            (Kind::Single | Kind::Producer, 201) => {
                self.acknowledged.push((values[0], Some(id(&body))));
            }
            (Kind::KeyedArray, 201) => {
                let events = body.as_array().expect("an array");
                assert_eq!(events.len(), values.len());
                let pairs = values.iter().zip(events);
                self.acknowledged.extend(pairs.map(|(value, event)| (*value, Some(id(event)))));
            }
            (Kind::Ndjson, 201) => {
                assert_eq!(body["count"], values.len());
                self.acknowledged.extend(values.iter().map(|value| (*value, None)));
                // Of the ends the ids are known.
                let (first, last) = (values[0], values[values.len() - 1]);
                self.acknowledged.push((first, body["first_id"].as_u64()));
                self.acknowledged.push((last, body["last_id"].as_u64()));
            }
            (kind, status) => panic!("{kind:?} {status}: {body}"),
        }
    }
}

/// Somebody who watches everything, from its cursor on, until the server is gone.
fn watch(address: SocketAddr, cursor: &AtomicU64, seen: &Mutex<BTreeMap<u64, Value>>) {
    let after = cursor.load(SeqCst).to_string();
    let opened = Sse::try_open(address, "/events/stream", &[("Last-Event-ID", &after)]);
    let Ok(Ok(mut stream)) = opened else { return };
    while let Ok(Some(frame)) = stream.try_frame(Duration::from_secs(5)) {
        assert_ne!(frame.name(), "stream.reset", "the cursor was delivered, so it is durable");
        let Some(id) = frame.id else { continue };
        assert!(cursor.swap(id, SeqCst) < id, "{id} came twice or too late");
        if frame.is_event() {
            seen.lock().unwrap().insert(id, frame.json());
        }
    }
}

/// The journal as REST shows it, read on after each crash, and what was compared with it.
#[derive(Default)]
struct Journal {
    events: BTreeMap<u64, Value>,
    /// Which value of which publisher has which id.
    values: HashMap<(usize, u64), u64>,
    /// Of each run the seq, the id and the time of its last event.
    ends: HashMap<u64, (u64, u64, String)>,
    /// How many of the answers of each publisher were found in it.
    answers_found: HashMap<usize, usize>,
    /// Up to here a subscriber saw nothing else.
    compared_to: u64,
}

impl Journal {
    /// Reads what is new, and checks it against what everybody knows.
    fn read_on(&mut self, server: &Server, publishers: &[Publisher], seen: &BTreeMap<u64, Value>) {
        let mut runs: Vec<u64> = publishers.iter().map(|publisher| publisher.run).collect();
        runs.sort_unstable();
        runs.dedup();
        for run in runs {
            self.read_run(server, run);
        }
        for publisher in publishers {
            let number = publisher.number;
            let found = self.answers_found.entry(number).or_default();
            for (value, id) in &publisher.acknowledged[*found..] {
                let there = self.values.get(&(number, *value));
                let what = format!("value {value} of publisher {number}, acknowledged as {id:?}");
                assert!(there.is_some(), "{what}, is not there");
                assert!(id.is_none() || there == id.as_ref(), "{what}, has id {there:?}");
            }
            *found = publisher.acknowledged.len();
        }
        for (id, event) in seen.range(self.compared_to + 1..) {
            assert_eq!(self.events.get(id), Some(event), "a subscriber saw {id}");
            self.compared_to = *id;
        }
    }

    fn read_run(&mut self, server: &Server, run: u64) {
        let (mut seq, mut last_id, mut last_time) = self.ends.remove(&run).unwrap_or_default();
        for event in server.events_after(run, last_id) {
            seq += 1;
            assert_eq!(event["seq"], seq, "seq has no hole");
            assert_eq!(event["run_id"], run);
            let id = event["id"].as_u64().expect("an id");
            assert!(id > last_id, "ids go up");
            let time = event["created_at"].as_str().expect("a time").to_owned();
            assert!(time >= last_time, "created_at never goes backwards");
            (last_id, last_time) = (id, time);
            if let Some(number) = event["type"].as_str().and_then(|name| name.strip_prefix('P')) {
                let number = number.parse().expect("a number");
                let value = event["payload"]["v"].as_u64().expect("a value");
                let before = self.values.insert((number, value), id);
                assert_eq!(before, None, "value {value} of publisher {number} is there twice");
            }
            assert!(self.events.insert(id, event).is_none(), "id {id} is there twice");
        }
        let summary = server.json(&format!("/runs/{run}"));
        assert_eq!(summary["event_count"], seq);
        assert_eq!(summary["last_event_id"], last_id);
        self.ends.insert(run, (seq, last_id, last_time));
    }

    /// Reads everything once more: what was there is there as it was.
    fn check_all(&self, server: &Server, publishers: &[Publisher], seen: &BTreeMap<u64, Value>) {
        let mut again = Journal::default();
        again.read_on(server, publishers, seen);
        assert!(again.events == self.events, "what was read before is not the same");
        // Each publisher's in the order in which they were sent, as far as they are there.
        for publisher in publishers {
            let mut of_this: Vec<(u64, u64)> = again
                .values
                .iter()
                .filter(|((number, _), _)| *number == publisher.number)
                .map(|((_, value), id)| (*id, *value))
                .collect();
            of_this.sort_unstable();
            assert!(of_this.is_sorted_by_key(|(_, value)| *value));
        }
    }
}

#[test]
fn what_was_answered_or_seen_survives_kill_9_exactly_once() {
    survives_kill_9(&["--workers", "1"]);
}

#[test]
fn so_it_does_with_four_workers() {
    survives_kill_9(&["--workers", "4"]);
}

#[test]
fn so_it_does_with_two_workers_on_epoll() {
    survives_kill_9(&["--workers", "2", "--io", "epoll"]);
}

fn survives_kill_9(arguments: &[&str]) {
    let crashes = from_environment("CRASHES", 20);
    let mut rng = seeded();
    let mut server = Server::with(arguments);
    let shared = server.new_run_with(r#"{"project":"crash"}"#);
    let mut publishers: Vec<Publisher> = (0..KINDS.len())
        .map(|number| {
            let run = if number % 2 == 0 { shared } else { server.new_run() };
            Publisher::new(number, run, rng.next_u64())
        })
        .collect();
    let (cursor, seen) = (AtomicU64::new(0), Mutex::new(BTreeMap::new()));
    let mut journal = Journal::default();
    for crash in 1..=crashes {
        let is_over = AtomicBool::new(false);
        let address = server.address();
        let life = Duration::from_millis(rng.random_range(10..150));
        thread::scope(|scope| {
            scope.spawn(|| watch(address, &cursor, &seen));
            for publisher in &mut publishers {
                scope.spawn(|| publisher.publish(address, &is_over));
            }
            thread::sleep(life);
            server.kill();
            is_over.store(true, SeqCst);
        });
        server.start_again();
        journal.read_on(&server, &publishers, &seen.lock().unwrap());
        if crash % 10 == 0 {
            journal.check_all(&server, &publishers, &seen.lock().unwrap());
            // A graceful end is no worse.
            server.restart();
            journal.check_all(&server, &publishers, &seen.lock().unwrap());
        }
    }
    // Whoever tries again gets everything in, once.
    for publisher in &mut publishers {
        let mut client = server.client();
        if publisher.retried && publisher.pending.is_some() {
            publisher.one(&mut client).expect("the server stays");
        }
    }
    journal.read_on(&server, &publishers, &seen.lock().unwrap());
    journal.check_all(&server, &publishers, &seen.lock().unwrap());
    let total = journal.events.len();
    for publisher in publishers.iter().filter(|publisher| publisher.retried) {
        let acknowledged = publisher.acknowledged.len() as u64;
        assert_eq!(acknowledged, publisher.next_value, "publisher {}", publisher.number);
    }
    let acknowledged: usize = publishers.iter().map(|publisher| publisher.acknowledged.len()).sum();
    eprintln!("{crashes} crashes, {total} events, {acknowledged} answers");
    assert!(total > crashes, "something was appended at all");
    // And the subscriber, with the cursor it has, gets the rest and nothing twice.
    let last = server.append(shared, "LAST", "1");
    let after = cursor.load(SeqCst);
    let header = [("Last-Event-ID", &*after.to_string())];
    let mut stream = server.stream_with("/events/stream", &header);
    let mut before = after;
    while before < last {
        let id = stream.ids(1)[0];
        assert!(id > before);
        seen.lock().unwrap().insert(id, Value::Null);
        before = id;
    }
    assert_eq!(seen.lock().unwrap().len(), total + 1, "it saw every event of every run");
}
