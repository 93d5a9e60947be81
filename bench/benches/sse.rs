//! Encoding events for a stream, and walking the frames of a tail segment.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use tidewheel::event::{Format, Timestamp};
use tidewheel::wire::sse::{self, Frames};

#[path = "scene/sse.rs"]
mod scene;

use scene::{event, segment};

fn encode(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("sse/encode");
    for (name, bytes) in [("150 bytes", 150), ("4 KB", 4_096)] {
        let event = event(1_234_567_890, bytes);
        let mut out = Vec::new();
        sse::event(&mut out, &event.borrowed(), Format::Envelope);
        group.throughput(Throughput::Bytes(out.len() as u64));
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                out.clear();
                sse::event(&mut out, black_box(&event.borrowed()), Format::Envelope);
                black_box(&out);
            });
        });
    }
    group.finish();

    let mut out = Vec::new();
    criterion.bench_function("sse/timestamp", |bencher| {
        bencher.iter(|| {
            out.clear();
            sse::timestamp(&mut out, black_box(Timestamp(1_767_225_600_007)));
            black_box(&out);
        });
    });
}

fn frames(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("sse/frames of 64 KiB");
    for (name, bytes) in [("150 bytes", 150), ("4 KB", 4_096)] {
        let segment = segment(bytes);
        group.throughput(Throughput::Bytes(segment.len() as u64));
        group.bench_function(name, |bencher| {
            bencher.iter(|| Frames::new(black_box(&segment)).map(|frame| frame.end).sum::<usize>());
        });
    }
    group.finish();
}

criterion_group!(benches, encode, frames);
criterion_main!(benches);
