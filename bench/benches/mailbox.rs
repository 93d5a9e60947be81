//! Letters from other threads to a worker: put in, announced, and taken out.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use tidewheel::mailbox::Mailbox;

/// About as large as an answer of the journal.
type Letter = [u64; 8];

fn mailbox(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("mailbox");
    // One, which costs the two system calls of the eventfd; and the answers of a large commit,
    // which share them.
    for letters in [1, 1_000] {
        group.throughput(Throughput::Elements(letters));
        group.bench_function(format!("{letters} to a sleeping worker"), |bencher| {
            let mailbox = Mailbox::<Letter>::new().expect("an eventfd");
            let mut taken = Vec::new();
            bencher.iter(|| {
                for n in 0..letters {
                    mailbox.post([n; 8]);
                }
                mailbox.hush();
                taken.clear();
                mailbox.drain(&mut taken);
                assert_eq!(taken.len() as u64, letters);
            });
        });
    }
    group.finish();
}

criterion_group!(benches, mailbox);
criterion_main!(benches);
