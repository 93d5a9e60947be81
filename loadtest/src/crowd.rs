//! The subscribers of one load process: one thread, one epoll, one buffer for all.
//!
//! It uses epoll and not `io_uring`: what is measured is the server, and a reader that any kernel
//! allows is one thing less to doubt. The level-triggered mode needs one `read` a wake-up where
//! the edge would need two. A connection is a descriptor and a [`Subscriber`], some 250 bytes in
//! all.

use std::{
    collections::VecDeque,
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    os::fd::{AsFd, OwnedFd},
    time::Duration,
};

use rustix::{
    event::epoll::{self, EventData, EventFlags},
    net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, sockopt},
};

use crate::{
    clock,
    marker::Marker,
    process,
    protocol::{Assignment, Command, Sources},
    subscriber::{Expected, Failure, Name, Shared, Subscriber},
    tally::{Tally, Tick},
};

const READ_BYTES: usize = 64 * 1024;
/// A connection is read so often in a turn, so that one that never falls silent leaves the others
/// their turn.
const READS_A_TURN_MAX: usize = 8;
const EVENTS_A_TURN_MAX: usize = 1_024;
/// So many connections are begun in a turn, so that those under way are answered meanwhile.
const STARTS_A_TURN_MAX: usize = 64;
/// So many connections come from one source address before the next one's turn.
const CONNECTIONS_A_SOURCE: usize = 5_000;
/// From one tick to the next.
pub const TICK_NS: u64 = 100_000_000;
/// One that comes back by itself waits so long, as a browser does.
const REST_NS: u64 = 1_000_000_000;
/// The event of the standard input; the subscribers' are their attempt and number.
const INPUT: u64 = u64::MAX;

/// The subscribers of a process.
#[derive(Debug)]
pub struct Crowd {
    assignment: Assignment,
    shared: Shared,
    slots: Vec<Slot>,
    epoll: OwnedFd,
    tally: Tally,
    /// Numbers of those that are to be opened, in their order.
    closed: VecDeque<u32>,
    /// Those that come back by themselves, with when, in that order.
    resting: VecDeque<(u64, u32)>,
    opening: Option<Pace>,
    churning: Option<Pace>,
    random: u64,
    /// Those between `connect` and head, with when they are given up, in that order.
    deadlines: VecDeque<(u64, u32, u32)>,
    /// Connections begun so far: chooses the source address.
    begun: usize,
    next_tick_ns: u64,
    /// When the last tick was, and how many keepalives there were.
    ticked_ns: u64,
    keepalives: u64,
    buffer: Box<[u8]>,
    room: Vec<Marker>,
}

#[derive(Debug, Default)]
struct Slot {
    socket: Option<OwnedFd>,
    /// Counts its connections, so that an event of an earlier one is known as such.
    attempt: u32,
    /// Whether the request has gone out.
    asked: bool,
    /// Whether it has failed, or was let go, and does not come back.
    gone: bool,
    reading: Reading,
    subscriber: Subscriber,
}

/// Whether a subscriber takes what has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Reading {
    /// As it should.
    #[default]
    Always,
    /// Not any more.
    Stopped,
    /// Not any more, and the connection was ended meanwhile. What has come before can be read.
    Cut,
    /// Again, on the connection on which it had stopped.
    Again,
}

/// A rate kept by counting from its beginning.
#[derive(Debug)]
struct Pace {
    began_ns: u64,
    per_second: f64,
    done: u64,
}

impl Pace {
    fn new(now_ns: u64, per_second: f64) -> Self {
        Self { began_ns: now_ns, per_second, done: 0 }
    }

    /// How many are due by now beyond those done.
    fn due(&self, now_ns: u64) -> usize {
        let total = clock::seconds(now_ns - self.began_ns) * self.per_second;
        (total as u64).saturating_add(1).saturating_sub(self.done) as usize
    }

    fn next_ns(&self) -> u64 {
        self.began_ns + (self.done as f64 / self.per_second * 1e9) as u64
    }
}

impl Crowd {
    /// The subscribers of an assignment, all closed.
    ///
    /// # Errors
    /// When the system gives no epoll.
    pub fn new(assignment: Assignment) -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let mut slots = Vec::new();
        slots.resize_with(assignment.count, Slot::default);
        let now = clock::now_ns();
        Ok(Self {
            shared: Shared {
                target: assignment.target.clone(),
                token: assignment.token,
                stall_ns: clock::nanoseconds(assignment.stall),
                expected: None,
            },
            slots,
            epoll,
            tally: Tally::default(),
            closed: (0..assignment.count as u32).collect(),
            resting: VecDeque::new(),
            opening: None,
            churning: None,
            random: u64::from(assignment.token) << 32 | assignment.first as u64 | 1,
            deadlines: VecDeque::new(),
            begun: 0,
            next_tick_ns: now + TICK_NS,
            ticked_ns: now,
            keepalives: 0,
            buffer: vec![0; READ_BYTES].into(),
            room: Vec::new(),
            assignment,
        })
    }

    /// Lets `input` wake the crowd.
    ///
    /// # Errors
    /// When it cannot be waited for.
    pub fn watch_input(&self, input: impl AsFd) -> io::Result<()> {
        let data = EventData::new_u64(INPUT);
        Ok(epoll::add(&self.epoll, input, data, EventFlags::IN)?)
    }

    /// Does what is due and waits for what comes, for some ms at most. Says whether there is
    /// something to read at the input.
    ///
    /// # Errors
    /// When epoll fails.
    pub fn turn(&mut self) -> io::Result<bool> {
        self.start_due();
        self.churn_due();
        self.give_up_due();
        let mut events = Vec::with_capacity(EVENTS_A_TURN_MAX);
        let wait = Duration::from_nanos(self.next_ns().saturating_sub(clock::now_ns()));
        let wait = rustix::event::Timespec::try_from(wait).expect("it is some ms");
        match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), Some(&wait)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let mut has_input = false;
        for event in events {
            let data = event.data.u64();
            if data == INPUT {
                has_input = true;
                continue;
            }
            let (attempt, index) = ((data >> 32) as u32, data as u32);
            if self.slots[index as usize].attempt == attempt {
                self.handle_event(index, event.flags);
            }
        }
        Ok(has_input)
    }

    /// Does as it is told. The last tick answers the last command.
    pub fn handle(&mut self, command: Command) -> Option<Tick> {
        let now = clock::now_ns();
        match command {
            Command::Open { per_second } => {
                self.opening = Some(Pace::new(now, per_second.unwrap_or(f64::INFINITY)));
            }
            Command::Cut => {
                self.opening = None;
                self.churning = None;
                for index in 0..self.slots.len() as u32 {
                    self.close(index);
                }
                self.deadlines.clear();
                self.resting.clear();
                self.closed = (0..self.slots.len() as u32).collect();
            }
            Command::Reconnect { share } => {
                for index in 0..self.slots.len() as u32 {
                    let picked = (self.next_random() >> 32) as f64 / f64::from(u32::MAX) < share;
                    let open = self.slots[index as usize].subscriber.is_open();
                    if picked && open && self.close(index) {
                        self.closed.push_back(index);
                    }
                }
            }
            Command::Expect { expectation, published, since_ns } => {
                self.shared.expected = Some(Expected { published, since_ns });
                self.tally.counters.expectation = expectation;
                for index in 0..self.slots.len() {
                    let name = self.name(index);
                    let slot = &mut self.slots[index];
                    slot.subscriber.handle_expected(name, &self.shared, &mut self.tally);
                }
            }
            Command::Churn { per_second } => {
                self.churning = (per_second > 0.0).then(|| Pace::new(now, per_second));
            }
            Command::StopReading => self.stop_reading(),
            Command::ReadOn { below } => self.read_on(below),
            Command::Finish { is_complete } => {
                for index in 0..self.slots.len() {
                    let name = self.name(index);
                    let Slot { subscriber, gone, .. } = &self.slots[index];
                    let may_come = *gone || !is_complete;
                    if subscriber.was_open() {
                        subscriber.count_missing(may_come, name, &self.shared, &mut self.tally);
                    }
                }
                return Some(self.tick(true));
            }
        }
        None
    }

    fn stop_reading(&mut self) {
        for index in 0..self.slots.len() as u32 {
            let slot = &mut self.slots[index as usize];
            if slot.subscriber.is_open() {
                slot.reading = Reading::Stopped;
                self.tally.counters.stopped += 1;
                // Of a connection that ends one wants to hear, once.
                self.listen_for(index, EventFlags::RDHUP | EventFlags::ONESHOT);
            }
        }
    }

    fn read_on(&mut self, below: usize) {
        for index in 0..self.slots.len() as u32 {
            let is_let_go = self.name(index as usize).n >= below;
            let slot = &mut self.slots[index as usize];
            if is_let_go {
                slot.gone = true;
                self.close(index);
            } else if matches!(slot.reading, Reading::Stopped | Reading::Cut) {
                if slot.reading == Reading::Stopped {
                    slot.reading = Reading::Again;
                }
                self.listen_for(index, EventFlags::IN);
            }
        }
        let Self { slots, closed, resting, .. } = self;
        closed.retain(|index| !slots[*index as usize].gone);
        resting.retain(|(_, index)| !slots[*index as usize].gone);
    }

    fn listen_for(&self, index: u32, flags: EventFlags) {
        let slot = &self.slots[index as usize];
        let Some(socket) = &slot.socket else { return };
        epoll::modify(&self.epoll, socket, event_data(slot.attempt, index), flags)
            .expect("the socket is in the set, and its place there is kept");
    }

    /// What there is to tell, when it is time again.
    pub fn poll_tick(&mut self) -> Option<Tick> {
        let now = clock::now_ns();
        if now < self.next_tick_ns {
            return None;
        }
        self.next_tick_ns = now + TICK_NS;
        Some(self.tick(false))
    }

    fn tick(&mut self, finished: bool) -> Tick {
        let now = clock::now_ns();
        let elapsed = now - std::mem::replace(&mut self.ticked_ns, now);
        let counters = &mut self.tally.counters;
        let before = std::mem::replace(&mut self.keepalives, counters.keepalives);
        // A tick that comes late has gathered more. One of a few ms says nothing.
        if elapsed > TICK_NS / 2 {
            let lately = (counters.keepalives - before) * TICK_NS / elapsed;
            counters.keepalives_peak = counters.keepalives_peak.max(lately);
        }
        self.tally.counters.waiting = (self.closed.len() + self.resting.len()) as u64;
        let lacks = |slot: &&Slot| !slot.gone && !slot.subscriber.has_all();
        self.tally.counters.lacking = self.slots.iter().filter(lacks).count() as u64;
        self.tally.counters.cpu_ns = process::own_cpu_ns();
        self.tally.counters.memory = process::own_anonymous_memory();
        self.tally.tick(finished)
    }

    fn name(&self, index: usize) -> Name {
        let n = self.assignment.first + index;
        let place = n % self.assignment.streams.len();
        Name { n, stream: self.assignment.first_stream + place as u32 }
    }

    /// When something is due next.
    fn next_ns(&self) -> u64 {
        let mut next = self.next_tick_ns;
        if let Some(opening) = &self.opening
            && !self.closed.is_empty()
            && (self.tally.counters.connecting as usize) < self.assignment.in_flight
        {
            next = next.min(opening.next_ns());
        }
        if let Some(churning) = &self.churning {
            next = next.min(churning.next_ns());
        }
        if let Some((deadline, ..)) = self.deadlines.front() {
            next = next.min(*deadline);
        }
        next
    }

    fn start_due(&mut self) {
        let now = clock::now_ns();
        while self.resting.front().is_some_and(|(due, _)| *due <= now) {
            self.closed.extend(self.resting.pop_front().map(|(_, index)| index));
        }
        let Some(opening) = &mut self.opening else { return };
        let room =
            self.assignment.in_flight.saturating_sub(self.tally.counters.connecting as usize);
        let count = opening.due(now).min(room).min(self.closed.len()).min(STARTS_A_TURN_MAX);
        opening.done += count as u64;
        for index in self.closed.drain(..count).collect::<Vec<_>>() {
            if let Err(failure) = self.start(index, now) {
                self.fail(index, &failure);
            }
        }
    }

    fn churn_due(&mut self) {
        let now = clock::now_ns();
        let Some(churning) = &mut self.churning else { return };
        let count = churning.due(now).min(STARTS_A_TURN_MAX);
        churning.done += count as u64;
        for _ in 0..count {
            let index = (self.next_random() % self.slots.len() as u64) as u32;
            if self.slots[index as usize].subscriber.is_open() && self.close(index) {
                self.closed.push_back(index);
            }
        }
    }

    /// xorshift64: which subscriber is cut next need not be unpredictable.
    fn next_random(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }

    fn give_up_due(&mut self) {
        let now = clock::now_ns();
        while let Some(&(deadline, index, attempt)) = self.deadlines.front() {
            let slot = &self.slots[index as usize];
            let waits =
                slot.attempt == attempt && slot.socket.is_some() && !slot.subscriber.is_open();
            if waits && deadline > now {
                break;
            }
            self.deadlines.pop_front();
            if waits {
                self.fail(index, &Failure::Timeout);
            }
        }
    }

    fn start(&mut self, index: u32, now_ns: u64) -> Result<(), Failure> {
        let source = self.source();
        let address = self.shared.target.subscribe.url.address;
        let slot = &mut self.slots[index as usize];
        slot.attempt += 1;
        slot.asked = false;
        slot.gone = false;
        slot.reading = Reading::Always;
        slot.subscriber.handle_start(now_ns);
        let attempt = slot.attempt;
        self.begun += 1;
        let socket = connect(address, source)?;
        let data = event_data(attempt, index);
        epoll::add(&self.epoll, &socket, data, EventFlags::IN | EventFlags::OUT)
            .map_err(io::Error::from)?;
        self.slots[index as usize].socket = Some(socket);
        self.tally.counters.connecting += 1;
        let deadline = now_ns + clock::nanoseconds(self.assignment.timeout);
        self.deadlines.push_back((deadline, index, attempt));
        Ok(())
    }

    fn source(&self) -> Option<IpAddr> {
        let turn = self.begun / CONNECTIONS_A_SOURCE;
        match &self.assignment.sources {
            Sources::System => None,
            Sources::Listed(addresses) => Some(addresses[turn % addresses.len()]),
            Sources::Loopback => {
                // The measurement chooses the second byte, process and turn the others.
                let process = (self.assignment.first / self.assignment.count.max(1)) as u8;
                let network = 1 + (self.assignment.token % 250) as u8;
                let host = 1 + (turn % 250) as u8;
                Some(Ipv4Addr::new(127, network, process, host).into())
            }
        }
    }

    fn handle_event(&mut self, index: u32, flags: EventFlags) {
        let slot = &mut self.slots[index as usize];
        if slot.reading == Reading::Stopped {
            slot.reading = Reading::Cut;
            self.tally.counters.cut += 1;
            return;
        }
        let outcome = if slot.asked { self.read(index) } else { self.ask(index, flags) };
        if let Err(failure) = outcome {
            self.handle_end(index, &failure);
        }
    }

    /// The connection is there, or has failed: sends the request.
    fn ask(&mut self, index: u32, flags: EventFlags) -> Result<(), Failure> {
        let Name { n, stream } = self.name(index as usize);
        let slot = &mut self.slots[index as usize];
        let Some(socket) = &slot.socket else { return Ok(()) };
        if flags.intersects(EventFlags::ERR | EventFlags::HUP)
            && let Err(error) = sockopt::socket_error(socket).map_err(io::Error::from)?
        {
            return Err(io::Error::from(error).into());
        }
        let run = &self.assignment.streams[(stream - self.assignment.first_stream) as usize];
        let request = self.shared.target.subscription(run, n, slot.subscriber.cursor());
        let sent = rustix::net::send(socket, request.as_bytes(), SendFlags::NOSIGNAL)
            .map_err(io::Error::from)?;
        if sent < request.len() {
            return Err(Failure::Io(io::ErrorKind::WriteZero));
        }
        slot.asked = true;
        let data = event_data(slot.attempt, index);
        epoll::modify(&self.epoll, socket, data, EventFlags::IN).map_err(io::Error::from)?;
        Ok(())
    }

    fn read(&mut self, index: u32) -> Result<(), Failure> {
        let name = self.name(index as usize);
        for _ in 0..READS_A_TURN_MAX {
            let slot = &mut self.slots[index as usize];
            let Some(socket) = &slot.socket else { return Ok(()) };
            let count = match rustix::net::recv(socket, &mut *self.buffer, RecvFlags::DONTWAIT) {
                Ok((_, 0)) => return Err(Failure::ClosedEarly),
                Ok((_, count)) => count,
                Err(rustix::io::Errno::AGAIN) => return Ok(()),
                Err(error) => return Err(io::Error::from(error).into()),
            };
            self.tally.counters.bytes += count as u64;
            let was_open = slot.subscriber.is_open();
            let outcome = slot.subscriber.handle_bytes(
                &self.buffer[..count],
                clock::now_ns(),
                name,
                &self.shared,
                &mut self.room,
                &mut self.tally,
            );
            if !was_open && slot.subscriber.is_open() {
                self.tally.counters.connecting -= 1;
                self.tally.counters.open += 1;
            }
            outcome?;
            if count < READ_BYTES {
                break;
            }
        }
        Ok(())
    }

    /// The connection is over though nobody here closed it.
    fn handle_end(&mut self, index: u32, failure: &Failure) {
        let Slot { subscriber, reading, .. } = &self.slots[index as usize];
        let had_stopped = *reading != Reading::Always && failure.is_end();
        self.tally.counters.cut += u64::from(had_stopped && *reading == Reading::Again);
        let may_end = had_stopped || matches!(failure, Failure::ClosedEarly);
        if may_end && self.assignment.come_back && subscriber.is_open() {
            self.disconnect(index);
            self.tally.counters.came_back += 1;
            self.resting.push_back((clock::now_ns() + REST_NS, index));
        } else {
            self.fail(index, if had_stopped { &Failure::CutOff } else { failure });
        }
    }

    fn fail(&mut self, index: u32, failure: &Failure) {
        self.disconnect(index);
        self.tally.fail(failure.to_string());
        self.slots[index as usize].gone = !self.assignment.come_back;
        if self.assignment.come_back {
            self.resting.push_back((clock::now_ns() + REST_NS, index));
        }
    }

    /// Closes it from here; says whether there was something to close.
    fn close(&mut self, index: u32) -> bool {
        let had = self.disconnect(index);
        self.tally.counters.closed += u64::from(had);
        had
    }

    fn disconnect(&mut self, index: u32) -> bool {
        let slot = &mut self.slots[index as usize];
        let Some(socket) = slot.socket.take() else { return false };
        if slot.subscriber.is_open() {
            self.tally.counters.open -= 1;
        } else {
            self.tally.counters.connecting -= 1;
        }
        slot.subscriber.handle_closed();
        slot.attempt += 1;
        drop(socket);
        true
    }
}

/// What an event of a subscriber's connection says of it.
fn event_data(attempt: u32, index: u32) -> EventData {
    EventData::new_u64(u64::from(attempt) << 32 | u64::from(index))
}

/// Begins to connect.
fn connect(address: SocketAddr, source: Option<IpAddr>) -> io::Result<OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
    if let Some(source) = source {
        rustix::net::bind(&socket, &SocketAddr::new(source, 0))?;
    }
    match rustix::net::connect(&socket, &address) {
        Ok(()) | Err(rustix::io::Errno::INPROGRESS) => Ok(socket),
        Err(error) => Err(error.into()),
    }
}
