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

use rustix::{io::Errno, net::SocketFlags};

use crate::{
    client_address::ClientAddress,
    driver::{Pollable, sleep, spawn, yield_now},
    exchange::{self, Origin},
    limits::{ACCEPT_BATCH_MAX, ACCEPT_PAUSE_MS, ACCEPT_WARNING_SECONDS, TICK_MS},
    mailbox::Mailbox,
    shared::Shared,
    timer_wheel::Tick,
    worker::{Letter, Worker},
};

/// What a worker is started with.
pub struct Start {
    /// Counts workers, from 0.
    pub id: usize,
    /// Its listening socket, shared with others or of its own.
    pub listener: OwnedFd,
    /// The one of the address for administration, if it is this worker's.
    pub admin_listener: Option<OwnedFd>,
    /// What other threads send it.
    pub mailbox: Arc<Mailbox<Letter>>,
    /// What it shares with the others.
    pub shared: Arc<Shared>,
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
    let Start { id, listener, admin_listener, mailbox, shared } = start;
    let ring = shared.driver.stream_ring(mailbox.wake_fd())?;
    let ring_fd = ring.wait_fd().map(|fd| fd.try_clone_to_owned()).transpose()?;
    let mailbox_fd = mailbox.wake_fd().try_clone_to_owned()?;
    let listener = Rc::new(Pollable::new(listener)?);
    let worker = Rc::new(Worker::new(id, shared, mailbox, ring, Rc::clone(&listener)));
    for fd in [Some(mailbox_fd), ring_fd].into_iter().flatten() {
        spawn(wake_on(Rc::clone(&worker), Pollable::new(fd)?));
    }
    spawn(accept(Rc::clone(&worker), listener, false));
    if let Some(listener) = admin_listener {
        spawn(accept(Rc::clone(&worker), Rc::new(Pollable::new(listener)?), true));
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

/// Takes connections, until the worker drains.
async fn accept(worker: Rc<Worker>, listener: Rc<Pollable>, is_admin: bool) {
    let mut flags = SocketFlags::CLOEXEC;
    flags.set(SocketFlags::NONBLOCK, worker.shared.driver.wants_nonblocking());
    let mut warned_at: Option<Tick> = None;
    loop {
        if listener.readable().await.is_err() || worker.is_draining() {
            return;
        }
        for _ in 0..ACCEPT_BATCH_MAX {
            match rustix::net::acceptfrom_with(&*listener, flags) {
                Ok((socket, peer)) => {
                    let ip = peer.and_then(|peer| SocketAddr::try_from(peer).ok());
                    let client =
                        ip.map_or(ClientAddress::Local, |peer| ClientAddress::of_ip(peer.ip()));
                    welcome(&worker, socket, client, is_admin);
                }
                Err(error) if is_exhausted(error) => {
                    // It may be so for hours, and the log is to be read afterwards.
                    let now = worker.tick();
                    if warned_at.is_none_or(|at| at.until(now) >= WARNING_TICKS) {
                        warned_at = Some(now);
                        log::warn!(
                            "cannot accept a connection: {error}; trying again every \
                             {ACCEPT_PAUSE_MS} ms"
                        );
                    }
                    sleep(Duration::from_millis(ACCEPT_PAUSE_MS)).await;
                    break;
                }
                // Nobody waits any more, or whoever waited has gone.
                Err(_) => break,
            }
        }
        // On epoll it is known at once that more wait, or that another worker has shut down the
        // socket which it shares with this one.
        yield_now().await;
    }
}

/// A connection has come in.
fn welcome(worker: &Rc<Worker>, socket: OwnedFd, client: ClientAddress, is_admin: bool) {
    let Ok(socket) = Pollable::new(socket) else { return };
    worker.stats.connections.fetch_add(1, Relaxed);
    let is_surplus = worker.shared.connections() > worker.shared.connections_max;
    let origin = Origin { id: worker.next_connection(), client, is_admin, is_surplus };
    spawn(exchange::serve(Rc::clone(worker), socket, origin));
}

/// Whether the system has run out of something that comes back.
fn is_exhausted(error: Errno) -> bool {
    [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM].contains(&error)
}
