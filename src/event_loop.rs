//! A worker's life: its runtime, the tasks that are always there, and the connections that come in.
//!
//! Four kinds of task run on the loop: one that accepts, one that waits for other threads, one for
//! each connection that carries requests ([`exchange`]), and the pump ([`Worker::pump`]).

use std::{
    io,
    net::SocketAddr,
    os::fd::OwnedFd,
    rc::Rc,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use rustix::{
    io::Errno,
    net::{Shutdown, SocketFlags},
};

use crate::{
    client_address::ClientAddress,
    driver::{Doorbell, Pollable, sleep, spawn, yield_now},
    exchange::{self, Origin},
    limits::{ACCEPT_BATCH_MAX, ACCEPT_PAUSE_MS, ACCEPT_WARNING_SECONDS, LISTEN_BACKLOG, TICK_MS},
    shared::Shared,
    timer_wheel::Tick,
    worker::{Mailboxes, Worker},
};

/// What a worker is started with.
pub struct Start {
    /// Counts workers, from 0.
    pub id: usize,
    /// Its listening socket, shared with others or of its own.
    pub listener: Listening,
    /// The one of the address for administration, if it is this worker's.
    pub admin_listener: Option<Listening>,
    /// What other threads send each worker.
    pub mailboxes: Mailboxes,
    /// What it shares with the others.
    pub shared: Arc<Shared>,
}

/// A socket at which connections come in.
pub struct Listening {
    /// The socket.
    pub socket: OwnedFd,
    /// Somebody else holds it too, and gives it to the next server: when this one drains it only
    /// stops listening, and who connects then waits.
    pub is_inherited: bool,
}

/// Runs an event loop on this thread until it has drained.
///
/// # Errors
/// When the kernel refuses what the loop needs.
pub fn run(start: Start) -> io::Result<()> {
    let driver = start.shared.driver;
    driver.run(work(start))?
}

async fn work(start: Start) -> io::Result<()> {
    let Start { id, listener, admin_listener, mailboxes, shared } = start;
    let mailbox = &mailboxes[id];
    let ring = shared.driver.stream_ring(mailbox.wake_fd())?;
    let ring_fd = ring.wait_fd().map(|fd| fd.try_clone_to_owned()).transpose()?;
    let mailbox_fd = mailbox.wake_fd().try_clone_to_owned()?;
    let worker = Rc::new(Worker::new(id, shared, mailboxes, ring));
    for fd in [Some(mailbox_fd), ring_fd].into_iter().flatten() {
        spawn(wake_on(Rc::clone(&worker), Pollable::new(fd)?));
    }
    for (listening, is_admin) in [(Some(listener), false), (admin_listener, true)] {
        let Some(Listening { socket, is_inherited }) = listening else { continue };
        let door = Door { socket: Pollable::new(socket)?, is_inherited, is_admin };
        spawn(accept(Rc::clone(&worker), door, worker.begin_accepting()));
    }
    worker.pump().await;
    Ok(())
}

/// Wakes the pump whenever a descriptor has something.
async fn wake_on(worker: Rc<Worker>, fd: Pollable) {
    while fd.readable().await.is_ok() {
        worker.wake();
        // The stream ring's descriptor stays readable until the pump has emptied it, and on epoll
        // that is known at once: without this the pump would never have its turn.
        yield_now().await;
    }
}

const WARNING_TICKS: u32 = (ACCEPT_WARNING_SECONDS * 1_000 / TICK_MS) as u32;

/// Where a task takes connections.
struct Door {
    socket: Pollable,
    is_inherited: bool,
    is_admin: bool,
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

/// Takes connections, until the worker drains.
async fn accept(worker: Rc<Worker>, door: Door, stop: Doorbell) {
    let mut warned_at: Option<Tick> = None;
    while matches!(door.socket.readable_unless(&stop).await, Ok(true)) && !worker.is_draining() {
        if let Taken::Exhausted(error) = take(&worker, &door) {
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
        // On epoll it is known at once that more wait, or that another worker has shut down the
        // socket which it shares with this one.
        yield_now().await;
    }
    if !door.is_inherited {
        // Who is here already is heard; who comes from now on is turned away.
        let mut rounds = LISTEN_BACKLOG as usize / ACCEPT_BATCH_MAX;
        while rounds > 0 && take(&worker, &door) == Taken::Many {
            rounds -= 1;
        }
        let _ = rustix::net::shutdown(&door.socket, Shutdown::Both);
    }
    worker.end_accepting();
}

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
                welcome(worker, socket, client, door.is_admin);
            }
            Err(error) if is_exhausted(error) => return Taken::Exhausted(error),
            Err(_) => return Taken::All,
        }
    }
    Taken::Many
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
