//! `kill -9` in the middle of concurrent appends, many times over: what was answered is there
//! afterwards, nothing came twice, nothing is there that nobody has sent, and in the end each
//! subscriber's record, over all the crashes, is what the journal holds, every event once.
//!
//! `CRASHES=… SEED=…` for more of them, or the same again.

mod support;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    net::SocketAddr,
    sync::atomic::{AtomicBool, Ordering::SeqCst},
    thread,
    time::Duration,
};

use rand::{Rng, RngExt, SeedableRng, rngs::StdRng};
use serde_json::Value;
use support::{Answer, Client, DEADLINE, Server, Sse, from_environment, http::chunked, seeded};

/// How a publisher appends.
#[derive(Clone, Copy, Debug)]
enum Kind {
    /// One event a request, given up when the server dies.
    Single,
    /// Arrays, given up when the server dies.
    Array,
    /// Arrays, sent again with their key until there is an answer.
    KeyedArray,
    /// NDJSON, given up when the server dies.
    Ndjson,
    /// One event a request, sent again as its producer until there is an answer.
    Producer,
}

const KINDS: [Kind; 7] = [
    Kind::Single,
    Kind::Single,
    Kind::KeyedArray,
    Kind::KeyedArray,
    Kind::Ndjson,
    Kind::Producer,
    Kind::Array,
];

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
    /// Values that were sent and whose answer was lost: they may be there or not.
    lost: HashSet<u64>,
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
            lost: HashSet::new(),
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
            Kind::Single | Kind::Array => &[],
            Kind::KeyedArray => &[("Idempotency-Key", &key)],
            Kind::Ndjson => {
                &[("Content-Type", "application/x-ndjson"), ("Transfer-Encoding", "chunked")]
            }
            Kind::Producer => {
                &[("Producer-Id", &name), ("Producer-Epoch", "0"), ("Producer-Seq", &seq)]
            }
        };
        self.pending = Some((request, body.clone(), values.clone()));
        let answer = match client.try_request("POST", &target, headers, &body) {
            Ok(answer) => answer,
            Err(error) => {
                self.lost.extend(values);
                return Err(error);
            }
        };
        self.pending = None;
        self.acknowledge(&answer, &values);
        Ok(())
    }

    fn next_request(&mut self) -> (u64, String, Vec<u64>) {
        let count = match self.kind {
            Kind::Single | Kind::Producer => 1,
            Kind::Array | Kind::KeyedArray => self.rng.random_range(1..10),
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
            Kind::Array | Kind::KeyedArray => format!("[{}]", events.join(",")),
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
            (Kind::Array | Kind::KeyedArray, 201) => {
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

/// Makes runs, appends to them and deletes them, until the server is gone.
#[derive(Default)]
struct Sweeper {
    /// Of each run the ids of its events, as far as they were answered, and how far it has come.
    runs: BTreeMap<u64, (Vec<u64>, Swept)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Swept {
    No,
    Asked,
    Answered,
}

impl Sweeper {
    fn sweep(&mut self, address: SocketAddr, is_over: &AtomicBool) {
        let Ok(mut client) = Client::try_connect(address) else { return };
        while !is_over.load(SeqCst) && self.one(&mut client).is_ok() {}
    }

    fn one(&mut self, client: &mut Client) -> std::io::Result<()> {
        let id = |answer: Answer| answer.expect(201).json()["id"].as_u64().expect("an id");
        let run = id(client.try_request("POST", "/runs", &[], r#"{"project":"crash"}"#)?);
        let (ids, swept) = self.runs.entry(run).or_insert((Vec::new(), Swept::No));
        let target = format!("/runs/{run}");
        for _ in 0..2 {
            let events = format!("{target}/events");
            ids.push(id(client.try_request("POST", &events, &[], r#"{"type":"SWEPT"}"#)?));
        }
        *swept = Swept::Asked;
        client.try_request("DELETE", &target, &[], "")?.expect(204);
        *swept = Swept::Answered;
        Ok(())
    }

    /// What was answered is so; those runs need not be looked at again.
    fn check(&mut self, server: &Server) {
        for (run, (ids, swept)) in std::mem::take(&mut self.runs) {
            let status = server.get(&format!("/runs/{run}")).status;
            match swept {
                Swept::Answered => assert_eq!(status, 404, "run {run} was deleted"),
                Swept::Asked if status == 404 => {}
                Swept::Asked | Swept::No => {
                    let there = server.events_after(run, 0);
                    let there: Vec<u64> = there.iter().filter_map(|e| e["id"].as_u64()).collect();
                    assert!(
                        ids.iter().all(|id| there.contains(id)),
                        "run {run}: {ids:?}, {there:?}"
                    );
                }
            }
        }
    }
}

/// Somebody who keeps a record of a stream, and comes back with its cursor after each crash.
struct Subscriber {
    target: String,
    /// Whose events it gets, of those that are not deleted; none for all.
    run: Option<u64>,
    cursor: u64,
    record: BTreeMap<u64, Value>,
}

impl Subscriber {
    fn new(target: String, run: Option<u64>) -> Subscriber {
        Subscriber { target, run, cursor: 0, record: BTreeMap::new() }
    }

    /// Watches until the server is gone, or has sent this event.
    fn watch(&mut self, address: SocketAddr, until: u64) {
        let after = self.cursor.to_string();
        let opened = Sse::try_open(address, &self.target, &[("Last-Event-ID", &after)]);
        let Ok(Ok(mut stream)) = opened else { return };
        while self.cursor < until
            && let Ok(Some(frame)) = stream.try_frame(DEADLINE)
        {
            assert_ne!(frame.name(), "stream.reset", "the cursor was delivered, so it is durable");
            let Some(id) = frame.id else { continue };
            // That of a frame without an event, too, may not go back.
            assert!(self.cursor < id, "{}: {id} after {}", self.target, self.cursor);
            self.cursor = id;
            if frame.is_event() {
                self.record.insert(id, frame.json());
            }
        }
    }

    /// The record is what the journal holds of its runs.
    fn check_record(&self, journal: &Journal, runs: &HashSet<u64>) {
        let run_of = |event: &Value| event["run_id"].as_u64().expect("an event has a run");
        let is_wanted = |run: u64| self.run.is_none_or(|wanted| wanted == run);
        let seen = self.record.iter().filter(|(_, event)| runs.contains(&run_of(event)));
        let there = journal.events.iter().filter(|(_, event)| is_wanted(run_of(event)));
        assert!(seen.eq(there), "the record of {} is not the journal", self.target);
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
}

impl Journal {
    /// Reads what is new, and checks it against what everybody knows.
    fn read_on(&mut self, server: &Server, publishers: &[Publisher], subscribers: &[Subscriber]) {
        let runs = runs(publishers);
        let before = self.events.keys().next_back().copied().unwrap_or_default();
        let mut new_values = Vec::new();
        for run in &runs {
            self.read_run(server, *run, &mut new_values);
        }
        for publisher in publishers {
            let number = publisher.number;
            let total = publisher.acknowledged.len();
            let found = self.answers_found.entry(number).or_default();
            let answers = &publisher.acknowledged[std::mem::replace(found, total)..];
            for (value, id) in answers {
                let there = self.values.get(&(number, *value));
                let what = format!("value {value} of publisher {number}, acknowledged as {id:?}");
                assert!(there.is_some(), "{what}, is not there");
                assert!(id.is_none() || there == id.as_ref(), "{what}, has id {there:?}");
            }
            let answered: HashSet<u64> = answers.iter().map(|(value, _)| *value).collect();
            for (_, value) in new_values.iter().filter(|(of, _)| *of == number) {
                let was_sent = answered.contains(value) || publisher.lost.contains(value);
                assert!(was_sent, "value {value} of publisher {number} was never sent");
            }
        }
        for subscriber in subscribers {
            for (id, event) in subscriber.record.range(before + 1..) {
                if runs.contains(&event["run_id"].as_u64().expect("a run")) {
                    assert_eq!(self.events.get(id), Some(event), "{}: {id}", subscriber.target);
                }
            }
        }
    }

    fn read_run(&mut self, server: &Server, run: u64, new_values: &mut Vec<(usize, u64)>) {
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
                new_values.push((number, value));
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
    fn check_all(&self, server: &Server, publishers: &[Publisher], subscribers: &[Subscriber]) {
        let mut again = Journal::default();
        again.read_on(server, publishers, subscribers);
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

/// The runs that are appended to and stay.
fn runs(publishers: &[Publisher]) -> HashSet<u64> {
    publishers.iter().map(|publisher| publisher.run).collect()
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
    let crashes = from_environment("CRASHES", 34);
    let mut rng = seeded();
    let mut server = Server::with(arguments);
    let shared = server.new_run_with(r#"{"project":"crash"}"#);
    let mut publishers: Vec<Publisher> = (0..KINDS.len())
        .map(|number| {
            let run = if number % 2 == 0 { shared } else { server.new_run() };
            Publisher::new(number, run, rng.next_u64())
        })
        .collect();
    let mut sweeper = Sweeper::default();
    let mut subscribers = [
        Subscriber::new("/events/stream".into(), None),
        Subscriber::new(format!("/runs/{shared}/events/stream"), Some(shared)),
        Subscriber::new("/projects/crash/events/stream".into(), Some(shared)),
    ];
    let mut journal = Journal::default();
    let mut crash = 0;
    // Where the disk is slow enough that most lives are too short for it, there are longer ones.
    while crash < crashes || journal.events.len() <= crash {
        crash += 1;
        let is_over = AtomicBool::new(false);
        let address = server.address();
        let longer = crash.saturating_sub(crashes) as u64;
        let life = Duration::from_millis(rng.random_range(10..150) * (1 + longer));
        thread::scope(|scope| {
            for subscriber in &mut subscribers {
                scope.spawn(|| subscriber.watch(address, u64::MAX));
            }
            scope.spawn(|| sweeper.sweep(address, &is_over));
            for publisher in &mut publishers {
                scope.spawn(|| publisher.publish(address, &is_over));
            }
            thread::sleep(life);
            server.kill();
            is_over.store(true, SeqCst);
        });
        server.start_again();
        sweeper.check(&server);
        journal.read_on(&server, &publishers, &subscribers);
        if crash % crashes.div_ceil(4) == 0 {
            journal.check_all(&server, &publishers, &subscribers);
            // A graceful end is no worse.
            server.restart();
            journal.check_all(&server, &publishers, &subscribers);
        }
    }
    // Whoever tries again gets everything in, once.
    for publisher in &mut publishers {
        let mut client = server.client();
        if publisher.retried && publisher.pending.is_some() {
            publisher.one(&mut client).expect("the server stays");
        }
    }
    journal.read_on(&server, &publishers, &subscribers);
    journal.check_all(&server, &publishers, &subscribers);
    let total = journal.events.len();
    for publisher in publishers.iter().filter(|publisher| publisher.retried) {
        let acknowledged = publisher.acknowledged.len() as u64;
        assert_eq!(acknowledged, publisher.next_value, "publisher {}", publisher.number);
    }
    let acknowledged: usize = publishers.iter().map(|publisher| publisher.acknowledged.len()).sum();
    eprintln!("{crash} crashes, {total} events, {acknowledged} answers");
    // And each subscriber, with the cursor it has, gets the rest.
    let last = server.append(shared, "LAST", "1");
    journal.read_on(&server, &publishers, &subscribers);
    for subscriber in &mut subscribers {
        subscriber.watch(server.address(), last);
        subscriber.check_record(&journal, &runs(&publishers));
    }
}
