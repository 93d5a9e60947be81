//! A hashed timing wheel: many deadlines, each armed, moved and disarmed in constant time.
//!
//! The wheel owns no entry. What is timed lives in a slab of the caller and carries its
//! [`Links`]; the wheel knows it by its slab key. A slot is a circular doubly linked list of the
//! entries whose deadline falls on it, `deadline % WHEEL_SLOTS`:
//!
//! ```text
//!  heads      0     1     2     3   …   4095   overdue
//!             ·     │     ·     │        ·        │
//!                   ▼           ▼                 ▼
//!                ┌▶ 7 ◀┐     ┌▶ 4 ◀┐           ┌▶ 9 ◀┐
//!                └─ 2 ─┘     └─────┘           └─────┘
//!  occupied   0     1     0     1   …    0
//!  earliest   ·    t₁     ·    t₂   …    ·
//! ```
//!
//! Invariants, with `now` the tick of the last [`TimerWheel::advance`]:
//!
//! - what is in a slot has a deadline after `now`; what was armed for `now` or before waits in the
//!   list of its own behind the slots (were it in the slot of `now`, an entry a whole lap away
//!   could not be told from it without a look, and [`TimerWheel::next_deadline`] would say "at
//!   once" for ever);
//! - so a deadline alone tells the list, and an entry need not remember its slot;
//! - a bit of the bitmap is set exactly when its slot has an entry;
//! - the earliest of a slot with entries is after `now`, and no entry there is due before it;
//! - an entry is in at most one list, and `len` counts those that are in one.
//!
//! A deadline more than a lap away stays in its slot and is passed over until its lap has come: the
//! earliest of its slot says so without a look at the entries, and nobody is woken for it. A
//! hierarchy of wheels would move it from wheel to wheel instead; most timers here are far shorter
//! than a lap (keepalives, 15 s of 41 s), and are moved long before they are due.

use std::mem;
use std::time::Duration;

use crate::limits::{TICK_MS, WHEEL_SLOTS};

/// The key that stands for no entry.
const NONE: u32 = u32::MAX;
/// The list of what was due already when it was armed, behind those of the slots.
const OVERDUE: usize = WHEEL_SLOTS;

// Words of the bitmap are whole, and slots go on without a jump where ticks wrap around.
const _: () = assert!(WHEEL_SLOTS.is_multiple_of(64) && WHEEL_SLOTS.is_power_of_two());

/// Time in ticks ([`TICK_MS`]) since the worker started.
///
/// It wraps around after 497 days. So that a worker outlives that, the wheel never compares ticks
/// by their number but with [`Tick::is_reached`]; deadlines are to be less than 248 days away.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tick(pub u32);

impl Tick {
    /// The tick at which `wait` has passed, rounded up, counted from this one; 124 days at most.
    #[must_use]
    pub fn after(self, wait: Duration) -> Tick {
        let ticks = wait.as_millis().div_ceil(u128::from(TICK_MS)).min(1 << 30);
        self.plus(ticks as u32)
    }

    /// Whether it is this tick, or later, at `now`.
    pub fn is_reached(self, now: Tick) -> bool {
        self.until(now) < 1 << 31
    }

    /// The tick that comes these many later.
    #[must_use]
    pub fn plus(self, ticks: u32) -> Tick {
        Tick(self.0.wrapping_add(ticks))
    }

    /// How many ticks later `later` is.
    pub fn until(self, later: Tick) -> u32 {
        later.0.wrapping_sub(self.0)
    }

    /// The one of the two that comes first, also when that has passed.
    #[must_use]
    pub fn or_before(self, other: Tick) -> Tick {
        if self.is_reached(other) { self } else { other }
    }

    /// What a count of ticks that does not wrap around will be at this one, if it is `count` now;
    /// `count` when it is reached.
    pub fn ticks_at(self, count: u64) -> u64 {
        let now = Tick(count as u32);
        if self.is_reached(now) { count } else { count + u64::from(now.until(self)) }
    }

    fn slot(self) -> usize {
        self.0 as usize % WHEEL_SLOTS
    }
}

/// What an entry carries to be timed: 12 bytes. The default is not armed.
///
/// An armed entry is linked to its neighbours by key: disarm it before it leaves the slab.
#[derive(Debug)]
pub struct Links {
    prev: u32,
    next: u32,
    deadline: Tick,
}

impl Links {
    /// Whether a wheel holds the entry.
    pub fn is_armed(&self) -> bool {
        self.next != NONE
    }

    /// When it is due; of no meaning while it is not armed.
    pub fn deadline(&self) -> Tick {
        self.deadline
    }
}

impl Default for Links {
    fn default() -> Links {
        Links { prev: NONE, next: NONE, deadline: Tick(0) }
    }
}

/// The owner of the slab whose entries are timed.
pub trait Timed {
    /// The links of the entry with this key. The wheel asks only for keys that it was given and
    /// that are armed, or are being armed or disarmed; one that is not there is a mistake of the
    /// owner, who should panic.
    fn links(&mut self, key: u32) -> &mut Links;
}

/// The wheel; see the [module](self). `u32::MAX` is no key.
#[derive(Debug)]
pub struct TimerWheel {
    now: Tick,
    len: usize,
    /// First entry of each slot, and of [`OVERDUE`].
    heads: Box<[u32]>,
    /// One bit a slot.
    occupied: Box<[u64]>,
    /// For each slot with entries a tick before which none of them is due. It is not raised when
    /// an entry goes, only when the slot is looked at.
    earliest: Box<[Tick]>,
}

impl TimerWheel {
    /// A wheel without entries.
    pub fn new(now: Tick) -> TimerWheel {
        TimerWheel {
            now,
            len: 0,
            heads: vec![NONE; WHEEL_SLOTS + 1].into(),
            occupied: vec![0; WHEEL_SLOTS / 64].into(),
            earliest: vec![now; WHEEL_SLOTS].into(),
        }
    }

    /// How many entries are armed.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Arms an entry, or moves one that is armed. A deadline that has passed already is due at the
    /// next [`TimerWheel::advance`], even if that is still in the same tick.
    pub fn arm(&mut self, slab: &mut impl Timed, key: u32, deadline: Tick) {
        debug_assert_ne!(key, NONE);
        let list = self.list(deadline);
        let links = slab.links(key);
        if links.is_armed() {
            let current = self.list(links.deadline);
            if current == list {
                links.deadline = deadline;
                self.lower(list, deadline);
                return;
            }
            self.unlink(slab, current, key);
        }
        self.link(slab, list, key, deadline);
    }

    /// Disarms an entry; one that is not armed stays so.
    pub fn disarm(&mut self, slab: &mut impl Timed, key: u32) {
        let links = slab.links(key);
        if links.is_armed() {
            let list = self.list(links.deadline);
            self.unlink(slab, list, key);
        }
    }

    /// Moves the wheel to `now`; disarms every entry whose deadline is then reached and appends its
    /// key to `due`. Those armed too late come first, the others in the order of their slots: that
    /// is the order of their deadlines, unless more than a lap has passed.
    ///
    /// A `now` before the last one counts as that one.
    pub fn advance(&mut self, slab: &mut impl Timed, now: Tick, due: &mut Vec<u32>) {
        let elapsed = if self.now.is_reached(now) { self.now.until(now) } else { 0 };
        let mut slot = self.now.plus(1).slot();
        let mut slots_left = WHEEL_SLOTS.min(elapsed as usize);
        self.now = self.now.plus(elapsed);

        self.expire(slab, OVERDUE, due);
        while let Some(distance) = self.distance_to_occupied(slot, slots_left) {
            slot = (slot + distance) % WHEEL_SLOTS;
            if self.earliest[slot].is_reached(self.now) {
                self.expire(slab, slot, due);
            }
            slot = (slot + 1) % WHEEL_SLOTS;
            slots_left -= distance + 1;
        }
    }

    /// The earliest tick at which [`TimerWheel::advance`] has something to look at: never later
    /// than the first deadline, and the tick of the last advance when something is due already.
    /// `None` when nothing is armed.
    ///
    /// It is earlier than the first deadline only where an entry was armed for that tick, and has
    /// been moved or disarmed since; the advance at it then finds nothing due.
    pub fn next_deadline(&self) -> Option<Tick> {
        if self.heads[OVERDUE] != NONE {
            return Some(self.now);
        }
        let first = self.now.plus(1).slot();
        let mut passed = 0;
        // Of what is a lap away or more, in no order.
        let mut far: Option<Tick> = None;
        while let Some(more) =
            self.distance_to_occupied((first + passed) % WHEEL_SLOTS, WHEEL_SLOTS - passed)
        {
            passed += more + 1;
            let earliest = self.earliest[(first + passed - 1) % WHEEL_SLOTS];
            if earliest == self.now.plus(passed as u32) {
                // In this lap, and so are all before it.
                return Some(earliest);
            }
            far = Some(far.map_or(earliest, |far| far.or_before(earliest)));
        }
        far
    }

    /// Checks the invariants of the [module](self), and panics where one does not hold. Looks at
    /// every slot and every armed entry.
    pub fn invariants(&self, slab: &mut impl Timed) {
        let mut count = 0;
        for (list, &first) in self.heads.iter().enumerate() {
            if list != OVERDUE {
                let occupied = self.occupied[list / 64] >> (list % 64) & 1 == 1;
                assert_eq!(occupied, first != NONE, "bitmap of slot {list}");
            }
            if first == NONE {
                continue;
            }
            let earliest = (list != OVERDUE).then(|| self.earliest[list]);
            if let Some(earliest) = earliest {
                assert_eq!(earliest.slot(), list, "earliest of slot {list}");
                assert!(!earliest.is_reached(self.now), "slot {list} should have been looked at");
            }
            let mut key = first;
            loop {
                count += 1;
                assert!(count <= self.len, "more entries than {}, or a list that is cut", self.len);
                let &mut Links { next, deadline, .. } = slab.links(key);
                assert_eq!(self.list(deadline), list, "list of entry {key}");
                let in_time = earliest.is_none_or(|earliest| earliest.is_reached(deadline));
                assert!(in_time, "entry {key} is due before the earliest of its slot");
                assert_eq!(slab.links(next).prev, key, "entry before entry {next}");
                key = next;
                if key == first {
                    break;
                }
            }
        }
        assert_eq!(count, self.len, "number of entries");
    }

    /// In which list an armed entry with this deadline is.
    fn list(&self, deadline: Tick) -> usize {
        if deadline.is_reached(self.now) { OVERDUE } else { deadline.slot() }
    }

    /// Takes what is due out of a list, from its first entry to the one that is now its last.
    fn expire(&mut self, slab: &mut impl Timed, list: usize, due: &mut Vec<u32>) {
        let mut key = self.heads[list];
        if key == NONE {
            return;
        }
        let last = slab.links(key).prev;
        let mut earliest: Option<Tick> = None;
        loop {
            let &mut Links { next, deadline, .. } = slab.links(key);
            if deadline.is_reached(self.now) {
                self.unlink(slab, list, key);
                due.push(key);
            } else {
                earliest = Some(earliest.map_or(deadline, |earliest| earliest.or_before(deadline)));
            }
            if key == last {
                break;
            }
            key = next;
        }
        if let Some(earliest) = earliest {
            self.earliest[list] = earliest;
        }
    }

    /// Notes that an entry of this list is due at `deadline`.
    fn lower(&mut self, list: usize, deadline: Tick) {
        if list != OVERDUE {
            self.earliest[list] = self.earliest[list].or_before(deadline);
        }
    }

    /// Puts an entry at the end of a list.
    fn link(&mut self, slab: &mut impl Timed, list: usize, key: u32, deadline: Tick) {
        let first = self.heads[list];
        if first == NONE {
            *slab.links(key) = Links { prev: key, next: key, deadline };
            self.heads[list] = key;
            if list != OVERDUE {
                self.occupied[list / 64] |= 1 << (list % 64);
                self.earliest[list] = deadline;
            }
        } else {
            self.lower(list, deadline);
            let last = mem::replace(&mut slab.links(first).prev, key);
            slab.links(last).next = key;
            *slab.links(key) = Links { prev: last, next: first, deadline };
        }
        self.len += 1;
    }

    fn unlink(&mut self, slab: &mut impl Timed, list: usize, key: u32) {
        let Links { prev, next, .. } = mem::take(slab.links(key));
        if next == key {
            self.heads[list] = NONE;
            if list != OVERDUE {
                self.occupied[list / 64] &= !(1 << (list % 64));
            }
        } else {
            slab.links(prev).next = next;
            slab.links(next).prev = prev;
            if self.heads[list] == key {
                self.heads[list] = next;
            }
        }
        self.len -= 1;
    }

    /// How far the first occupied slot is from slot `from`, going round, among the next `slots`.
    fn distance_to_occupied(&self, from: usize, slots: usize) -> Option<usize> {
        let mut distance = 0;
        while distance < slots {
            let slot = (from + distance) % WHEEL_SLOTS;
            let word = self.occupied[slot / 64] >> (slot % 64);
            if word != 0 {
                let distance = distance + word.trailing_zeros() as usize;
                return (distance < slots).then_some(distance);
            }
            distance += 64 - slot % 64;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};

    use super::*;

    const LAP: u32 = WHEEL_SLOTS as u32;
    const NOTHING: [u32; 0] = [];

    /// Random numbers from a printed seed; `SEED=… cargo test` has them again.
    fn seeded() -> StdRng {
        let seed =
            std::env::var("SEED").map_or_else(|_| rand::random(), |seed| seed.parse().unwrap());
        println!("SEED={seed}");
        StdRng::seed_from_u64(seed)
    }

    struct Entries(Vec<Links>);

    impl Timed for Entries {
        fn links(&mut self, key: u32) -> &mut Links {
            &mut self.0[key as usize]
        }
    }

    /// A wheel and its slab; checks the invariants after each change.
    struct Checked {
        wheel: TimerWheel,
        entries: Entries,
    }

    impl Checked {
        fn new(now: Tick, entries: usize) -> Checked {
            let entries = (0..entries).map(|_| Links::default()).collect();
            Checked { wheel: TimerWheel::new(now), entries: Entries(entries) }
        }

        fn arm(&mut self, key: u32, deadline: Tick) {
            self.wheel.arm(&mut self.entries, key, deadline);
            self.wheel.invariants(&mut self.entries);
            assert!(self.entries.links(key).is_armed());
            assert_eq!(self.entries.links(key).deadline(), deadline);
        }

        fn disarm(&mut self, key: u32) {
            self.wheel.disarm(&mut self.entries, key);
            self.wheel.invariants(&mut self.entries);
            assert!(!self.entries.links(key).is_armed());
        }

        fn advance(&mut self, now: Tick) -> Vec<u32> {
            let mut due = Vec::new();
            self.wheel.advance(&mut self.entries, now, &mut due);
            self.wheel.invariants(&mut self.entries);
            for key in &due {
                assert!(!self.entries.links(*key).is_armed());
            }
            due
        }
    }

    #[test]
    fn a_deadline_that_has_passed_comes_before_one_that_has_not() {
        assert_eq!(Tick(7).or_before(Tick(500)), Tick(7));
        assert_eq!(Tick(500).or_before(Tick(7)), Tick(7));
        assert_eq!(Tick(7).ticks_at(9), 9, "and is waited for no longer");
    }

    #[test]
    fn a_worker_that_outlives_its_ticks_goes_on_waiting() {
        let count = (1 << 32) - 1;
        let later = Tick(count as u32).plus(5);
        assert_eq!(later, Tick(4));
        assert_eq!(later.ticks_at(count), (1 << 32) + 4);
        assert_eq!(later.ticks_at((1 << 32) + 3), (1 << 32) + 4);
        assert_eq!(Tick(count as u32).or_before(later), Tick(count as u32));
    }

    #[test]
    fn links_are_12_bytes() {
        assert_eq!(size_of::<Links>(), 12);
    }

    #[test]
    fn entries_are_due_at_their_deadline_and_not_before() {
        let mut timers = Checked::new(Tick(100), 3);
        timers.arm(0, Tick(105));
        timers.arm(1, Tick(103));
        timers.arm(2, Tick(105));
        assert_eq!(timers.wheel.len(), 3);
        assert_eq!(timers.advance(Tick(102)), NOTHING);
        assert_eq!(timers.advance(Tick(103)), [1]);
        assert_eq!(timers.advance(Tick(104)), NOTHING);
        assert_eq!(timers.advance(Tick(105)), [0, 2]);
        assert!(timers.wheel.is_empty());
        assert_eq!(timers.advance(Tick(105 + 2 * LAP)), NOTHING);
    }

    #[test]
    fn a_late_advance_gives_deadlines_in_order() {
        let mut timers = Checked::new(Tick(LAP - 10), 4);
        timers.arm(0, Tick(LAP + 20));
        timers.arm(1, Tick(LAP - 1));
        timers.arm(2, Tick(LAP));
        timers.arm(3, Tick(LAP - 11));
        assert_eq!(timers.advance(Tick(LAP + 20)), [3, 1, 2, 0]);
    }

    #[test]
    fn a_moved_entry_is_due_at_its_new_deadline_only() {
        let mut timers = Checked::new(Tick(0), 2);
        timers.arm(0, Tick(10));
        timers.arm(1, Tick(10));
        timers.arm(0, Tick(20));
        // The same slot, a lap later.
        timers.arm(1, Tick(10 + LAP));
        assert_eq!(timers.wheel.len(), 2);
        assert_eq!(timers.advance(Tick(19)), NOTHING);
        assert_eq!(timers.advance(Tick(20)), [0]);
        assert_eq!(timers.advance(Tick(9 + LAP)), NOTHING);
        assert_eq!(timers.advance(Tick(10 + LAP)), [1]);
    }

    #[test]
    fn a_disarmed_entry_is_never_due() {
        let mut timers = Checked::new(Tick(0), 4);
        timers.disarm(0);
        for key in 0..4 {
            timers.arm(key, Tick(10));
        }
        // The first, the last and one in the middle of the list.
        timers.disarm(0);
        timers.disarm(3);
        timers.disarm(1);
        timers.disarm(1);
        assert_eq!(timers.advance(Tick(10)), [2]);
        assert_eq!(timers.wheel.next_deadline(), None);
    }

    #[test]
    fn a_deadline_that_has_passed_is_due_at_the_next_advance() {
        let mut timers = Checked::new(Tick(50), 4);
        timers.arm(0, Tick(50));
        timers.arm(1, Tick(3));
        timers.arm(2, Tick(50 + LAP));
        timers.arm(3, Tick(49));
        timers.disarm(3);
        assert_eq!(timers.wheel.next_deadline(), Some(Tick(50)));
        assert_eq!(timers.advance(Tick(50)), [0, 1]);
        // What is a lap away shares the slot of now: it is no reason to wake up at once.
        assert_eq!(timers.wheel.next_deadline(), Some(Tick(50 + LAP)));
        assert_eq!(timers.advance(Tick(50 + LAP)), [2]);
    }

    #[test]
    fn time_that_goes_backwards_stands_still() {
        let mut timers = Checked::new(Tick(50), 2);
        timers.arm(0, Tick(40));
        timers.arm(1, Tick(51));
        assert_eq!(timers.advance(Tick(30)), [0]);
        assert_eq!(timers.wheel.next_deadline(), Some(Tick(51)));
        assert_eq!(timers.advance(Tick(51)), [1]);
    }

    #[test]
    fn far_deadlines_are_passed_over_until_their_lap() {
        let mut timers = Checked::new(Tick(0), 1);
        timers.arm(0, Tick(7 + 3 * LAP));
        for lap in 0..3 {
            assert_eq!(timers.wheel.next_deadline(), Some(Tick(7 + 3 * LAP)), "nobody is woken");
            assert_eq!(timers.advance(Tick(7 + lap * LAP)), NOTHING);
        }
        assert_eq!(timers.wheel.next_deadline(), Some(Tick(7 + 3 * LAP)));
        assert_eq!(timers.advance(Tick(7 + 3 * LAP)), [0]);
    }

    #[test]
    fn the_first_of_many_far_deadlines_is_found_whatever_its_slot() {
        let mut timers = Checked::new(Tick(0), 4);
        timers.arm(0, Tick(3 + 4 * LAP));
        timers.arm(1, Tick(900 + 2 * LAP));
        timers.arm(2, Tick(3 + 2 * LAP));
        timers.arm(3, Tick(70 + 3 * LAP));
        for (key, deadline) in [(2, 3 + 2 * LAP), (1, 900 + 2 * LAP), (3, 70 + 3 * LAP)] {
            assert_eq!(timers.wheel.next_deadline(), Some(Tick(deadline)));
            assert_eq!(timers.advance(Tick(deadline)), [key]);
        }
        assert_eq!(timers.wheel.next_deadline(), Some(Tick(3 + 4 * LAP)));
        // What is near is found before what is far, and also behind it.
        timers.arm(1, Tick(60 + 3 * LAP + 500));
        assert_eq!(timers.wheel.next_deadline(), Some(Tick(60 + 3 * LAP + 500)));
    }

    #[test]
    fn an_entry_that_has_gone_wakes_once_at_most() {
        let mut timers = Checked::new(Tick(0), 2);
        timers.arm(0, Tick(7));
        timers.arm(1, Tick(7 + 2 * LAP));
        timers.disarm(0);
        assert_eq!(timers.wheel.next_deadline(), Some(Tick(7)));
        assert_eq!(timers.advance(Tick(7)), NOTHING);
        assert_eq!(timers.wheel.next_deadline(), Some(Tick(7 + 2 * LAP)));
    }

    #[test]
    fn one_advance_may_jump_over_several_laps() {
        let mut timers = Checked::new(Tick(5), 4);
        timers.arm(0, Tick(6));
        timers.arm(1, Tick(5 + LAP));
        timers.arm(2, Tick(6 + 5 * LAP));
        timers.arm(3, Tick(6 + 5 * LAP + 1));
        assert_eq!(timers.advance(Tick(6 + 5 * LAP)), [0, 2, 1]);
        assert_eq!(timers.advance(Tick(7 + 5 * LAP)), [3]);
    }

    #[test]
    fn deadlines_hold_where_ticks_wrap_around() {
        let mut timers = Checked::new(Tick(u32::MAX - 5), 3);
        let wrapped = Tick(u32::MAX - 5).after(Duration::from_millis(10 * TICK_MS));
        assert_eq!(wrapped, Tick(4));
        timers.arm(0, wrapped);
        timers.arm(1, Tick(u32::MAX));
        timers.arm(2, Tick(u32::MAX - 6));
        assert_eq!(timers.advance(Tick(u32::MAX - 1)), [2]);
        assert_eq!(timers.advance(Tick(3)), [1]);
        assert_eq!(timers.wheel.next_deadline(), Some(Tick(4)));
        assert_eq!(timers.advance(Tick(4)), [0]);
    }

    #[test]
    fn waits_are_rounded_up_to_ticks() {
        let after = |millis| Tick(7).after(Duration::from_millis(millis)).0 - 7;
        assert_eq!(after(0), 0);
        assert_eq!(after(1), 1);
        assert_eq!(after(TICK_MS), 1);
        assert_eq!(after(TICK_MS + 1), 2);
        assert!(!Tick(7).after(Duration::MAX).is_reached(Tick(7)));
        assert!(Tick(7).is_reached(Tick(7).after(Duration::MAX)));
    }

    #[test]
    fn sleeping_to_the_next_deadline_meets_every_deadline() {
        let mut timers = Checked::new(Tick(0), 50);
        for key in 0..50 {
            timers.arm(key, Tick(key * key * 7));
        }
        let mut met = 0;
        while let Some(now) = timers.wheel.next_deadline() {
            for key in timers.advance(now) {
                assert_eq!(now, Tick(key * key * 7));
                met += 1;
            }
        }
        assert_eq!(met, 50);
    }

    /// The wheel, slow and obvious. Its ticks are wide enough never to wrap around.
    #[derive(Default)]
    struct Twin {
        now: u64,
        due_at: BTreeMap<u64, BTreeSet<u32>>,
        deadlines: BTreeMap<u32, u64>,
    }

    impl Twin {
        fn disarm(&mut self, key: u32) {
            if let Some(deadline) = self.deadlines.remove(&key) {
                let keys = self.due_at.get_mut(&deadline).unwrap();
                keys.remove(&key);
                if keys.is_empty() {
                    self.due_at.remove(&deadline);
                }
            }
        }

        fn arm(&mut self, key: u32, deadline: u64) {
            self.disarm(key);
            self.deadlines.insert(key, deadline);
            self.due_at.entry(deadline).or_default().insert(key);
        }

        /// Every key that is due, with how many ticks after `self.now` its slot is looked at.
        fn advance(&mut self, now: u64) -> BTreeMap<u32, u64> {
            let later = self.due_at.split_off(&(now + 1));
            let due = mem::replace(&mut self.due_at, later);
            let mut distances = BTreeMap::new();
            for (deadline, keys) in due {
                for key in keys {
                    self.deadlines.remove(&key);
                    distances.insert(key, self.slot_distance(deadline));
                }
            }
            self.now = now;
            distances
        }

        fn slot_distance(&self, deadline: u64) -> u64 {
            if deadline <= self.now { 0 } else { (deadline - self.now - 1) % u64::from(LAP) + 1 }
        }

        /// The first deadline, or now when that has passed.
        fn next_deadline(&self) -> Option<u64> {
            self.due_at.keys().next().map(|deadline| self.now.max(*deadline))
        }
    }

    #[test]
    fn agrees_with_a_sorted_map() {
        let mut rng = seeded();
        for _ in 0..4 {
            // Either from tick 0, with deadlines before it, or to where ticks wrap around. The
            // twin counts from 2^32, so that its ticks never go below 0.
            let start = if rng.random() { 0 } else { u32::MAX - rng.random_range(0..3 * LAP) };
            let tick = |time: u64| Tick(time as u32);
            let mut twin = Twin { now: (1 << 32) + u64::from(start), ..Twin::default() };
            let mut timers = Checked::new(Tick(start), 300);
            for _ in 0..3_000 {
                match rng.random_range(0..10) {
                    0..=5 => {
                        let key = rng.random_range(0..300);
                        let deadline = match rng.random_range(0..8) {
                            0 => twin.now - rng.random_range(0..20),
                            1..=4 => twin.now + rng.random_range(0..100),
                            5 => twin.now + rng.random_range(0..u64::from(LAP)),
                            // A few slots, many laps.
                            6 => twin.now + u64::from(LAP) * rng.random_range(0..4),
                            _ => twin.now + rng.random_range(0..5 * u64::from(LAP)),
                        };
                        timers.arm(key, tick(deadline));
                        twin.arm(key, deadline);
                    }
                    6 => {
                        let key = rng.random_range(0..300);
                        timers.disarm(key);
                        twin.disarm(key);
                    }
                    _ => {
                        let now = match rng.random_range(0..20) {
                            0 => twin.now,
                            1 => twin.now + rng.random_range(0..4 * u64::from(LAP)),
                            2 => twin.next_deadline().unwrap_or(twin.now),
                            3 => twin.now + u64::from(LAP) + rng.random_range(0..3) - 1,
                            _ => twin.now + rng.random_range(0..10),
                        };
                        let due = timers.advance(tick(now));
                        let expected = twin.advance(now);
                        assert!(due.is_sorted_by_key(|key| expected[key]), "order of slots");
                        assert_eq!(due.len(), expected.len());
                        assert!(due.iter().all(|key| expected.contains_key(key)));
                    }
                }
                assert_eq!(timers.wheel.len(), twin.deadlines.len());
                match (timers.wheel.next_deadline(), twin.next_deadline()) {
                    (Some(next), Some(first)) => {
                        let wait = u64::from(tick(twin.now).until(next));
                        assert!(wait <= first - twin.now, "{wait} ticks, {first} in {}", twin.now);
                        assert!(wait > 0 || first == twin.now, "at once, for nothing");
                    }
                    (next, first) => assert_eq!((next, first), (None, None)),
                }
            }
        }
    }
}
