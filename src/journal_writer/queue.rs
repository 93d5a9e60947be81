//! The writes that wait for the journal's writer: so many events and bytes, and outside of these
//! bounds, in the order in which they came, whoever waits for room.
//!
//! Whoever is outside may give up; who is within is answered by the writer. Nobody overtakes: a
//! small write also waits behind a large one for which there is no room yet.
//!
//! Invariant: somebody is outside only while somebody is within, so that a queue from which all is
//! taken leaves nobody behind.

use std::collections::VecDeque;

use super::Reply;
use crate::event::NewEvent;
use crate::journal::Write;
use crate::limits::{
    COMMIT_BYTES_MAX, COMMIT_EVENTS_MAX, EVENT_OVERHEAD_BYTES, WRITE_QUEUE_BYTES_MAX,
    WRITE_QUEUE_EVENTS_MAX,
};

/// Where a write waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In the queue: it will be answered.
    Queued,
    /// Outside, under this number, until there is room.
    Outside(u64),
}

/// See the module.
#[derive(Default)]
pub(super) struct Queue {
    within: VecDeque<Waiting>,
    events: usize,
    bytes: usize,
    /// In ascending order of the numbers.
    outside: VecDeque<(u64, Waiting)>,
    next_number: u64,
}

/// A write, and who waits for its answer.
pub(super) struct Waiting {
    pub(super) write: Write,
    pub(super) reply: Reply,
    events: usize,
    bytes: usize,
}

impl Waiting {
    pub(super) fn new(write: Write, reply: Reply) -> Waiting {
        let (events, bytes) = cost(&write);
        Waiting { write, reply, events, bytes }
    }
}

impl Queue {
    /// Events within the bounds.
    pub(super) fn events(&self) -> usize {
        self.events
    }

    /// Their bytes, with [`EVENT_OVERHEAD_BYTES`] for each.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// How many writes wait for room.
    pub(super) fn outside(&self) -> usize {
        self.outside.len()
    }

    /// Whether there is nothing to write.
    pub(super) fn is_empty(&self) -> bool {
        self.within.is_empty()
    }

    pub(super) fn push(&mut self, waiting: Waiting) -> Place {
        if self.outside.is_empty() && self.has_room(&waiting) {
            self.admit(waiting);
            return Place::Queued;
        }
        let number = self.next_number;
        self.next_number += 1;
        self.outside.push_back((number, waiting));
        Place::Outside(number)
    }

    /// Gives up waiting for room; `None` when there was some in the meantime.
    pub(super) fn withdraw(&mut self, number: u64) -> Option<Waiting> {
        let at = self.outside.binary_search_by_key(&number, |(number, _)| *number).ok()?;
        self.outside.remove(at).map(|(_, waiting)| waiting)
    }

    /// What the next commit is made of. Who is outside moves up.
    pub(super) fn take_group(&mut self) -> Vec<Waiting> {
        let mut group = Vec::new();
        let (mut events, mut bytes) = (0, 0);
        while events < COMMIT_EVENTS_MAX
            && bytes < COMMIT_BYTES_MAX
            && let Some(waiting) = self.within.pop_front()
        {
            events += waiting.events;
            bytes += waiting.bytes;
            group.push(waiting);
        }
        self.events -= events;
        self.bytes -= bytes;
        while let Some((_, first)) = self.outside.front()
            && self.has_room(first)
        {
            let (_, first) = self.outside.pop_front().expect("it is there");
            self.admit(first);
        }
        group
    }

    /// A write that is larger than the whole queue has room when nothing else is there.
    fn has_room(&self, waiting: &Waiting) -> bool {
        self.within.is_empty()
            || (self.events + waiting.events <= WRITE_QUEUE_EVENTS_MAX
                && self.bytes + waiting.bytes <= WRITE_QUEUE_BYTES_MAX)
    }

    fn admit(&mut self, waiting: Waiting) {
        self.events += waiting.events;
        self.bytes += waiting.bytes;
        self.within.push_back(waiting);
    }
}

/// What a write occupies: events and bytes.
fn cost(write: &Write) -> (usize, usize) {
    match write {
        Write::CreateRun { metadata, .. } => (1, metadata.as_str().len() + EVENT_OVERHEAD_BYTES),
        Write::Append { events, .. } => {
            let bytes = |event: &NewEvent| {
                event.event_type.as_str().len()
                    + event.payload.as_str().len()
                    + EVENT_OVERHEAD_BYTES
            };
            (events.len(), events.iter().map(bytes).sum())
        }
        Write::EndRun { payload, .. } => (1, payload.as_str().len() + EVENT_OVERHEAD_BYTES),
        Write::DeleteRun { .. } => (1, EVENT_OVERHEAD_BYTES),
    }
}

#[cfg(test)]
mod tests {
    use rand::RngExt;

    use super::*;
    use crate::event::RunId;
    use crate::journal::IfMatch;
    use crate::journal::model::seeded;

    /// A write that can be told by its run, and is said to be of so many bytes.
    fn waiting(run: u64, bytes: usize) -> Waiting {
        let write = Write::DeleteRun { run: RunId(run), if_match: IfMatch::Any };
        Waiting { bytes, ..Waiting::new(write, Box::new(|_| {})) }
    }

    fn run(waiting: &Waiting) -> u64 {
        let Write::DeleteRun { run, .. } = &waiting.write else { panic!("it was pushed") };
        run.0
    }

    /// Beside a list of those that are there: all of them come, in order, but those that gave up.
    #[test]
    fn nobody_overtakes_and_nobody_is_forgotten() {
        let mut rng = seeded();
        let mut queue = Queue::default();
        let mut expected: VecDeque<(u64, Place)> = VecDeque::new();
        let (mut was_outside, mut gave_up) = (0, 0);
        for number in 0..2_000 {
            let megabytes = if rng.random_bool(0.05) { 70 } else { rng.random_range(0..10) };
            match queue.push(waiting(number, megabytes << 20)) {
                Place::Queued => expected.push_back((number, Place::Queued)),
                place @ Place::Outside(_) => {
                    was_outside += 1;
                    expected.push_back((number, place));
                }
            }
            if rng.random_bool(0.2) {
                let at = rng.random_range(0..expected.len());
                if let Place::Outside(key) = expected[at].1
                    && let Some(withdrawn) = queue.withdraw(key)
                {
                    gave_up += 1;
                    assert_eq!(run(&withdrawn), expected.remove(at).unwrap().0);
                    assert!(queue.withdraw(key).is_none());
                }
            }
            if rng.random_bool(0.6) {
                for taken in queue.take_group() {
                    assert_eq!(run(&taken), expected.pop_front().unwrap().0);
                }
            }
            let is_alone = queue.within.len() == 1;
            assert!(queue.bytes() <= WRITE_QUEUE_BYTES_MAX || is_alone);
            assert!(queue.outside() == 0 || !queue.is_empty());
            assert_eq!(queue.within.len() + queue.outside(), expected.len());
        }
        while !queue.is_empty() {
            for taken in queue.take_group() {
                assert_eq!(run(&taken), expected.pop_front().unwrap().0);
            }
        }
        assert!(expected.is_empty());
        assert_eq!((queue.events(), queue.bytes()), (0, 0));
        assert!(was_outside > 100 && gave_up > 10, "{was_outside} outside, {gave_up} gave up");
    }
}
