//! The loop: one slice of a delivery, then whatever else has happened, and again.
//!
//! - A delivery is one buffer for all subscribers, who are met in the order of their descriptors.
//!   Between two slices of it no send is in flight, so that descriptors may be closed at once.
//! - What is published during a delivery gathers in the outbox and goes out with the next one,
//!   all together. Who joins during a delivery sees it or not, depending on its descriptor.
//! - A descriptor is closed only when its one poll has reported: nothing late can name its heir.

use std::{
    collections::HashMap,
    io,
    os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
    rc::Rc,
};

use rustix::{
    io::Errno,
    net::{RecvFlags, Shutdown},
};

use crate::{
    event::Event,
    http::{self, Request},
    options::Options,
    ring::Ring,
};

/// Bytes that may wait for the delivery before them; then publishers wait too.
const OUTBOX_BYTES_MAX: usize = 1024 * 1024;
/// Bytes read at a time.
const READ_BYTES_MAX: usize = 64 * 1024;

/// Who is at the other end of a descriptor.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Peer {
    /// Nobody: it is closed, or no connection.
    Nobody,
    /// One that has not asked for the stream: a publisher, as far as is known.
    Publisher,
    /// Is sent every event.
    Subscriber,
    /// Was a subscriber, and is closed as soon as its poll reports.
    Dropped,
}

/// See the module.
pub struct Server {
    listener: OwnedFd,
    is_accepting: bool,
    ring: Ring,
    slice: usize,
    /// By descriptor: all that is known about a connection.
    peers: Vec<Peer>,
    /// Requests of which only a part has come.
    partial: HashMap<RawFd, Vec<u8>>,
    last_id: u64,
    /// Events for the next delivery.
    outbox: Vec<u8>,
    /// Events of this delivery; empty when there is none.
    delivery: Rc<Vec<u8>>,
    /// The descriptor with which it goes on.
    next: usize,
    /// Subscribers that had no room, since the start.
    dropped: u64,
    dropped_reported: u64,
    input: Box<[u8]>,
}

impl Server {
    /// A server on a socket that listens.
    ///
    /// # Errors
    /// When the kernel refuses the ring.
    pub fn new(listener: OwnedFd, options: Options, slice: usize) -> io::Result<Server> {
        Ok(Server {
            listener,
            is_accepting: false,
            ring: Ring::new(options)?,
            slice,
            peers: Vec::new(),
            partial: HashMap::new(),
            last_id: 0,
            outbox: Vec::new(),
            delivery: Rc::default(),
            next: 0,
            dropped: 0,
            dropped_reported: 0,
            input: vec![0; READ_BYTES_MAX].into_boxed_slice(),
        })
    }

    /// Serves until the process is ended.
    pub fn run(mut self) -> ! {
        let mut events = Vec::new();
        self.accept();
        loop {
            self.deliver_slice();
            let has_more = !self.delivery.is_empty() || !self.outbox.is_empty();
            self.ring.turn(usize::from(!has_more), &mut events);
            for event in events.drain(..) {
                self.handle(event);
            }
        }
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Accepted(fd) => {
                self.set_peer(fd, Peer::Publisher);
                match self.ring.adopt(fd) {
                    Ok(()) => self.read(fd),
                    Err(_) => self.close(fd),
                }
            }
            // Accepting goes on when a descriptor has become free.
            Event::AcceptEnded(Some(Errno::MFILE | Errno::NFILE)) => self.is_accepting = false,
            Event::AcceptEnded(_) => {
                self.is_accepting = false;
                self.accept();
            }
            Event::Readable(fd) => self.read(fd),
            Event::HungUp(fd) => self.close(fd),
            Event::Unsent(fd) => self.drop_subscriber(fd),
        }
    }

    fn accept(&mut self) {
        if !self.is_accepting {
            self.ring.accept(self.listener.as_fd());
            self.is_accepting = true;
        }
    }

    fn read(&mut self, fd: RawFd) {
        let mut input = std::mem::take(&mut self.input);
        match rustix::net::recv(borrow(fd), &mut *input, RecvFlags::DONTWAIT) {
            Ok((0, _)) => self.close(fd),
            Ok((length, _)) => self.take_input(fd, &input[..length]),
            Err(Errno::AGAIN | Errno::INTR) => self.ring.watch_readable(fd),
            Err(_) => self.close(fd),
        }
        self.input = input;
    }

    fn take_input(&mut self, fd: RawFd, input: &[u8]) {
        let mut gathered = self.partial.remove(&fd).unwrap_or_default();
        if gathered.is_empty() {
            return self.serve(fd, input);
        }
        gathered.extend_from_slice(input);
        self.serve(fd, &gathered);
    }

    /// Answers all requests that are complete, and keeps the rest.
    fn serve(&mut self, fd: RawFd, mut input: &[u8]) {
        loop {
            match http::parse(input) {
                Ok(Some((Request::Subscribe, _))) => return self.subscribe(fd),
                Ok(Some((Request::Publish(body), length))) => {
                    self.publish(body);
                    self.ring.send_static(fd, http::ACCEPTED);
                    input = &input[length..];
                }
                Ok(None) => break,
                Err(http::Refused) => return self.close(fd),
            }
        }
        if !input.is_empty() {
            self.partial.insert(fd, input.to_vec());
        }
        self.ring.watch_readable(fd);
    }

    fn subscribe(&mut self, fd: RawFd) {
        self.set_peer(fd, Peer::Subscriber);
        self.ring.send_static(fd, http::STREAM_HEAD);
        self.ring.watch_hang_up(fd);
    }

    fn publish(&mut self, body: &[u8]) {
        http::encode(body, &mut self.last_id, &mut self.outbox);
        while self.outbox.len() > OUTBOX_BYTES_MAX {
            self.deliver_slice();
        }
    }

    /// Sends to the next few subscribers.
    fn deliver_slice(&mut self) {
        if self.delivery.is_empty() {
            if self.outbox.is_empty() {
                return;
            }
            self.delivery = Rc::new(std::mem::take(&mut self.outbox));
            self.next = 0;
        }
        let Server { ring, peers, next, .. } = self;
        let subscribers = (*next..peers.len())
            .filter(|fd| peers[*fd] == Peer::Subscriber)
            .inspect(|fd| *next = fd + 1)
            .map(|fd| (fd as u32).cast_signed())
            .take(self.slice);
        if ring.send_to_all(subscribers, &self.delivery) < self.slice {
            self.delivery = Rc::default();
            self.report_dropped();
        }
    }

    /// For one that had no room. The shutdown completes its poll, which closes it.
    fn drop_subscriber(&mut self, fd: RawFd) {
        if self.peers[index(fd)] == Peer::Subscriber {
            self.peers[index(fd)] = Peer::Dropped;
            self.dropped += 1;
            let _ = rustix::net::shutdown(borrow(fd), Shutdown::Both);
        }
    }

    fn report_dropped(&mut self) {
        if self.dropped > self.dropped_reported {
            self.dropped_reported = self.dropped;
            eprintln!("bare_ring: {} subscribers dropped that had no room", self.dropped);
        }
    }

    fn close(&mut self, fd: RawFd) {
        self.peers[index(fd)] = Peer::Nobody;
        self.partial.remove(&fd);
        self.ring.forget(fd);
        // SAFETY: the kernel gave it to us when it accepted; it is closed once, after the one
        // request that was made for it has completed, and not used again.
        drop(unsafe { OwnedFd::from_raw_fd(fd) });
        self.accept();
    }

    fn set_peer(&mut self, fd: RawFd, peer: Peer) {
        let index = index(fd);
        if index >= self.peers.len() {
            self.peers.resize(index + 1, Peer::Nobody);
        }
        self.peers[index] = peer;
    }
}

/// Where a descriptor is in the table; none is negative.
fn index(fd: RawFd) -> usize {
    fd.cast_unsigned() as usize
}

fn borrow(fd: RawFd) -> BorrowedFd<'static> {
    // SAFETY: it is a connection that is open until `close`, and the borrow does not outlive the
    // call that it is made for.
    unsafe { BorrowedFd::borrow_raw(fd) }
}
