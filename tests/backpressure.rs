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

/// Sends large events on connections of their own until so many wait for room. The first is what
/// the writer is busy with.
fn crowd(served: &Served, run: u64, outside: usize) -> Vec<Client> {
    let target = format!("/runs/{run}/events");
    let request = support::http::request("POST", &target, &[], &event(LARGE));
    let appends = served.store.appends.load(SeqCst);
    let mut clients = Vec::new();
    loop {
        let mut client = Client::connect(served.address);
        client.send(&request);
        let before = clients.len();
        clients.push(client);
        let status = eventually("it has arrived", || {
            let status = served.shared.journal.status();
            let is_taken = served.store.appends.load(SeqCst) > appends;
            let waiting = status.queued_events + status.waiting_for_room;
            (is_taken && waiting == before).then_some(status)
        });
        if status.waiting_for_room == outside {
            return clients;
        }
        assert!(clients.len() < 1_000, "the queue has no bound");
    }
}

#[test]
fn publishers_wait_for_room_and_are_served_in_order() {
    let served = Served::start();
    let (mut client, run) = served.client_and_run();
    let stall = served.stall();
    let clients = crowd(&served, run, 10);
    let status = served.shared.journal.status();
    assert!(status.queued_bytes <= WRITE_QUEUE_BYTES_MAX);
    assert!(clients.len() * LARGE >= WRITE_QUEUE_BYTES_MAX);
    let worker = client.request("GET", "/worker", &[], "").expect(200).json();
    assert_eq!(worker["journal"]["waiting_for_room"], 10);
    drop(stall);
    let mut last_id = 0;
    for mut client in clients {
        let id = client.answer().expect(201).json()["id"].as_u64().unwrap();
        assert!(id > last_id, "{id} after {last_id}");
        last_id = id;
    }
    assert_eq!(served.shared.journal.status().waiting_for_room, 0);
}

#[test]
fn who_waits_too_long_for_room_is_told_when_to_come_back() {
    let served = Served::start();
    let (_, run) = served.client_and_run();
    let stall = served.stall();
    let mut clients = crowd(&served, run, 1);
    let began = Instant::now();
    let answer = clients.pop().unwrap().answer().expect(503);
    let waited = began.elapsed();
    let patience = Duration::from_secs(WRITE_ROOM_SECONDS_MAX);
    assert!(waited + Duration::from_millis(500) >= patience, "answered after {waited:?}");
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
    let served = Served::start();
    let (_, run) = served.client_and_run();
    let stall = served.stall();
    let clients = crowd(&served, run, 1);
    served.mailbox.post(Letter::Drain);
    eventually("it listens no more", || Client::try_connect(served.address).is_err().then_some(()));
    drop(stall);
    for mut client in clients {
        let answer = client.answer().expect(201);
        assert_eq!(answer.header("Connection"), Some("close"));
    }
}

/// An upload is read on when there is room: nothing of it is refused, and meanwhile it waits in
/// its socket.
#[test]
fn an_upload_waits_in_its_socket() {
    let served = Served::start();
    let (client, run) = served.client_and_run();
    let stall = served.stall();
    let others = crowd(&served, run, 1);
    let lines: u64 = 64;
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
    let wait_for = |waiting: usize| {
        eventually("so many wait for room", || {
            (served.shared.journal.status().waiting_for_room == waiting).then_some(())
        });
    };
    wait_for(2);
    // Longer than a single request may wait: the one that came before the upload has given up.
    thread::sleep(Duration::from_secs(WRITE_ROOM_SECONDS_MAX) + Duration::from_millis(500));
    wait_for(1);
    assert!(!is_sent.load(SeqCst), "{} MB were taken", lines as usize * LARGE / 1_000_000);
    assert!(served.shared.journal.status().queued_bytes <= WRITE_QUEUE_BYTES_MAX);
    drop(stall);
    let answer: Value = upload.join().unwrap().expect(201).json();
    assert_eq!(answer["count"], lines);
    let statuses = others.into_iter().map(|mut client| client.answer().status);
    assert_eq!(statuses.filter(|status| *status == 503).count(), 1);
}
