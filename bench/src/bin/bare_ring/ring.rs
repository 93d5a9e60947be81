//! The ring: what is asked of it, and what it answers.
//!
//! Every send carries `MSG_DONTWAIT`: the kernel finishes it while it takes the submission, if
//! need be by refusing, and looks at its bytes at no later time, unless they are sent by reference.
//! `MSG_WAITALL` makes a send that was cut short a failed one, so that those that went well need no
//! completion at all (`IOSQE_CQE_SKIP_SUCCESS`).
//!
//! [`Options`] say what else the kernel offers. Left out, for they cannot pay here:
//!
//! - Bundles (`IORING_RECVSEND_BUNDLE`) send what is in a group of provided buffers until it is
//!   empty, and `len` cannot limit that. The first of a slice would take what was meant for all, so
//!   that each socket would need a group, or a submission, of its own.
//! - Provided buffers without bundles are chosen one for each send, and put back by us: work that
//!   sends of the same bytes have no use for.

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd},
    rc::Rc,
};

use io_uring::{CompletionQueue, SubmissionQueue, Submitter, cqueue, opcode, squeue, types};
use rustix::{
    event::{PollFd, PollFlags},
    io::Errno,
    net::{RecvFlags, SendFlags, SocketFlags},
};

use crate::{
    event::{self, About, Event, Kind},
    lent::Lent,
    options::{Completions, Driver, Files, Options, Sends},
};

/// `MSG_WAITALL` has the same value both ways, and a name in [`RecvFlags`] only.
const SEND_FLAGS: SendFlags = SendFlags::DONTWAIT
    .union(SendFlags::NOSIGNAL)
    .union(SendFlags::from_bits_retain(RecvFlags::WAITALL.bits()));

/// See the module.
///
/// It lives as long as the process, so that its parts can be held side by side: the submitter
/// knows by which index the ring is entered.
pub struct Ring {
    submitter: Submitter<'static>,
    submission: SubmissionQueue<'static>,
    completion: CompletionQueue<'static>,
    options: Options,
    /// Announces completions.
    eventfd: Option<OwnedFd>,
    /// What sends are still to be counted of.
    lent: Lent,
    /// [`Kind::Taken`] has come.
    is_taken: bool,
    /// What has happened, and has not been asked for yet.
    early: Vec<Event>,
}

impl Ring {
    /// Sets a ring up for this thread, which alone may use it.
    ///
    /// # Errors
    /// When the kernel refuses `io_uring` or one of the options, or is older than 6.6.
    pub fn new(options: Options) -> io::Result<Ring> {
        let (mut submitter, submission, completion) = Box::leak(options.set_up()?).split();
        let eventfd = options.register(&mut submitter)?;
        Ok(Ring {
            submitter,
            submission,
            completion,
            options,
            eventfd,
            lent: Lent::default(),
            is_taken: false,
            early: Vec::new(),
        })
    }

    /// Accepts whoever comes, until it is reported to have ended.
    pub fn accept(&mut self, listener: BorrowedFd<'_>) {
        let accept = opcode::AcceptMulti::new(types::Fd(listener.as_raw_fd()))
            .flags(SocketFlags::CLOEXEC.bits().cast_signed());
        self.push(&accept.build().user_data(About::new(Kind::Accept, 0).user_data()));
    }

    /// Takes a connection in, before anything else is asked about it.
    ///
    /// # Errors
    /// When the kernel has no memory for it.
    pub fn adopt(&mut self, fd: RawFd) -> io::Result<()> {
        self.set_file(fd, fd)
    }

    /// Forgets a connection, before it is closed.
    pub fn forget(&mut self, fd: RawFd) {
        self.set_file(fd, -1).expect("a place in the table can always be emptied");
    }

    fn set_file(&mut self, place: RawFd, fd: RawFd) -> io::Result<()> {
        if self.options.files == Files::Direct {
            self.submitter.register_files_update(place.cast_unsigned(), &[fd])?;
        }
        Ok(())
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
        let poll = opcode::PollAdd::new(types::Fd(fd), u32::from(flags.bits())).build();
        self.push(&poll.flags(self.file_flags()).user_data(About::new(kind, fd).user_data()));
    }

    /// Sends bytes that never change, with the next submission.
    pub fn send_static(&mut self, fd: RawFd, bytes: &'static [u8]) {
        self.push(&self.send(fd, bytes));
    }

    /// Sends the same bytes to all of these, after what was asked for before, and counts them.
    pub fn send_to_all(&mut self, fds: impl Iterator<Item = RawFd>, bytes: &Rc<Vec<u8>>) -> usize {
        if self.options.driver == Driver::Send {
            self.submit_all();
            return fds.map(|fd| self.send_now(fd, bytes)).count();
        }
        let count = match self.options.completions {
            Completions::Failed => fds.map(|fd| self.push(&self.send(fd, bytes))).count(),
            Completions::All => fds.map(|fd| self.send_counted(fd, bytes)).count(),
        };
        self.submit_all();
        count
    }

    fn send(&self, fd: RawFd, bytes: &[u8]) -> squeue::Entry {
        opcode::Send::new(types::Fd(fd), bytes.as_ptr(), length(bytes))
            .flags(SEND_FLAGS.bits().cast_signed())
            .build()
            .flags(self.file_flags() | squeue::Flags::SKIP_SUCCESS)
            .user_data(About::new(Kind::Send, fd).user_data())
    }

    fn send_counted(&mut self, fd: RawFd, bytes: &Rc<Vec<u8>>) {
        let flags = SEND_FLAGS.bits().cast_signed();
        let (start, length) = (bytes.as_ptr(), length(bytes));
        let entry = match self.options.sends {
            Sends::Copy => opcode::Send::new(types::Fd(fd), start, length).flags(flags).build(),
            Sends::ZeroCopy => {
                opcode::SendZc::new(types::Fd(fd), start, length).flags(flags).build()
            }
        };
        let about = About { kind: Kind::Counted, number: self.lent.lend(bytes), fd };
        self.push(&entry.flags(self.file_flags()).user_data(about.user_data()));
    }

    /// What makes a descriptor the place in the table that has the same number.
    fn file_flags(&self) -> squeue::Flags {
        match self.options.files {
            Files::Plain => squeue::Flags::empty(),
            Files::Direct => squeue::Flags::FIXED_FILE,
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

    /// Returns when the kernel has taken all that was asked for.
    fn submit_all(&mut self) {
        if self.options.sqpoll.is_some() {
            return self.wait_until_taken();
        }
        while !self.submission.is_empty() {
            self.enter(0);
        }
    }

    /// The kernel's thread takes requests in their order, and finishes those that may not wait
    /// before it goes on: when the last one has completed, so have they.
    fn wait_until_taken(&mut self) {
        self.push(&opcode::Nop::new().build().user_data(About::new(Kind::Taken, 0).user_data()));
        while !std::mem::take(&mut self.is_taken) {
            self.enter(1);
            self.collect();
        }
    }

    /// Submits what was asked for, waits for so many completions, and appends what has happened.
    pub fn turn(&mut self, wait: usize, events: &mut Vec<Event>) {
        let wait = if self.early.is_empty() { wait } else { 0 };
        if self.eventfd.is_some() {
            self.enter_announced(wait);
        } else {
            self.enter(wait);
        }
        self.collect();
        events.append(&mut self.early);
    }

    /// Enters as an event loop does that waits elsewhere, and for all kinds of things.
    fn enter_announced(&mut self, wait: usize) {
        self.enter(0);
        if wait == 0 || self.has_completions() {
            return self.read_announcement();
        }
        while !self.has_completions() {
            self.await_announcement();
            self.read_announcement();
            // What is announced may be work that has to be run first.
            self.enter(0);
        }
    }

    fn await_announcement(&self) {
        let mut eventfds: Vec<_> =
            self.eventfd.iter().map(|eventfd| PollFd::new(eventfd, PollFlags::IN)).collect();
        // It fails when interrupted only, and then it is seen that nothing has come.
        let _ = rustix::event::poll(&mut eventfds, None);
    }

    /// Takes the announcement away, if there is one: it would be there for ever.
    fn read_announcement(&self) {
        if let Some(eventfd) = &self.eventfd {
            let _ = rustix::io::read(eventfd, &mut [0; 8]);
        }
    }

    fn has_completions(&mut self) -> bool {
        self.completion.sync();
        !self.completion.is_empty()
    }

    fn collect(&mut self) {
        self.completion.sync();
        while let Some(completion) = self.completion.next() {
            self.take(&completion);
        }
        self.completion.sync();
    }

    /// Keeps what a completion tells.
    fn take(&mut self, completion: &cqueue::Entry) {
        let about = About::from_user_data(completion.user_data());
        let (result, flags) = (completion.result(), completion.flags());
        match about.kind {
            Kind::Taken => self.is_taken = true,
            Kind::Counted => {
                let is_whole = usize::try_from(result) == Ok(self.lent.length(about.number));
                if !is_whole && !cqueue::notif(flags) {
                    event::report(about, result, false, &mut self.early);
                }
                if !cqueue::more(flags) {
                    self.lent.give_back(about.number);
                }
            }
            _ => event::report(about, result, cqueue::more(flags), &mut self.early),
        }
    }

    fn push(&mut self, entry: &squeue::Entry) {
        // SAFETY: accepts and polls refer to no memory. The bytes of a send are either static, or
        // kept by `lent` until its last completion has come, or borrowed by `send_to_all`. That
        // returns when the kernel has taken all submissions: since none of these may wait, it is
        // done with their bytes then.
        while unsafe { self.submission.push(entry) }.is_err() {
            self.enter(0);
            if self.options.sqpoll.is_some() {
                // It fails when interrupted only, and then it is seen that there is no room.
                let _ = self.submitter.squeue_wait();
            }
        }
    }

    fn enter(&mut self, wait: usize) {
        self.submission.sync();
        match self.submitter.submit_and_wait(wait) {
            Ok(_) => {}
            Err(error) if is_passing(&error) => {}
            Err(error) => panic!("the kernel refuses to enter the ring: {error}"),
        }
        self.submission.sync();
    }
}

fn length(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).expect("the outbox is bounded far below")
}

fn is_passing(error: &io::Error) -> bool {
    [Errno::INTR, Errno::AGAIN, Errno::BUSY, Errno::NOMEM]
        .iter()
        .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

#[cfg(test)]
mod tests {
    use std::{io::Read, os::unix::net::UnixStream};

    use argh::FromArgs;

    use super::*;
    use crate::Args;

    #[test]
    fn a_direct_file_needs_no_descriptor() {
        let args = ["--listen", "127.0.0.1:0", "--files", "direct"];
        let args = Args::from_args(&["bare_ring"], &args).unwrap();
        let mut ring = match Ring::new(args.options()) {
            Ok(ring) => ring,
            Err(error) => return eprintln!("skipped: {error}"),
        };
        let (socket, mut peer) = UnixStream::pair().unwrap();
        let place = socket.as_raw_fd();
        ring.adopt(place).unwrap();
        drop(socket);
        ring.send_static(place, b"sent");
        ring.submit_all();
        ring.forget(place);
        let mut read = String::new();
        peer.read_to_string(&mut read).unwrap();
        assert_eq!(read, "sent");
    }
}
