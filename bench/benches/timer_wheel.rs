//! The timer wheel with as many entries as a worker has subscribers.

use std::hint::black_box;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use tidewheel::timer_wheel::{Tick, TimerWheel};

#[path = "scene/timer_wheel.rs"]
mod scene;

use scene::{ENTRIES, Entries, advance, arm, armed, move_all};

fn benches(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("timer_wheel");
    group.throughput(Throughput::Elements(u64::from(ENTRIES)));

    group.bench_function("arm 20,000", |bencher| {
        bencher.iter_batched_ref(
            || (TimerWheel::new(Tick(0)), Entries::new()),
            |(wheel, entries)| arm(wheel, entries),
            BatchSize::LargeInput,
        );
    });

    group.bench_function("move 20,000", |bencher| {
        bencher.iter_batched_ref(
            armed,
            |(wheel, entries)| move_all(wheel, entries),
            BatchSize::LargeInput,
        );
    });

    group.bench_function("advance through 20,000", |bencher| {
        let mut due = Vec::with_capacity(ENTRIES as usize);
        bencher.iter_batched_ref(
            armed,
            |(wheel, entries)| {
                assert_eq!(advance(wheel, entries, &mut due), ENTRIES as usize);
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
