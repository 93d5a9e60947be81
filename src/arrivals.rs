//! How connections come to a worker: at a listening socket, or from the worker that has the one
//! socket for all.
//!
//! ```text
//!   a socket for each   kernel ─▶ each worker
//!   one for all         kernel ─▶ first worker ─▶ itself and the others, in turn
//! ```
//!
//! A socket that was handed over, or lies at a path, is a single queue. One worker waits at it and
//! deals what comes, so that a connection wakes two workers at most, and all get the same share.
//!
//! Rejected: all of them waiting. Each connection wakes every worker that sleeps, and who wakes first
//! takes what there is. Waits that wake one only (`EPOLLEXCLUSIVE`) cannot be asked of monoio, come
//! to nothing when an epoll lies in another, and spread by chance.

use std::{
    cell::Cell,
    io,
    net::SocketAddr,
    os::fd::OwnedFd,
    rc::Rc,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use rustix::{
    io::Errno,
    net::{AddressFamily, Shutdown, SocketFlags, sockopt},
};
use socket2::{SockFilter, SockRef};

use crate::{
    client_address::ClientAddress,
    driver::{Doorbell, Pollable, sleep, spawn, yield_now},
    exchange::{self, Origin},
    limits::{
        ACCEPT_BATCH_MAX, ACCEPT_PAUSE_MS, ACCEPT_WARNING_SECONDS, HANDSHAKE_MS, LISTEN_BACKLOG,
        TICK_MS,
    },
    mailbox::Mailbox,
    shared::Shared,
    timer_wheel::Tick,
    worker::Worker,
};

/// Where the connections of a worker come from.
pub enum Entrance {
    /// This socket. Each of these workers gets its share of them.
    Socket(Listening, Vec<Arc<Mailbox<Arrival>>>),
    /// The worker that has the socket.
    Share(Arc<Mailbox<Arrival>>),
}

/// A socket at which connections come in.
pub struct Listening {
    /// The socket.
    pub socket: OwnedFd,
    /// Somebody else holds it too, and gives it to the next server: when this one drains it only
    /// stops listening, and who connects then waits.
    pub is_inherited: bool,
}

/// What the worker that has the socket tells one of the others.
pub enum Arrival {
    /// Here is a connection, from this client.
    Connection(OwnedFd, ClientAddress),
    /// There are no more.
    End,
}

/// Takes connections from now on, until the worker drains.
///
/// # Errors
/// When the kernel does not take what is to be waited for.
pub fn open(worker: &Rc<Worker>, entrance: Entrance, is_admin: bool) -> io::Result<()> {
    let worker = Rc::clone(worker);
    match entrance {
        Entrance::Socket(Listening { socket, is_inherited }, others) => {
            let is_local = sockopt::socket_domain(&socket)? == AddressFamily::UNIX;
            let socket = Pollable::new(socket)?;
            let turn = Cell::new(0);
            let door = Door { socket, is_local, is_inherited, is_admin, others, turn };
            let stop = worker.begin_accepting();
            spawn(accept(worker, door, stop));
        }
        Entrance::Share(mailbox) => {
            let fd = Pollable::new(mailbox.wake_fd().try_clone_to_owned()?)?;
            // The other worker says when it is over.
            worker.begin_accepting();
            spawn(receive(worker, mailbox, fd));
        }
    }
    Ok(())
}

/// Where a task takes connections.
struct Door {
    socket: Pollable,
    /// It is a `unix:` socket.
    is_local: bool,
    is_inherited: bool,
    is_admin: bool,
    others: Vec<Arc<Mailbox<Arrival>>>,
    /// Which of them gets the next connection; the worker itself comes after the last.
    turn: Cell<usize>,
}

/// What has come of taking connections.
#[derive(PartialEq, Eq)]
enum Taken {
    /// As many as may be taken at one time: more may wait.
    Many,
    /// All, or whoever waited has gone.
    All,
    /// The system has run out of something that a connection needs.
    Exhausted(Errno),
}

async fn accept(worker: Rc<Worker>, door: Door, stop: Doorbell) {
    take_until(&worker, &door, &stop).await;
    if !door.is_inherited {
        close(&worker, &door).await;
    }
    for other in &door.others {
        other.post(Arrival::End);
    }
    worker.end_accepting();
}

const WARNING_TICKS: u32 = (ACCEPT_WARNING_SECONDS * 1_000 / TICK_MS) as u32;

/// Takes connections until somebody rings.
async fn take_until(worker: &Rc<Worker>, door: &Door, stop: &Doorbell) {
    let mut warned_at: Option<Tick> = None;
    while matches!(door.socket.readable_unless(stop).await, Ok(true)) {
        if let Taken::Exhausted(error) = take(worker, door) {
            // It may be so for hours, and the log is to be read afterwards.
            let now = worker.tick();
            if warned_at.is_none_or(|at| at.until(now) >= WARNING_TICKS) {
                warned_at = Some(now);
                log::warn!(
                    "cannot accept a connection: {error}; trying again every {ACCEPT_PAUSE_MS} ms"
                );
            }
            sleep(Duration::from_millis(ACCEPT_PAUSE_MS)).await;
        }
        // On epoll it is known at once that more wait.
        yield_now().await;
    }
}

/// Stops listening. The kernel resets whoever waits to be accepted when a socket is closed, and with
/// a packet of a handshake it answers a closed port. So none begins any more, those that have begun
/// come to their end, and only then is there nobody left who could be reset.
async fn close(worker: &Rc<Worker>, door: &Door) {
    if door.is_local {
        // Who connects is refused from here on, and who waits is still there.
        let _ = rustix::net::shutdown(&door.socket, Shutdown::Read);
    } else if SockRef::from(&door.socket).attach_filter(&ALL_BUT_SYN).is_ok() {
        let is_over = Doorbell::default();
        let bell = is_over.clone();
        spawn(async move {
            sleep(Duration::from_millis(HANDSHAKE_MS)).await;
            bell.ring();
        });
        take_until(worker, door, &is_over).await;
    }
    let mut rounds = LISTEN_BACKLOG as usize / ACCEPT_BATCH_MAX;
    while rounds > 0 && take(worker, door) == Taken::Many {
        rounds -= 1;
    }
    let _ = rustix::net::shutdown(&door.socket, Shutdown::Both);
}

/// A socket filter that drops what begins a handshake: its client sends it again a second later, and
/// is refused then, or served by the next server. Connections inherit it, and get no such packets.
const ALL_BUT_SYN: [SockFilter; 4] = {
    // See `linux/bpf_common.h`; a filter of a TCP socket sees packets from their TCP header on.
    const LOAD_BYTE: u16 = 0x30;
    const JUMP_IF_SET: u16 = 0x45;
    const RETURN: u16 = 0x06;
    const FLAGS_AT: u32 = 13;
    const SYN: u32 = 2;
    [
        SockFilter::new(LOAD_BYTE, 0, 0, FLAGS_AT),
        SockFilter::new(JUMP_IF_SET, 0, 1, SYN),
        SockFilter::new(RETURN, 0, 0, 0),
        SockFilter::new(RETURN, 0, 0, u32::MAX),
    ]
};

/// Takes those who wait.
fn take(worker: &Rc<Worker>, door: &Door) -> Taken {
    let mut flags = SocketFlags::CLOEXEC;
    flags.set(SocketFlags::NONBLOCK, worker.shared.driver.wants_nonblocking());
    for _ in 0..ACCEPT_BATCH_MAX {
        match rustix::net::acceptfrom_with(&door.socket, flags) {
            Ok((socket, peer)) => {
                let ip = peer.and_then(|peer| SocketAddr::try_from(peer).ok());
                let client =
                    ip.map_or(ClientAddress::Local, |peer| ClientAddress::of_ip(peer.ip()));
                deal(worker, door, socket, client);
            }
            Err(error) if is_exhausted(error) => return Taken::Exhausted(error),
            Err(_) => return Taken::All,
        }
    }
    Taken::Many
}

/// Gives a connection to the worker whose turn it is.
fn deal(worker: &Rc<Worker>, door: &Door, socket: OwnedFd, client: ClientAddress) {
    let turn = door.turn.get();
    door.turn.set((turn + 1) % (door.others.len() + 1));
    match door.others.get(turn) {
        Some(other) => other.post(Arrival::Connection(socket, client)),
        None => welcome(worker, socket, client, door.is_admin),
    }
}

/// Takes the connections that another worker deals.
async fn receive(worker: Rc<Worker>, mailbox: Arc<Mailbox<Arrival>>, fd: Pollable) {
    let mut arrivals = Vec::new();
    let mut is_over = false;
    while !is_over && fd.readable().await.is_ok() {
        mailbox.hush();
        mailbox.drain(&mut arrivals);
        for arrival in arrivals.drain(..) {
            match arrival {
                Arrival::Connection(socket, client) => welcome(&worker, socket, client, false),
                Arrival::End => is_over = true,
            }
        }
    }
    worker.end_accepting();
}

/// A connection has come in.
fn welcome(worker: &Rc<Worker>, socket: OwnedFd, client: ClientAddress, is_admin: bool) {
    let Ok(socket) = Pollable::new(socket) else { return };
    let Shared { admissions, settings, .. } = &*worker.shared;
    let entry = if is_admin {
        admissions.admit_admin()
    } else {
        // A proxy is many clients: which of them it is, each request says.
        let address = client.key().filter(|_| !settings.trusted_proxies.trusts(client));
        match admissions.admit(address, worker.now()) {
            Ok(entry) => entry,
            Err(refusal) => return worker.note_refusal(refusal, client),
        }
    };
    worker.stats.connections.fetch_add(1, Relaxed);
    let origin = Origin { id: worker.next_connection(), client, is_admin, entry };
    spawn(exchange::serve(Rc::clone(worker), socket, origin));
}

/// Whether the system has run out of something that comes back.
fn is_exhausted(error: Errno) -> bool {
    [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM].contains(&error)
}
