//! The journal on a disk whose power is cut, from one seed: random writes go through the writer to
//! redb on a [`FakeDisk`], which at some call is cut off or fails, and the journal is opened again on
//! what is left.
//!
//! What is promised, and checked against a [`Model`] for each moment that the journal has been in:
//!
//! - the journal opens, and stands exactly where it stood after some group of writes, whole groups
//!   from the first to that one: runs, events, ids, and, as the writes go on, keys and producers;
//! - with `immediate` that is no group before the last one that was answered, and none is told to
//!   a listener that a cut could still take back;
//! - with `interval` and `none` it is none before the last sync;
//! - nothing but a full disk lets a write through after it has failed.
//!
//! `SEED=… cargo test power_cut` has one history again, `SIMULATIONS=…` says how many there are.

use std::sync::mpsc;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};

use super::found::{Found, NOW, commit};
use super::*;
use crate::journal::fake_disk::{Call, FakeDisk, Fault, Plan};
use crate::journal::model::{Done, Model};

/// Histories in one run of the test, unless `SIMULATIONS` says otherwise.
const SIMULATIONS: u64 = 150;
/// How often the power is cut in one of them, or the disk fails.
const LIVES: usize = 4;
/// Groups of writes between two cuts, at most.
const GROUPS_MAX: usize = 25;
/// Calls of the disk until something happens to it, at most: some groups' worth.
const CALLS_MAX: u64 = 300;
const KEYS_MAX: usize = 100;

#[test]
fn what_is_promised_is_there_after_a_power_cut() {
    if let Ok(seed) = std::env::var("SEED") {
        History::new(seed.parse().unwrap()).run();
        return;
    }
    let count = std::env::var("SIMULATIONS").map_or(SIMULATIONS, |count| count.parse().unwrap());
    let first: u64 = rand::random();
    let mut coverage = Coverage::default();
    for seed in (0..count).map(|index| first.wrapping_add(index)) {
        let printed = PrintedSeed(seed);
        let mut history = History::new(seed);
        history.run();
        coverage.add(&history.coverage);
        std::mem::forget(printed);
    }
    println!("{coverage:?}");
}

/// One short history, cut at each call that it makes.
#[test]
fn a_power_cut_at_any_call_leaves_whole_groups() {
    let seed = std::env::var("SEED").map_or_else(|_| rand::random(), |seed| seed.parse().unwrap());
    let _printed = PrintedSeed(seed);
    for after in 0.. {
        let mut history = History::new(seed);
        history.durability = Durability::Immediate;
        history.disk.plan(Plan { call: None, after, fault: Fault::Cut });
        let was_cut = history.live(6);
        history.cut();
        history.check_open();
        if !was_cut {
            assert!(after > 40, "a history of {after} calls is none");
            break;
        }
    }
}

/// Says which history failed.
struct PrintedSeed(u64);

impl Drop for PrintedSeed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("SEED={}", self.0);
        }
    }
}

/// What the histories have come across: one that meets nothing proves nothing.
#[derive(Clone, Copy, Debug, Default)]
struct Coverage {
    groups: u64,
    events: u64,
    cuts: u64,
    failures: u64,
    moves: u64,
    full: u64,
    /// Groups that were committed, and are not there after a cut.
    lost: u64,
    /// Groups that were answered with a failure, and are there after it.
    found: u64,
}

impl Coverage {
    fn add(&mut self, other: &Coverage) {
        self.groups += other.groups;
        self.events += other.events;
        self.cuts += other.cuts;
        self.failures += other.failures;
        self.moves += other.moves;
        self.full += other.full;
        self.lost += other.lost;
        self.found += other.found;
    }
}

struct History {
    rng: StdRng,
    disk: FakeDisk,
    durability: Durability,
    /// Where the journal has stood, before the first group and after each: the last is where it
    /// stands, or would if the group that failed were there.
    stood: Vec<Model>,
    /// Which of them it may not fall behind.
    kept: usize,
    /// Whether the last group was answered with a failure.
    has_failed: bool,
    coverage: Coverage,
}

impl History {
    fn new(seed: u64) -> History {
        let mut rng = StdRng::seed_from_u64(seed);
        let disk = FakeDisk::new(rng.random());
        let durability = random_durability(&mut rng);
        let stood = vec![Model::default()];
        History {
            rng,
            disk,
            durability,
            stood,
            kept: 0,
            has_failed: false,
            coverage: Coverage::default(),
        }
    }

    fn run(&mut self) {
        for _ in 0..LIVES {
            self.disk.plan(random_plan(&mut self.rng));
            let groups = self.rng.random_range(0..GROUPS_MAX);
            self.live(groups);
            // A disk that has failed may be there still, as the kernel has it.
            if self.disk.is_cut() || self.rng.random_bool(0.8) {
                self.cut();
            }
            self.check_open();
            self.durability = random_durability(&mut self.rng);
        }
    }

    fn open(&self) -> Option<OpenJournal> {
        let store = RedbStore::open_on(Arc::new(self.disk.clone()), Path::new("disk"));
        match store.map_err(|error| error.to_string()).and_then(|store| {
            OpenJournal::with_store(Arc::new(store), KEYS_MAX).map_err(|error| error.to_string())
        }) {
            Ok(journal) => Some(journal),
            Err(_) if self.disk.has_failed() => None,
            Err(error) => panic!("the journal does not open: {error}"),
        }
    }

    /// Some groups of writes, until the disk fails; whether it did.
    fn live(&mut self, groups: usize) -> bool {
        let Some(journal) = self.open() else { return true };
        let disk = self.disk.clone();
        let is_immediate = self.durability == Durability::Immediate;
        let (batches, told) = mpsc::channel();
        let syncs = AtomicU64::new(disk.syncs());
        let listener = move |batch: &Arc<CommittedBatch>| {
            let is_synced = disk.is_synced() && disk.syncs() > syncs.load(Ordering::Relaxed);
            assert!(!is_immediate || is_synced, "told before it was synced");
            syncs.store(disk.syncs(), Ordering::Relaxed);
            batches.send(batch.last_id).unwrap();
        };
        let clock = Arc::new(Clock::standing(NOW));
        let (mut writer, mut keeper) =
            journal.parts(clock, self.durability, Retention::default(), vec![Box::new(listener)]);
        for _ in 0..groups {
            if self.rng.random_bool(0.1) {
                self.fill_up(&mut writer);
            }
            let is_committed = self.group(&mut writer);
            let before = self.stood[self.stood.len() - 2].last_id();
            let last = self.stood.last().unwrap().last_id();
            let expected = (is_committed && last > before).then_some(last);
            assert_eq!(told.try_iter().collect::<Vec<_>>(), Vec::from_iter(expected));
            if !is_committed {
                self.check_refused(&mut writer);
                return true;
            }
            if self.rng.random_bool(0.15) {
                // The keeper's turn, in between where it would be beside.
                let is_move = self.rng.random_bool(0.7);
                let kept = if is_move { keeper.move_window() } else { keeper.turn().map(drop) };
                match kept {
                    // All that was moved is synced.
                    Ok(()) if is_move => {
                        self.kept = self.stood.len() - 1;
                        self.coverage.moves += 1;
                    }
                    Ok(()) => {}
                    Err(error) => {
                        let _ = writer.shared.failure.set(error.to_string());
                        self.check_refused(&mut writer);
                        return true;
                    }
                }
            }
            if !is_immediate && self.rng.random_bool(0.1) {
                writer.sync();
                if writer.shared.failure.get().is_some() {
                    self.check_refused(&mut writer);
                    return true;
                }
            }
            if is_immediate || writer.unsynced_since.is_none() {
                self.kept = self.stood.len() - 1;
            }
        }
        if self.rng.random() {
            // An end in order, which is not always.
            writer.sync();
            if writer.unsynced_since.is_none() && writer.shared.failure.get().is_none() {
                self.kept = self.stood.len() - 1;
            }
        }
        self.disk.has_failed()
    }

    /// One group of writes, each answered as the model says; false if the journal has failed.
    fn group(&mut self, writer: &mut Writer) -> bool {
        let mut model = self.stood.last().unwrap().clone();
        let before = model.events.len();
        let (group, expected): (Vec<_>, Vec<_>) = (0..self.rng.random_range(1..6))
            .map(|_| {
                let write = model.random_write(&mut self.rng);
                (write.clone(), model.write(write, NOW))
            })
            .unzip();
        let answers = commit(writer, group);
        self.coverage.groups += 1;
        self.coverage.events += (model.events.len() - before) as u64;
        self.stood.push(model);
        if writer.shared.failure.get().is_none() {
            assert_eq!(answers, expected);
            return true;
        }
        for (answer, expected) in answers.iter().zip(&expected) {
            // What changes nothing may be answered whatever became of the others.
            let is_refused = matches!(answer, Err(WriteError::JournalFailed(_)));
            assert!(is_refused || answer == expected, "{answer:?}, not {expected:?}");
            assert!(!is_new(answer), "{answer:?} after a failure");
        }
        false
    }

    /// What a full disk refuses has not happened, and the next group is taken as if nothing was.
    fn fill_up(&mut self, writer: &mut Writer) {
        self.disk.set_full(true);
        let mut model = self.stood.last().unwrap().clone();
        let write = model.random_write(&mut self.rng);
        let expected = model.write(write.clone(), NOW);
        let answer = commit(writer, vec![write]).pop().unwrap();
        if model.last_id() > self.stood.last().unwrap().last_id() {
            assert_eq!(answer, Err(WriteError::DiskFull));
            self.coverage.full += 1;
        } else {
            assert_eq!(answer, expected);
        }
        self.disk.set_full(false);
        assert!(writer.shared.failure.get().is_none(), "a full disk is not the end");
    }

    fn check_refused(&mut self, writer: &mut Writer) {
        self.coverage.failures += 1;
        self.has_failed = true;
        let calls = self.disk.calls();
        for _ in 0..3 {
            let write = self.stood.last().unwrap().random_write(&mut self.rng);
            let answer = commit(writer, vec![write]).pop().unwrap();
            assert!(matches!(answer, Err(WriteError::JournalFailed(_))), "{answer:?}");
        }
        assert_eq!(self.disk.calls(), calls, "the disk is left alone");
    }

    fn cut(&mut self) {
        self.coverage.cuts += 1;
        self.disk = self.disk.after_cut();
    }

    /// Opens what is left, and goes on from where it stands.
    fn check_open(&mut self) {
        // Nothing more goes wrong until it is open.
        self.disk.plan(Plan { call: None, after: u64::MAX, fault: Fault::Cut });
        let journal = self.open().expect("nothing is planned");
        let found = Found::read(&journal).unwrap();
        let stands = self.stood.iter().rposition(|model| found.is(model));
        let stands = stands.unwrap_or_else(|| panic!("it never stood at {found:#?}"));
        assert!(stands >= self.kept, "group {stands} is the last, {} was promised", self.kept);
        let last = self.stood.len() - 1;
        self.coverage.lost += (last - stands) as u64;
        self.coverage.found += u64::from(self.has_failed && stands == last);
        self.stood = vec![self.stood.swap_remove(stands)];
        self.kept = 0;
        self.has_failed = false;
    }
}

fn random_durability(rng: &mut StdRng) -> Durability {
    let hour = Duration::from_hours(1);
    *[
        Durability::Immediate,
        Durability::Immediate,
        // Every second group is synced.
        Durability::Interval(Duration::ZERO),
        // What is synced is drawn.
        Durability::Interval(hour),
        Durability::None,
    ]
    .choose(rng)
    .unwrap()
}

fn random_plan(rng: &mut StdRng) -> Plan {
    let (call, calls_max) = *[
        (None, CALLS_MAX),
        (Some(Call::Write), CALLS_MAX),
        (Some(Call::Sync), CALLS_MAX / 10),
        (Some(Call::SetLength), 4),
    ]
    .choose(rng)
    .unwrap();
    let fault = if rng.random_bool(0.6) {
        Fault::Cut
    } else {
        Fault::Fails(*[io::ErrorKind::Other, io::ErrorKind::StorageFull].choose(rng).unwrap())
    };
    Plan { call, after: rng.random_range(0..calls_max), fault }
}

/// Whether it says that something was added to the journal.
fn is_new(answer: &Result<Done, WriteError>) -> bool {
    matches!(answer, Ok(Done::Created(_) | Done::Appended(_) | Done::Deleted))
}
