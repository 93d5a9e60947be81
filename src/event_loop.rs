//! A worker's life: its runtime, the tasks that are always there, and the connections that come in.
//!
//! Four kinds of task run on the loop: one that takes connections ([`arrivals`]), one that waits for
//! other threads, one for each connection that carries requests ([`exchange`](crate::exchange)), and
//! the pump ([`Worker::pump`]).

use std::{io, rc::Rc, sync::Arc};

use crate::{
    arrivals::{self, Entrance, Listening},
    driver::{Pollable, spawn, yield_now},
    shared::Shared,
    worker::{Mailboxes, Worker},
};

/// What a worker is started with.
pub struct Start {
    /// Counts workers, from 0.
    pub id: usize,
    /// Where its connections come from.
    pub entrance: Entrance,
    /// The one of the address for administration, if it is this worker's.
    pub admin_listener: Option<Listening>,
    /// What other threads send each worker.
    pub mailboxes: Mailboxes,
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
    let Start { id, entrance, admin_listener, mailboxes, shared } = start;
    let mailbox = &mailboxes[id];
    let ring = shared.driver.stream_ring(mailbox.wake_fd())?;
    let ring_fd = ring.wait_fd().map(|fd| fd.try_clone_to_owned()).transpose()?;
    let mailbox_fd = mailbox.wake_fd().try_clone_to_owned()?;
    let worker = Rc::new(Worker::new(id, shared, mailboxes, ring));
    for fd in [Some(mailbox_fd), ring_fd].into_iter().flatten() {
        spawn(wake_on(Rc::clone(&worker), Pollable::new(fd)?));
    }
    arrivals::open(&worker, entrance, false)?;
    if let Some(listening) = admin_listener {
        arrivals::open(&worker, Entrance::Socket(listening, Vec::new()), true)?;
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
