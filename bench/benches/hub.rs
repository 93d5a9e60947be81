//! What the hub does for 20,000 streams, without a socket: a delivery is the planning of a send and
//! the handling of its result.

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use tidewheel::event::{EventId, RunId, Scope};

#[path = "scene/hub.rs"]
mod scene;

use scene::{BURST, RUNS, STREAMS, Streams, batch, run_of_its_own, runs};

/// A figure for each stream that comes, or goes.
fn streams(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("hub/streams");
    group.throughput(Throughput::Elements(u64::from(STREAMS)));

    for (name, scope) in [
        ("come, for everything", (|_| Scope::All) as fn(u32) -> Scope),
        ("come, for 1,000 runs", run_of_its_own),
    ] {
        group.bench_function(name, |bencher| {
            bencher.iter_batched_ref(
                || Streams::none(EventId(0)),
                |streams| assert_eq!(streams.come(scope), sends(1)),
                BatchSize::PerIteration,
            );
        });
    }
    group.bench_function("come back to one read of history", |bencher| {
        bencher.iter_batched_ref(
            Streams::come_back,
            |(streams, history)| assert_eq!(streams.fill(std::mem::take(history)), sends(1)),
            BatchSize::PerIteration,
        );
    });
    group.bench_function("hang up", |bencher| {
        bencher.iter_batched_ref(
            Streams::of_everything,
            |streams| assert_eq!(streams.hang_up(), STREAMS),
            BatchSize::PerIteration,
        );
    });
    group.finish();
}

/// A figure for each event and stream.
fn deliveries(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("hub/deliveries");

    group.throughput(Throughput::Elements(sends(1)));
    group.bench_function("an event to all", |bencher| {
        let (mut streams, mut batch) = (Streams::of_everything(), batch([RunId(1)]));
        bencher.iter(|| {
            streams.append(&mut batch);
            assert_eq!(streams.deliver(), sends(1));
        });
    });
    group.bench_function("an event to each of 1,000 runs", |bencher| {
        let (mut streams, mut batch) = (Streams::of_runs(), batch(runs()));
        assert_eq!(STREAMS % RUNS, 0);
        bencher.iter(|| {
            streams.append(&mut batch);
            assert_eq!(streams.deliver(), sends(1));
        });
    });

    group.throughput(Throughput::Elements(sends(u64::from(BURST))));
    group.bench_function("a burst of 20 to all", |bencher| {
        let (mut streams, mut batch) = (Streams::of_everything(), batch([RunId(1)]));
        bencher.iter(|| {
            for _ in 0..BURST {
                streams.append(&mut batch);
            }
            // One send each, or two where a segment of the tail ends within the burst.
            assert!((sends(1)..=sends(2)).contains(&streams.deliver()));
        });
    });
    group.finish();
}

/// A figure for each keepalive.
fn keepalives(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("hub/keepalives");
    group.throughput(Throughput::Elements(sends(1)));
    group.bench_function("an interval", |bencher| {
        let mut streams = Streams::at_rest();
        bencher.iter(|| assert_eq!(streams.keep_alive(), sends(1)));
    });
    group.finish();
}

/// So many sends to every stream.
fn sends(each: u64) -> u64 {
    each * u64::from(STREAMS)
}

criterion_group!(benches, streams, deliveries, keepalives);
criterion_main!(benches);
