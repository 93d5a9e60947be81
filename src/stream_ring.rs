//! Sockets of parked subscribers: sends in batches, and hang-ups noticed without a task for each.
//!
//! A narrow interface with two implementations: a second `io_uring` beside the one that monoio
//! drives, and epoll with `send(2)` for hosts that refuse `io_uring`.
//!
//! ```text
//!                 adopt          watch (armed once, stays)           close
//!   OwnedFd ───────────▶ Peer ──────────────────────────────▶ … ──────────▶ shutdown, closed
//!                          │ send ─▶ n bytes | EAGAIN ─▶ watch_writable ─▶ Writable
//!                          └ the peer hangs up ─▶ HangUp
//! ```
//!
//! Invariants of the `io_uring` one:
//!
//! - Every send carries `MSG_DONTWAIT`, so the kernel completes it before the submission returns,
//!   if need be with `EAGAIN`: between two calls no send is in flight, and no memory is pinned.
//! - A send that went well posts no completion (`IOSQE_CQE_SKIP_SUCCESS`): what has not been
//!   reported when everything is submitted was taken whole. `MSG_WAITALL` makes one that was cut
//!   short a failed one, whose completion says how much was taken.
//! - The only long-lived requests are polls. A poll holds a reference to its socket, so closing
//!   the descriptor alone would neither end the poll nor send a FIN: [`StreamRing::close`] shuts
//!   the socket down first, which completes the poll; its late completion carries a generation
//!   that has passed and is dropped by the hub.
//! - Completions are announced through an eventfd that is registered with the ring. Waiting on the
//!   ring's own descriptor does not do: with `DEFER_TASKRUN` it stays silent.
//!
//! All `unsafe` of the server is here and in `driver.rs`, where descriptors pass through monoio.

#[cfg(test)]
mod kernel_reality;

use std::{
    io,
    mem::MaybeUninit,
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd},
};

use io_uring::{IoUring, cqueue, opcode, squeue, types};
use rustix::{
    event::epoll,
    io::Errno,
    net::{RecvFlags, SendFlags, Shutdown},
};

use crate::{
    hub::{Peer, Token},
    limits::{RING_COMPLETION_ENTRIES, RING_SUBMISSION_ENTRIES, SEND_SLICE_MAX},
};

/// What happened to a parked socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RingEvent {
    /// The peer has closed or half-closed, or the connection is broken.
    HangUp(Token),
    /// The socket takes bytes again.
    Writable(Token),
    /// The kernel could not watch for that. It should be tried again a little later.
    Unwatched(Token),
}

/// Bytes for one socket.
#[derive(Clone, Copy, Debug)]
pub struct Send<'a> {
    /// To whom.
    pub peer: Peer,
    /// What; not empty.
    pub bytes: &'a [u8],
}

/// How many bytes the kernel has taken, or why none.
pub type SendResult = Result<usize, Errno>;

/// The sockets of one worker's subscribers; see the module.
#[derive(Debug)]
pub enum StreamRing {
    /// On `io_uring`.
    Uring(Box<UringRing>),
    /// On epoll and `send(2)`.
    Epoll(EpollRing),
}

impl StreamRing {
    /// Takes over a connected socket.
    pub fn adopt(&mut self, socket: OwnedFd) -> Peer {
        Peer(socket.into_raw_fd())
    }

    /// Begins to watch an adopted socket for a hang-up, which is reported once.
    pub fn watch(&mut self, peer: Peer, token: Token) {
        match self {
            StreamRing::Uring(ring) => ring.arm(peer, poll_mask::RDHUP, Kind::HangUp, token),
            StreamRing::Epoll(ring) => ring.add(peer, token),
        }
    }

    /// Asks to be told, once, when the socket takes bytes again.
    pub fn watch_writable(&mut self, peer: Peer, token: Token) {
        match self {
            StreamRing::Uring(ring) => ring.arm(peer, poll_mask::OUT, Kind::Writable, token),
            StreamRing::Epoll(ring) => ring.arm(peer, token),
        }
    }

    /// Sends to several sockets, and appends a result for each, in their order.
    ///
    /// At most [`SEND_SLICE_MAX`] sends.
    pub fn send<'a>(
        &mut self,
        sends: impl ExactSizeIterator<Item = Send<'a>>,
        results: &mut Vec<SendResult>,
    ) {
        debug_assert!(sends.len() <= SEND_SLICE_MAX);
        match self {
            StreamRing::Uring(ring) => ring.send(sends, results),
            StreamRing::Epoll(_) => results.extend(
                sends.map(|send| rustix::net::send(borrow(send.peer), send.bytes, SEND_FLAGS)),
            ),
        }
    }

    /// Hands what has been armed to the kernel, and takes what it has to report.
    pub fn poll(&mut self, events: &mut Vec<RingEvent>) {
        match self {
            StreamRing::Uring(ring) => ring.poll(events),
            StreamRing::Epoll(ring) => ring.poll(events),
        }
    }

    /// The error that is pending on a socket, if there is one.
    pub fn take_error(&mut self, peer: Peer) -> Option<Errno> {
        rustix::net::sockopt::socket_error(borrow(peer)).ok().and_then(Result::err)
    }

    /// Ends a connection in order: what was sent arrives, then a FIN.
    pub fn close(&mut self, peer: Peer) {
        // SAFETY: `adopt` took the descriptor out of an `OwnedFd`, and the hub gives each peer
        // back once, when its entry is removed.
        let socket = unsafe { OwnedFd::from_raw_fd(peer.0) };
        // Unread input would turn the FIN into a reset, and the last events into nothing.
        let mut unread = [MaybeUninit::<u8>::uninit(); 4096];
        let _ = rustix::net::recv(&socket, &mut unread[..], RecvFlags::DONTWAIT);
        let _ = rustix::net::shutdown(&socket, Shutdown::Both);
    }

    /// A descriptor that becomes readable when there are events, if the eventfd that was given to
    /// the ring does not tell of them.
    pub fn wait_fd(&self) -> Option<BorrowedFd<'_>> {
        match self {
            StreamRing::Uring(_) => None,
            StreamRing::Epoll(ring) => Some(ring.epoll.as_fd()),
        }
    }
}

const SEND_FLAGS: SendFlags = SendFlags::DONTWAIT.union(SendFlags::NOSIGNAL);

/// `MSG_WAITALL` has the same value both ways, and a name in [`RecvFlags`] only.
const RING_SEND_FLAGS: SendFlags =
    SEND_FLAGS.union(SendFlags::from_bits_retain(RecvFlags::WAITALL.bits()));

/// Poll masks of `io_uring`'s `POLL_ADD`, which are those of `poll(2)`.
mod poll_mask {
    use rustix::event::PollFlags;
    pub(super) const OUT: u32 = PollFlags::OUT.bits() as u32;
    pub(super) const RDHUP: u32 = PollFlags::RDHUP.bits() as u32;
}

fn borrow(peer: Peer) -> BorrowedFd<'static> {
    // SAFETY: a peer is an open descriptor from `adopt` until `close`, and the borrow does not
    // outlive the call it is made for.
    unsafe { BorrowedFd::borrow_raw(peer.0) }
}

/// What a completion is about: the lowest two bits of its user data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Send = 0,
    HangUp = 1,
    Writable = 2,
}

/// User data: `key` in the upper 32 bits, `generation` in the 30 below, the kind in the last two.
fn user_data(kind: Kind, token: Token) -> u64 {
    (u64::from(token.key) << 32) | (u64::from(token.generation) << 2) | kind as u64
}

fn token_of(user_data: u64) -> Token {
    Token { key: (user_data >> 32) as u32, generation: (user_data as u32) >> 2 }
}

/// See [`StreamRing`].
pub struct UringRing {
    ring: IoUring,
    /// Completions of polls that came while sends were waited for.
    early: Vec<RingEvent>,
}

impl std::fmt::Debug for UringRing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UringRing").field("fd", &self.ring.as_raw_fd()).finish_non_exhaustive()
    }
}

impl UringRing {
    /// Sets a ring up on this thread, which alone may use it, and has its completions announced
    /// through `eventfd`.
    ///
    /// # Errors
    /// `EPERM` where a seccomp filter or `kernel.io_uring_disabled` refuses `io_uring`, `EINVAL` on
    /// kernels before 6.1, which know no `DEFER_TASKRUN`, `ENOMEM` at the limit of locked memory.
    pub fn new(eventfd: BorrowedFd<'_>) -> io::Result<UringRing> {
        UringRing::with_entries(eventfd, RING_SUBMISSION_ENTRIES, RING_COMPLETION_ENTRIES)
    }

    fn with_entries(
        eventfd: BorrowedFd<'_>,
        submission: u32,
        completion: u32,
    ) -> io::Result<UringRing> {
        let ring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_taskrun_flag()
            .setup_submit_all()
            .setup_cqsize(completion)
            .dontfork()
            .build(submission)?;
        ring.submitter().register_eventfd(eventfd.as_raw_fd())?;
        Ok(UringRing { ring, early: Vec::new() })
    }

    fn arm(&mut self, peer: Peer, mask: u32, kind: Kind, token: Token) {
        let entry =
            opcode::PollAdd::new(types::Fd(peer.0), mask).build().user_data(user_data(kind, token));
        self.push(&entry);
    }

    fn push(&mut self, entry: &squeue::Entry) {
        loop {
            // SAFETY: a poll refers to no memory; the buffer of a send is borrowed by `send`,
            // which does not return before the kernel has completed it.
            if unsafe { self.ring.submission().push(entry) }.is_ok() {
                return;
            }
            self.enter();
        }
    }

    /// Submits what has been pushed, and has the kernel post what has completed.
    fn enter(&mut self) {
        match self.ring.submit() {
            Ok(_) => {}
            // A signal, a moment without memory, or a completion queue that must be emptied first:
            // what was not taken is taken by the next call.
            Err(error) if is_passing(&error) => {}
            Err(error) => panic!("the kernel refuses to enter the stream ring: {error}"),
        }
    }

    /// Whether the kernel should be entered: something is to be submitted, a poll has something to
    /// post, or the completion queue was full and more waits behind it.
    fn wants_to_enter(&mut self) -> bool {
        let queue = self.ring.submission();
        !queue.is_empty() || queue.taskrun() || queue.cq_overflow()
    }

    fn send<'a>(
        &mut self,
        sends: impl ExactSizeIterator<Item = Send<'a>>,
        results: &mut Vec<SendResult>,
    ) {
        let first = results.len();
        for (index, send) in sends.enumerate() {
            let length = u32::try_from(send.bytes.len()).unwrap_or(u32::MAX);
            let token = Token { key: index as u32, generation: 0 };
            let entry = opcode::Send::new(types::Fd(send.peer.0), send.bytes.as_ptr(), length)
                .flags(RING_SEND_FLAGS.bits().cast_signed())
                .build()
                .flags(squeue::Flags::SKIP_SUCCESS)
                .user_data(user_data(Kind::Send, token));
            results.push(Ok(length as usize));
            self.push(&entry);
        }
        loop {
            self.enter();
            let UringRing { ring, early } = self;
            for completion in ring.completion() {
                match classify(&completion) {
                    Completed::Poll(event) => early.extend(event),
                    Completed::Send(index, result) => results[first + index] = result,
                }
            }
            let queue = ring.submission();
            if queue.is_empty() && !queue.cq_overflow() {
                return;
            }
        }
    }

    fn poll(&mut self, events: &mut Vec<RingEvent>) {
        if self.wants_to_enter() {
            self.enter();
        }
        events.append(&mut self.early);
        for completion in self.ring.completion() {
            match classify(&completion) {
                Completed::Poll(event) => events.extend(event),
                Completed::Send(..) => unreachable!("no send is in flight between two calls"),
            }
        }
    }
}

fn is_passing(error: &io::Error) -> bool {
    [Errno::INTR, Errno::AGAIN, Errno::BUSY, Errno::NOMEM]
        .iter()
        .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

/// What a completion tells.
#[derive(Debug, PartialEq, Eq)]
enum Completed {
    Poll(Option<RingEvent>),
    /// The index of a send in its slice, and what it has come to.
    Send(usize, SendResult),
}

fn classify(completion: &cqueue::Entry) -> Completed {
    let data = completion.user_data();
    let token = token_of(data);
    let result = completion.result();
    match data & 3 {
        // A hang-up that cannot be watched for is found by the next send.
        kind if kind == Kind::HangUp as u64 => {
            Completed::Poll((result >= 0).then_some(RingEvent::HangUp(token)))
        }
        kind if kind == Kind::Writable as u64 => Completed::Poll(Some(if result >= 0 {
            RingEvent::Writable(token)
        } else {
            RingEvent::Unwatched(token)
        })),
        _ => {
            let result = usize::try_from(result).map_err(|_| Errno::from_raw_os_error(-result));
            Completed::Send(token.key as usize, result)
        }
    }
}

const EPOLL_FLAGS: epoll::EventFlags =
    epoll::EventFlags::RDHUP.union(epoll::EventFlags::OUT).union(epoll::EventFlags::ET);

fn epoll_data(token: Token) -> epoll::EventData {
    epoll::EventData::new_u64(user_data(Kind::HangUp, token))
}

/// See [`StreamRing`].
pub struct EpollRing {
    epoll: OwnedFd,
    buffer: Vec<epoll::Event>,
}

impl std::fmt::Debug for EpollRing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EpollRing").field("epoll", &self.epoll).finish_non_exhaustive()
    }
}

impl EpollRing {
    /// An epoll instance.
    ///
    /// # Errors
    /// When the kernel gives none.
    pub fn new() -> io::Result<EpollRing> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        Ok(EpollRing { epoll, buffer: Vec::with_capacity(1_024) })
    }

    fn add(&mut self, peer: Peer, token: Token) {
        // Out of kernel memory is all that can be wrong; the hang-up is then found by a write.
        let _ = epoll::add(&self.epoll, borrow(peer), epoll_data(token), EPOLL_FLAGS);
    }

    /// The socket is watched for both from the start, edge-triggered. Setting the same again has
    /// the kernel look at once, so that a socket which was never full is reported too.
    fn arm(&mut self, peer: Peer, token: Token) {
        let _ = epoll::modify(&self.epoll, borrow(peer), epoll_data(token), EPOLL_FLAGS);
    }

    fn poll(&mut self, events: &mut Vec<RingEvent>) {
        loop {
            let mut buffer = std::mem::take(&mut self.buffer);
            buffer.clear();
            let zero = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
            let spare = rustix::buffer::spare_capacity(&mut buffer);
            let count = epoll::wait(&self.epoll, spare, Some(&zero)).unwrap_or(0);
            for event in &buffer {
                let (data, flags) = (event.data, event.flags);
                let token = token_of(data.u64());
                let gone =
                    epoll::EventFlags::RDHUP | epoll::EventFlags::HUP | epoll::EventFlags::ERR;
                if flags.intersects(gone) {
                    events.push(RingEvent::HangUp(token));
                } else {
                    events.push(RingEvent::Writable(token));
                }
            }
            let is_full = count > 0 && count == buffer.capacity();
            self.buffer = buffer;
            if !is_full {
                return;
            }
        }
    }
}
