//! Requests through `Connection`: from bytes to a head and a body, and back to idle.

use criterion::{Criterion, criterion_group, criterion_main};
use tidewheel::connection::Connection;

#[path = "scene/request.rs"]
mod scene;

use scene::{APPEND, BROWSER_GET, serve};

fn requests(criterion: &mut Criterion) {
    let (mut connection, mut body) = (Connection::new(), Vec::new());
    let (first, second) = BROWSER_GET.as_bytes().split_at(BROWSER_GET.len() / 2);
    for (name, pieces) in [
        ("browser get", &[BROWSER_GET.as_bytes()][..]),
        ("browser get, head in two pieces", &[first, second]),
        ("append", &[APPEND.as_bytes()]),
    ] {
        criterion.bench_function(&format!("request/{name}"), |bencher| {
            bencher.iter(|| serve(&mut connection, &mut body, pieces));
        });
    }
}

criterion_group!(benches, requests);
criterion_main!(benches);
