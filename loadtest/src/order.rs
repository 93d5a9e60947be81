//! Whether a subscriber got every event once and in order.
//!
//! Numbers count from 1 without a hole, so the next number is known. A jump forward leaves a gap:
//! what comes later out of the gap was reordered, and what is in it at the end is missing. A
//! number that is in no gap and was passed has come twice.

use serde::{Deserialize, Serialize};

use crate::tally::Broken;

/// More gaps than this are not remembered: the events of the oldest then count as missing.
const GAPS_MAX: usize = 64;

/// What was published on a stream, and so is to come.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Published {
    /// The number of the last event of which the server said that it has it.
    pub last: u32,
    /// Numbers before of which it did not say so: these may come, or not. Ranges, ascending.
    pub doubtful: Vec<(u32, u32)>,
}

/// What a subscriber has of its stream.
#[derive(Clone, Debug, Default)]
pub struct Order {
    /// The highest number so far, or since it came back.
    last: u32,
    /// The number that came last, which the next cursor will be that of.
    latest: u32,
    /// The number that the cursor is that of.
    committed: u32,
    /// First and last number of what was jumped over; empty nearly always.
    gaps: Vec<(u32, u32)>,
}

/// What is wrong with an event: how, and how many events it concerns.
pub type Fault = (Broken, u64);

impl Order {
    /// The highest number so far.
    pub fn last(&self) -> u32 {
        self.last
    }

    /// Takes the next event. A fault is also reported when an earlier gap must be given up.
    pub fn handle(&mut self, number: u32) -> Option<Fault> {
        self.latest = number;
        if number == self.last + 1 {
            self.last = number;
            return None;
        }
        if number <= self.last {
            let filled = self.fill(number);
            return Some((if filled { Broken::Reordered } else { Broken::Repeated }, 1));
        }
        self.gaps.push((self.last + 1, number - 1));
        self.last = number;
        if self.gaps.len() <= GAPS_MAX {
            return None;
        }
        let (first, last) = self.gaps.remove(0);
        Some((Broken::Missing, u64::from(last - first + 1)))
    }

    /// The cursor is now that of what came last.
    pub fn commit(&mut self) {
        self.committed = self.latest;
    }

    /// The subscriber comes back with its cursor: what is after it will come again.
    pub fn resume(&mut self) {
        self.last = self.last.min(self.committed);
        let within = |&(first, last): &(u32, u32)| (first, last.min(self.last));
        self.gaps = self.gaps.iter().map(within).filter(is_range).collect();
    }

    /// Whether all of it has come.
    pub fn has_all(&self, published: &Published) -> bool {
        self.last >= published.last && self.missing(published).is_empty()
    }

    /// The numbers that never came of what was published, as ranges.
    pub fn missing(&self, published: &Published) -> Vec<(u32, u32)> {
        let mut missing = self.jumped_over(published);
        if self.last < published.last {
            missing.extend(without((self.last + 1, published.last), &published.doubtful));
        }
        missing
    }

    /// Those of them after which others have come, so that they will not come any more.
    pub fn jumped_over(&self, published: &Published) -> Vec<(u32, u32)> {
        let within = |&(first, last): &(u32, u32)| (first, last.min(published.last));
        let gaps = self.gaps.iter().map(within).filter(is_range);
        gaps.flat_map(|gap| without(gap, &published.doubtful)).collect()
    }

    /// Takes `number` out of the gap that it is in, if it is in one.
    fn fill(&mut self, number: u32) -> bool {
        let Some(at) = self.gaps.iter().position(|&(first, last)| (first..=last).contains(&number))
        else {
            return false;
        };
        let (first, last) = self.gaps.remove(at);
        let parts = [(first, number - 1), (number + 1, last)];
        self.gaps.extend(parts.into_iter().filter(is_range));
        true
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "filters pass it so")]
fn is_range((first, last): &(u32, u32)) -> bool {
    first <= last
}

/// What is left of a range without some others, which are in ascending order.
fn without((first, last): (u32, u32), others: &[(u32, u32)]) -> Vec<(u32, u32)> {
    let mut left = Vec::new();
    let mut from = first;
    for other in others.iter().filter(|other| other.0 <= last && other.1 >= first) {
        left.push((from, other.0 - 1));
        from = other.1 + 1;
    }
    left.push((from, last));
    left.retain(is_range);
    left
}

#[cfg(test)]
mod tests {
    use super::*;

    fn upto(last: u32) -> Published {
        Published { last, doubtful: Vec::new() }
    }

    fn faults(order: &mut Order, numbers: impl IntoIterator<Item = u32>) -> Vec<Fault> {
        numbers.into_iter().filter_map(|number| order.handle(number)).collect()
    }

    #[test]
    fn each_kind_of_fault_is_told_apart() {
        let mut order = Order::default();
        assert_eq!(faults(&mut order, [1, 2, 3]), []);
        assert_eq!(faults(&mut order, [3]), [(Broken::Repeated, 1)]);
        assert_eq!(faults(&mut order, [5, 4]), [(Broken::Reordered, 1)]);
        assert_eq!(faults(&mut order, [4]), [(Broken::Repeated, 1)]);
        assert_eq!(faults(&mut order, [9]), []);
        assert_eq!(order.missing(&upto(10)), [(6, 8), (10, 10)]);
        assert_eq!(faults(&mut order, [7]), [(Broken::Reordered, 1)]);
        assert_eq!(order.missing(&upto(9)), [(6, 6), (8, 8)]);
    }

    #[test]
    fn what_came_after_the_cursor_may_come_again() {
        let mut order = Order::default();
        faults(&mut order, [1, 2]);
        order.commit();
        faults(&mut order, [3]);
        order.resume();
        assert_eq!(faults(&mut order, [3, 4]), []);
        assert_eq!(order.missing(&upto(4)), []);
    }

    #[test]
    fn a_gap_after_the_cursor_is_forgotten_with_what_came_after_it() {
        let mut order = Order::default();
        faults(&mut order, [1, 2, 4, 5]);
        order.commit();
        faults(&mut order, [9]);
        order.resume();
        assert_eq!(faults(&mut order, 6..=9), []);
        assert_eq!(order.missing(&upto(9)), [(3, 3)], "the cursor was after this one");
    }

    #[test]
    fn the_cursor_is_that_of_the_event_that_came_last() {
        let mut order = Order::default();
        assert_eq!(faults(&mut order, [1, 2, 4, 3]), [(Broken::Reordered, 1)]);
        order.commit();
        order.resume();
        assert_eq!(faults(&mut order, [4, 5]), []);
        assert_eq!(order.missing(&upto(5)), []);
    }

    #[test]
    fn what_nobody_knows_to_be_published_is_not_missing() {
        let mut order = Order::default();
        faults(&mut order, [1, 2, 8]);
        let published = Published { last: 12, doubtful: vec![(1, 1), (3, 4), (6, 6), (10, 11)] };
        assert_eq!(order.jumped_over(&published), [(5, 5), (7, 7)]);
        assert_eq!(order.missing(&published), [(5, 5), (7, 7), (9, 9), (12, 12)]);
        assert!(!order.has_all(&published));
        faults(&mut order, [9, 12, 5, 7]);
        assert!(order.has_all(&published));
    }

    #[test]
    fn more_gaps_than_are_remembered_are_still_missing_events() {
        let mut order = Order::default();
        let found = faults(&mut order, (1..=100).map(|number| number * 2));
        let counted: u64 = found.iter().map(|(_, count)| count).sum();
        assert_eq!(counted + order.missing(&upto(200)).len() as u64, 100);
    }
}
