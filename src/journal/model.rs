//! The journal as one would write it down: no groups, no values, no catalog, everything in plain
//! lists. The tests compare what is built with this.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::{
    IdempotencyKey, IfMatch, Once, Producer, RunSummary, Write, WriteError, WriteResult, Written,
};
use crate::event::{
    Event, EventId, EventType, Json, Label, Labels, NewEvent, RunId, RunStatus, Scope, Selection,
    Timestamp,
};

/// Randomness whose seed is printed, and may be given as `SEED`.
pub(crate) fn seeded() -> StdRng {
    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(rand::random::<u64>);
    println!("SEED={seed}");
    StdRng::seed_from_u64(seed)
}

/// What a write has done, with the events themselves.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Done {
    Created(RunSummary),
    Appended(Vec<Event>),
    AppendedBefore(RunId, EventId, u64),
    CreatedBefore(RunId, EventId),
    Duplicate(u64, u64),
    Ended(RunSummary),
    Deleted,
}

pub(crate) fn done(answer: WriteResult) -> Result<Done, WriteError> {
    answer.map(|written| match written {
        Written::Created(summary) => Done::Created(summary),
        Written::Appended { batch, range } => {
            Done::Appended(batch.events[range].iter().map(|event| event.event.clone()).collect())
        }
        Written::AppendedBefore { run, first_id, count, .. } => {
            Done::AppendedBefore(run, first_id, count)
        }
        Written::CreatedBefore { run, first_id } => Done::CreatedBefore(run, first_id),
        Written::Duplicate { epoch, last_seq } => Done::Duplicate(epoch, last_seq),
        Written::Ended(summary) => Done::Ended(summary),
        Written::Deleted => Done::Deleted,
    })
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Model {
    pub(crate) runs: BTreeMap<RunId, ModelRun>,
    /// Of every run, also of those that were deleted.
    pub(crate) events: Vec<Event>,
    created_with: HashMap<Box<str>, (u128, RunId, EventId)>,
    last_id: u64,
    last_run: u64,
}

#[derive(Clone, Debug)]
pub(crate) struct ModelRun {
    pub(crate) labels: Arc<Labels>,
    metadata: Json,
    pub(crate) status: RunStatus,
    pub(crate) events: Vec<Event>,
    keys: HashMap<Box<str>, (u128, EventId, u64)>,
    producers: HashMap<Box<str>, (u64, u64)>,
}

impl ModelRun {
    pub(crate) fn summary(&self) -> RunSummary {
        let last = self.events.last().unwrap();
        RunSummary {
            id: last.run_id,
            labels: Arc::clone(&self.labels),
            status: self.status,
            metadata: self.metadata.clone(),
            created_at: self.events[0].created_at,
            updated_at: last.created_at,
            last_event_id: last.id,
            event_count: self.events.len() as u64,
        }
    }
}

impl Model {
    pub(crate) fn write(&mut self, write: Write, now: Timestamp) -> Result<Done, WriteError> {
        match write {
            Write::CreateRun { labels, metadata, key } => {
                if let Some(key) = &key
                    && let Some((fingerprint, run, first_id)) = self.created_with.get(&key.key)
                {
                    if *fingerprint != key.fingerprint {
                        return Err(WriteError::KeyReused);
                    }
                    return Ok(Done::CreatedBefore(*run, *first_id));
                }
                self.last_run += 1;
                let id = RunId(self.last_run);
                let label = |label: &Option<Label>| {
                    serde_json::to_string(&label.as_ref().map(Label::as_str)).unwrap()
                };
                let payload = format!(
                    r#"{{"project":{},"session":{},"metadata":{}}}"#,
                    label(&labels.project),
                    label(&labels.session),
                    metadata.as_str()
                );
                let run = ModelRun {
                    labels: Arc::new(labels),
                    metadata,
                    status: RunStatus::Running,
                    events: Vec::new(),
                    keys: HashMap::new(),
                    producers: HashMap::new(),
                };
                self.runs.insert(id, run);
                let payload = Json::parse(&payload).unwrap();
                let event = self.append(id, EventType::run_created(), payload, now);
                if let Some(key) = key {
                    self.created_with.insert(key.key, (key.fingerprint, id, event.id));
                }
                Ok(Done::Created(self.runs[&id].summary()))
            }
            Write::Append { run: id, events, once, if_match } => {
                let run = self.runs.get(&id).ok_or(WriteError::NoSuchRun(id))?;
                match &once {
                    Once::No => {}
                    Once::Key(key) => match run.keys.get(&key.key) {
                        Some((fingerprint, ..)) if *fingerprint != key.fingerprint => {
                            return Err(WriteError::KeyReused);
                        }
                        Some((_, first, count)) => {
                            return Ok(Done::AppendedBefore(id, *first, *count));
                        }
                        None => {}
                    },
                    Once::Producer(producer) => {
                        let expected = match run.producers.get(&producer.id) {
                            Some((epoch, _)) if producer.epoch < *epoch => {
                                return Err(WriteError::ProducerFenced { current: *epoch });
                            }
                            Some((epoch, last)) if producer.epoch == *epoch => {
                                if producer.seq <= *last {
                                    return Ok(Done::Duplicate(*epoch, *last));
                                }
                                last + 1
                            }
                            _ => 0,
                        };
                        if producer.seq != expected {
                            return Err(WriteError::ProducerGap { expected });
                        }
                    }
                }
                if run.status.has_ended() {
                    return Err(WriteError::RunEnded(run.status));
                }
                if_matches(run, &if_match)?;
                let appended: Vec<Event> = events
                    .into_iter()
                    .map(|event| self.append(id, event.event_type, event.payload, now))
                    .collect();
                let run = self.runs.get_mut(&id).unwrap();
                match once {
                    Once::No => {}
                    Once::Key(key) => {
                        let state = (key.fingerprint, appended[0].id, appended.len() as u64);
                        run.keys.insert(key.key, state);
                    }
                    Once::Producer(producer) => {
                        run.producers.insert(producer.id, (producer.epoch, producer.seq));
                    }
                }
                Ok(Done::Appended(appended))
            }
            Write::EndRun { run: id, status, payload, if_match } => {
                let run = self.runs.get(&id).ok_or(WriteError::NoSuchRun(id))?;
                if run.status == status {
                    return Ok(Done::Ended(run.summary()));
                }
                if run.status.has_ended() {
                    return Err(WriteError::RunEnded(run.status));
                }
                if_matches(run, &if_match)?;
                self.append(id, status.closing_event().unwrap(), payload, now);
                let run = self.runs.get_mut(&id).unwrap();
                run.status = status;
                Ok(Done::Ended(run.summary()))
            }
            Write::DeleteRun { run: id, if_match } => {
                let run = self.runs.get(&id).ok_or(WriteError::NoSuchRun(id))?;
                if_matches(run, &if_match)?;
                self.runs.remove(&id);
                self.created_with.retain(|_, (_, run, _)| *run != id);
                self.last_id += 1;
                Ok(Done::Deleted)
            }
        }
    }

    /// Retention has left nothing of a run that has ended.
    pub(crate) fn vanish(&mut self, id: RunId) {
        self.runs.remove(&id);
        self.created_with.retain(|_, (_, run, _)| *run != id);
    }

    fn append(&mut self, id: RunId, event_type: EventType, payload: Json, now: Timestamp) -> Event {
        self.last_id += 1;
        let run = self.runs.get_mut(&id).unwrap();
        let event = Event {
            id: EventId(self.last_id),
            run_id: id,
            seq: run.events.len() as u64 + 1,
            event_type,
            payload,
            created_at: run.events.last().map_or(now, |last| now.max(last.created_at)),
        };
        run.events.push(event.clone());
        self.events.push(event.clone());
        event
    }

    pub(crate) fn last_id(&self) -> EventId {
        EventId(self.last_id)
    }

    /// What a selection names, by looking at everything.
    pub(crate) fn select(&self, selection: &Selection) -> Vec<Event> {
        let admitted = |event: &&Event| {
            self.runs
                .get(&event.run_id)
                .is_some_and(|run| selection.admits_run(event.run_id, &run.labels))
                && selection.admits_type(&event.event_type)
        };
        self.events.iter().filter(admitted).cloned().collect()
    }

    /// Something that somebody might ask for, most often of a run that is there.
    pub(crate) fn random_write(&self, rng: &mut StdRng) -> Write {
        let run = RunId(rng.random_range(self.last_run.saturating_sub(6)..=self.last_run + 1));
        let if_match = match rng.random_range(0..10) {
            0 => {
                let last = self.runs.get(&run).map_or(1, |run| run.summary().last_event_id.0);
                IfMatch::LastEvent([EventId(last)].into())
            }
            1 => IfMatch::LastEvent([EventId(rng.random_range(0..=self.last_id + 1))].into()),
            _ => IfMatch::Any,
        };
        match rng.random_range(0..100) {
            0..12 => {
                let label = |rng: &mut StdRng, of: &str| {
                    rng.random_bool(0.7)
                        .then(|| Label::new(&format!("{of}-{}", rng.random_range(0..3))).unwrap())
                };
                Write::CreateRun {
                    labels: Labels { project: label(rng, "p"), session: label(rng, "s") },
                    metadata: random_payload(rng),
                    key: rng.random_bool(0.5).then(|| random_key(rng)),
                }
            }
            12..17 => Write::EndRun {
                run,
                status: [RunStatus::Completed, RunStatus::Failed, RunStatus::Cancelled]
                    [rng.random_range(0..3)],
                payload: random_payload(rng),
                if_match,
            },
            17..20 => Write::DeleteRun { run, if_match },
            _ => Write::Append {
                run,
                events: (0..rng.random_range(1..5)).map(|_| random_event(rng)).collect(),
                once: match rng.random_range(0..4) {
                    0 => Once::Key(random_key(rng)),
                    1 | 2 => Once::Producer(Producer {
                        id: ["a", "b", "c"][rng.random_range(0..3)].into(),
                        epoch: rng.random_range(0..10) / 4,
                        seq: rng.random_range(0..4),
                    }),
                    _ => Once::No,
                },
                if_match,
            },
        }
    }

    pub(crate) fn random_selection(&self, rng: &mut StdRng) -> Selection {
        let label = |rng: &mut StdRng, of: &str| {
            Label::new(&format!("{of}-{}", rng.random_range(0..4))).unwrap()
        };
        let scope = match rng.random_range(0..4) {
            0 => Scope::All,
            1 => Scope::Project(label(rng, "p")),
            2 => Scope::Session(label(rng, "s")),
            _ => {
                let mut runs: Vec<RunId> = (0..rng.random_range(1..5))
                    .map(|_| RunId(rng.random_range(1..=self.last_run + 1)))
                    .collect();
                runs.sort_unstable();
                runs.dedup();
                Scope::Runs(runs.into())
            }
        };
        let types = rng
            .random_bool(0.3)
            .then(|| [EventType::new(["A", "B", "NONE"][rng.random_range(0..3)]).unwrap()].into());
        Selection { scope, types }
    }
}

fn if_matches(run: &ModelRun, if_match: &IfMatch) -> Result<(), WriteError> {
    let last = run.events.last().unwrap().id;
    match if_match {
        IfMatch::LastEvent(ids) if !ids.contains(&last) => Err(WriteError::MovedOn(last)),
        _ => Ok(()),
    }
}

pub(crate) fn random_event(rng: &mut StdRng) -> NewEvent {
    let types = ["A", "B", "AGENT_THINKING"];
    NewEvent {
        event_type: EventType::new(types[rng.random_range(0..types.len())]).unwrap(),
        payload: random_payload(rng),
    }
}

/// Small, and now and then so large that the batch must be cut.
pub(crate) fn random_payload(rng: &mut StdRng) -> Json {
    let length = match rng.random_range(0..200) {
        0 => rng.random_range(60_000..70_000),
        1..6 => rng.random_range(10_000..40_000),
        6..60 => return Json::null(),
        _ => rng.random_range(0..200),
    };
    Json::from_trusted(format!("\"{}\"", "ä".repeat(length / 2)))
}

fn random_key(rng: &mut StdRng) -> IdempotencyKey {
    IdempotencyKey {
        key: format!("key-{}", rng.random_range(0..8)).into(),
        fingerprint: rng.random_range(0..2),
    }
}
