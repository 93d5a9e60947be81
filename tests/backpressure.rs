//! A journal that does not keep up: its queue fills, publishers wait for room, and whoever waits
//! too long is told so. Over real sockets, with a store that stands still when it is told to.

mod support;

use std::{
    net::{SocketAddr, TcpListener},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;
use support::{Client, eventually};
use tidewheel::{
    admission::Admissions,
    arrivals::{Entrance, Listening},
    clock::Clock,
    config::{Durability, Settings},
    driver::IoDriver,
    event::EventId,
    event_loop::{LoopThread, Start},
    history_readers::HistoryReaders,
    journal::{
        memory::MemoryStore,
        store::{Change, RowVisitor, Store, StoreError, Table, ValueVisitor},
    },
    journal_keeper::Retention,
    journal_writer::OpenJournal,
    limits::{WRITE_QUEUE_BYTES_MAX, WRITE_ROOM_SECONDS_MAX},
    mailbox::Mailbox,
    shared::{Shared, WorkerStats},
    worker::Letter,
};

/// A store in memory; while its gate is held every append waits.
#[derive(Default)]
struct GatedStore {
    memory: MemoryStore,
    gate: Mutex<()>,
    /// Appends that have come to the gate.
    appends: AtomicUsize,
}

impl Store for GatedStore {
    fn append(&self, values: &[(EventId, Vec<u8>)], sync: bool) -> Result<(), StoreError> {
        self.appends.fetch_add(1, SeqCst);
        drop(self.gate.lock().unwrap_or_else(PoisonError::into_inner));
        self.memory.append(values, sync)
    }

    fn get(&self, key: EventId, visit: &mut dyn FnMut(&[u8])) -> Result<bool, StoreError> {
        self.memory.get(key, visit)
    }

    fn scan(&self, from: EventId, visit: ValueVisitor<'_>) -> Result<(), StoreError> {
        self.memory.scan(from, visit)
    }

    fn scan_back(&self, upto: EventId, visit: ValueVisitor<'_>) -> Result<(), StoreError> {
        self.memory.scan_back(upto, visit)
    }

    fn disk_bytes(&self) -> Result<u64, StoreError> {
        self.memory.disk_bytes()
    }

    fn remove_values(&self, upto: EventId, max: usize) -> Result<usize, StoreError> {
        self.memory.remove_values(upto, max)
    }

    fn removed_through(&self) -> Result<EventId, StoreError> {
        self.memory.removed_through()
    }

    fn change_rows(&self, changes: &[Change]) -> Result<(), StoreError> {
        self.memory.change_rows(changes)
    }

    fn rows(&self, table: Table, from: &[u8], visit: RowVisitor<'_>) -> Result<(), StoreError> {
        self.memory.rows(table, from, visit)
    }

    fn rows_back(
        &self,
        table: Table,
        from: &[u8],
        visit: RowVisitor<'_>,
    ) -> Result<(), StoreError> {
        self.memory.rows_back(table, from, visit)
    }
}

/// A server with one worker in this process.
struct Served {
    store: Arc<GatedStore>,
    shared: Arc<Shared>,
    mailbox: Arc<Mailbox<Letter>>,
    address: SocketAddr,
}

impl Served {
    fn start() -> Served {
        let store = Arc::new(GatedStore::default());
        let journal = OpenJournal::with_store(Arc::clone(&store) as Arc<dyn Store>, 100).unwrap();
        let readers =
            HistoryReaders::start(journal.store(), journal.catalog(), journal.reads(), 1).unwrap();
        let clock = Arc::new(Clock::default());
        let journal = journal
            .start(Arc::clone(&clock), Durability::Immediate, Retention::default(), Vec::new())
            .unwrap();
        let settings = Settings::default();
        let mailbox = Arc::new(Mailbox::new().unwrap());
        let shared = Arc::new(Shared {
            admissions: Arc::new(Admissions::new(&settings, 1_000, 1, Instant::now())),
            cors: (&settings).into(),
            settings,
            driver: IoDriver::Epoll,
            connections_max: 1_000,
            clock,
            journal,
            readers,
            workers: vec![Arc::new(WorkerStats::default())],
            draining: AtomicBool::new(false),
        });
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let start = Start {
            id: 0,
            entrance: Entrance::Socket(
                Listening { socket: listener.into(), is_inherited: false },
                Vec::new(),
            ),
            admin_listener: None,
            mailboxes: [Arc::clone(&mailbox)].into(),
            shared: Arc::clone(&shared),
        };
        let mut threads = LoopThread::start_all(IoDriver::Epoll, &start.mailboxes).unwrap();
        threads.remove(0).serve(start, Result::unwrap);
        Served { store, shared, mailbox, address }
    }

    /// A client for which a run was made.
    fn client_and_run(&self) -> (Client, u64) {
        let mut client = Client::connect(self.address);
        let run = client.request("POST", "/runs", &[], "").expect(201).json();
        (client, run["id"].as_u64().unwrap())
    }

    fn stall(&self) -> MutexGuard<'_, ()> {
        self.store.gate.lock().unwrap()
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.mailbox.post(Letter::Drain);
    }
}

/// An event of so many bytes.
fn event(bytes: usize) -> String {
    format!(r#"{{"type":"A","payload":"{}"}}"#, "x".repeat(bytes))
}

const LARGE: usize = 900_000;

/// How long a write waits for room.
const PATIENCE: Duration = Duration::from_secs(WRITE_ROOM_SECONDS_MAX);
/// Attempts to see something while nobody has waited for so long.
const ATTEMPTS_MAX: usize = 10;

/// Publishers of large events, each on a connection of its own. The first is what the writer is busy
/// with, the others are in its queue, and the last wait for room in it.
struct Crowd {
    clients: Vec<Client>,
    /// The first that waits for room has come after this.
    since: Instant,
}

impl Crowd {
    /// One more than the queue has room for.
    fn gather(served: &Served, run: u64) -> Crowd {
        let request = large_append(run);
        let appends = served.store.appends.load(SeqCst);
        let mut clients = Vec::new();
        loop {
            let since = Instant::now();
            let mut client = Client::connect(served.address);
            client.send(&request);
            let before = clients.len();
            let status = eventually("it has arrived", || {
                let status = served.shared.journal.status();
                let is_taken = served.store.appends.load(SeqCst) > appends;
                let waiting = status.queued_events + status.waiting_for_room;
                let is_there = is_taken && waiting == before;
                (is_there || client.has_something()).then_some((is_there, status))
            });
            match status {
                (true, status) => {
                    clients.push(client);
                    if status.waiting_for_room == 1 {
                        return Crowd { clients, since };
                    }
                }
                // It waited, and was refused before that was seen: another takes its place.
                (false, _) => drop(client.answer().expect(503)),
            }
            assert!(clients.len() < 1_000, "the queue has no bound");
        }
    }

    /// One more who waits for room, unless the first has waited for too long.
    fn grow(&mut self, served: &Served, run: u64) {
        let mut client = Client::connect(served.address);
        client.send(large_append(run));
        self.clients.push(client);
        let before = served.shared.journal.status().queued_events;
        eventually("it waits too", || {
            let status = served.shared.journal.status();
            let is_there = before + status.waiting_for_room + 1 == self.clients.len();
            (is_there || self.is_late()).then_some(())
        });
    }

    /// Whether somebody may have been refused.
    fn is_late(&self) -> bool {
        self.since.elapsed() >= PATIENCE
    }
}

fn large_append(run: u64) -> Vec<u8> {
    support::http::request("POST", &format!("/runs/{run}/events"), &[], &event(LARGE))
}

/// Has this seen what it looks for. When it could not, since somebody had to wait for too long on a
/// busy machine, it says so, and begins anew.
fn before_anybody_gives_up(attempt: impl Fn() -> Option<()>) {
    assert!((0..ATTEMPTS_MAX).any(|_| attempt().is_some()), "each took more than {PATIENCE:?}");
}

#[test]
fn publishers_wait_for_room_and_are_served_in_order() {
    before_anybody_gives_up(|| {
        let served = Served::start();
        let (mut client, run) = served.client_and_run();
        let stall = served.stall();
        let mut crowd = Crowd::gather(&served, run);
        for _ in 1..10 {
            crowd.grow(&served, run);
        }
        let status = served.shared.journal.status();
        assert!(status.queued_bytes <= WRITE_QUEUE_BYTES_MAX);
        assert!(crowd.clients.len() * LARGE >= WRITE_QUEUE_BYTES_MAX);
        let worker = client.request("GET", "/worker", &[], "").expect(200).json();
        let waiting = &worker["journal"]["waiting_for_room"];
        assert!(*waiting == 10 || crowd.is_late(), "{waiting}");
        drop(stall);
        let answers: Vec<_> = crowd.clients.iter_mut().map(Client::answer).collect();
        if crowd.is_late() && answers.iter().any(|answer| answer.status == 503) {
            return None;
        }
        let mut last_id = 0;
        for answer in answers {
            let id = answer.expect(201).json()["id"].as_u64().unwrap();
            assert!(id > last_id, "{id} after {last_id}");
            last_id = id;
        }
        assert_eq!(served.shared.journal.status().waiting_for_room, 0);
        Some(())
    });
}

#[test]
fn who_waits_too_long_for_room_is_told_when_to_come_back() {
    let served = Served::start();
    let (_, run) = served.client_and_run();
    let stall = served.stall();
    let Crowd { mut clients, since } = Crowd::gather(&served, run);
    let answer = clients.pop().unwrap().answer().expect(503);
    let waited = since.elapsed();
    assert!(waited >= PATIENCE, "answered after {waited:?}");
    assert_eq!(answer.problem()["type"], "urn:tidewheel:problem:queue-full");
    assert_eq!(answer.header("Retry-After"), Some("1"));
    assert_eq!(served.shared.journal.status().waiting_for_room, 0);
    drop(stall);
    let appended = clients.len() as u64;
    for mut client in clients {
        client.answer().expect(201);
    }
    let (mut client, _) = served.client_and_run();
    let summary = client.request("GET", &format!("/runs/{run}"), &[], "").expect(200).json();
    assert_eq!(summary["event_count"], 1 + appended, "what was refused is not there");
}

/// What the journal has not decided yet when the server drains is decided, and answered.
#[test]
fn writes_in_the_queue_are_answered_while_the_server_drains() {
    before_anybody_gives_up(|| {
        let served = Served::start();
        let (_, run) = served.client_and_run();
        let stall = served.stall();
        let mut crowd = Crowd::gather(&served, run);
        served.mailbox.post(Letter::Drain);
        eventually("it listens no more", || {
            Client::try_connect(served.address).is_err().then_some(())
        });
        drop(stall);
        let answers: Vec<_> = crowd.clients.iter_mut().map(Client::answer).collect();
        if crowd.is_late() && answers.iter().any(|answer| answer.status == 503) {
            return None;
        }
        for answer in answers {
            assert_eq!(answer.expect(201).header("Connection"), Some("close"));
        }
        Some(())
    });
}

/// An upload is read on when there is room: nothing of it is refused, and meanwhile it waits in
/// its socket.
#[test]
fn an_upload_waits_in_its_socket() {
    let served = Served::start();
    let (client, run) = served.client_and_run();
    let stall = served.stall();
    let others = Crowd::gather(&served, run).clients;
    let wait_for = |waiting: usize| {
        eventually("so many wait for room", || {
            (served.shared.journal.status().waiting_for_room == waiting).then_some(())
        });
    };
    // The one of them that waited has given up, and there is no more room than before.
    wait_for(0);
    let lines: u64 = 32;
    let is_sent = Arc::new(AtomicBool::new(false));
    let upload = {
        let is_sent = Arc::clone(&is_sent);
        let mut client = client;
        thread::spawn(move || {
            let body = format!("{}\n", event(LARGE)).repeat(lines as usize);
            let headers = [("Content-Type", "application/x-ndjson")];
            let target = format!("/runs/{run}/events");
            client.send(support::http::request("POST", &target, &headers, &body));
            is_sent.store(true, SeqCst);
            client.answer()
        })
    };
    wait_for(1);
    // Longer than a single request may wait.
    thread::sleep(PATIENCE + Duration::from_millis(500));
    assert_eq!(served.shared.journal.status().waiting_for_room, 1, "it has given up");
    assert!(!is_sent.load(SeqCst), "{} MB were taken", lines as usize * LARGE / 1_000_000);
    assert!(served.shared.journal.status().queued_bytes <= WRITE_QUEUE_BYTES_MAX);
    drop(stall);
    let answer: Value = upload.join().unwrap().expect(201).json();
    assert_eq!(answer["count"], lines);
    let statuses = others.into_iter().map(|mut client| client.answer().status);
    assert_eq!(statuses.filter(|status| *status == 503).count(), 1);
}
