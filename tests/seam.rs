//! The seam between history and live, for everybody at once: random appends on many runs, with
//! ends and deletions, while subscribers come and go with cursors of their own and the server is
//! restarted and killed under them. Each sees exactly the ids it should, in order.
//!
//! `SEED=…` for the same again, `LIVES=…` for more or fewer of them.

mod support;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::SocketAddr,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    thread,
    time::{Duration, Instant},
};

use rand::{Rng, RngExt, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use serde_json::Value;
use support::{Client, DEADLINE, Server, Sse, from_environment, seeded};

const PROJECTS: [&str; 3] = ["p0", "p1", "p2"];
const SESSIONS: [&str; 3] = ["s0", "s1", "s2"];
const TYPES: [&str; 3] = ["A", "B", "C"];

/// What is known of a run before it is created or after.
#[derive(Clone, Debug, Default)]
struct Labels {
    project: Option<&'static str>,
    session: Option<&'static str>,
}

/// What publishers have been told, together.
#[derive(Debug, Default)]
struct Known {
    /// Runs whose creation was answered.
    runs: BTreeMap<u64, Labels>,
    /// Events whose append was answered: id and run.
    events: BTreeMap<u64, u64>,
    /// Runs whose deletion was asked for, answered or not.
    doomed: BTreeSet<u64>,
    /// Runs whose deletion was answered.
    deleted: BTreeSet<u64>,
}

/// A publisher: random requests, each sent once.
fn publish(address: SocketAddr, known: &Mutex<Known>, is_over: &AtomicBool, seed: u64) {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut client = None;
    while !is_over.load(SeqCst) {
        let Some(connected) = &mut client else {
            client = Client::try_connect(address).ok();
            if client.is_none() {
                thread::sleep(Duration::from_millis(2));
            }
            continue;
        };
        if one_request(connected, known, &mut rng).is_err() {
            client = None;
        }
    }
}

fn one_request(client: &mut Client, known: &Mutex<Known>, rng: &mut StdRng) -> std::io::Result<()> {
    let some_run = {
        let known = known.lock().unwrap();
        // Mostly one of the latest, so that some runs have many events.
        let recent: Vec<u64> = known.runs.keys().rev().take(12).copied().collect();
        recent.choose(rng).copied()
    };
    let event = |rng: &mut StdRng| {
        let event_type = TYPES.choose(rng).expect("there are some");
        let payload = "x".repeat(rng.random_range(0..200));
        format!(r#"{{"type":"{event_type}","payload":"{payload}"}}"#)
    };
    match (rng.random_range(0..100), some_run) {
        (0..8, _) | (_, None) => {
            let mut label = |of: &[&'static str]| {
                if rng.random_ratio(3, 4) { of.choose(rng).copied() } else { None }
            };
            let labels = Labels { project: label(&PROJECTS), session: label(&SESSIONS) };
            let body = serde_json::json!({"project": labels.project, "session": labels.session});
            let answer = client.try_request("POST", "/runs", &[], &body.to_string())?;
            let answer = answer.expect_while_draining(201);
            if let Some(run) = answer {
                let mut known = known.lock().unwrap();
                let (id, event) = (run["id"].as_u64().unwrap(), run["last_event_id"].as_u64());
                known.runs.insert(id, labels);
                known.events.insert(event.unwrap(), id);
            }
        }
        (8..11, Some(run)) => {
            let body = r#"{"status":"completed"}"#;
            let answer = client.try_request("PATCH", &format!("/runs/{run}"), &[], body)?;
            if answer.status == 200 {
                let last = answer.json()["last_event_id"].as_u64().unwrap();
                known.lock().unwrap().events.insert(last, run);
            }
        }
        (11, Some(run)) => {
            known.lock().unwrap().doomed.insert(run);
            let answer = client.try_request("DELETE", &format!("/runs/{run}"), &[], "")?;
            if answer.status == 204 {
                known.lock().unwrap().deleted.insert(run);
            }
        }
        (12..30, Some(run)) => {
            let count = rng.random_range(1..40);
            let events: Vec<String> = (0..count).map(|_| event(rng)).collect();
            let target = format!("/runs/{run}/events");
            let answer =
                client.try_request("POST", &target, &[], &format!("[{}]", events.join(",")))?;
            if answer.status == 201 {
                let mut known = known.lock().unwrap();
                for event in answer.json().as_array().unwrap() {
                    known.events.insert(event["id"].as_u64().unwrap(), run);
                }
            }
        }
        (_, Some(run)) => {
            let target = format!("/runs/{run}/events");
            let answer = client.try_request("POST", &target, &[], &event(rng))?;
            if answer.status == 201 {
                let id = answer.json()["id"].as_u64().unwrap();
                known.lock().unwrap().events.insert(id, run);
            }
        }
    }
    Ok(())
}

trait ExpectWhileDraining {
    /// The content of an answer with this status; none of a 503, which a server that goes down
    /// gives.
    fn expect_while_draining(self, status: u16) -> Option<Value>;
}

impl ExpectWhileDraining for support::Answer {
    fn expect_while_draining(self, status: u16) -> Option<Value> {
        if self.status == 503 {
            return None;
        }
        Some(self.expect(status).json())
    }
}

/// Which events a subscriber wants.
#[derive(Clone, Debug)]
enum Scope {
    All,
    Project(&'static str),
    Session(&'static str),
    Run(u64),
    Runs(Vec<u64>),
}

/// A subscriber: what it wants, where it began, what it saw.
#[derive(Debug)]
struct Subscriber {
    scope: Scope,
    types: Option<&'static str>,
    first_cursor: u64,
    cursor: u64,
    seen: Vec<(u64, Value)>,
    /// Its run or one of its runs is gone.
    is_gone: bool,
    connections: usize,
}

impl Subscriber {
    fn random(known: &Known, rng: &mut StdRng) -> Subscriber {
        let runs: Vec<u64> = known.runs.keys().copied().collect();
        let latest = known.events.keys().last().copied().unwrap_or(0);
        let scope = match (rng.random_range(0..6), runs.is_empty()) {
            (0 | 1, false) => Scope::Run(*runs.choose(rng).expect("not empty")),
            (2, false) => {
                let count = rng.random_range(1..8);
                Scope::Runs((0..count).map(|_| *runs.choose(rng).expect("not empty")).collect())
            }
            (3, _) => Scope::Project(PROJECTS.choose(rng).expect("there are some")),
            (4, _) => Scope::Session(SESSIONS.choose(rng).expect("there are some")),
            _ => Scope::All,
        };
        let first_cursor = match rng.random_range(0..3) {
            0 => 0,
            1 => latest,
            _ => rng.random_range(0..=latest),
        };
        Subscriber {
            scope,
            types: rng.random_ratio(1, 3).then(|| *["A", "B,C"].choose(rng).expect("two")),
            first_cursor,
            cursor: first_cursor,
            seen: Vec::new(),
            is_gone: false,
            connections: 0,
        }
    }

    fn target(&self) -> String {
        let list = |runs: &[u64]| runs.iter().map(u64::to_string).collect::<Vec<_>>().join(",");
        let path = match &self.scope {
            Scope::All => "/events/stream?".to_owned(),
            Scope::Project(project) => format!("/projects/{project}/events/stream?"),
            Scope::Session(session) => format!("/api/sse/session/{session}?"),
            Scope::Run(run) => format!("/runs/{run}/events/stream?"),
            Scope::Runs(runs) => format!("/events/stream?runs={}&", list(runs)),
        };
        path + &self.types.map(|types| format!("types={types}")).unwrap_or_default()
    }

    fn wants(&self, event: &Value, labels: &HashMap<u64, Labels>) -> bool {
        let run = event["run_id"].as_u64().expect("an event has a run");
        let labels = labels.get(&run).cloned().unwrap_or_default();
        let of_scope = match &self.scope {
            Scope::All => true,
            Scope::Project(project) => labels.project == Some(project),
            Scope::Session(session) => labels.session == Some(session),
            Scope::Run(wanted) => run == *wanted,
            Scope::Runs(runs) => runs.contains(&run),
        };
        let event_type = event["type"].as_str().expect("a type");
        let of_type = self.types.is_none_or(|types| types.split(',').any(|one| one == event_type));
        of_scope && (of_type || event_type == "RUN_COMPLETED")
    }

    /// Comes and goes until it is over.
    fn follow(&mut self, address: SocketAddr, is_over: &AtomicBool, rng: &mut StdRng) {
        while !is_over.load(SeqCst) && !self.is_gone {
            let stay = rng.random_range(1..400);
            match self.open(address) {
                None => thread::sleep(Duration::from_millis(2)),
                Some(mut stream) => {
                    for _ in 0..stay {
                        // Not for longer than this, so that it looks whether it is over.
                        match stream.try_frame(Duration::from_millis(300)) {
                            Ok(Some(frame)) => self.take(&frame),
                            _ => break,
                        }
                    }
                }
            }
            if rng.random_ratio(1, 4) {
                thread::sleep(Duration::from_millis(rng.random_range(0..50)));
            }
        }
    }

    /// Opens its stream where it was; none when there is none now, or no more.
    fn open(&mut self, address: SocketAddr) -> Option<Sse> {
        let cursor = self.cursor.to_string();
        let headers = [("Last-Event-ID", &*cursor), ("Accept", "text/event-stream")];
        self.connections += 1;
        match Sse::try_open(address, &self.target(), &headers) {
            Ok(Ok(stream)) => Some(stream),
            Ok(Err(answer)) => {
                assert!(matches!(answer.status, 204 | 404), "{self:?}: {answer:?}");
                self.is_gone |= answer.status == 404;
                // Ended, and asked again with a cursor past the end: it may wait or be gone.
                thread::sleep(Duration::from_millis(20));
                None
            }
            Err(_) => None,
        }
    }

    fn take(&mut self, frame: &support::Frame) {
        assert_ne!(frame.name(), "stream.reset", "{self:?}");
        let Some(id) = frame.id else { return };
        if frame.is_event() {
            assert!(id > self.cursor, "{id} came twice or too late: {self:?}");
            self.seen.push((id, frame.json()));
        } else {
            assert!(id >= self.cursor, "{frame:?} goes back: {self:?}");
        }
        self.cursor = id;
    }

    /// Reads what it has not seen, after everything has come to rest, and checks all of it.
    fn check(&mut self, server: &Server, truth: &Truth) {
        let wanted: Vec<u64> = truth
            .events
            .range(self.first_cursor + 1..)
            .filter(|(_, event)| self.wants(event, &truth.labels))
            .map(|(id, _)| *id)
            .collect();
        let started = Instant::now();
        while !self.is_gone && wanted.last().is_some_and(|last| *last > self.cursor) {
            assert!(started.elapsed() < DEADLINE, "{} are missing: {self:?}", wanted.len());
            let Some(mut stream) = self.open(server.address()) else { continue };
            while wanted.last().is_some_and(|last| *last > self.cursor) {
                match stream.try_frame(DEADLINE).expect("the server stays") {
                    Some(frame) => self.take(&frame),
                    None => break,
                }
            }
        }
        let who = format!(
            "{:?} types {:?} after {} in {} connections",
            self.scope, self.types, self.first_cursor, self.connections
        );
        let mut surviving = Vec::new();
        for (id, event) in &self.seen {
            let run = event["run_id"].as_u64().expect("a run");
            match truth.events.get(id) {
                Some(known) => {
                    assert_eq!(known, event, "{who}");
                    surviving.push(*id);
                }
                None => assert!(truth.gone.contains(&run), "{who} saw {event}, which never was"),
            }
            assert!(
                truth.gone.contains(&run) || self.wants(event, &truth.labels),
                "{who}: {event}"
            );
        }
        if self.is_gone {
            // One of its runs was deleted: up to there it missed nothing.
            let last = surviving.last().copied().unwrap_or(0);
            let wanted: Vec<u64> = wanted.into_iter().filter(|id| *id <= last).collect();
            assert_eq!(surviving, wanted, "{who}");
        } else {
            assert_eq!(surviving, wanted, "{who}");
        }
    }
}

/// What REST says in the end.
struct Truth {
    events: BTreeMap<u64, Value>,
    labels: HashMap<u64, Labels>,
    /// Runs that are not there, but were.
    gone: BTreeSet<u64>,
}

impl Truth {
    fn read(server: &Server, known: &Known) -> Truth {
        let mut truth =
            Truth { events: BTreeMap::new(), labels: HashMap::new(), gone: BTreeSet::new() };
        let mut before = u64::MAX;
        loop {
            let page = server.json(&format!("/runs?limit=1000&before_id={before}"));
            for run in page["runs"].as_array().expect("a list") {
                let id = run["id"].as_u64().expect("an id");
                let label = |name: &str, of: &[&'static str]| {
                    of.iter().copied().find(|label| run[name] == *label)
                };
                let labels = Labels {
                    project: label("project", &PROJECTS),
                    session: label("session", &SESSIONS),
                };
                truth.labels.insert(id, labels);
                let events = server.events(id);
                for (index, event) in events.into_iter().enumerate() {
                    assert_eq!(event["seq"], index + 1);
                    let id = event["id"].as_u64().expect("an id");
                    assert!(truth.events.insert(id, event).is_none(), "{id} twice");
                }
            }
            if page["has_more"] == false {
                break;
            }
            before = page["next_before_id"].as_u64().expect("there is more");
        }
        let latest_run = truth.labels.keys().max().copied().unwrap_or(0);
        truth.gone = (1..=latest_run.max(known.runs.keys().last().copied().unwrap_or(0)))
            .filter(|run| !truth.labels.contains_key(run))
            .collect();
        // A run whose creation was never answered cannot have been deleted either.
        for run in &truth.gone {
            assert!(known.doomed.contains(run), "run {run} has gone by itself");
        }
        for run in &known.deleted {
            assert!(truth.gone.contains(run), "run {run} was deleted and is back");
        }
        for (id, run) in &known.events {
            assert!(
                truth.events.contains_key(id) || truth.gone.contains(run),
                "event {id} of run {run} was acknowledged"
            );
        }
        truth
    }
}

fn everybody_sees_exactly_what_they_should(arguments: &[&str]) {
    const SUBSCRIBERS: usize = 10;
    // On a slow disk it goes on until there was so much to see.
    const EVENTS: usize = 100;
    let lives = from_environment("LIVES", 12);
    let mut rng = seeded();
    let mut server = Server::with(arguments);
    let address = server.address();
    let known = Mutex::new(Known::default());
    let is_over = AtomicBool::new(false);
    let subscribers: Mutex<Vec<Subscriber>> = Mutex::default();
    thread::scope(|scope| {
        for _ in 0..2 {
            let seed = rng.next_u64();
            let (known, is_over) = (&known, &is_over);
            scope.spawn(move || publish(address, known, is_over, seed));
        }
        for _ in 0..SUBSCRIBERS {
            let seed = rng.next_u64();
            let (known, is_over, subscribers) = (&known, &is_over, &subscribers);
            scope.spawn(move || {
                let mut rng = StdRng::seed_from_u64(seed);
                while !is_over.load(SeqCst) {
                    let mut one = Subscriber::random(&known.lock().unwrap(), &mut rng);
                    // Some stay to the end, some make room for others.
                    let leaves = AtomicBool::new(false);
                    if rng.random_ratio(1, 4) {
                        one.follow(address, is_over, &mut rng);
                    } else {
                        let rounds = rng.random_range(1..4);
                        for round in 0..rounds {
                            leaves.store(round + 1 == rounds, SeqCst);
                            if let Some(mut stream) = one.open(address) {
                                for _ in 0..rng.random_range(1..200) {
                                    match stream.try_frame(Duration::from_millis(100)) {
                                        Ok(Some(frame)) => one.take(&frame),
                                        _ => break,
                                    }
                                }
                            }
                        }
                    }
                    subscribers.lock().unwrap().push(one);
                }
            });
        }
        // Whatever fails in here must not leave the others running for ever.
        let lived = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let is_enough = |life| life >= lives && known.lock().unwrap().events.len() >= EVENTS;
            for life in (0..).take_while(|life| !is_enough(*life)) {
                thread::sleep(Duration::from_millis(rng.random_range(50..400)));
                if rng.random_ratio(1, 2) {
                    server.crash();
                } else {
                    server.restart();
                }
                let events = known.lock().unwrap().events.len();
                eprintln!("life {life}: {events} events");
            }
            thread::sleep(Duration::from_millis(200));
        }));
        is_over.store(true, SeqCst);
        if let Err(panic) = lived {
            std::panic::resume_unwind(panic);
        }
    });
    let truth = Truth::read(&server, &known.lock().unwrap());
    let mut subscribers = subscribers.into_inner().unwrap();
    let mut seen = 0;
    for subscriber in &mut subscribers {
        subscriber.check(&server, &truth);
        seen += subscriber.seen.len();
    }
    eprintln!(
        "{}: {} runs, {} of them gone; {} events; {} subscribers saw {seen}",
        server.arguments(),
        truth.labels.len() + truth.gone.len(),
        truth.gone.len(),
        truth.events.len(),
        subscribers.len(),
    );
    assert!(seen > 0);
}

/// One combination each, so that they run beside each other.
macro_rules! with {
    ($($name:ident: $workers:literal workers on $driver:literal;)*) => { $(
        #[test]
        fn $name() {
            everybody_sees_exactly_what_they_should(&[
                "--workers", $workers, "--io", $driver, "--keepalive-interval", "500ms",
            ]);
        }
    )* };
}

with! {
    across_restarts_and_crashes: "1" workers on "auto";
    so_it_is_with_two_workers: "2" workers on "auto";
    so_it_is_with_four_workers: "4" workers on "auto";
    so_it_is_on_epoll: "1" workers on "epoll";
    so_it_is_with_two_workers_on_epoll: "2" workers on "epoll";
    so_it_is_with_four_workers_on_epoll: "4" workers on "epoll";
}
