//! A journal whose file was damaged behind its back, from one seed: cut off, or with a bit that is
//! not as it was written.
//!
//! Promised: it is refused with its name and a reason, or it is there exactly as it was. It never
//! panics, hangs, or serves other events, or fewer; not when the damage is met only later, either.
//! (One exception cannot be told from a power cut, and is said in the log: when the program did not
//! end in order, and what is damaged is the newest commit, that commit is left out.)
//!
//! `SEED=… cargo test journal_writer::damage` has the same journal and damage again,
//! `SIMULATIONS=…` says how many times it is damaged.

use std::collections::BTreeMap;
use std::sync::mpsc;

use rand::RngExt;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;

use super::found::{Found, NOW, commit, events};
use super::*;
use crate::event::Scope;
use crate::journal::damage::own_process;
use crate::journal::fake_disk::FakeDisk;
use crate::journal::model::{Model, seeded};
use crate::journal::redb::{COLD_FILE, LOG_FILE};

/// Damages in one run of each test, unless `SIMULATIONS` says otherwise.
const SIMULATIONS: usize = 20;
/// So many are written at least, and more until there are events enough.
const GROUPS: usize = 300;
const EVENTS_MIN: usize = 2_000;
/// A page of redb's, and of the header in front.
const PAGE_BYTES: usize = 4_096;
/// No page is cached: every read goes to the disk.
const NO_CACHE: usize = 0;
/// Longer than this nothing takes, on a machine that is busy with something else, too.
const PATIENCE: Duration = Duration::from_mins(10);

/// A journal of some thousand events, before and after its last group.
struct Original {
    before: Model,
    model: Model,
    /// Its files after an end in order, and as a crash leaves them.
    closed: Files,
    crashed: Files,
    /// The pages of the log that its last group has changed.
    newest: Vec<usize>,
}

/// What is in each, by its name.
type Files = BTreeMap<String, Vec<u8>>;

impl Original {
    fn new(rng: &mut StdRng) -> Original {
        let disk = FakeDisk::new(0);
        let journal = open(&disk, NO_CACHE).unwrap();
        let clock = Arc::new(Clock::standing(NOW));
        let (mut writer, keeper) =
            journal.parts(clock, Durability::Immediate, Retention::default(), Vec::new());
        let mut earlier = disk.contents();
        let (mut before, mut model) = (Model::default(), Model::default());
        let mut number = 0;
        while number < GROUPS || model.events.len() <= EVENTS_MIN {
            if number % (GROUPS / 3) == GROUPS / 4 {
                keeper.move_window().unwrap();
            }
            let mut next = model.clone();
            let contents = disk.contents();
            let (group, expected): (Vec<_>, Vec<_>) = (0..12)
                .map(|_| {
                    let write = next.random_write(rng);
                    (write.clone(), next.write(write, NOW))
                })
                .unzip();
            assert_eq!(commit(&mut writer, group), expected);
            if next.last_id() > model.last_id() {
                before = std::mem::replace(&mut model, next);
                earlier = contents;
            }
            number += 1;
        }
        let crashed = disk.contents();
        // As a server ends that still has the journal open.
        writer.store.close().unwrap();
        let closed = disk.contents();
        drop(writer);
        assert!(model.events.len() > EVENTS_MIN, "{} events are few", model.events.len());
        let pages = |files: &Files| -> Vec<Vec<u8>> {
            files[LOG_FILE].chunks(PAGE_BYTES).map(<[u8]>::to_vec).collect()
        };
        let (old, new) = (pages(&earlier), pages(&crashed));
        let newest = (1..new.len()).filter(|page| old.get(*page) != new.get(*page)).collect();
        Original { before, model, closed, crashed, newest }
    }

    /// A bit of a page that holds something; every second one of the header or near a page's begin,
    /// where its own words are.
    fn random_bit(&self, content: &[u8], rng: &mut StdRng) -> (usize, u8) {
        loop {
            let page = match rng.random_range(0..4) {
                0 => 0,
                1 => *self.newest.choose(rng).unwrap(),
                _ => rng.random_range(0..content.len() / PAGE_BYTES),
            };
            let within = match rng.random_range(0..2) {
                0 => rng.random_range(0..PAGE_BYTES),
                _ => rng.random_range(0..320),
            };
            let page = page * PAGE_BYTES;
            if content
                .get(page..page + PAGE_BYTES)
                .unwrap_or_default()
                .iter()
                .any(|byte| *byte != 0)
            {
                return (page + within, rng.random_range(0..8));
            }
        }
    }
}

fn open(disk: &FakeDisk, cache_bytes: usize) -> Result<OpenJournal, OpenError> {
    let store =
        RedbStore::open_with_caches(Arc::new(disk.clone()), Path::new("disk"), [cache_bytes; 2])?;
    let path = store.path().to_owned();
    OpenJournal::with_store(Arc::new(store), 1_000)
        .map_err(|error| OpenError::from_store(path, error))
}

/// What has become of a journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Refused,
    /// It was opened, and what was read of it is an error.
    Unreadable,
    Whole,
    WithoutTheNewest,
}

/// Opens it and reads it; whatever takes too long hangs.
fn outcome(original: &Arc<Original>, files: Files) -> Outcome {
    let (sender, receiver) = mpsc::channel();
    let original = Arc::clone(original);
    let thread = std::thread::spawn(move || {
        let outcome = match open(&FakeDisk::with(&files), NO_CACHE) {
            Err(error) => {
                assert!(
                    matches!(error, OpenError::Corrupt { .. } | OpenError::Newer { .. }),
                    "{error:?}"
                );
                Outcome::Refused
            }
            Ok(journal) => match Found::read(&journal) {
                Ok(found) if found.is(&original.model) => Outcome::Whole,
                Ok(found) if found.is(&original.before) => Outcome::WithoutTheNewest,
                Ok(_) => panic!("other events"),
                Err(error) => {
                    assert!(is_damage(&error), "{error:?}");
                    Outcome::Unreadable
                }
            },
        };
        sender.send(outcome).unwrap();
    });
    let outcome = receiver.recv_timeout(PATIENCE);
    if let Err(mpsc::RecvTimeoutError::Timeout) = outcome {
        panic!("it hangs");
    }
    thread.join().expect("it does not panic");
    outcome.unwrap()
}

/// Whether it says that something is not as it was written.
fn is_damage(error: &StoreError) -> bool {
    matches!(
        error,
        StoreError::Damaged(_) | StoreError::Corrupt { .. } | StoreError::CorruptRow { .. }
    )
}

fn simulations() -> usize {
    std::env::var("SIMULATIONS").map_or(SIMULATIONS, |count| count.parse().unwrap())
}

/// What comes of a bit flipped in each of so many copies of a file; of more, while this has not
/// come of any, since most of a file may be pages that nobody reads.
fn flip_bits(
    original: &Arc<Original>,
    files: &Files,
    name: &str,
    wanted: Outcome,
    rng: &mut StdRng,
) -> Vec<Outcome> {
    let mut flip = || {
        let mut files = files.clone();
        let content = files.get_mut(name).unwrap();
        let (byte, bit) = original.random_bit(content, rng);
        content[byte] ^= 1 << bit;
        println!("{name}: byte {byte}, bit {bit}");
        outcome(original, files)
    };
    let mut outcomes: Vec<Outcome> = (0..simulations()).map(|_| flip()).collect();
    while !outcomes.contains(&wanted) && outcomes.len() < 20 * simulations() {
        outcomes.push(flip());
    }
    outcomes
}

#[test]
fn a_flipped_bit_of_the_log_is_refused_or_changes_nothing() {
    let mut rng = seeded();
    let original = Arc::new(Original::new(&mut rng));
    let outcomes = flip_bits(&original, &original.closed, LOG_FILE, Outcome::Refused, &mut rng);
    for wanted in [Outcome::Refused, Outcome::Whole] {
        assert!(outcomes.contains(&wanted), "{outcomes:?}");
    }
    for outcome in [Outcome::Unreadable, Outcome::WithoutTheNewest] {
        assert!(!outcomes.contains(&outcome), "{outcomes:?}");
    }
}

#[test]
fn a_flipped_bit_of_the_cold_part_is_refused_or_an_error_of_the_read() {
    let mut rng = seeded();
    let original = Arc::new(Original::new(&mut rng));
    for files in [&original.closed, &original.crashed] {
        let outcomes = flip_bits(&original, files, COLD_FILE, Outcome::Unreadable, &mut rng);
        assert!(outcomes.contains(&Outcome::Unreadable), "{outcomes:?}");
        assert!(!outcomes.contains(&Outcome::WithoutTheNewest), "{outcomes:?}");
    }
}

#[test]
fn a_bit_flipped_after_a_crash_costs_at_most_the_newest_commit() {
    let mut rng = seeded();
    let original = Arc::new(Original::new(&mut rng));
    let outcomes = flip_bits(&original, &original.crashed, LOG_FILE, Outcome::Refused, &mut rng);
    assert!(outcomes.contains(&Outcome::Refused), "{outcomes:?}");
    assert!(!outcomes.contains(&Outcome::Unreadable), "{outcomes:?}");
}

#[test]
fn a_file_that_was_cut_off_is_refused_or_whole() {
    let mut rng = seeded();
    let original = Arc::new(Original::new(&mut rng));
    for (files, name) in [
        (&original.closed, LOG_FILE),
        (&original.crashed, LOG_FILE),
        (&original.closed, COLD_FILE),
        (&original.crashed, COLD_FILE),
    ] {
        for _ in 0..simulations() / 4 {
            let mut files = files.clone();
            let content = files.get_mut(name).unwrap();
            let length = match rng.random_range(0..4) {
                0 => rng.random_range(0..PAGE_BYTES),
                1 => rng.random_range(1..content.len() / PAGE_BYTES) * PAGE_BYTES,
                _ => rng.random_range(1..content.len()),
            };
            content.truncate(length);
            let outcome = outcome(&original, files);
            assert_ne!(outcome, Outcome::WithoutTheNewest, "{name}: {length} bytes");
        }
    }
}

/// The journal is open when the bit flips, and each of its runs is read. A write that redb cannot
/// leave in order ends the process, and says so: then it is tried with another seed.
#[test]
fn damage_that_is_met_later_is_an_error_of_that_read() {
    let test = "journal_writer::damage::damage_that_is_met_later_is_an_error_of_that_read";
    for _ in 0..3 {
        let Some(ended) = own_process::run(test, meet_damage_later) else { return };
        let said = String::from_utf8_lossy(&ended.stderr);
        print!("{}{said}", String::from_utf8_lossy(&ended.stdout));
        if ended.status.success() {
            return;
        }
        assert!(said.contains("redb cannot go on"), "{}", ended.status);
    }
    panic!("it always ends the process");
}

fn meet_damage_later() {
    let mut rng = seeded();
    let original = Arc::new(Original::new(&mut rng));
    let (mut errors, mut reads) = (0, 0);
    for _ in 0..simulations() {
        let disk = FakeDisk::with(&original.closed);
        let journal = open(&disk, NO_CACHE).unwrap();
        let name = [LOG_FILE, COLD_FILE][rng.random_range(0..2)];
        let (byte, bit) = original.random_bit(&original.closed[name], &mut rng);
        println!("{name}: byte {byte}, bit {bit}");
        disk.flip(name, byte, bit);
        let before = errors;
        for (id, run) in &original.model.runs {
            match events(&journal, Scope::Runs([*id].into())) {
                Ok(events) => assert_eq!(events, run.events),
                // A file that was read behind its end is not read any more.
                Err(StoreError::Unreadable(_)) if errors > before => errors += 1,
                Err(error) => {
                    assert!(is_damage(&error), "{error:?}");
                    errors += 1;
                }
            }
            reads += 1;
        }
        // A write may meet it, too. If none did all is there, or the damage is found at the next
        // start.
        let mut model = original.model.clone();
        let clock = Arc::new(Clock::standing(NOW));
        let (mut writer, keeper) =
            journal.parts(clock, Durability::Immediate, Retention::default(), Vec::new());
        for _ in 0..5 {
            let write = model.random_write(&mut rng);
            let _ = model.write(write.clone(), NOW);
            commit(&mut writer, vec![write]);
        }
        let has_failed = writer.shared.failure.get().is_some() || keeper.move_window().is_err();
        drop((writer, keeper));
        if !has_failed
            && let Ok(journal) = open(&disk, NO_CACHE)
            && let Ok(found) = Found::read(&journal)
        {
            assert!(found.is(&model), "other events after a write");
        }
    }
    println!("{errors} of {reads} reads failed");
    assert!(errors > 0 && errors < reads);
}
