//! A worker's life: its runtime, the tasks that are always there, and the connections that come in.
//!
//! Four kinds of task run on the loop: one that takes connections ([`arrivals`]), one that waits for
//! other threads, one for each connection that carries requests ([`exchange`](crate::exchange)), and
//! the pump ([`Worker::pump`]).

use std::{
    io,
    rc::Rc,
    sync::{Arc, mpsc},
    thread::{self, JoinHandle},
};

use crate::{
    arrivals::{self, Entrance, Listening},
    driver::{IoDriver, Loop, Pollable, spawn, yield_now},
    mailbox::Mailbox,
    shared::Shared,
    stream_ring::StreamRing,
    worker::{Letter, Mailboxes, Worker},
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

/// What a thread does with its loop, and the ring for parked subscribers beside it.
type Job = Box<dyn FnOnce(Loop, StreamRing) + Send>;

/// A thread whose loop is set up, and that waits to hear what to run on it. It ends when it is
/// dropped instead.
pub struct LoopThread {
    jobs: mpsc::Sender<Job>,
    thread: JoinHandle<()>,
}

impl LoopThread {
    /// Starts a thread for each worker. There are either all, or none: what the kernel has memory
    /// for is not known before each has what it needs.
    ///
    /// # Errors
    /// When the kernel refuses what a loop needs.
    pub fn start_all(driver: IoDriver, mailboxes: &Mailboxes) -> io::Result<Vec<LoopThread>> {
        let (report, reports) = mpsc::channel();
        let threads = mailboxes
            .iter()
            .enumerate()
            .map(|(id, mailbox)| LoopThread::start(id, driver, mailbox, &report))
            .collect::<io::Result<Vec<_>>>()?;
        let outcome = threads.iter().try_for_each(|_| reports.recv().expect("each reports once"));
        if let Err(error) = outcome {
            // What they have is given back before anybody tries something else.
            for LoopThread { jobs, thread } in threads {
                drop(jobs);
                let _ = thread.join();
            }
            return Err(error);
        }
        Ok(threads)
    }

    fn start(
        id: usize,
        driver: IoDriver,
        mailbox: &Arc<Mailbox<Letter>>,
        report: &mpsc::Sender<io::Result<()>>,
    ) -> io::Result<LoopThread> {
        let (jobs, next_job) = mpsc::channel::<Job>();
        let (mailbox, report) = (Arc::clone(mailbox), report.clone());
        let run = move || {
            let (event_loop, ring) = match driver.set_up(mailbox.wake_fd()) {
                Ok(set_up) => set_up,
                Err(error) => return drop(report.send(Err(error))),
            };
            let _ = report.send(Ok(()));
            if let Ok(job) = next_job.recv() {
                job(event_loop, ring);
            }
        };
        let thread = thread::Builder::new().name(format!("worker-{id}")).spawn(run)?;
        Ok(LoopThread { jobs, thread })
    }

    /// Has it serve until it has drained, and then tell how that ended.
    pub fn serve(
        self,
        start: Start,
        tell: impl FnOnce(io::Result<()>) + Send + 'static,
    ) -> JoinHandle<()> {
        let job = move |event_loop: Loop, ring| tell(event_loop.run(work(start, ring)));
        self.jobs.send(Box::new(job)).expect("it waits for that");
        self.thread
    }
}

async fn work(start: Start, ring: StreamRing) -> io::Result<()> {
    let Start { id, entrance, admin_listener, mailboxes, shared } = start;
    let mailbox = &mailboxes[id];
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
