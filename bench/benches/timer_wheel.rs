//! The timer wheel with as many entries as a worker has subscribers.

use std::hint::black_box;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use tidewheel::limits::TICK_MS;
use tidewheel::timer_wheel::{Links, Tick, Timed, TimerWheel};

const ENTRIES: u32 = 20_000;
/// A keepalive of 15 s.
const INTERVAL: u32 = (15_000 / TICK_MS) as u32;

/// As large as a subscriber, so that neighbours in a list are as far apart as they will be.
struct Entry {
    links: Links,
    _rest: [u8; 52],
}

struct Entries(Vec<Entry>);

impl Entries {
    fn new() -> Entries {
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

/// All entries, armed for one interval from `Tick(0)`, level over its ticks.
fn armed() -> (TimerWheel, Entries) {
    let (mut wheel, mut entries) = (TimerWheel::new(Tick(0)), Entries::new());
    for (n, key) in keys().enumerate() {
        wheel.arm(&mut entries, key, Tick(1 + n as u32 % INTERVAL));
    }
    (wheel, entries)
}

fn benches(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("timer_wheel");
    group.throughput(Throughput::Elements(u64::from(ENTRIES)));

    group.bench_function("arm 20,000", |bencher| {
        bencher.iter_batched_ref(
            || (TimerWheel::new(Tick(0)), Entries::new()),
            |(wheel, entries)| {
                for (n, key) in keys().enumerate() {
                    wheel.arm(entries, key, Tick(1 + n as u32 % INTERVAL));
                }
            },
            BatchSize::LargeInput,
        );
    });

    group.bench_function("move 20,000", |bencher| {
        bencher.iter_batched_ref(
            armed,
            // As after an event to everybody: all to one interval from now, spread a little.
            |(wheel, entries)| {
                for key in keys() {
                    wheel.arm(entries, key, Tick(INTERVAL + 1 + key % 100));
                }
            },
            BatchSize::LargeInput,
        );
    });

    group.bench_function("advance through 20,000", |bencher| {
        let mut due = Vec::with_capacity(ENTRIES as usize);
        bencher.iter_batched_ref(
            armed,
            |(wheel, entries)| {
                for tick in 1..=INTERVAL {
                    due.clear();
                    wheel.advance(entries, Tick(tick), &mut due);
                    black_box(&due);
                }
                assert!(wheel.is_empty());
            },
            BatchSize::LargeInput,
        );
    });
    group.finish();

    criterion.bench_function("timer_wheel/next_deadline a lap away", |bencher| {
        let (mut wheel, mut entries) = (TimerWheel::new(Tick(0)), Entries::new());
        wheel.arm(&mut entries, 0, Tick(4_090));
        bencher.iter(|| black_box(&wheel).next_deadline());
    });
}

criterion_group!(timer_wheel, benches);
criterion_main!(timer_wheel);
