//! All that a world has ever committed, in a list.

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
        let CommittedEvent { event, labels } = &self.committed;
        spec.selection.admits_run(event.run_id, labels)
            && spec.selection.admits_type(&event.event_type)
    }
}

/// All that was ever committed.
#[derive(Debug, Default)]
pub(super) struct Journal {
    pub(super) events: Vec<Stored>,
    pub(super) runs: Vec<Run>,
    pub(super) end: EventId,
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
            .filter(|stored| stored.belongs_to(spec) && !self.is_deleted(stored))
            .collect()
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
        self.events.push(Stored { committed, envelope, payload });
    }

    pub(super) fn delete(&mut self, run: RunId, batch: &mut CommittedBatch) {
        self.end = self.end.next();
        batch.last_id = self.end;
        batch.deleted.push(run);
        self.runs[run.0 as usize - 1].deleted = Some(self.end);
    }
}
