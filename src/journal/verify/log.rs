//! The log: its values, and the events in them, which go on where the cold part ends.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::ControlFlow;

use super::{Followed, Kind, Place, Run, Told, Verifier, follow};
use crate::event::{EventId, EventRef, RunId};
use crate::journal::codec::{DecodeError, Decoder, Record};

impl Verifier<'_> {
    /// Looks for the runs that the log deletes; what is wrong there is said later.
    pub(super) fn find_doomed(&mut self) {
        let mut doomed = HashSet::new();
        let mut is_whole = true;
        let outcome = self.store.scan(EventId(0), &mut |_, value| {
            let records = Decoder::new(value).and_then(Iterator::collect::<Result<Vec<_>, _>>);
            is_whole &= records.is_ok();
            for record in records.into_iter().flatten() {
                if let Record::RunDeleted { run, .. } = record {
                    doomed.insert(run);
                }
            }
            ControlFlow::Continue(())
        });
        self.doomed = (is_whole && outcome.is_ok()).then_some(doomed);
        if let Err(error) = outcome {
            self.problem(Kind::File, Place::Value(EventId(0)), error.to_string());
        }
    }

    pub(super) fn log(&mut self, has_cold: bool) {
        let mut log = Log {
            runs: HashMap::new(),
            last_id: self.state.moved_through,
            next_run: self.state.next_run.max(RunId(1)),
            // Without the cold part nothing is known of what was before.
            is_unknown: !has_cold,
        };
        let moved_through = self.state.moved_through;
        let store = self.store;
        let outcome = store.scan(EventId(0), &mut |key, value| {
            (self.tell)(Told::Bytes(value.len() as u64));
            if let Err(error) = self.value(&mut log, key, value, key <= moved_through) {
                let text = format!("{error}: its events are lost");
                self.problem(Kind::Bytes, Place::Value(key), text);
                log.is_unknown = true;
                log.runs.clear();
            }
            ControlFlow::Continue(())
        });
        if let Err(error) = outcome {
            self.problem(Kind::File, Place::Value(log.last_id.next()), error.to_string());
        }
    }

    fn value(
        &mut self,
        log: &mut Log,
        key: EventId,
        value: &[u8],
        was_moved: bool,
    ) -> Result<(), DecodeError> {
        let mut decoder = Decoder::new(value)?;
        let first_id = decoder.first_id();
        let records: Vec<Record<'_>> = decoder.by_ref().collect::<Result<_, _>>()?;
        let last_id = EventId(decoder.next_id().0.saturating_sub(1));
        let moved_through = self.state.moved_through;
        if first_id != key {
            let text = format!("it begins with {first_id}: its events would not be found");
            self.problem(Kind::Ids, Place::Value(key), text);
        }
        if was_moved {
            // It is left over, and nobody reads it.
            if last_id > moved_through {
                let text = format!("it goes to {last_id}, and what was moved to {moved_through}");
                self.problem(Kind::State, Place::Value(key), text);
            }
            return Ok(());
        }
        if first_id <= log.last_id {
            let text = format!("it begins with {first_id}, after {}", log.last_id);
            self.problem(Kind::Ids, Place::Value(key), text);
        }
        log.last_id = log.last_id.max(last_id);
        self.checked.log_values += 1;
        let mut announced = None;
        for record in records {
            match record {
                Record::Event(event) => {
                    self.checked.log_events += 1;
                    if let Some((kind, of)) = announced.take()
                        && of != event.run_id
                    {
                        let text =
                            format!("it is of run {of}, and its event of run {}", event.run_id);
                        self.problem(kind, Place::Event(event.id), text);
                    }
                    self.event_in_log(log, &event);
                }
                Record::RunDeleted { id, run } => {
                    if log.run(run, &self.runs).is_none()
                        && !log.is_unknown
                        && !self.is_unreadable(run)
                    {
                        let text = format!("it is the deletion of run {run}, which there is not");
                        self.problem(Kind::Run, Place::Event(id), text);
                    }
                    log.runs.insert(run, None);
                }
                Record::Key { run, count, first_id, .. } => {
                    if count == 0 {
                        let text = "nothing was appended with the key before it";
                        self.problem(Kind::Key, Place::Event(first_id), text);
                    }
                    announced = Some((Kind::Key, run));
                }
                Record::Producer { run, .. } => announced = Some((Kind::Producer, run)),
            }
        }
        Ok(())
    }

    fn event_in_log(&mut self, log: &mut Log, event: &EventRef<'_>) {
        self.event_makes_sense(event);
        let is_unknown = log.is_unknown || self.is_unreadable(event.run_id);
        if event.seq == 1 {
            if event.run_id < log.next_run && !log.is_unknown {
                let text = format!("it creates run {} a second time", event.run_id);
                self.problem(Kind::Run, Place::Event(event.id), text);
            }
            log.next_run = log.next_run.max(RunId(event.run_id.0.saturating_add(1)));
            self.checked.runs += 1;
            let mut run = Run::default();
            let wrong = follow(&mut run, event);
            log.runs.insert(event.run_id, run.followed);
            if let Some(text) = wrong {
                self.problem(Kind::Event, Place::Event(event.id), text);
            }
            return;
        }
        let followed = log.run(event.run_id, &self.runs);
        let wrong = match followed {
            None if !is_unknown => {
                Some((Kind::Run, format!("it is of run {}, which there is not", event.run_id)))
            }
            Some(last) if event.seq != last.seq + 1 && !is_unknown => Some((
                Kind::Seq,
                format!(
                    "it has seq {} of run {}, where {} should follow",
                    event.seq,
                    event.run_id,
                    last.seq + 1
                ),
            )),
            _ => None,
        };
        let mut run = Run { followed, ..Run::default() };
        let after = follow(&mut run, event).map(|text| (Kind::Event, text.to_owned()));
        log.runs.insert(event.run_id, run.followed);
        if let Some((kind, text)) = wrong.or(after) {
            self.problem(kind, Place::Event(event.id), text);
        }
    }
}

/// How far the log was followed.
struct Log {
    /// The runs that have events in it; none for those that it deletes.
    runs: HashMap<RunId, Option<Followed>>,
    last_id: EventId,
    next_run: RunId,
    /// Something before cannot be read, so nobody knows what is missing.
    is_unknown: bool,
}

impl Log {
    /// Where a run stands: by the log, or else as it was moved.
    fn run(&self, id: RunId, moved: &BTreeMap<RunId, Run>) -> Option<Followed> {
        if let Some(run) = self.runs.get(&id) {
            return *run;
        }
        let (head, _) = moved.get(&id)?.head?;
        Some(Followed {
            id: head.last_event_id,
            seq: head.event_count,
            time: head.updated_at,
            status: head.status,
        })
    }
}
