//! What has been appended already: idempotency keys, and where each producer stands.
//!
//! Known to the journal writer alone, and rebuilt from the journal when it is opened. Keys are
//! bounded in number and in age; the oldest go first. A run remembers [`PRODUCERS_PER_RUN_MAX`]
//! producers, those that were heard of last. What belongs to a run goes with it when it is deleted.
//!
//! Like the catalog this is changed by what was committed only, in the order of the ids, and its
//! state depends on nothing else (least of all on a clock), so that a rebuilt one is the same.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use super::codec::KeyScope;
use crate::event::{EventId, RunId, Timestamp};
use crate::limits::{IDEMPOTENCY_SECONDS, PRODUCERS_PER_RUN_MAX};

/// Every key and every producer.
#[derive(Debug)]
pub struct OnceStates {
    keys_max: usize,
    creations: HashMap<Arc<str>, KeyState>,
    runs: HashMap<RunId, RunStates>,
    /// Keys in the order of their arrival. Those that went with their run are still in here.
    order: VecDeque<Arrival>,
    /// Keys that are there.
    keys: usize,
}

/// What was appended with an idempotency key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyState {
    /// To which run.
    pub run: RunId,
    /// XXH3-128 of the body.
    pub fingerprint: u128,
    /// The first event.
    pub first_id: EventId,
    /// Its seq.
    pub first_seq: u64,
    /// How many.
    pub count: u64,
    /// When.
    pub time: Timestamp,
}

/// Where a producer stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProducerState {
    /// The life it is in.
    pub epoch: u64,
    /// The last `Producer-Seq` taken.
    pub last_seq: u64,
    /// The first event of the request that it came with.
    pub heard: EventId,
}

#[derive(Debug, Default, PartialEq)]
struct RunStates {
    /// The key that it was created with.
    created_with: Option<Arc<str>>,
    keys: HashMap<Arc<str>, KeyState>,
    producers: HashMap<Box<str>, ProducerState>,
}

#[derive(Debug)]
struct Arrival {
    scope: KeyScope,
    run: RunId,
    key: Arc<str>,
    first_id: EventId,
    time: Timestamp,
}

impl KeyState {
    /// Whether the key is so old that it counts no more.
    pub fn is_expired(&self, now: Timestamp) -> bool {
        is_expired(self.time, now)
    }
}

fn is_expired(time: Timestamp, now: Timestamp) -> bool {
    time.0.saturating_add(IDEMPOTENCY_SECONDS * 1_000) <= now.0
}

/// Of the same keys and producers; those that went with their runs may still stand in the order
/// of arrival.
impl PartialEq for OnceStates {
    fn eq(&self, other: &OnceStates) -> bool {
        self.keys_max == other.keys_max
            && self.keys == other.keys
            && self.creations == other.creations
            && self.runs == other.runs
    }
}

impl OnceStates {
    /// Nothing yet, and never more than `keys_max` keys.
    pub fn new(keys_max: usize) -> OnceStates {
        OnceStates {
            keys_max,
            creations: HashMap::new(),
            runs: HashMap::new(),
            order: VecDeque::new(),
            keys: 0,
        }
    }

    /// How many keys there are.
    pub fn keys(&self) -> usize {
        self.keys
    }

    /// How many producers are remembered.
    pub fn producers(&self) -> usize {
        self.runs.values().map(|states| states.producers.len()).sum()
    }

    /// What was appended to the run with this key, or created with it.
    pub fn key(&self, scope: KeyScope, run: RunId, key: &str, now: Timestamp) -> Option<KeyState> {
        let state = match scope {
            KeyScope::Creation => self.creations.get(key),
            KeyScope::Run => self.runs.get(&run)?.keys.get(key),
        };
        state.copied().filter(|state| !state.is_expired(now))
    }

    /// Where a producer of the run stands.
    pub fn producer(&self, run: RunId, id: &str) -> Option<ProducerState> {
        self.runs.get(&run)?.producers.get(id).copied()
    }

    /// Takes in a key that was committed.
    pub fn apply_key(&mut self, scope: KeyScope, key: &str, state: KeyState) {
        while self.order.front().is_some_and(|oldest| is_expired(oldest.time, state.time)) {
            self.drop_oldest();
        }
        let key: Arc<str> = key.into();
        let states = self.runs.entry(state.run).or_default();
        let before = match scope {
            KeyScope::Creation => {
                states.created_with = Some(Arc::clone(&key));
                self.creations.insert(Arc::clone(&key), state)
            }
            KeyScope::Run => states.keys.insert(Arc::clone(&key), state),
        };
        self.keys += usize::from(before.is_none());
        let KeyState { run, first_id, time, .. } = state;
        self.order.push_back(Arrival { scope, run, key, first_id, time });
        while self.keys > self.keys_max {
            self.drop_oldest();
        }
        self.sweep();
    }

    /// Takes in where a producer stands. One too many, and the run forgets the one that has been
    /// silent for longest: were it refused instead, a run that many short-lived programs append
    /// to would be closed to them for ever.
    pub fn apply_producer(&mut self, run: RunId, id: &str, state: ProducerState) {
        let producers = &mut self.runs.entry(run).or_default().producers;
        if let Some(known) = producers.get_mut(id) {
            *known = state;
            return;
        }
        if producers.len() >= PRODUCERS_PER_RUN_MAX {
            let silent = producers.iter().min_by_key(|(_, state)| state.heard);
            if let Some(silent) = silent.map(|(id, _)| id.clone()) {
                producers.remove(&silent);
            }
        }
        producers.insert(id.into(), state);
    }

    /// Takes in the deletion of a run.
    pub fn apply_deletion(&mut self, run: RunId) {
        let Some(states) = self.runs.remove(&run) else { return };
        self.keys -= states.keys.len();
        if let Some(key) = states.created_with
            && self.creations.get(&key).is_some_and(|state| state.run == run)
        {
            self.creations.remove(&key);
            self.keys -= 1;
        }
        self.sweep();
    }

    fn drop_oldest(&mut self) {
        let Some(oldest) = self.order.pop_front() else { return };
        if !self.is_current(&oldest) {
            return;
        }
        self.keys -= 1;
        match oldest.scope {
            KeyScope::Creation => self.creations.remove(&oldest.key),
            KeyScope::Run => {
                self.runs.get_mut(&oldest.run).and_then(|states| states.keys.remove(&oldest.key))
            }
        };
        if let Some(states) = self.runs.get_mut(&oldest.run) {
            if oldest.scope == KeyScope::Creation {
                states.created_with = None;
            }
            if *states == RunStates::default() {
                self.runs.remove(&oldest.run);
            }
        }
    }

    fn is_current(&self, arrival: &Arrival) -> bool {
        let state = match arrival.scope {
            KeyScope::Creation => self.creations.get(&arrival.key),
            KeyScope::Run => {
                self.runs.get(&arrival.run).and_then(|states| states.keys.get(&arrival.key))
            }
        };
        state.is_some_and(|state| state.first_id == arrival.first_id)
    }

    /// Forgets the arrival of keys that are gone, once they are most of the list.
    fn sweep(&mut self) {
        if self.order.len() > 2 * self.keys + 1_024 {
            let mut order = std::mem::take(&mut self.order);
            order.retain(|arrival| self.is_current(arrival));
            self.order = order;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(run: u64, first_id: u64, time: u64) -> KeyState {
        KeyState {
            run: RunId(run),
            fingerprint: 7,
            first_id: EventId(first_id),
            first_seq: 2,
            count: 1,
            time: Timestamp(time),
        }
    }

    #[test]
    fn the_oldest_keys_go_first() {
        let mut once = OnceStates::new(2);
        for id in 1..=3 {
            once.apply_key(KeyScope::Run, &format!("k{id}"), state(1, id, id));
        }
        let find = |key| once.key(KeyScope::Run, RunId(1), key, Timestamp(3));
        assert_eq!(find("k1"), None);
        assert_eq!(find("k2"), Some(state(1, 2, 2)));
        assert_eq!(find("k3"), Some(state(1, 3, 3)));
        assert_eq!(once.keys(), 2);
    }

    #[test]
    fn keys_count_for_a_day() {
        let mut once = OnceStates::new(10);
        once.apply_key(KeyScope::Creation, "k", state(1, 1, 1_000));
        let day = IDEMPOTENCY_SECONDS * 1_000;
        let find =
            |once: &OnceStates, now| once.key(KeyScope::Creation, RunId(0), "k", Timestamp(now));
        assert!(find(&once, 999 + day).is_some());
        assert!(find(&once, 1_000 + day).is_none());
        once.apply_key(KeyScope::Creation, "other", state(2, 2, 1_000 + day));
        assert_eq!(once.keys(), 1);
    }

    #[test]
    fn a_deleted_run_takes_its_keys_and_producers_along() {
        let mut once = OnceStates::new(10);
        once.apply_key(KeyScope::Creation, "c", state(1, 1, 1));
        once.apply_key(KeyScope::Run, "k", state(1, 2, 1));
        once.apply_producer(
            RunId(1),
            "p",
            ProducerState { epoch: 0, last_seq: 0, heard: EventId(2) },
        );
        once.apply_key(KeyScope::Run, "k", state(2, 3, 1));
        once.apply_deletion(RunId(1));
        assert_eq!(once.key(KeyScope::Creation, RunId(0), "c", Timestamp(1)), None);
        assert_eq!(once.key(KeyScope::Run, RunId(1), "k", Timestamp(1)), None);
        assert_eq!(once.producer(RunId(1), "p"), None);
        assert!(once.key(KeyScope::Run, RunId(2), "k", Timestamp(1)).is_some());
        assert_eq!(once.keys(), 1);
    }

    #[test]
    fn runs_that_come_and_go_leave_nothing_behind() {
        let mut once = OnceStates::new(10);
        for run in 1..10_000 {
            once.apply_key(KeyScope::Creation, "c", state(run, run, run));
            once.apply_key(KeyScope::Run, "k", state(run, run, run));
            once.apply_deletion(RunId(run));
        }
        assert_eq!(once.keys(), 0);
        assert!(once.runs.is_empty());
        assert!(once.order.len() <= 1_025);
    }
}
