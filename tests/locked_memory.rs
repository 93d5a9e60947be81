//! Where too little memory may be locked for `io_uring`: kernels from 6.14 on count the rings
//! again, over all processes of a user, unless they have `CAP_IPC_LOCK`.
//!
//! The limit is set for this whole process, so there is one test only.

mod support;

use std::thread;

use rustix::{
    process::{Resource, Rlimit, getrlimit, setrlimit},
    thread::{CapabilitySet, remove_capability_from_bounding_set},
};
use support::{Server, eventually};

const KIB: u64 = 1024;
/// What the error message and the documents say that a worker needs.
const OF_A_WORKER: u64 = 1024 * KIB;
/// More than have room in what is allowed to four.
const SERVERS_AT_ONCE: usize = 24;

fn allow_locked_memory(bytes: u64) {
    let limit = Rlimit { current: Some(bytes), maximum: getrlimit(Resource::Memlock).maximum };
    setrlimit(Resource::Memlock, limit).expect("a soft limit may be lowered");
}

fn driver(server: &Server) -> String {
    let worker = server.json("/worker");
    worker["workers"][0]["io_driver"].as_str().expect("a name").to_owned()
}

#[test]
fn with_too_little_locked_memory_the_server_says_so_before_it_listens() {
    if let Err(log) = Server::try_with(&["--io", "uring"]) {
        eprintln!("skipped, no io_uring here: {log}");
        return;
    }
    // Who may not do this has no such capability to lose.
    let _ = remove_capability_from_bounding_set(CapabilitySet::IPC_LOCK);
    allow_locked_memory(64 * KIB);
    let refused = |workers: &str| Server::try_with(&["--io", "uring", "--workers", workers]).err();
    let Some(log) = refused("1") else {
        eprintln!("skipped, this kernel does not count rings as locked memory");
        return;
    };
    assert!(log.contains("1 MiB of locked memory a worker"), "{log}");
    assert_eq!(driver(&Server::start()), "epoll");

    // Enough for one worker, also right after another server that had it.
    allow_locked_memory(OF_A_WORKER);
    let with_room = |arguments: &[&str]| {
        eventually("that of others is given back", || Server::try_with(arguments).ok())
    };
    let mut server = with_room(&["--io", "uring"]);
    for _ in 0..5 {
        assert_eq!(driver(&server), "io_uring");
        server.crash();
    }
    drop(server);
    // And not for four, which is known before anybody is told to come.
    let log = refused("4").expect("it is not enough");
    assert!(log.contains("locked memory") && !log.contains("listening"), "{log}");
    assert_eq!(driver(&Server::with(&["--workers", "4"])), "epoll");

    allow_locked_memory(4 * OF_A_WORKER);
    assert_eq!(driver(&with_room(&["--workers", "4", "--io", "uring"])), "io_uring");

    // Of many that start in one moment each finds out for itself what is left, and keeps it.
    let servers: Vec<Server> = thread::scope(|scope| {
        let starting: Vec<_> = (0..SERVERS_AT_ONCE).map(|_| scope.spawn(Server::start)).collect();
        starting.into_iter().map(|server| server.join().expect("it has started")).collect()
    });
    let mut drivers: Vec<_> = servers.iter().map(driver).collect();
    drivers.sort();
    drivers.dedup();
    assert_eq!(drivers, ["epoll", "io_uring"]);
}
