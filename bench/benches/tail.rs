//! The tail of a view: what an event costs that is appended, and what a look into it costs. The hub
//! reads for each send, asks for the place after each that was cut short, and for the offset after
//! a cursor when a stream begins.

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use tidewheel::{event::EventId, tail::Tail};

#[path = "scene/tail.rs"]
mod scene;

use scene::{EVENTS, LOOKUPS};

fn tail(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("tail");
    group.throughput(Throughput::Elements(EVENTS));
    let frames = scene::frames();
    group.bench_function("append", |bencher| {
        bencher.iter_batched_ref(
            || Tail::new(EventId(0)),
            |tail| scene::append(tail, &frames),
            BatchSize::LargeInput,
        );
    });

    group.throughput(Throughput::Elements(LOOKUPS));
    let tail = scene::full();
    for (name, look) in [
        ("read", scene::read as fn(&Tail)),
        ("place", scene::place),
        ("offset_after", scene::offset_after),
    ] {
        group.bench_function(name, |bencher| bencher.iter(|| look(&tail)));
    }
    group.finish();
}

criterion_group!(benches, tail);
criterion_main!(benches);
