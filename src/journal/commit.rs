//! What happens to a write: the rules, without a clock, a thread or a disk.
//!
//! ```text
//!  stage, stage, stage ──▶ seal ──▶ the store ──┬─▶ committed: catalog changed, answers, batch
//!  (each decided on the catalog and on          │
//!   what is staged before it)                   └─▶ failed: forgotten, answers
//! ```
//!
//! Invariants: nothing that is staged is seen by anybody before [`Committer::committed`]; a write
//! is staged whole or not at all; after `committed` and after `failed` nothing is staged.

use std::collections::HashMap;
use std::ops::{ControlFlow, Range};
use std::sync::Arc;

use super::catalog::Catalog;
use super::codec::{
    DecodeError, Decoder, Encoder, KeyRecord, KeyScope, Preface, Record, run_created_payload,
};
use super::once::{KeyState, OnceStates, ProducerState};
use super::opening;
use super::store::{Store, StoreError};
use super::{
    CommittedBatch, CommittedEvent, IdempotencyKey, IfMatch, Once, Producer, RunHead, RunSummary,
    Write, WriteError, WriteResult, Written,
};
use crate::event::{
    Event, EventId, EventType, Json, Labels, NewEvent, RunId, RunStatus, Timestamp,
};

/// Decides writes, a group at a time.
#[derive(Debug)]
pub struct Committer {
    once: OnceStates,
    group: Option<Group>,
    values: Vec<(EventId, Vec<u8>)>,
}

/// A journal that was read.
#[derive(Debug)]
pub struct Opened {
    /// Goes on from there.
    pub committer: Committer,
    /// What was committed to it.
    pub catalog: Catalog,
    /// Bytes of the log that have not been moved.
    pub log_bytes: u64,
}

/// A group that is on disk.
#[derive(Debug)]
pub struct Committed {
    /// What it has appended and deleted: empty if every write of it was refused or done before.
    pub batch: Arc<CommittedBatch>,
    /// The answer to each write, in the order of their staging.
    pub answers: Vec<WriteResult>,
}

/// What is staged.
#[derive(Debug)]
struct Group {
    encoder: Encoder,
    next_run: RunId,
    events: Vec<CommittedEvent>,
    deleted: Vec<(EventId, RunId)>,
    /// The runs that it touches, as they are after it; `None` for one that it deletes.
    runs: HashMap<RunId, Option<StagedRun>>,
    /// Its keys; those of creations under run 0.
    keys: HashMap<(RunId, Box<str>), KeyState>,
    producers: HashMap<(RunId, Box<str>), ProducerState>,
    /// What `keys`, `producers` and deletions do to what is remembered, in order.
    once_changes: Vec<OnceChange>,
    answers: Vec<Answer>,
}

#[derive(Clone, Debug)]
struct StagedRun {
    head: RunHead,
    labels: Arc<Labels>,
    /// Of a run that the group creates; the catalog has the others'.
    metadata: Option<Arc<Json>>,
}

#[derive(Debug)]
enum OnceChange {
    Key(KeyScope, Box<str>, KeyState),
    Producer(RunId, Box<str>, ProducerState),
    Deletion(RunId),
}

#[derive(Debug)]
enum Answer {
    /// It holds once the group is committed.
    Staged(WriteResult),
    /// The same for appended events.
    Appended(Range<usize>),
    /// It holds whatever happens to the group.
    Settled(WriteResult),
}

impl Committer {
    /// A committer for a new journal, which remembers at most `keys_max` idempotency keys.
    pub fn new(keys_max: usize) -> Committer {
        Committer { once: OnceStates::new(keys_max), group: None, values: Vec::new() }
    }

    /// Reads a journal, what was moved and then the log: where every run stands, and the committer
    /// that goes on from there.
    ///
    /// # Errors
    /// When it cannot be read, or is not as it was written.
    pub fn open(store: &dyn Store, keys_max: usize) -> Result<Opened, StoreError> {
        let mut catalog = Catalog::default();
        let mut once = OnceStates::new(keys_max);
        opening::load(store, &mut catalog, &mut once)?;
        let moved_through = catalog.moved_through();
        let mut corrupt = None;
        let mut log_bytes = 0;
        store.scan(moved_through.next(), &mut |key, value| {
            // What was moved may still be here: it is removed without a sync.
            if key <= moved_through {
                return ControlFlow::Continue(());
            }
            log_bytes += value.len() as u64;
            match apply_value(key, value, &mut catalog, &mut once) {
                Ok(()) => ControlFlow::Continue(()),
                Err(error) => {
                    corrupt = Some(StoreError::Corrupt { key, error });
                    ControlFlow::Break(())
                }
            }
        })?;
        let committer = Committer { once, group: None, values: Vec::new() };
        corrupt.map_or(Ok(Opened { committer, catalog, log_bytes }), Err)
    }

    /// What is remembered of keys and producers.
    pub fn once(&self) -> &OnceStates {
        &self.once
    }

    /// Decides a write, on the catalog and on what is staged before it.
    pub fn stage(&mut self, write: Write, now: Timestamp, catalog: &Catalog) {
        debug_assert!(self.values.is_empty(), "the group before is not sealed and under way");
        let group = self.group.get_or_insert_with(|| Group::new(catalog));
        let mut stage = Stage { once: &self.once, catalog, group, now };
        let answer = stage.write(write);
        group.answers.push(answer);
    }

    /// Closes the group: the values to be stored, in the order of their keys. None when there is
    /// nothing to store. [`Committer::committed`] or [`Committer::failed`] must follow.
    pub fn seal(&mut self) -> &[(EventId, Vec<u8>)] {
        if let Some(group) = &mut self.group {
            let next_id = group.encoder.next_id();
            self.values = std::mem::replace(&mut group.encoder, Encoder::new(next_id)).finish();
        }
        &self.values
    }

    /// The sealed values are on disk: changes the catalog, and tells what was done.
    pub fn committed(&mut self, catalog: &mut Catalog) -> Committed {
        let values = std::mem::take(&mut self.values);
        let Some(group) = self.group.take() else {
            return Committed { batch: Arc::default(), answers: Vec::new() };
        };
        apply_group(&group, &values, catalog);
        let mut deleted: Vec<RunId> = group.deleted.into_iter().map(|(_, run)| run).collect();
        if !group.events.is_empty() || !deleted.is_empty() {
            // Runs that retention has removed are as good as deleted.
            for run in catalog.take_vanished() {
                self.once.apply_deletion(run);
                deleted.push(run);
            }
        }
        for change in group.once_changes {
            match change {
                OnceChange::Key(scope, key, state) => self.once.apply_key(scope, &key, state),
                OnceChange::Producer(run, id, state) => self.once.apply_producer(run, &id, state),
                OnceChange::Deletion(run) => self.once.apply_deletion(run),
            }
        }
        let batch =
            Arc::new(CommittedBatch { last_id: catalog.last_id(), events: group.events, deleted });
        let answers = group
            .answers
            .into_iter()
            .map(|answer| match answer {
                Answer::Staged(result) | Answer::Settled(result) => result,
                Answer::Appended(range) => {
                    Ok(Written::Appended { batch: Arc::clone(&batch), range })
                }
            })
            .collect();
        Committed { batch, answers }
    }

    /// The sealed values are not on disk: forgets the group. Writes that were refused, or done
    /// before, whatever became of the group, are answered so; the others with the error.
    pub fn failed(&mut self, error: &WriteError) -> Vec<WriteResult> {
        self.values.clear();
        let answers = self.group.take().map(|group| group.answers).unwrap_or_default();
        let answer = |answer| match answer {
            Answer::Settled(result) => result,
            Answer::Staged(_) | Answer::Appended(_) => Err(error.clone()),
        };
        answers.into_iter().map(answer).collect()
    }
}

/// Takes in a stored value.
fn apply_value(
    key: EventId,
    value: &[u8],
    catalog: &mut Catalog,
    once: &mut OnceStates,
) -> Result<(), DecodeError> {
    let records = Decoder::new(value)?;
    if records.first_id() != key {
        return Err(DecodeError::Malformed("it belongs under another key"));
    }
    for record in records {
        match record? {
            Record::Event(event) => catalog.apply_event(key, &event)?,
            Record::RunDeleted { id, run } => {
                catalog.apply_deletion(id, run)?;
                once.apply_deletion(run);
            }
            Record::Key { scope, run, key, fingerprint, first_id, count, time } => {
                // It stands before the events that it is about.
                let first_seq = catalog.head(run).map_or(0, |head| head.event_count) + 1;
                let state = KeyState { run, fingerprint, first_id, first_seq, count, time };
                once.apply_key(scope, key, state);
            }
            Record::Producer { run, id, epoch, seq, first_id } => {
                let state = ProducerState { epoch, last_seq: seq, heard: first_id };
                once.apply_producer(run, id, state);
            }
        }
    }
    Ok(())
}

/// Takes in a group that was stored in these values, in the order of the ids.
fn apply_group(group: &Group, values: &[(EventId, Vec<u8>)], catalog: &mut Catalog) {
    let mut values = values.iter().map(|(key, _)| *key).peekable();
    let mut value = EventId(0);
    let mut deleted = group.deleted.iter().peekable();
    for event in &group.events {
        let event = event.event.borrowed();
        while let Some((id, run)) = deleted.next_if(|(id, _)| *id < event.id) {
            catalog.apply_deletion(*id, *run).expect("it was decided on this catalog");
        }
        while let Some(key) = values.next_if(|key| *key <= event.id) {
            value = key;
        }
        catalog.apply_event(value, &event).expect("it was decided on this catalog");
    }
    for (id, run) in deleted {
        catalog.apply_deletion(*id, *run).expect("it was decided on this catalog");
    }
}

impl Group {
    fn new(catalog: &Catalog) -> Group {
        Group {
            encoder: Encoder::new(catalog.next_id()),
            next_run: catalog.next_run(),
            events: Vec::new(),
            deleted: Vec::new(),
            runs: HashMap::new(),
            keys: HashMap::new(),
            producers: HashMap::new(),
            once_changes: Vec::new(),
            answers: Vec::new(),
        }
    }
}

/// One write on its way into the group.
struct Stage<'a> {
    once: &'a OnceStates,
    catalog: &'a Catalog,
    group: &'a mut Group,
    now: Timestamp,
}

impl Stage<'_> {
    fn write(&mut self, write: Write) -> Answer {
        match write {
            Write::CreateRun { labels, metadata, key } => self.create(labels, metadata, key),
            Write::Append { run, events, once, if_match } => {
                // Whether the answer rests on the catalog alone, should nothing be appended.
                let settled = !self.group.runs.contains_key(&run);
                match self.append(run, events, once, &if_match) {
                    Ok(range) => Answer::Appended(range),
                    Err(result) if settled => Answer::Settled(result),
                    Err(result) => Answer::Staged(result),
                }
            }
            Write::EndRun { run, status, payload, if_match } => {
                let settled = !self.group.runs.contains_key(&run);
                match self.end(run, status, payload, &if_match) {
                    Ok(summary) => Answer::Staged(Ok(Written::Ended(summary))),
                    Err(result) if settled => Answer::Settled(result),
                    Err(result) => Answer::Staged(result),
                }
            }
            Write::DeleteRun { run, if_match } => {
                let settled = !self.group.runs.contains_key(&run);
                match self.delete(run, &if_match) {
                    Ok(()) => Answer::Staged(Ok(Written::Deleted)),
                    Err(error) if settled => Answer::Settled(Err(error)),
                    Err(error) => Answer::Staged(Err(error)),
                }
            }
        }
    }

    fn create(&mut self, labels: Labels, metadata: Json, key: Option<IdempotencyKey>) -> Answer {
        if let Some(key) = &key
            && let Some((state, staged)) = self.creation_key(&key.key)
        {
            let result = if state.fingerprint == key.fingerprint {
                Ok(Written::CreatedBefore { run: state.run, first_id: state.first_id })
            } else {
                Err(WriteError::KeyReused)
            };
            return if staged { Answer::Staged(result) } else { Answer::Settled(result) };
        }
        let id = self.group.next_run;
        self.group.next_run = RunId(id.0 + 1);
        let event = NewEvent {
            event_type: EventType::run_created(),
            payload: run_created_payload(&labels, &metadata),
        };
        let mut run = StagedRun {
            head: RunHead {
                status: RunStatus::Running,
                created_at: self.now,
                updated_at: self.now,
                last_event_id: EventId(0),
                event_count: 0,
            },
            labels: Arc::new(labels),
            metadata: Some(Arc::new(metadata)),
        };
        let once = key.map_or(Once::No, Once::Key);
        self.push_events(id, &mut run, vec![event], once, KeyScope::Creation);
        let summary = run.summary(id, self.catalog);
        self.group.runs.insert(id, Some(run));
        Answer::Staged(Ok(Written::Created(summary)))
    }

    /// Which events of the group they are, or else the answer.
    fn append(
        &mut self,
        id: RunId,
        events: Vec<NewEvent>,
        once: Once,
        if_match: &IfMatch,
    ) -> Result<Range<usize>, WriteResult> {
        assert!(!events.is_empty(), "an append without events is refused at the edge");
        let mut run = self.run(id).map_err(Err)?;
        match &once {
            Once::No => {}
            Once::Key(key) => self.check_key(id, key)?,
            Once::Producer(producer) => self.check_producer(id, producer)?,
        }
        if run.head.status.has_ended() {
            return Err(Err(WriteError::RunEnded(run.head.status)));
        }
        check_if_match(&run, if_match).map_err(Err)?;
        let range = self.push_events(id, &mut run, events, once, KeyScope::Run);
        self.group.runs.insert(id, Some(run));
        Ok(range)
    }

    /// The run that was ended now, or else the answer.
    fn end(
        &mut self,
        id: RunId,
        status: RunStatus,
        payload: Json,
        if_match: &IfMatch,
    ) -> Result<RunSummary, WriteResult> {
        let event_type = status.closing_event().expect("a run is not ended as running");
        let mut run = self.run(id).map_err(Err)?;
        if run.head.status == status {
            return Err(Ok(Written::Ended(run.summary(id, self.catalog))));
        }
        if run.head.status.has_ended() {
            return Err(Err(WriteError::RunEnded(run.head.status)));
        }
        check_if_match(&run, if_match).map_err(Err)?;
        run.head.status = status;
        let event = NewEvent { event_type, payload };
        self.push_events(id, &mut run, vec![event], Once::No, KeyScope::Run);
        let summary = run.summary(id, self.catalog);
        self.group.runs.insert(id, Some(run));
        Ok(summary)
    }

    fn delete(&mut self, id: RunId, if_match: &IfMatch) -> Result<(), WriteError> {
        let run = self.run(id)?;
        check_if_match(&run, if_match)?;
        self.group.deleted.push((self.group.encoder.next_id(), id));
        self.group.encoder.run_deleted(id, self.now);
        self.group.once_changes.push(OnceChange::Deletion(id));
        self.group.runs.insert(id, None);
        Ok(())
    }

    /// A run as it is after what is staged.
    fn run(&self, id: RunId) -> Result<StagedRun, WriteError> {
        if let Some(staged) = self.group.runs.get(&id) {
            return staged.clone().ok_or(WriteError::NoSuchRun(id));
        }
        let head = self.catalog.head(id).ok_or(WriteError::NoSuchRun(id))?;
        let labels = self.catalog.labels(id).expect("it has a head");
        Ok(StagedRun { head, labels: Arc::clone(labels), metadata: None })
    }

    /// What was created with this key, and whether that rests on what is staged.
    fn creation_key(&self, key: &str) -> Option<(KeyState, bool)> {
        // The run may have been deleted by the group, or removed by retention, and its key with it.
        let is_there = |state: &KeyState| match self.group.runs.get(&state.run) {
            Some(staged) => staged.is_some(),
            None => self.catalog.contains(state.run),
        };
        let staged = self.group.keys.get(&(RunId(0), key.into())).copied();
        if let Some(state) = staged.filter(is_there) {
            return Some((state, true));
        }
        let state = self.once.key(KeyScope::Creation, RunId(0), key, self.now).filter(is_there)?;
        Some((state, false))
    }

    fn check_key(&self, run: RunId, key: &IdempotencyKey) -> Result<(), WriteResult> {
        let state = match self.group.keys.get(&(run, key.key.clone())) {
            Some(state) => *state,
            None => match self.once.key(KeyScope::Run, run, &key.key, self.now) {
                Some(state) => state,
                None => return Ok(()),
            },
        };
        Err(if state.fingerprint == key.fingerprint {
            let KeyState { first_id, first_seq, count, time: created_at, .. } = state;
            Ok(Written::AppendedBefore { run, first_id, first_seq, count, created_at })
        } else {
            Err(WriteError::KeyReused)
        })
    }

    fn producer(&self, run: RunId, id: &str) -> Option<ProducerState> {
        let staged = self.group.producers.get(&(run, id.into())).copied();
        staged.or_else(|| self.once.producer(run, id))
    }

    fn check_producer(&self, run: RunId, producer: &Producer) -> Result<(), WriteResult> {
        let expected = match self.producer(run, &producer.id) {
            Some(ProducerState { epoch, .. }) if producer.epoch < epoch => {
                return Err(Err(WriteError::ProducerFenced { current: epoch }));
            }
            Some(ProducerState { epoch, last_seq, .. }) if producer.epoch == epoch => {
                if producer.seq <= last_seq {
                    return Err(Ok(Written::Duplicate { epoch, last_seq }));
                }
                last_seq + 1
            }
            Some(_) | None => 0,
        };
        if producer.seq == expected {
            Ok(())
        } else {
            Err(Err(WriteError::ProducerGap { expected }))
        }
    }

    /// Gives the events their places, after what keeps them from being appended twice.
    fn push_events(
        &mut self,
        id: RunId,
        run: &mut StagedRun,
        events: Vec<NewEvent>,
        once: Once,
        scope: KeyScope,
    ) -> Range<usize> {
        let first_id = self.group.encoder.next_id();
        let created_at = self.now.max(run.head.updated_at);
        let first_seq = run.head.event_count + 1;
        let count = events.len() as u64;
        let mut preface = match &once {
            Once::No => None,
            Once::Key(IdempotencyKey { key, fingerprint }) => {
                Some(Preface::Key(KeyRecord { scope, key, fingerprint: *fingerprint, count }))
            }
            Once::Producer(Producer { id, epoch, seq }) => {
                Some(Preface::Producer { id, epoch: *epoch, seq: *seq })
            }
        };
        let start = self.group.events.len();
        for NewEvent { event_type, payload } in events {
            run.head.event_count += 1;
            let event = Event {
                id: self.group.encoder.next_id(),
                run_id: id,
                seq: run.head.event_count,
                event_type,
                payload,
                created_at,
            };
            run.head.last_event_id = event.id;
            self.group.encoder.event(&event.borrowed(), preface.take());
            self.group.events.push(CommittedEvent { event, labels: Arc::clone(&run.labels) });
        }
        run.head.updated_at = created_at;
        match once {
            Once::No => {}
            Once::Key(IdempotencyKey { key, fingerprint }) => {
                let time = created_at;
                let state = KeyState { run: id, fingerprint, first_id, first_seq, count, time };
                let of = if scope == KeyScope::Creation { RunId(0) } else { id };
                self.group.keys.insert((of, key.clone()), state);
                self.group.once_changes.push(OnceChange::Key(scope, key, state));
            }
            Once::Producer(producer) => {
                let Producer { epoch, seq: last_seq, .. } = producer;
                let state = ProducerState { epoch, last_seq, heard: first_id };
                self.group.producers.insert((id, producer.id.clone()), state);
                self.group.once_changes.push(OnceChange::Producer(id, producer.id, state));
            }
        }
        start..self.group.events.len()
    }
}

impl StagedRun {
    fn summary(&self, id: RunId, catalog: &Catalog) -> RunSummary {
        let metadata = self.metadata.as_deref().or_else(|| catalog.metadata(id));
        RunSummary {
            id,
            labels: Arc::clone(&self.labels),
            status: self.head.status,
            metadata: metadata.expect("staged or known").clone(),
            created_at: self.head.created_at,
            updated_at: self.head.updated_at,
            last_event_id: self.head.last_event_id,
            event_count: self.head.event_count,
        }
    }
}

fn check_if_match(run: &StagedRun, if_match: &IfMatch) -> Result<(), WriteError> {
    match if_match {
        IfMatch::Any => Ok(()),
        IfMatch::LastEvent(ids) if ids.contains(&run.head.last_event_id) => Ok(()),
        IfMatch::LastEvent(_) => Err(WriteError::MovedOn(run.head.last_event_id)),
    }
}

#[cfg(test)]
mod tests {
    use crate::limits::PRODUCERS_PER_RUN_MAX;
    use std::sync::RwLock;

    use rand::RngExt;

    use super::*;
    use crate::event::Label;
    use crate::journal::catalog::{RunFilter, list_runs, projects};
    use crate::journal::memory::MemoryStore;
    use crate::journal::model::{Done, Model, done, seeded};

    /// A journal in memory, one group at a time.
    struct Journal {
        store: MemoryStore,
        committer: Committer,
        catalog: Catalog,
    }

    impl Journal {
        fn new() -> Journal {
            let store = MemoryStore::default();
            let Opened { committer, catalog, .. } = Committer::open(&store, 1_000).unwrap();
            Journal { store, committer, catalog }
        }

        fn group(&mut self, writes: &[Write], now: u64) -> Vec<Result<Done, WriteError>> {
            for write in writes {
                self.committer.stage(write.clone(), Timestamp(now), &self.catalog);
            }
            self.store.append(self.committer.seal(), true).unwrap();
            let committed = self.committer.committed(&mut self.catalog);
            assert_eq!(committed.batch.last_id, self.catalog.last_id());
            self.catalog.invariants();
            committed.answers.into_iter().map(done).collect()
        }

        fn one(&mut self, write: Write) -> Result<Done, WriteError> {
            self.group(&[write], 1_000).remove(0)
        }

        fn assert_same_when_reopened(&self) {
            let Opened { committer, catalog, .. } = Committer::open(&self.store, 1_000).unwrap();
            assert_eq!(committer.once, self.committer.once);
            assert_eq!(catalog, self.catalog);
        }
    }

    fn create(key: Option<&str>) -> Write {
        let labels = Labels { project: Some(Label::new("p").unwrap()), session: None };
        let key = key.map(|key| IdempotencyKey { key: key.into(), fingerprint: 1 });
        Write::CreateRun { labels, metadata: Json::null(), key }
    }

    fn append_once(run: u64, once: Once) -> Write {
        let event = NewEvent { event_type: EventType::new("A").unwrap(), payload: Json::null() };
        Write::Append { run: RunId(run), events: vec![event], once, if_match: IfMatch::Any }
    }

    fn append(run: u64) -> Write {
        append_once(run, Once::No)
    }

    fn key(key: &str, fingerprint: u128) -> Once {
        Once::Key(IdempotencyKey { key: key.into(), fingerprint })
    }

    fn producer(epoch: u64, seq: u64) -> Once {
        Once::Producer(Producer { id: "p".into(), epoch, seq })
    }

    fn end(run: u64, status: RunStatus) -> Write {
        Write::EndRun { run: RunId(run), status, payload: Json::null(), if_match: IfMatch::Any }
    }

    fn delete(run: u64) -> Write {
        Write::DeleteRun { run: RunId(run), if_match: IfMatch::Any }
    }

    fn ids(done: &Result<Done, WriteError>) -> Vec<(u64, u64)> {
        match done {
            Ok(Done::Appended(events)) => {
                events.iter().map(|event| (event.id.0, event.seq)).collect()
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn later_writes_of_a_group_see_the_earlier_ones() {
        let mut journal = Journal::new();
        let answers = journal.group(
            &[
                create(None),
                append(1),
                append(1),
                end(1, RunStatus::Failed),
                append(1),
                end(1, RunStatus::Failed),
                end(1, RunStatus::Completed),
                delete(1),
                append(1),
                create(None),
            ],
            1_000,
        );
        assert_eq!(ids(&answers[1]), [(2, 2)]);
        assert_eq!(ids(&answers[2]), [(3, 3)]);
        assert!(matches!(&answers[3], Ok(Done::Ended(run)) if run.last_event_id == EventId(4)));
        assert_eq!(answers[4], Err(WriteError::RunEnded(RunStatus::Failed)));
        assert_eq!(answers[5], answers[3]);
        assert_eq!(answers[6], Err(WriteError::RunEnded(RunStatus::Failed)));
        assert_eq!(answers[7], Ok(Done::Deleted));
        assert_eq!(answers[8], Err(WriteError::NoSuchRun(RunId(1))));
        assert!(matches!(&answers[9], Ok(Done::Created(run)) if run.id == RunId(2)));
        assert_eq!(journal.catalog.last_id(), EventId(6));
        journal.assert_same_when_reopened();
    }

    #[test]
    fn nothing_is_seen_of_a_group_that_failed() {
        let mut journal = Journal::new();
        journal.one(create(None)).unwrap();
        journal.one(append_once(1, key("k", 1))).unwrap();
        let writes = [
            append(1),
            create(Some("c")),
            create(Some("c")),
            append_once(1, key("k", 1)),
            append(9),
            append(2),
        ];
        for write in writes {
            journal.committer.stage(write, Timestamp(1), &journal.catalog);
        }
        assert_eq!(journal.committer.seal().len(), 1);
        let answers: Vec<_> =
            journal.committer.failed(&WriteError::DiskFull).into_iter().map(done).collect();
        let full = Err(WriteError::DiskFull);
        assert_eq!(answers[..4], [full.clone(), full.clone(), full.clone(), full.clone()]);
        // What does not depend on the group is answered all the same.
        assert_eq!(answers[4], Err(WriteError::NoSuchRun(RunId(9))));
        assert_eq!(answers[5], full);
        journal.assert_same_when_reopened();
        assert!(matches!(journal.one(create(Some("c"))), Ok(Done::Created(_))));
        assert_eq!(ids(&journal.one(append(1))), [(4, 3)]);
    }

    #[test]
    fn a_replayed_key_wins_over_ended_and_if_match() {
        let mut journal = Journal::new();
        journal.one(create(None)).unwrap();
        journal.one(append_once(1, key("k", 1))).unwrap();
        journal.one(end(1, RunStatus::Completed)).unwrap();
        let before = Ok(Done::AppendedBefore(RunId(1), EventId(2), 1));
        let mut again = append_once(1, key("k", 1));
        assert_eq!(journal.one(again.clone()), before);
        let Write::Append { if_match, .. } = &mut again else { unreachable!() };
        *if_match = IfMatch::LastEvent([EventId(99)].into());
        assert_eq!(journal.one(again), before);
        assert_eq!(journal.one(append_once(1, key("k", 2))), Err(WriteError::KeyReused));
        assert_eq!(
            journal.one(append_once(1, key("other", 1))),
            Err(WriteError::RunEnded(RunStatus::Completed))
        );
        journal.assert_same_when_reopened();
    }

    #[test]
    fn producers_are_taken_in_their_order() {
        let mut journal = Journal::new();
        journal.one(create(None)).unwrap();
        let mut send = |epoch, seq| journal.one(append_once(1, producer(epoch, seq)));
        assert_eq!(send(0, 1), Err(WriteError::ProducerGap { expected: 0 }));
        assert!(send(0, 0).is_ok());
        assert_eq!(send(0, 0), Ok(Done::Duplicate(0, 0)));
        assert_eq!(send(0, 2), Err(WriteError::ProducerGap { expected: 1 }));
        assert!(send(0, 1).is_ok());
        assert_eq!(send(5, 1), Err(WriteError::ProducerGap { expected: 0 }));
        assert!(send(5, 0).is_ok());
        assert_eq!(send(4, 0), Err(WriteError::ProducerFenced { current: 5 }));
        journal.one(end(1, RunStatus::Completed)).unwrap();
        let mut send = |epoch, seq| journal.one(append_once(1, producer(epoch, seq)));
        assert_eq!(send(5, 0), Ok(Done::Duplicate(5, 0)));
        assert_eq!(send(5, 1), Err(WriteError::RunEnded(RunStatus::Completed)));
        journal.assert_same_when_reopened();
    }

    #[test]
    fn a_run_remembers_so_many_producers_and_forgets_the_one_that_is_silent_for_longest() {
        let mut journal = Journal::new();
        let numbered = |number: usize| {
            let id = format!("p{number}").into();
            append_once(1, Once::Producer(Producer { id, epoch: 0, seq: 0 }))
        };
        let writes: Vec<Write> =
            std::iter::once(create(None)).chain((0..PRODUCERS_PER_RUN_MAX).map(numbered)).collect();
        assert!(journal.group(&writes, 1).iter().all(Result::is_ok));
        assert_eq!(journal.one(numbered(0)), Ok(Done::Duplicate(0, 0)));
        assert!(journal.one(numbered(PRODUCERS_PER_RUN_MAX)).is_ok());
        assert_eq!(journal.one(numbered(1)), Ok(Done::Duplicate(0, 0)));
        let first = Once::Producer(Producer { id: "p0".into(), epoch: 0, seq: 1 });
        assert_eq!(
            journal.one(append_once(1, first)),
            Err(WriteError::ProducerGap { expected: 0 })
        );
        journal.assert_same_when_reopened();
    }

    #[test]
    fn time_does_not_go_backwards_inside_a_run() {
        let mut journal = Journal::new();
        journal.group(&[create(None)], 5_000);
        journal.group(&[append(1)], 4_000);
        let run = journal.catalog.run(RunId(1)).unwrap();
        assert_eq!((run.created_at, run.updated_at), (Timestamp(5_000), Timestamp(5_000)));
    }

    #[test]
    fn ids_of_runs_are_not_reused_after_a_restart() {
        let mut journal = Journal::new();
        journal.group(&[create(None), create(None)], 1);
        journal.one(delete(2)).unwrap();
        let Opened { committer, catalog, .. } = Committer::open(&journal.store, 10).unwrap();
        let mut journal = Journal { store: journal.store, committer, catalog };
        assert!(matches!(journal.one(create(None)), Ok(Done::Created(run)) if run.id == RunId(3)));
        assert_eq!(journal.catalog.last_id(), EventId(4));
    }

    #[test]
    fn a_key_whose_run_was_deleted_creates_another() {
        let mut journal = Journal::new();
        journal.one(create(Some("c"))).unwrap();
        let answers = journal.group(&[create(Some("c")), delete(1), create(Some("c"))], 1_000);
        assert_eq!(answers[0], Ok(Done::CreatedBefore(RunId(1), EventId(1))));
        assert!(matches!(&answers[2], Ok(Done::Created(run)) if run.id == RunId(2)));
        // The same when it was given in the group itself.
        let answers = journal.group(&[create(Some("d")), delete(3), create(Some("d"))], 1_000);
        assert!(matches!(&answers[2], Ok(Done::Created(run)) if run.id == RunId(4)));
        journal.assert_same_when_reopened();
    }

    #[test]
    fn a_damaged_journal_is_not_opened() {
        let mut journal = Journal::new();
        journal.one(create(None)).unwrap();
        let mut newer = Encoder::new(EventId(2)).finish();
        newer.push((EventId(2), vec![9; 30]));
        journal.store.append(&newer, true).unwrap();
        let error = Committer::open(&journal.store, 10).unwrap_err();
        assert_eq!(error, StoreError::Corrupt { key: EventId(2), error: DecodeError::Newer(9) });
    }

    /// Against [`Model`]: any writes, grouped anyhow, some groups failing, give the same answers
    /// as one write after the other; and the journal is the same when it is opened again.
    #[test]
    fn groups_answer_as_one_write_after_the_other() {
        let mut rng = seeded();
        for _ in 0..30 {
            let mut journal = Journal::new();
            let mut model = Model::default();
            let mut now = 1_000;
            for _ in 0..60 {
                now = (now + rng.random_range(0..5_u64)).saturating_sub(rng.random_range(0..3));
                let fails = rng.random_bool(0.1);
                let before = model.clone();
                let mut expected = Vec::new();
                for _ in 0..rng.random_range(0..20) {
                    let write = model.random_write(&mut rng);
                    journal.committer.stage(write.clone(), Timestamp(now), &journal.catalog);
                    expected.push(model.write(write, Timestamp(now)));
                }
                let values = journal.committer.seal();
                if fails {
                    let answers = journal.committer.failed(&WriteError::DiskFull);
                    assert_eq!(answers.len(), expected.len());
                    for (answer, expected) in answers.into_iter().zip(expected) {
                        let answer = done(answer);
                        assert!(answer == Err(WriteError::DiskFull) || answer == expected);
                    }
                    model = before;
                    continue;
                }
                journal.store.append(values, true).unwrap();
                let committed = journal.committer.committed(&mut journal.catalog);
                for event in &committed.batch.events {
                    assert!(event.event.id <= committed.batch.last_id);
                }
                let answers: Vec<_> = committed.answers.into_iter().map(done).collect();
                assert_eq!(answers, expected);
                journal.catalog.invariants();
            }
            assert_eq!(journal.catalog.last_id(), model.last_id());
            journal.assert_same_when_reopened();
            check_lists(&mut rng, &model, journal.catalog);
        }
    }

    /// What is listed, in pages of any size, is what the model has.
    fn check_lists(rng: &mut rand::rngs::StdRng, model: &Model, catalog: Catalog) {
        let catalog = RwLock::new(catalog);
        for _ in 0..20 {
            let label = |rng: &mut rand::rngs::StdRng, of: &str| {
                rng.random_bool(0.4)
                    .then(|| Label::new(&format!("{of}-{}", rng.random_range(0..4))).unwrap())
            };
            let filter = RunFilter {
                project: label(rng, "p"),
                session: label(rng, "s"),
                status: rng.random_bool(0.4).then_some(RunStatus::Running),
            };
            let expected: Vec<RunSummary> = model
                .runs
                .values()
                .rev()
                .map(crate::journal::model::ModelRun::summary)
                .filter(|run| {
                    (filter.project.is_none() || filter.project == run.labels.project)
                        && (filter.session.is_none() || filter.session == run.labels.session)
                        && filter.status.is_none_or(|status| status == run.status)
                })
                .collect();
            let limit = rng.random_range(1..20);
            let mut listed: Vec<RunSummary> = Vec::new();
            loop {
                let before = listed.last().map(|run| run.id);
                let page = list_runs(&catalog, &filter, before, limit);
                assert!(page.runs.len() == limit || !page.has_more);
                listed.extend(page.runs);
                assert_eq!(page.has_more, listed.len() < expected.len());
                if !page.has_more {
                    break;
                }
            }
            assert_eq!(listed, expected);
        }
        for project in projects(&catalog) {
            let of: Vec<_> = model
                .runs
                .values()
                .filter(|run| run.labels.project.as_ref() == Some(&project.project))
                .collect();
            assert_eq!(project.counts.runs, of.len());
            let running = of.iter().filter(|run| !run.status.has_ended()).count();
            assert_eq!(project.counts.running, running);
        }
    }
}
