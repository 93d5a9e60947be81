//! When the newest events of a view became visible, so that it is known how late they are written.
//!
//! A stamp is the ordinal of a batch's first event in the view and the moment of its commit. They
//! are kept until the next round begins: who keeps up has everything by then. A round that does not
//! end, since new events come all the time, gives up every second stamp when there are too many: the
//! events between two count as old as the older.

use smallvec::SmallVec;

use crate::limits::STAMPS_MAX;

/// A time in microseconds, from some origin, that wraps around after 71 minutes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moment(pub u32);

impl Moment {
    /// Microseconds from here to a later moment.
    pub fn until(self, later: Moment) -> u32 {
        later.0.wrapping_sub(self.0)
    }
}

#[derive(Clone, Copy, Debug)]
struct Stamp {
    ordinal: u32,
    at: Moment,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Stamps(SmallVec<[Stamp; 2]>);

impl Stamps {
    /// A round begins: what is older is nobody's concern any more.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// The event of this ordinal, and those after it, were committed at this moment.
    pub(super) fn push(&mut self, ordinal: u32, at: Moment) {
        if self.0.last().is_some_and(|last| last.at == at) {
            return;
        }
        if self.0.len() == STAMPS_MAX {
            let mut is_kept = false;
            self.0.retain(|_| {
                is_kept = !is_kept;
                is_kept
            });
        }
        self.0.push(Stamp { ordinal, at });
    }

    /// Tells of the events from one ordinal to before another how many were committed when, the
    /// newest first. Of those that are older than all stamps nothing is known.
    pub(super) fn weigh(&self, from: u32, to: u32, mut tell: impl FnMut(Moment, u32)) {
        let mut end = to;
        for stamp in self.0.iter().rev() {
            let is_before = stamp.ordinal.wrapping_sub(from).cast_signed() <= 0;
            let first = if is_before { from } else { stamp.ordinal };
            let count = end.wrapping_sub(first);
            if count.cast_signed() > 0 {
                tell(stamp.at, count);
                end = first;
            }
            if is_before {
                return;
            }
        }
    }
}

/// Events that were written and not weighed yet: moments of their commits, and how many.
pub(super) type Unweighed = Vec<(Moment, u32)>;

/// Adds events to those that were written; those of one commit mostly come together.
pub(super) fn add(unweighed: &mut Unweighed, at: Moment, events: u32) {
    match unweighed.last_mut() {
        Some((last, sum)) if *last == at => *sum = sum.saturating_add(events),
        _ => unweighed.push((at, events)),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn weighed(stamps: &Stamps, from: u32, to: u32) -> BTreeMap<u32, u32> {
        let mut found = BTreeMap::new();
        stamps.weigh(from, to, |at, count| assert_eq!(found.insert(at.0, count), None));
        found
    }

    #[test]
    fn every_event_has_the_moment_of_its_commit() {
        // Ordinals that wrap around: batches of 3, 1 and 4 events.
        let first = u32::MAX - 3;
        let batches = [(0, 10, 3), (3, 20, 1), (4, 30, 4)];
        let mut stamps = Stamps::default();
        let mut moments = Vec::new();
        for (ordinal, at, count) in batches {
            for nth in 0..count {
                stamps.push(first.wrapping_add(ordinal + nth), Moment(at));
                moments.push(at);
            }
        }
        for from in 0..=moments.len() {
            for to in from..=moments.len() {
                let mut expected = BTreeMap::new();
                for at in &moments[from..to] {
                    *expected.entry(*at).or_insert(0) += 1;
                }
                let at = |ordinal: usize| first.wrapping_add(ordinal as u32);
                assert_eq!(weighed(&stamps, at(from), at(to)), expected, "{from}..{to}");
                // Five more before all that is known.
                let before = weighed(&stamps, at(from).wrapping_sub(5), at(to));
                let known = to - from.saturating_sub(5);
                assert_eq!(before.values().sum::<u32>(), known as u32, "{from}..{to}");
            }
        }
    }

    #[test]
    fn a_round_without_end_makes_events_older_and_never_younger() {
        let mut stamps = Stamps::default();
        for ordinal in 0..10_000 {
            stamps.push(ordinal, Moment(ordinal));
            assert!(stamps.0.len() <= STAMPS_MAX);
            for from in [0, ordinal / 2, ordinal.saturating_sub(3), ordinal] {
                let told = weighed(&stamps, from, ordinal + 1);
                assert_eq!(told.values().sum::<u32>(), ordinal + 1 - from);
                let oldest = *told.keys().next().unwrap();
                assert!(oldest <= from);
            }
        }
        assert_eq!(weighed(&stamps, 9_999, 10_000), BTreeMap::from([(9_999, 1)]));
    }
}
