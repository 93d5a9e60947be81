//! Admissions against an obvious twin: connections and streams that come and go at random, on several
//! workers, with few addresses, sessions and runs, so that they meet.
//!
//! The twin is a list of everything that is open. Who may come in it says by counting, and who makes
//! room by looking for the oldest.

use std::{sync::Arc, thread, time::Instant};

use rand::{RngExt, SeedableRng, rngs::StdRng, seq::IndexedRandom};

use super::*;
use crate::{
    client_address::ClientAddress,
    config::OverLimit,
    event::{Label, RunId, Scope},
    hub::Token,
};

const WORLDS: u64 = 200;
const STEPS: u32 = 600;
const WORKERS: usize = 4;
const SESSIONS: [&str; 3] = ["a", "b", "c"];
const RUNS: u64 = 4;

fn settings(per_ip: u32, per_run: u32, per_session: u32, over_limit: OverLimit) -> Settings {
    let some = std::num::NonZeroU32::new;
    Settings {
        max_connections_per_ip: some(per_ip),
        max_connections_per_run: some(per_run),
        max_connections_per_session: some(per_session),
        over_limit,
        ..Settings::default()
    }
}

fn address_of(last: u8) -> Option<AddressKey> {
    ClientAddress::of_ip([192, 0, 2, last].into()).key()
}

fn session(name: &str) -> Scope {
    Scope::Session(Label::new(name).unwrap())
}

/// One that is open, or that is told to close.
struct Open {
    entry: Entry,
    address: Option<AddressKey>,
    stream: Option<Stream>,
}

struct Stream {
    place: Option<StreamPlace>,
    scope: Scope,
    worker: usize,
    /// None while it is not parked.
    token: Option<Token>,
    is_superseded: bool,
}

struct World {
    rng: StdRng,
    settings: Settings,
    connections_max: usize,
    surplus_max: usize,
    admissions: Arc<Admissions>,
    /// In the order in which their streams were opened, those without a stream in any.
    open: Vec<Open>,
    tokens: u32,
    refused: [u32; Refusal::ALL.len()],
    superseded: u32,
}

impl World {
    fn new(seed: u64) -> World {
        let mut rng = StdRng::seed_from_u64(seed);
        let over_limit = *[OverLimit::Refuse, OverLimit::CloseOldest].choose(&mut rng).unwrap();
        // 0 is no limit.
        let mut limit = || rng.random_range(0..6);
        let settings = settings(limit(), limit(), limit(), over_limit);
        let (connections_max, surplus_max) = (rng.random_range(1..25), rng.random_range(1..4));
        World {
            admissions: Arc::new(Admissions::new(
                &settings,
                connections_max,
                surplus_max,
                Instant::now(),
            )),
            settings,
            connections_max,
            surplus_max,
            rng,
            open: Vec::new(),
            tokens: 0,
            refused: [0; Refusal::ALL.len()],
            superseded: 0,
        }
    }

    fn step(&mut self) {
        match self.rng.random_range(0..10) {
            0..4 => self.connect(),
            4..7 => self.open_stream(),
            7 => self.park(),
            _ => self.close(),
        }
    }

    fn with_address(&self, address: Option<AddressKey>) -> usize {
        let has_it = |one: &&Open| address.is_some() && one.address == address;
        self.open.iter().filter(has_it).count()
    }

    fn in_surplus(&self) -> usize {
        self.open.iter().filter(|one| matches!(one.entry, Entry::Surplus(_))).count()
    }

    fn address_is_full(&self, address: Option<AddressKey>) -> bool {
        let max = self.settings.max_connections_per_ip;
        max.is_some_and(|max| self.with_address(address) >= max.get() as usize)
    }

    fn connect(&mut self) {
        // None is a proxy.
        let address = self.rng.random_bool(0.7).then(|| self.rng.random_range(0..4));
        let address = address.and_then(address_of);
        let open = self.open.len() - self.in_surplus();
        let refusal = if open >= self.connections_max {
            Some(Refusal::Full)
        } else {
            self.address_is_full(address).then_some(Refusal::Ip)
        };
        let admitted = self.admissions.admit(address, Instant::now());
        match refusal {
            None => {
                let entry = admitted.expect("there is room");
                let counted = address.filter(|_| self.settings.max_connections_per_ip.is_some());
                assert_eq!(entry, Entry::Open { counted });
                self.open.push(Open { entry, address, stream: None });
            }
            Some(refusal) if self.in_surplus() < self.surplus_max => {
                assert_eq!(admitted, Ok(Entry::Surplus(refusal)));
                let entry = Entry::Surplus(refusal);
                self.open.push(Open { entry, address: None, stream: None });
            }
            Some(refusal) => assert_eq!(admitted, Err(refusal)),
        }
        self.refused[refusal.map_or(0, |refusal| refusal as usize)] += u32::from(refusal.is_some());
    }

    fn scope(&mut self) -> Scope {
        match self.rng.random_range(0..3) {
            0 => Scope::All,
            1 => session(SESSIONS.choose(&mut self.rng).unwrap()),
            _ => {
                let wanted: Vec<RunId> =
                    (1..=RUNS).filter(|_| self.rng.random_bool(0.4)).map(RunId).collect();
                Scope::Runs(if wanted.is_empty() { [RunId(1)].into() } else { wanted.into() })
            }
        }
    }

    /// The streams that count for a session or a run, by their places in the list.
    fn counted(&self, wanted: &Scope) -> Vec<usize> {
        let counts = |stream: &Stream| match (&stream.scope, wanted) {
            (Scope::Session(one), Scope::Session(other)) => one == other,
            (Scope::Runs(runs), Scope::Runs(run)) => runs.contains(&run[0]),
            _ => false,
        };
        let is_in = |one: &Open| {
            one.stream.as_ref().is_some_and(|stream| !stream.is_superseded && counts(stream))
        };
        (0..self.open.len()).filter(|at| is_in(&self.open[*at])).collect()
    }

    fn open_stream(&mut self) {
        let idle: Vec<usize> = (0..self.open.len())
            .filter(|at| {
                let one = &self.open[*at];
                matches!(one.entry, Entry::Open { .. }) && one.stream.is_none()
            })
            .collect();
        let Some(&at) = idle.choose(&mut self.rng) else { return };
        // The clients of a proxy have addresses of their own.
        let is_proxy = self.open[at].address.is_none();
        let last = self.rng.random_range(0..4);
        let forwarded = if is_proxy { address_of(last) } else { None };
        let (scope, worker) = (self.scope(), self.rng.random_range(0..WORKERS));
        let keys: Vec<(Scope, Refusal, Option<_>)> = match &scope {
            Scope::Session(_) => {
                let max = self.settings.max_connections_per_session;
                vec![(scope.clone(), Refusal::Session, max)]
            }
            Scope::Runs(runs) => {
                let max = self.settings.max_connections_per_run;
                let one = |run: &RunId| (Scope::Runs([*run].into()), Refusal::Run, max);
                runs.iter().map(one).collect()
            }
            _ => Vec::new(),
        };
        let is_full = |(key, _, max): &&(Scope, Refusal, Option<std::num::NonZeroU32>)| {
            max.is_some_and(|max| self.counted(key).len() >= max.get() as usize)
        };
        let refusal = if self.address_is_full(forwarded) {
            Some(Refusal::Ip)
        } else if self.settings.over_limit == OverLimit::Refuse {
            keys.iter().find(is_full).map(|(_, refusal, _)| *refusal)
        } else {
            None
        };
        let admitted = self.admissions.admit_stream(worker, forwarded, StreamKeys::from(&scope));
        if let Some(refusal) = refusal {
            assert_eq!(admitted.unwrap_err(), refusal);
            self.refused[refusal as usize] += 1;
            return;
        }
        let (place, superseded) = admitted.expect("there is room");
        let mut expected = Vec::new();
        for (key, refusal, max) in &keys {
            let counted = self.counted(key);
            if max.is_some_and(|max| counted.len() >= max.get() as usize) {
                let oldest = self.open[counted[0]].stream.as_mut().unwrap();
                oldest.is_superseded = true;
                let (worker, token) = (oldest.worker, oldest.token);
                expected.push(Superseded { worker, token, refusal: *refusal });
            }
        }
        assert_eq!(superseded, expected);
        self.superseded += expected.len() as u32;
        let mut one = self.open.remove(at);
        one.address = one.address.or(forwarded);
        let stream = Stream { place, scope, worker, token: None, is_superseded: false };
        one.stream = Some(stream);
        self.open.push(one);
    }

    fn park(&mut self) {
        self.tokens += 1;
        let token = Token { key: self.tokens, generation: 1 };
        let unparked =
            |one: &&mut Open| one.stream.as_ref().is_some_and(|stream| stream.token.is_none());
        let Some(one) = self.open.iter_mut().find(unparked) else { return };
        let entry = one.entry;
        let stream = one.stream.as_mut().unwrap();
        let place = stream.place.take();
        stream.place = StreamPlace::with_connection(place, &self.admissions, entry);
        stream.token = Some(token);
        let parked = stream.place.as_ref().map_or(Ok(()), |place| place.park(token));
        assert_eq!(parked.is_err(), stream.is_superseded);
    }

    fn close(&mut self) {
        if self.open.is_empty() {
            return;
        }
        let at = self.rng.random_range(0..self.open.len());
        let Open { entry, stream, .. } = self.open.remove(at);
        match stream {
            Some(Stream { token: Some(_), place, .. }) => {
                drop(place);
                self.admissions.leave_stream();
            }
            // Also one whose head could not be sent: it was never parked.
            other => {
                drop(other);
                self.admissions.leave(entry);
            }
        }
    }
}

#[test]
fn who_is_let_in_is_what_the_obvious_twin_says() {
    let first = std::env::var("SEED").map(|seed| seed.parse().unwrap());
    let count = if first.is_ok() { 1 } else { WORLDS };
    let first: u64 = first.unwrap_or_else(|_| rand::random());
    let (mut refused, mut superseded) = ([0; Refusal::ALL.len()], 0);
    for seed in (0..count).map(|index: u64| first.wrapping_add(index)) {
        println!("SEED={seed}");
        let mut world = World::new(seed);
        for _ in 0..STEPS {
            world.step();
        }
        while !world.open.is_empty() {
            world.close();
        }
        assert!(world.admissions.is_empty(), "{:?}", world.admissions);
        for (sum, count) in refused.iter_mut().zip(world.refused) {
            *sum += count;
        }
        superseded += world.superseded;
    }
    if count > 1 {
        let met = [Refusal::Full, Refusal::Ip, Refusal::Session, Refusal::Run];
        assert!(met.iter().all(|refusal| refused[*refusal as usize] > 0), "{refused:?}");
        assert!(superseded > 0);
    }
}

/// Threads that open and close at the same time: never more than allowed, nobody is kept out in
/// vain, and nothing is left.
#[test]
fn limits_hold_exactly_when_all_come_at_once() {
    const THREADS: usize = 8;
    const ROUNDS: usize = 300;
    let limits = settings(5, 3, 2, OverLimit::Refuse);
    let admissions = Arc::new(Admissions::new(&limits, 6, 1_000, Instant::now()));
    for round in 0..ROUNDS {
        let barrier = std::sync::Barrier::new(THREADS);
        let come = |scope: Scope, forwarded: u8| {
            let (admissions, barrier) = (&admissions, &barrier);
            move || {
                barrier.wait();
                let entry = admissions.admit(None, Instant::now()).unwrap();
                let stream = admissions.admit_stream(0, address_of(forwarded), (&scope).into());
                // All have asked before any goes.
                barrier.wait();
                let is_open = matches!(entry, Entry::Open { .. });
                let is_stream = stream.is_ok();
                drop(stream);
                admissions.leave(entry);
                (is_open, is_stream)
            }
        };
        let (scope, addresses, expected): (Scope, fn(usize) -> u8, usize) = match round % 4 {
            0 => (Scope::All, |_| 1, 5),
            1 => (Scope::All, |thread| thread as u8, THREADS),
            2 => (session("s"), |thread| thread as u8, 2),
            // Each stream is of both, and has a place in both or in none.
            _ => (Scope::Runs([RunId(1), RunId(2)].into()), |thread| thread as u8, 3),
        };
        let outcomes: Vec<(bool, bool)> = thread::scope(|threads| {
            let started: Vec<_> = (0..THREADS)
                .map(|thread| threads.spawn(come(scope.clone(), addresses(thread))))
                .collect();
            started.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(outcomes.iter().filter(|(is_open, _)| *is_open).count(), 6);
        let streams = outcomes.iter().filter(|(_, is_stream)| *is_stream).count();
        assert_eq!(streams, expected, "{scope:?}");
        assert!(admissions.is_empty());
    }
}

#[test]
fn without_limits_nothing_is_kept_for_a_stream() {
    let admissions = Arc::new(Admissions::new(&Settings::default(), 10, 1, Instant::now()));
    let entry = admissions.admit(address_of(1), Instant::now()).unwrap();
    for scope in [Scope::All, session("s"), Scope::Runs([RunId(1)].into())] {
        let (place, superseded) =
            admissions.admit_stream(0, address_of(2), (&scope).into()).unwrap();
        assert!(StreamPlace::with_connection(place, &admissions, entry).is_none());
        assert_eq!(superseded, []);
    }
    admissions.leave_stream();
    assert!(admissions.is_empty());
    // A limit for sessions is none of a run's business.
    let limits = settings(0, 0, 3, OverLimit::Refuse);
    let admissions = Arc::new(Admissions::new(&limits, 10, 1, Instant::now()));
    for scope in [Scope::All, Scope::Runs([RunId(1)].into())] {
        let (place, _) = admissions.admit_stream(0, address_of(2), (&scope).into()).unwrap();
        assert!(place.is_none());
    }
}

#[test]
fn the_rate_is_used_up_by_those_who_are_let_in_alone() {
    let limits = Settings {
        accept_rate: std::num::NonZeroU32::new(3),
        ..settings(2, 0, 0, OverLimit::Refuse)
    };
    let now = Instant::now();
    let admissions = Admissions::new(&limits, 10, 100, now);
    let is_open = |last| matches!(admissions.admit(address_of(last), now), Ok(Entry::Open { .. }));
    assert!(is_open(1) && is_open(1));
    for _ in 0..50 {
        assert_eq!(admissions.admit(address_of(1), now), Ok(Entry::Surplus(Refusal::Ip)));
    }
    assert!(is_open(2));
    assert_eq!(admissions.admit(address_of(3), now), Ok(Entry::Surplus(Refusal::Rate)));
    // Whoever the rate has kept out is not counted for its address either.
    for _ in 0..3 {
        assert_eq!(admissions.admit(address_of(3), now), Ok(Entry::Surplus(Refusal::Rate)));
    }
}

/// What `docs/limits.md` says of the costs begins with this.
#[test]
fn a_place_stays_small() {
    assert!(size_of::<(Token, StreamPlace)>() <= 48);
    assert!(size_of::<(AddressKey, u32)>() <= 24);
}
