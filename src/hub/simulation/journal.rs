//! All that a world has ever committed, in a list, and what retention has left of it.

use std::sync::Arc;

use crate::event::{Event, EventId, EventType, Format, Json, Labels, RunId, Timestamp};
use crate::hub::ViewSpec;
use crate::journal::{CommittedBatch, CommittedEvent};
use crate::wire::sse;

/// A run, as the journal knows it.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) labels: Arc<Labels>,
    pub(super) seq: u64,
    pub(super) newest: EventId,
    pub(super) ended: Option<EventId>,
    pub(super) deleted: Option<EventId>,
}

/// An event, with the frame of each format.
#[derive(Debug)]
pub(super) struct Stored {
    pub(super) committed: CommittedEvent,
    pub(super) envelope: Vec<u8>,
    pub(super) payload: Vec<u8>,
    /// Which of the world's removals has taken it.
    pub(super) removed: Option<u64>,
}

impl Stored {
    pub(super) fn id(&self) -> EventId {
        self.committed.event.id
    }

    pub(super) fn frame(&self, format: Format) -> &[u8] {
        match format {
            Format::Envelope => &self.envelope,
            Format::Payload => &self.payload,
        }
    }

    pub(super) fn belongs_to(&self, spec: &ViewSpec) -> bool {
        self.is_in_scope(spec) && spec.selection.admits_type(&self.committed.event.event_type)
    }

    /// Whether it does, but for its type.
    pub(super) fn is_in_scope(&self, spec: &ViewSpec) -> bool {
        let CommittedEvent { event, labels } = &self.committed;
        spec.selection.admits_run(event.run_id, labels)
    }
}

/// All that was ever committed.
#[derive(Debug, Default)]
pub(super) struct Journal {
    pub(super) events: Vec<Stored>,
    pub(super) runs: Vec<Run>,
    pub(super) end: EventId,
    /// How often retention has taken something.
    pub(super) removals: u64,
    /// Runs of which it has left nothing: the next commit says so.
    pub(super) vanished: Vec<RunId>,
}

impl Journal {
    pub(super) fn run(&self, run: RunId) -> &Run {
        &self.runs[run.0 as usize - 1]
    }

    pub(super) fn is_deleted(&self, stored: &Stored) -> bool {
        self.run(stored.committed.event.run_id).deleted.is_some()
    }

    /// Index of the first event after this cursor.
    pub(super) fn after(&self, cursor: EventId) -> usize {
        self.events.partition_point(|stored| stored.id() <= cursor)
    }

    pub(super) fn read(&self, spec: &ViewSpec, after: EventId, upto: EventId) -> Vec<&Stored> {
        self.events[self.after(after)..self.after(upto)]
            .iter()
            .filter(|stored| stored.belongs_to(spec) && self.is_there(stored))
            .collect()
    }

    fn is_there(&self, stored: &Stored) -> bool {
        stored.removed.is_none() && !self.is_deleted(stored)
    }

    /// The last event of those in the scope that retention has removed.
    pub(super) fn removed_through(&self, spec: &ViewSpec) -> EventId {
        let is_gone = |stored: &&Stored| stored.removed.is_some() && stored.is_in_scope(spec);
        self.events.iter().rev().find(is_gone).map_or(EventId(0), Stored::id)
    }

    /// Whether something is missing in what is read between the two. For a reader that looks at
    /// some of it only, more may seem to be.
    pub(super) fn is_truncated(&self, spec: &ViewSpec, after: EventId, upto: EventId) -> bool {
        self.events[self.after(after)..self.after(upto)].iter().any(|stored| {
            stored.removed.is_some() && stored.belongs_to(spec) && !self.is_deleted(stored)
        })
    }

    /// Retention takes everything up to this event.
    pub(super) fn remove_through(&mut self, upto: EventId) {
        let end = self.after(upto);
        self.removals += 1;
        for stored in &mut self.events[..end] {
            stored.removed.get_or_insert(self.removals);
        }
        self.find_vanished();
    }

    /// Retention takes all but the last events of a run.
    pub(super) fn keep_last(&mut self, run: RunId, count: usize) {
        self.removals += 1;
        let of_run = |stored: &&mut Stored| stored.committed.event.run_id == run;
        for stored in self.events.iter_mut().rev().filter(of_run).skip(count) {
            stored.removed.get_or_insert(self.removals);
        }
        self.find_vanished();
    }

    /// Runs that have ended and have nothing left are gone.
    fn find_vanished(&mut self) {
        for index in 0..self.runs.len() {
            let run = &self.runs[index];
            let id = RunId(index as u64 + 1);
            let mut events = self.events.iter();
            let is_left =
                |other: &Stored| other.removed.is_none() && other.committed.event.run_id == id;
            if run.ended.is_some() && run.deleted.is_none() && !events.any(is_left) {
                self.runs[index].deleted = Some(self.end);
                self.vanished.push(id);
            }
        }
    }

    /// Has a batch say which runs have vanished.
    pub(super) fn tell_vanished(&mut self, batch: &mut CommittedBatch) {
        batch.deleted.append(&mut self.vanished);
    }

    pub(super) fn append(
        &mut self,
        run: RunId,
        event_type: &str,
        payload: String,
        batch: &mut CommittedBatch,
    ) {
        self.end = self.end.next();
        batch.last_id = self.end;
        let known = &mut self.runs[run.0 as usize - 1];
        known.seq += 1;
        known.newest = self.end;
        let event = Event {
            id: self.end,
            run_id: run,
            seq: known.seq,
            event_type: EventType::new(event_type).unwrap(),
            payload: Json::from_trusted(payload),
            created_at: Timestamp(self.end.0),
        };
        if event.event_type.closes().is_some() {
            known.ended = Some(self.end);
        }
        let (mut envelope, mut payload) = (Vec::new(), Vec::new());
        sse::event(&mut envelope, &event.borrowed(), Format::Envelope);
        sse::event(&mut payload, &event.borrowed(), Format::Payload);
        let committed = CommittedEvent { event, labels: Arc::clone(&known.labels) };
        batch.events.push(committed.clone());
        self.events.push(Stored { committed, envelope, payload, removed: None });
    }

    pub(super) fn delete(&mut self, run: RunId, batch: &mut CommittedBatch) {
        self.end = self.end.next();
        batch.last_id = self.end;
        batch.deleted.push(run);
        self.runs[run.0 as usize - 1].deleted = Some(self.end);
    }
}
