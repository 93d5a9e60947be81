//! What the end-to-end tests share, one helper a boundary: the load tester as a process, the
//! server that it loads, and what the kernel says of processes.
#![allow(dead_code, reason = "each test file uses its own part of this")]

pub mod processes;
pub mod tester;
pub mod tidewheel;

use std::time::{Duration, Instant};

/// After this long something that should happen is taken not to happen. Far above what anything
/// needs, since the machine may be busy with something else, and above what a measurement waits
/// itself.
pub const DEADLINE: Duration = Duration::from_mins(3);

/// Does it with each case, all at the same time: a measurement is mostly waiting.
pub fn for_each<T: Send>(cases: impl IntoIterator<Item = T>, check: impl Fn(T) + Sync) {
    std::thread::scope(|scope| {
        for case in cases {
            scope.spawn(|| check(case));
        }
    });
}

/// Asks again and again until there is an answer, up to the deadline.
pub fn eventually<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(began.elapsed() < DEADLINE, "{what}: not within {DEADLINE:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
