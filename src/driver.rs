//! monoio, and the few things that the worker wants of it: to wait until a descriptor is ready,
//! until a time, until somebody knocks, or just for its next turn.
//!
//! Only this file names monoio. Requests are read and written with plain non-blocking calls once
//! a descriptor is ready: a waiting connection then owns no buffer, and nothing is in flight that
//! a time-out would have to cancel. (A read that is dropped may lose data, and `into_raw_fd`
//! panics while one is in flight.)

use std::{
    cell::{Cell, RefCell},
    future::{Future, poll_fn},
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd},
    pin::pin,
    rc::Rc,
    task::{Poll, Waker},
    time::{Duration, Instant},
};

use monoio::{
    IoUringDriver, LegacyDriver, Runtime, RuntimeBuilder, net::TcpStream, time::TimeDriver,
};
use rustix::{
    io::Errno,
    io_uring::{IoringEnterFlags, io_uring_enter},
    thread::Timespec,
};

use crate::{
    limits::{RING_ATTEMPTS_MAX, RING_PAUSE_MS},
    stream_ring::{EpollRing, StreamRing, UringRing},
};

/// What the kernel is asked with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IoDriver {
    /// `io_uring`.
    Uring,
    /// `epoll`, where `io_uring` is refused.
    Epoll,
}

impl IoDriver {
    /// As `/worker` and the log name it.
    pub fn as_str(self) -> &'static str {
        match self {
            IoDriver::Uring => "io_uring",
            IoDriver::Epoll => "epoll",
        }
    }

    /// Whether sockets must be non-blocking: `io_uring` waits by itself for one that blocks, and
    /// would not for one that does not.
    pub fn wants_nonblocking(self) -> bool {
        self == IoDriver::Epoll
    }

    /// Sets a loop up for this thread, and the ring for parked subscribers beside it, which announces
    /// what has happened through `eventfd`.
    ///
    /// # Errors
    /// What the kernel refuses; see [`UringRing::new`].
    pub fn set_up(self, eventfd: BorrowedFd<'_>) -> io::Result<(Loop, StreamRing)> {
        Ok(match self {
            IoDriver::Uring => {
                may_enter(eventfd)?;
                let runtime = patiently(|| {
                    RuntimeBuilder::<IoUringDriver>::new()
                        .with_entries(ENTRIES)
                        .enable_timer()
                        .build()
                })?;
                let ring = patiently(|| UringRing::new(eventfd))?;
                (Loop(Runtimes::Uring(runtime)), StreamRing::Uring(Box::new(ring)))
            }
            IoDriver::Epoll => {
                let builder = RuntimeBuilder::<LegacyDriver>::new().with_entries(ENTRIES);
                let runtime = builder.enable_timer().build()?;
                (Loop(Runtimes::Epoll(runtime)), StreamRing::Epoll(EpollRing::new()?))
            }
        })
    }
}

/// A loop that is set up, on the thread that runs it.
pub struct Loop(Runtimes);

enum Runtimes {
    Uring(Runtime<TimeDriver<IoUringDriver>>),
    Epoll(Runtime<TimeDriver<LegacyDriver>>),
}

impl Loop {
    /// Runs a future, and all that it spawns.
    pub fn run<F: Future>(self, future: F) -> F::Output {
        match self.0 {
            Runtimes::Uring(mut runtime) => runtime.block_on(future),
            Runtimes::Epoll(mut runtime) => runtime.block_on(future),
        }
    }
}

/// Entries of the submission queue of the requests' ring.
const ENTRIES: u32 = 4_096;

/// Tries again for a while when there is no memory: see [`RING_ATTEMPTS_MAX`].
fn patiently<T>(set_up: impl Fn() -> io::Result<T>) -> io::Result<T> {
    for _ in 0..RING_ATTEMPTS_MAX {
        match set_up() {
            Err(error) if error.kind() == io::ErrorKind::OutOfMemory => {
                let pause =
                    Timespec { tv_sec: 0, tv_nsec: RING_PAUSE_MS.cast_signed() * 1_000_000 };
                let _ = rustix::thread::nanosleep(&pause);
            }
            other => return other,
        }
    }
    set_up()
}

/// Whether a ring may be entered; a filter may refuse that alone. `not_a_ring` may be any other
/// descriptor: that it is none is what the kernel says then.
fn may_enter(not_a_ring: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: nothing is submitted, and nothing is waited for.
    match unsafe { io_uring_enter(not_a_ring, 0, 0, IoringEnterFlags::empty()) } {
        Err(Errno::OPNOTSUPP) | Ok(_) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Starts a task on this thread.
pub fn spawn(future: impl Future<Output = ()> + 'static) {
    // The task goes on without its handle.
    drop(monoio::spawn(future));
}

/// Waits for a time.
pub async fn sleep(time: Duration) {
    monoio::time::sleep(time).await;
}

/// Lets every other task that is ready go first, and the kernel be asked.
///
/// Who wakes itself would be next again: monoio puts such a task at the front of its queue, and
/// polls the future of [`Loop::run`] at once. A new task stands at the end of the queue.
pub async fn yield_now() {
    monoio::spawn(async {}).await;
}

/// A descriptor whose readiness can be waited for.
///
/// monoio has no type for any descriptor at all; its `TcpStream` does nothing but hold one until
/// it is asked for more, and polling is all that it is asked for here.
pub struct Pollable(TcpStream);

impl Pollable {
    /// Takes a descriptor over.
    ///
    /// # Errors
    /// When epoll does not take it.
    pub fn new(fd: OwnedFd) -> io::Result<Pollable> {
        TcpStream::from_std(std::net::TcpStream::from(fd)).map(Pollable)
    }

    /// Waits until it can be read, or is broken.
    ///
    /// # Errors
    /// When the kernel does not take the poll.
    pub async fn readable(&self) -> io::Result<()> {
        self.0.readable(false).await
    }

    /// Waits until it can be read, or is broken, or somebody rings: false then. Nothing is lost, but
    /// [`Pollable::into_fd`] must not follow: the kernel lets go of it later.
    ///
    /// # Errors
    /// When the kernel does not take the poll.
    pub async fn readable_unless(&self, bell: &Doorbell) -> io::Result<bool> {
        let mut ring = pin!(bell.wait());
        let mut readable = pin!(self.readable());
        poll_fn(|context| match ring.as_mut().poll(context) {
            Poll::Ready(()) => Poll::Ready(Ok(false)),
            Poll::Pending => readable.as_mut().poll(context).map_ok(|()| true),
        })
        .await
    }

    /// Waits until it can be written, or is broken.
    ///
    /// # Errors
    /// When the kernel does not take the poll.
    pub async fn writable(&self) -> io::Result<()> {
        self.0.writable(false).await
    }

    /// Gives the descriptor back. Nobody may be waiting on it.
    pub fn into_fd(self) -> OwnedFd {
        let fd = self.0.into_raw_fd();
        // SAFETY: `into_raw_fd` gives up the ownership that `new` took.
        unsafe { OwnedFd::from_raw_fd(fd) }
    }
}

impl AsFd for Pollable {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the stream owns the descriptor, and is borrowed as long as the result.
        unsafe { BorrowedFd::borrow_raw(self.0.as_raw_fd()) }
    }
}

/// A door at which any task of this thread may knock, and one waits.
#[derive(Clone, Default)]
pub struct Doorbell(Rc<Bell>);

#[derive(Default)]
struct Bell {
    has_rung: Cell<bool>,
    waiting: RefCell<Option<Waker>>,
}

impl Doorbell {
    /// Wakes the task that waits, or lets the next wait end at once.
    pub fn ring(&self) {
        self.0.has_rung.set(true);
        if let Some(waker) = self.0.waiting.borrow_mut().take() {
            waker.wake();
        }
    }

    /// Waits until somebody rings.
    pub async fn wait(&self) {
        poll_fn(|context| {
            if self.0.has_rung.replace(false) {
                return Poll::Ready(());
            }
            *self.0.waiting.borrow_mut() = Some(context.waker().clone());
            Poll::Pending
        })
        .await;
    }

    /// Waits until somebody rings or it is `deadline`.
    pub async fn wait_until(&self, deadline: Instant) {
        let mut sleep = pin!(monoio::time::sleep_until(deadline.into()));
        let mut ring = pin!(self.wait());
        poll_fn(|context| match ring.as_mut().poll(context) {
            Poll::Pending => sleep.as_mut().poll(context),
            Poll::Ready(()) => Poll::Ready(()),
        })
        .await;
    }
}

/// A value that one task waits for and another gives.
pub struct Promise<T>(Rc<RefCell<Promised<T>>>);

struct Promised<T> {
    value: Option<T>,
    waiting: Option<Waker>,
}

impl<T> Clone for Promise<T> {
    fn clone(&self) -> Promise<T> {
        Promise(Rc::clone(&self.0))
    }
}

impl<T> Default for Promise<T> {
    fn default() -> Promise<T> {
        Promise(Rc::new(RefCell::new(Promised { value: None, waiting: None })))
    }
}

impl<T> Promise<T> {
    /// Whether this is the same promise.
    pub fn is(&self, other: &Promise<T>) -> bool {
        Rc::ptr_eq(&self.0, &other.0)
    }

    /// Gives the value; the first one counts.
    pub fn keep(&self, value: T) {
        let mut promised = self.0.borrow_mut();
        promised.value.get_or_insert(value);
        if let Some(waker) = promised.waiting.take() {
            waker.wake();
        }
    }

    /// Waits for the value.
    pub async fn wait(&self) -> T {
        poll_fn(|context| {
            let mut promised = self.0.borrow_mut();
            if let Some(value) = promised.value.take() {
                return Poll::Ready(value);
            }
            promised.waiting = Some(context.waker().clone());
            Poll::Pending
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mailbox::Mailbox;

    /// Counts, for as long as `others` have not all had their turn, how often one that yields has.
    async fn turns_before(others: usize) -> usize {
        let others_ran = Rc::new(Cell::new(0));
        for _ in 0..others {
            let others_ran = Rc::clone(&others_ran);
            spawn(async move { others_ran.set(others_ran.get() + 1) });
        }
        let mut turns = 0;
        while others_ran.get() < others && turns < 100 {
            turns += 1;
            yield_now().await;
        }
        turns
    }

    #[test]
    fn whoever_yields_lets_every_other_task_go_first() {
        for driver in [IoDriver::Uring, IoDriver::Epoll] {
            let mailbox = Mailbox::<()>::new().unwrap();
            let set_up = || driver.set_up(mailbox.wake_fd());
            let Ok((event_loop, _)) = set_up() else { continue };
            assert_eq!(event_loop.run(turns_before(3)), 1, "{driver:?}");
            let (event_loop, _) = set_up().unwrap();
            let in_a_task = event_loop.run(async { monoio::spawn(turns_before(3)).await });
            assert_eq!(in_a_task, 1, "{driver:?}");
        }
    }
}
