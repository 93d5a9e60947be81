//! Where the events of a run, a project or a session are: the keys of the journal values that hold
//! some, in ascending order.
//!
//! Keys are kept as the way from one to the next, most often one or two bytes, in blocks of
//! 32; a mark says where a block begins. A plain `Vec<u64>` would take eight bytes for
//! each append that was committed alone, and that for its run, its project and its session.

use super::bytes::{Bytes, put_varint};
use crate::event::EventId;

/// Keys from one mark to the next: 16 bytes a mark, so half a byte a key; finding a key decodes at
/// most this many.
const BLOCK_KEYS: usize = 32;

/// An ascending list of keys that only grows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Postings {
    /// The first key of each block, and where in `ways` the rest of the block begins.
    marks: Vec<(u64, usize)>,
    /// From each key that has no mark, the way to it from the key before.
    ways: Vec<u8>,
    last: u64,
    count: usize,
}

impl Postings {
    /// Adds a key, if it is not the last one already; whether it was added.
    pub fn push(&mut self, key: EventId) -> bool {
        if self.count > 0 && self.last == key.0 {
            return false;
        }
        debug_assert!(self.count == 0 || key.0 > self.last, "keys only go up");
        if self.count.is_multiple_of(BLOCK_KEYS) {
            self.marks.push((key.0, self.ways.len()));
        } else {
            put_varint(&mut self.ways, key.0 - self.last);
        }
        self.last = key.0;
        self.count += 1;
        true
    }

    /// Forgets keys up to this one: all of them, or else whole blocks, so that some may stay.
    pub fn forget(&mut self, through: EventId) {
        if self.last <= through.0 {
            *self = Postings::default();
            return;
        }
        let blocks = self.block_of(through.next());
        if blocks == 0 {
            return;
        }
        let bytes = self.marks[blocks].1;
        self.marks.drain(..blocks);
        self.marks.iter_mut().for_each(|(_, at)| *at -= bytes);
        self.ways.drain(..bytes);
        self.count -= blocks * BLOCK_KEYS;
    }

    /// How many keys.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The keys from the last one that is not above `from` (the first of all when there is none),
    /// ascending.
    pub fn ascending(&self, from: EventId) -> impl Iterator<Item = EventId> + '_ {
        let block = self.block_of(from);
        let first = self.block(block).take_while(|key| *key <= from.0).last().unwrap_or(0);
        (block..self.marks.len())
            .flat_map(|block| self.block(block))
            .skip_while(move |key| *key < first)
            .map(EventId)
    }

    /// The keys that are not above `upto`, descending.
    pub fn descending(&self, upto: EventId) -> impl Iterator<Item = EventId> + '_ {
        (0..self.marks.len().min(self.block_of(upto) + 1))
            .rev()
            .flat_map(|block| {
                let keys: Vec<u64> = self.block(block).collect();
                keys.into_iter().rev()
            })
            .skip_while(move |key| *key > upto.0)
            .map(EventId)
    }

    /// The last block that begins at or below this key, or else the first.
    fn block_of(&self, key: EventId) -> usize {
        self.marks.partition_point(|(first, _)| *first <= key.0).saturating_sub(1)
    }

    fn block(&self, block: usize) -> impl Iterator<Item = u64> + '_ {
        let end = self.marks.get(block + 1).map_or(self.ways.len(), |(_, at)| *at);
        let (first, ways) = match self.marks.get(block) {
            Some((first, at)) => (Some(*first), &self.ways[*at..end]),
            None => (None, &[][..]),
        };
        let mut ways = Bytes(ways);
        std::iter::successors(first, move |key| {
            let way = (!ways.0.is_empty()).then(|| ways.varint().expect("we wrote it"))?;
            Some(key + way)
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn postings_are_a_sorted_list(
            ways in proptest::collection::vec(0_u64..400, 0..200),
            at in 0_u64..50_000,
        ) {
            let mut keys: Vec<u64> = Vec::new();
            let mut postings = Postings::default();
            let mut key = 1;
            for way in ways {
                key += way;
                prop_assert_eq!(postings.push(EventId(key)), keys.last() != Some(&key));
                if keys.last() != Some(&key) {
                    keys.push(key);
                }
            }
            prop_assert_eq!(postings.len(), keys.len());
            let from = keys.iter().rposition(|key| *key <= at).unwrap_or(0);
            let ascending: Vec<u64> = postings.ascending(EventId(at)).map(|key| key.0).collect();
            prop_assert_eq!(&ascending[..], &keys[from..]);
            let descending: Vec<u64> = postings.descending(EventId(at)).map(|key| key.0).collect();
            let expected: Vec<u64> =
                keys.iter().rev().copied().filter(|key| *key <= at).collect();
            prop_assert_eq!(descending, expected);
            postings.forget(EventId(at));
            let left: Vec<u64> = postings.ascending(EventId(at + 1)).map(|key| key.0).collect();
            let expected: Vec<u64> = keys.iter().copied().filter(|key| *key > at).collect();
            prop_assert_eq!(&left[left.len() - expected.len()..], &expected[..]);
            prop_assert!(left.len() <= expected.len() + 1);
            key = keys.last().map_or(1, |last| last + 1);
            postings.push(EventId(key));
            prop_assert_eq!(postings.descending(EventId(key)).next(), Some(EventId(key)));
        }
    }

    #[test]
    fn appends_that_were_committed_alone_take_two_bytes_each() {
        let mut postings = Postings::default();
        for key in 0..32_000 {
            postings.push(EventId(1 + key * 100));
        }
        assert!(postings.ways.len() + postings.marks.len() * 16 < 2 * 32_000);
    }
}
