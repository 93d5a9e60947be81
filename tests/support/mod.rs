//! What the end-to-end tests share, one helper a boundary: the process, the HTTP connection, the
//! stream. Nothing of the server's own code is used here, so that a misunderstanding in it is not
//! repeated by what checks it.
#![allow(clippy::format_push_string, reason = "what a test sends is shown as it is")]
#![allow(dead_code, unused_imports, reason = "each test file uses its own part of this")]

pub mod far_client;
pub mod faulty_proxy;
pub mod held_port;
pub mod http;
pub mod nginx;
pub mod programs;
pub mod server;
pub mod small_disk;
pub mod sse;
pub mod threads;

use std::time::{Duration, Instant};

use rand::{SeedableRng, rngs::StdRng};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

pub use self::{
    faulty_proxy::{Fault, FaultyProxy},
    http::{Answer, Client},
    server::Server,
    sse::{Frame, Sse},
};

/// After this long something that should happen is taken not to happen. Far above what anything
/// needs, since the machine may be busy with something else.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// Asks again and again until there is an answer, up to the deadline.
pub fn eventually<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(started.elapsed() < DEADLINE, "{what}: not within {DEADLINE:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Random numbers from a printed seed; `SEED=… cargo test` has them again.
pub fn seeded() -> StdRng {
    let seed = std::env::var("SEED")
        .map_or_else(|_| rand::random(), |text| text.parse().expect("SEED is a number of 64 bits"));
    eprintln!("SEED={seed}");
    StdRng::seed_from_u64(seed)
}

/// A whole number from the environment, or the default.
pub fn from_environment(name: &str, default: usize) -> usize {
    std::env::var(name).map_or(default, |text| {
        text.parse().unwrap_or_else(|_| panic!("{name} is not a whole number: {text}"))
    })
}

/// Raises the soft limit on open files, for this process and the servers it starts; says what is
/// allowed.
pub fn allow_open_files(wanted: usize) -> usize {
    let limit = getrlimit(Resource::Nofile);
    let (current, wanted) = (limit.current.unwrap_or(u64::MAX), wanted as u64);
    if current >= wanted {
        return current as usize;
    }
    let raised = limit.maximum.map_or(wanted, |maximum| maximum.min(wanted));
    setrlimit(Resource::Nofile, Rlimit { current: Some(raised), maximum: limit.maximum })
        .expect("a soft limit may be raised to the hard one");
    raised as usize
}
