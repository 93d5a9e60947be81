//! A journal beside its [`Model`], for the tests of what a disk does to it.

use std::sync::mpsc;

use super::*;
use crate::event::{Event, EventId, EventRef, RunId, Scope, Selection};
use crate::journal::RunSummary;
use crate::journal::history::{HistoryRequest, read_forward};
use crate::journal::model::{Done, Model, ModelRun, done};

/// The clock stands still, so that the model knows the time.
pub(super) const NOW: Timestamp = Timestamp(u64::MAX / 4);

/// What an open journal holds.
#[derive(Debug)]
pub(super) struct Found {
    last_id: EventId,
    runs: Vec<RunSummary>,
    events: Vec<Event>,
}

impl Found {
    /// All of it.
    pub(super) fn read(journal: &OpenJournal) -> Result<Found, StoreError> {
        let events = events(journal, Scope::All)?;
        let catalog = catalog::read(journal.catalog());
        let runs = (1..catalog.next_run().0).filter_map(|run| catalog.run(RunId(run))).collect();
        Ok(Found { last_id: catalog.last_id(), runs, events })
    }

    /// Whether it is what this model says.
    pub(super) fn is(&self, model: &Model) -> bool {
        self.last_id == model.last_id()
            && self.runs.iter().eq(&model.runs.values().map(ModelRun::summary).collect::<Vec<_>>())
            && self.events == model.select(&Selection { scope: Scope::All, types: None })
    }
}

/// The events of a scope.
pub(super) fn events(journal: &OpenJournal, scope: Scope) -> Result<Vec<Event>, StoreError> {
    let everything = HistoryRequest {
        selection: Selection { scope, types: None },
        after: EventId(0),
        upto: EventId(u64::MAX),
        events_max: usize::MAX,
        bytes_max: usize::MAX,
        values_max: usize::MAX,
    };
    let mut events = Vec::new();
    let mut visit = |event: &EventRef<'_>| {
        events.push(event.to_event());
        0
    };
    let read = read_forward(&**journal.store(), journal.catalog(), &everything, &mut visit)?;
    assert!(read.complete);
    Ok(events)
}

/// Commits one group, and says what each write was answered.
pub(super) fn commit(writer: &mut Writer, group: Vec<Write>) -> Vec<Result<Done, WriteError>> {
    let (sender, answers) = mpsc::channel();
    let group = group.into_iter().map(|write| {
        let sender = sender.clone();
        let reply: Reply = Box::new(move |answer| sender.send(done(answer)).unwrap());
        Waiting::new(write, reply)
    });
    writer.commit(group.collect());
    drop(sender);
    answers.iter().collect()
}
