//! How many streams each run and each session has, and which is the oldest.
//!
//! All of it is behind one lock. A stream of several runs has a place in each of them or in none, and
//! only who sees them all at one moment can say which; it is held for about a microsecond, when a
//! stream opens and when it closes.

use std::{
    collections::{BTreeSet, HashMap, hash_map::Entry},
    hash::Hash,
    num::{NonZeroU32, NonZeroU64},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::{Admissions, Entry as ConnectionEntry, Refusal};
use crate::{
    client_address::AddressKey,
    config::{OverLimit, Settings},
    event::{Label, RunId, Scope},
    hub::Token,
};

/// Names a stream for as long as the server runs: a later one has a higher number.
pub(super) type Number = NonZeroU64;

/// What a stream is counted by.
#[derive(Clone, Copy, Debug, Default)]
pub struct StreamKeys<'a> {
    session: Option<&'a Label>,
    runs: &'a [RunId],
}

impl StreamKeys<'_> {
    /// What such a stream may be one too many of.
    pub(super) fn refusal(&self) -> Refusal {
        if self.session.is_some() { Refusal::Session } else { Refusal::Run }
    }
}

impl<'a> From<&'a Scope> for StreamKeys<'a> {
    /// A stream of given runs counts for each of them, that of a session for it; those of a project
    /// and of everything for neither.
    fn from(scope: &'a Scope) -> StreamKeys<'a> {
        match scope {
            Scope::Runs(runs) => StreamKeys { session: None, runs },
            Scope::Session(session) => StreamKeys { session: Some(session), runs: &[] },
            Scope::Project(_) | Scope::All => StreamKeys { session: None, runs: &[] },
        }
    }
}

/// A stream that makes room for a newer one: its worker is to close it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Superseded {
    /// Whose it is.
    pub worker: usize,
    /// Its name there; none when it is only about to be parked, and finds out then.
    pub token: Option<Token>,
    /// What there were too many of.
    pub refusal: Refusal,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Streams {
    run_max: Option<NonZeroU32>,
    session_max: Option<NonZeroU32>,
    over_limit: OverLimit,
    registry: Mutex<Registry>,
}

#[derive(Debug, Default)]
struct Registry {
    last: u64,
    streams: HashMap<Number, Stream>,
    by_run: HashMap<RunId, BTreeSet<Number>>,
    by_session: HashMap<Label, BTreeSet<Number>>,
}

#[derive(Debug)]
struct Stream {
    worker: usize,
    token: Option<Token>,
    session: Option<Label>,
    runs: Box<[RunId]>,
}

impl Streams {
    /// None when there is no such limit.
    pub(super) fn new(settings: &Settings) -> Option<Streams> {
        let run_max = settings.max_connections_per_run;
        let session_max = settings.max_connections_per_session;
        (run_max.is_some() || session_max.is_some()).then(|| Streams {
            run_max,
            session_max,
            over_limit: settings.over_limit,
            registry: Mutex::default(),
        })
    }

    /// Takes a place for a stream in everything that it is counted by.
    pub(super) fn take(
        &self,
        worker: usize,
        keys: StreamKeys<'_>,
    ) -> Result<(Option<Number>, Vec<Superseded>), Refusal> {
        let session = keys.session.filter(|_| self.session_max.is_some());
        let runs = if self.run_max.is_some() { keys.runs } else { &[] };
        if session.is_none() && runs.is_empty() {
            return Ok((None, Vec::new()));
        }
        let registry = &mut *self.registry();
        let mut superseded = Vec::new();
        if let (Some(session), Some(max)) = (session, self.session_max) {
            let oldest = oldest_of_full(&registry.by_session, session, max);
            self.make_room(registry, oldest, Refusal::Session, &mut superseded)?;
        }
        for run in runs {
            let max = self.run_max.expect("there are runs only with it");
            let oldest = oldest_of_full(&registry.by_run, run, max);
            self.make_room(registry, oldest, Refusal::Run, &mut superseded)?;
        }
        registry.last += 1;
        let number = Number::new(registry.last).expect("it was increased");
        if let Some(session) = session {
            registry.by_session.entry(session.clone()).or_default().insert(number);
        }
        for run in runs {
            registry.by_run.entry(*run).or_default().insert(number);
        }
        let (session, runs) = (session.cloned(), runs.into());
        registry.streams.insert(number, Stream { worker, token: None, session, runs });
        Ok((Some(number), superseded))
    }

    /// Ends the oldest of what is full, or refuses. Nothing has been taken before that: who refuses
    /// has superseded nobody.
    fn make_room(
        &self,
        registry: &mut Registry,
        oldest: Option<Number>,
        refusal: Refusal,
        superseded: &mut Vec<Superseded>,
    ) -> Result<(), Refusal> {
        let Some(oldest) = oldest else { return Ok(()) };
        if self.over_limit == OverLimit::Refuse {
            return Err(refusal);
        }
        let Stream { worker, token, .. } = registry.remove(oldest).expect("it is listed");
        superseded.push(Superseded { worker, token, refusal });
        Ok(())
    }

    fn registry(&self) -> MutexGuard<'_, Registry> {
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        let registry = self.registry();
        registry.streams.is_empty() && registry.by_run.is_empty() && registry.by_session.is_empty()
    }
}

/// The oldest stream of a run or session that has as many as it may.
fn oldest_of_full<K: Eq + Hash>(
    streams: &HashMap<K, BTreeSet<Number>>,
    key: &K,
    max: NonZeroU32,
) -> Option<Number> {
    let streams = streams.get(key).filter(|streams| streams.len() >= max.get() as usize)?;
    streams.first().copied()
}

impl Registry {
    fn remove(&mut self, number: Number) -> Option<Stream> {
        let stream = self.streams.remove(&number)?;
        if let Some(session) = &stream.session {
            unlist(&mut self.by_session, session.clone(), number);
        }
        for run in &stream.runs {
            unlist(&mut self.by_run, *run, number);
        }
        Some(stream)
    }
}

fn unlist<K: Eq + Hash>(streams: &mut HashMap<K, BTreeSet<Number>>, key: K, number: Number) {
    if let Entry::Occupied(mut listed) = streams.entry(key) {
        listed.get_mut().remove(&number);
        if listed.get().is_empty() {
            listed.remove();
        }
    }
}

/// What a stream has in the counts, given back when it is dropped.
#[derive(Debug)]
pub struct StreamPlace {
    admissions: Arc<Admissions>,
    number: Option<Number>,
    /// What it is told when its number is gone.
    refusal: Refusal,
    address: Option<AddressKey>,
}

impl StreamPlace {
    /// None when it has nothing.
    pub(super) fn new(
        admissions: Arc<Admissions>,
        number: Option<Number>,
        refusal: Refusal,
        address: Option<AddressKey>,
    ) -> Option<StreamPlace> {
        let has_something = number.is_some() || address.is_some();
        has_something.then_some(StreamPlace { admissions, number, refusal, address })
    }

    /// The place of a stream that also takes over what was counted for its connection.
    pub fn with_connection(
        place: Option<StreamPlace>,
        admissions: &Arc<Admissions>,
        entry: ConnectionEntry,
    ) -> Option<StreamPlace> {
        let ConnectionEntry::Open { counted: Some(counted) } = entry else { return place };
        match place {
            Some(mut place) => {
                debug_assert!(place.address.is_none(), "an address is counted once");
                place.address = Some(counted);
                Some(place)
            }
            None => StreamPlace::new(Arc::clone(admissions), None, Refusal::Ip, Some(counted)),
        }
    }

    /// The stream is parked, under this name.
    ///
    /// # Errors
    /// When a newer one has taken its place meanwhile: it is to be closed.
    pub fn park(&self, token: Token) -> Result<(), Refusal> {
        let (Some(number), Some(streams)) = (self.number, &self.admissions.streams) else {
            return Ok(());
        };
        let mut registry = streams.registry();
        registry.streams.get_mut(&number).ok_or(self.refusal)?.token = Some(token);
        Ok(())
    }
}

impl Drop for StreamPlace {
    fn drop(&mut self) {
        if let (Some(number), Some(streams)) = (self.number, &self.admissions.streams) {
            streams.registry().remove(number);
        }
        self.admissions.leave_address(self.address);
    }
}
