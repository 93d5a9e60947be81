//! A timer wheel with as many entries as a worker has subscribers.

use tidewheel::{
    limits::TICK_MS,
    timer_wheel::{Links, Tick, Timed, TimerWheel},
};

/// Subscribers of a full worker.
pub const ENTRIES: u32 = 20_000;
/// A keepalive of 15 s.
const INTERVAL: u32 = (15_000 / TICK_MS) as u32;

/// As large as a subscriber, so that neighbours in a list are as far apart as they will be.
struct Entry {
    links: Links,
    _rest: [u8; 52],
}

/// What the wheel turns.
pub struct Entries(Vec<Entry>);

impl Entries {
    /// None of them armed.
    pub fn new() -> Entries {
        let entry = |_| Entry { links: Links::default(), _rest: [0; 52] };
        Entries((0..ENTRIES).map(entry).collect())
    }
}

impl Timed for Entries {
    fn links(&mut self, key: u32) -> &mut Links {
        &mut self.0[key as usize].links
    }
}

/// Every key once, out of order: 7,919 is prime and no divisor of `ENTRIES`.
fn keys() -> impl Iterator<Item = u32> {
    (0..ENTRIES).map(|n| (n * 7_919) % ENTRIES)
}

/// All entries, armed from `Tick(0)` on.
pub fn armed() -> (TimerWheel, Entries) {
    let (mut wheel, mut entries) = (TimerWheel::new(Tick(0)), Entries::new());
    arm(&mut wheel, &mut entries);
    (wheel, entries)
}

/// Arms them all, for one interval, level over its ticks.
pub fn arm(wheel: &mut TimerWheel, entries: &mut Entries) {
    for (n, key) in keys().enumerate() {
        wheel.arm(entries, key, Tick(1 + n as u32 % INTERVAL));
    }
}

/// As after an event to everybody: all are moved to one interval from now, spread a little.
pub fn move_all(wheel: &mut TimerWheel, entries: &mut Entries) {
    for key in keys() {
        wheel.arm(entries, key, Tick(INTERVAL + 1 + key % 100));
    }
}

/// The interval passes, tick by tick; how many came due.
pub fn advance(wheel: &mut TimerWheel, entries: &mut Entries, due: &mut Vec<u32>) -> usize {
    let mut count = 0;
    for tick in 1..=INTERVAL {
        due.clear();
        wheel.advance(entries, Tick(tick), due);
        count += due.len();
    }
    count
}
