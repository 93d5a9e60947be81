//! The ring: what is asked of it, and what it answers.
//!
//! Every send carries `MSG_DONTWAIT`: the kernel finishes it while it takes the submission, if
//! need be by refusing, and looks at its bytes at no later time. `MSG_WAITALL` makes a send that
//! was cut short a failed one, so that those that went well need no completion at all
//! (`IOSQE_CQE_SKIP_SUCCESS`).

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd, RawFd},
    str::FromStr,
};

use io_uring::{IoUring, cqueue, opcode, squeue, types};
use rustix::{
    event::PollFlags,
    io::Errno,
    net::{RecvFlags, SendFlags, SocketFlags},
};

/// Completions that the kernel posts before it begins to keep them in a list.
const COMPLETION_ENTRIES: u32 = 4_096;
/// Room for what a slice of sends comes with: polls, heads, answers.
const SUBMISSION_ENTRIES_MIN: usize = 256;
/// `MSG_WAITALL` has the same value both ways, and a name in [`RecvFlags`] only.
const SEND_FLAGS: SendFlags = SendFlags::DONTWAIT
    .union(SendFlags::NOSIGNAL)
    .union(SendFlags::from_bits_retain(RecvFlags::WAITALL.bits()));

/// How a delivery is sent. All else is asked of the ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Driver {
    /// Slices of sends, each slice one submission.
    Uring,
    /// A call of `send(2)` for each subscriber, to compare with.
    Send,
}

impl FromStr for Driver {
    type Err = &'static str;

    fn from_str(name: &str) -> Result<Driver, Self::Err> {
        match name {
            "uring" => Ok(Driver::Uring),
            "send" => Ok(Driver::Send),
            _ => Err("uring or send"),
        }
    }
}

/// What has happened. A connection is named by its descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// Somebody has connected.
    Accepted(RawFd),
    /// Nobody is accepted any more, until it is asked for again; with the error, if it was one.
    AcceptEnded(Option<Errno>),
    /// A watched connection has something to read, or has ended.
    Readable(RawFd),
    /// A watched connection has ended.
    HungUp(RawFd),
    /// Of what was sent, not all has found room.
    Unsent(RawFd),
}

/// What a completion is about: the upper half of its user data, above the descriptor.
#[derive(Clone, Copy)]
enum Kind {
    Accept,
    Readable,
    HangUp,
    Send,
}

fn user_data(kind: Kind, fd: RawFd) -> u64 {
    (kind as u64) << 32 | u64::from(fd.cast_unsigned())
}

/// See the module.
pub struct Ring {
    uring: IoUring,
    driver: Driver,
    /// What calls of `send(2)` have found.
    early: Vec<Event>,
}

impl Ring {
    /// Sets a ring up for this thread, which alone may use it.
    ///
    /// # Errors
    /// When the kernel refuses `io_uring`, or is older than 6.6.
    pub fn new(driver: Driver, slice: usize) -> io::Result<Ring> {
        let entries = slice.max(SUBMISSION_ENTRIES_MIN).next_power_of_two();
        let uring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_taskrun_flag()
            .setup_submit_all()
            .setup_no_sqarray()
            .setup_cqsize(COMPLETION_ENTRIES.max(2 * entries as u32))
            .dontfork()
            .build(entries as u32)?;
        Ok(Ring { uring, driver, early: Vec::new() })
    }

    /// Accepts whoever comes, until it is reported to have ended.
    pub fn accept(&mut self, listener: BorrowedFd<'_>) {
        let accept = opcode::AcceptMulti::new(types::Fd(listener.as_raw_fd()))
            .flags(SocketFlags::CLOEXEC.bits().cast_signed());
        self.push(&accept.build().user_data(user_data(Kind::Accept, 0)));
    }

    /// Reports once that there is something to read.
    pub fn watch_readable(&mut self, fd: RawFd) {
        self.poll(fd, PollFlags::IN, Kind::Readable);
    }

    /// Reports once that the peer has hung up.
    pub fn watch_hang_up(&mut self, fd: RawFd) {
        self.poll(fd, PollFlags::RDHUP, Kind::HangUp);
    }

    fn poll(&mut self, fd: RawFd, flags: PollFlags, kind: Kind) {
        let poll = opcode::PollAdd::new(types::Fd(fd), u32::from(flags.bits()));
        self.push(&poll.build().user_data(user_data(kind, fd)));
    }

    /// Sends bytes that never change, with the next submission.
    pub fn send_static(&mut self, fd: RawFd, bytes: &'static [u8]) {
        self.push(&send(fd, bytes));
    }

    /// Sends the same bytes to all of these, after what was asked for before, and counts them.
    pub fn send_to_all(&mut self, fds: impl Iterator<Item = RawFd>, bytes: &[u8]) -> usize {
        match self.driver {
            Driver::Uring => {
                let count = fds.map(|fd| self.push(&send(fd, bytes))).count();
                self.submit_all();
                count
            }
            Driver::Send => {
                self.submit_all();
                fds.map(|fd| self.send_now(fd, bytes)).count()
            }
        }
    }

    fn submit_all(&mut self) {
        while !self.uring.submission().is_empty() {
            self.enter(0);
        }
    }

    fn send_now(&mut self, fd: RawFd, bytes: &[u8]) {
        // SAFETY: the caller names connections that are open, and none is closed meanwhile.
        let socket = unsafe { BorrowedFd::borrow_raw(fd) };
        match rustix::net::send(socket, bytes, SEND_FLAGS) {
            Ok(length) if length == bytes.len() => {}
            Err(Errno::PIPE | Errno::CONNRESET) => {}
            Ok(_) | Err(_) => self.early.push(Event::Unsent(fd)),
        }
    }

    /// Submits what was asked for, waits for so many completions, and appends what has happened.
    pub fn turn(&mut self, wait: usize, events: &mut Vec<Event>) {
        self.enter(wait);
        events.append(&mut self.early);
        for completion in self.uring.completion() {
            let data = completion.user_data();
            let goes_on = cqueue::more(completion.flags());
            report((data >> 32) as u8, data as RawFd, completion.result(), goes_on, events);
        }
    }

    fn push(&mut self, entry: &squeue::Entry) {
        // SAFETY: accepts and polls refer to no memory. The bytes of a send are either static, or
        // borrowed by `send_to_all`, which returns when the kernel has taken all submissions: since
        // none of them may wait, it is done with their bytes then.
        while unsafe { self.uring.submission().push(entry) }.is_err() {
            self.enter(0);
        }
    }

    fn enter(&mut self, wait: usize) {
        match self.uring.submit_and_wait(wait) {
            Ok(_) => {}
            Err(error) if is_passing(&error) => {}
            Err(error) => panic!("the kernel refuses to enter the ring: {error}"),
        }
    }
}

fn send(fd: RawFd, bytes: &[u8]) -> squeue::Entry {
    let length = u32::try_from(bytes.len()).expect("the outbox is bounded far below");
    opcode::Send::new(types::Fd(fd), bytes.as_ptr(), length)
        .flags(SEND_FLAGS.bits().cast_signed())
        .build()
        .flags(squeue::Flags::SKIP_SUCCESS)
        .user_data(user_data(Kind::Send, fd))
}

/// Appends what a completion tells, and whether its request goes on.
fn report(kind: u8, fd: RawFd, result: i32, goes_on: bool, events: &mut Vec<Event>) {
    const ACCEPT: u8 = Kind::Accept as u8;
    const READABLE: u8 = Kind::Readable as u8;
    const HANG_UP: u8 = Kind::HangUp as u8;
    match kind {
        ACCEPT => {
            let error = (result < 0).then(|| Errno::from_raw_os_error(-result));
            if result >= 0 {
                events.push(Event::Accepted(result));
            }
            // A full completion queue ends it too, with a connection and no error.
            if !goes_on {
                events.push(Event::AcceptEnded(error));
            }
        }
        READABLE => events.push(Event::Readable(fd)),
        HANG_UP => events.push(Event::HungUp(fd)),
        _ if is_hang_up(result) => {}
        _ => events.push(Event::Unsent(fd)),
    }
}

/// A send to a peer that has gone: the poll of that connection reports it too.
fn is_hang_up(result: i32) -> bool {
    [Errno::PIPE, Errno::CONNRESET].iter().any(|errno| result == -errno.raw_os_error())
}

fn is_passing(error: &io::Error) -> bool {
    [Errno::INTR, Errno::AGAIN, Errno::BUSY, Errno::NOMEM]
        .iter()
        .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accepted(result: i32, goes_on: bool) -> Vec<Event> {
        let mut events = Vec::new();
        report(Kind::Accept as u8, 0, result, goes_on, &mut events);
        events
    }

    /// Over 4,096 connections at a time fill the completion queue, and were the last.
    #[test]
    fn accepting_that_ends_with_a_connection_is_reported() {
        assert_eq!(accepted(7, true), [Event::Accepted(7)]);
        assert_eq!(accepted(7, false), [Event::Accepted(7), Event::AcceptEnded(None)]);
        let error = Errno::MFILE;
        assert_eq!(accepted(-error.raw_os_error(), false), [Event::AcceptEnded(Some(error))]);
    }
}
