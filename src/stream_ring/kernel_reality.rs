//! The rings against what kernels and peers really do: sends that are cut short, peers that are gone,
//! queues that are full.
//!
//! Each test meets both implementations, and `io_uring` once more with queues that are too small
//! for anything: its submission queue is full within a slice, its completion queue overflows.

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, TcpListener, TcpStream},
    os::{fd::OwnedFd, unix::net::UnixStream},
    thread,
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec},
    net::sockopt,
};

use super::*;
use crate::mailbox::Mailbox;

/// How long something may take that the kernel does at once.
const PATIENCE: Duration = Duration::from_secs(20);

/// Sends of a slice here: two descriptors each are few enough for any limit.
const SENDS: usize = 100;

/// A ring, and what it is announced through.
struct Rig {
    name: &'static str,
    ring: StreamRing,
    mailbox: Mailbox<()>,
}

fn rigs() -> Vec<Rig> {
    let uring = |name, submission, completion| {
        let mailbox = Mailbox::<()>::new().unwrap();
        match UringRing::with_entries(mailbox.wake_fd(), submission, completion) {
            Ok(ring) => Some(Rig { name, ring: StreamRing::Uring(Box::new(ring)), mailbox }),
            Err(error) => {
                eprintln!("skipped {name}: {error}");
                None
            }
        }
    };
    let epoll = Rig {
        name: "epoll",
        ring: StreamRing::Epoll(EpollRing::new().unwrap()),
        mailbox: Mailbox::new().unwrap(),
    };
    let full_size = uring("io_uring", RING_SUBMISSION_ENTRIES, RING_COMPLETION_ENTRIES);
    full_size.into_iter().chain(uring("cramped io_uring", 4, 8)).chain([epoll]).collect()
}

impl Rig {
    /// What the ring has to tell, waited for until it is this much.
    fn events(&mut self, count: usize) -> Vec<RingEvent> {
        let mut events = Vec::new();
        let began = std::time::Instant::now();
        while events.len() < count && began.elapsed() < PATIENCE {
            let is_announced = match self.ring.wait_fd() {
                None => rustix::io::read(self.mailbox.wake_fd(), &mut [0_u8; 8]).is_ok(),
                Some(_) => true,
            };
            // Only what was announced is looked at: a worker would be asleep.
            if is_announced {
                self.ring.poll(&mut events);
            } else {
                thread::sleep(Duration::from_millis(1));
            }
        }
        assert_eq!(events.len(), count, "{}: {events:?}", self.name);
        events
    }

    fn send(&mut self, sends: &[Send<'_>]) -> Vec<SendResult> {
        let mut results = Vec::new();
        self.ring.send(sends.iter().copied(), &mut results);
        assert_eq!(results.len(), sends.len(), "{}", self.name);
        results
    }
}

fn token(key: usize) -> Token {
    Token { key: key as u32, generation: 7 }
}

fn tcp_pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (listener.accept().unwrap().0, client)
}

/// A peer whose socket takes some bytes of a large send, and no more.
fn narrow_pair() -> (TcpStream, TcpStream) {
    let (server, client) = tcp_pair();
    sockopt::set_socket_send_buffer_size(&server, 8 * 1024).unwrap();
    sockopt::set_socket_recv_buffer_size(&client, 8 * 1024).unwrap();
    (server, client)
}

/// A peer that takes nothing: it has been sent what it takes, all of which is there at once.
fn full_pair() -> (UnixStream, UnixStream) {
    let (server, client) = UnixStream::pair().unwrap();
    server.set_nonblocking(true).unwrap();
    while (&server).write(&[0; 4096]).is_ok() {}
    (server, client)
}

/// Returns when the kernel has heard that the peer is gone.
fn await_reset(server: &TcpStream) {
    let mut sockets = [PollFd::new(server, PollFlags::empty())];
    let patience = Timespec::try_from(PATIENCE).unwrap();
    assert_eq!(rustix::event::poll(&mut sockets, Some(&patience)), Ok(1));
}

/// What is at the other end of a send in the test below.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Other {
    Reads,
    ReadsLittle,
    IsFull,
    HasClosed,
    HasReset,
}

#[test]
fn a_slice_tells_of_each_send_what_became_of_it() {
    let kinds =
        [Other::Reads, Other::ReadsLittle, Other::IsFull, Other::HasClosed, Other::HasReset];
    let large = vec![b'x'; 4 << 20];
    let small = b"data: 1\n\n";
    for mut rig in rigs() {
        let mut clients = Vec::new();
        let mut peers = Vec::new();
        for index in 0..SENDS {
            let other = kinds[index * 7 % kinds.len()];
            if other == Other::IsFull {
                let (server, client) = full_pair();
                peers.push((rig.ring.adopt(server.into()), other));
                clients.push(OwnedFd::from(client));
                continue;
            }
            let (server, mut client) =
                if other == Other::Reads { tcp_pair() } else { narrow_pair() };
            match other {
                Other::Reads | Other::ReadsLittle | Other::IsFull => {}
                Other::HasClosed => {
                    client.shutdown(std::net::Shutdown::Both).unwrap();
                    // The first bytes are answered with a reset, the second are refused.
                    let _ = (&server).write(small);
                    await_reset(&server);
                    client = tcp_pair().1;
                }
                Other::HasReset => {
                    sockopt::set_socket_linger(&client, Some(Duration::ZERO)).unwrap();
                    client = tcp_pair().1;
                    await_reset(&server);
                }
            }
            peers.push((rig.ring.adopt(server.into()), other));
            clients.push(client.into());
        }
        let sends: Vec<Send> = peers
            .iter()
            .map(|(peer, other)| {
                let is_large = matches!(other, Other::ReadsLittle | Other::IsFull);
                Send { peer: *peer, bytes: if is_large { &large } else { small } }
            })
            .collect();
        let results = rig.send(&sends);
        for (index, ((peer, other), result)) in peers.iter().zip(&results).enumerate() {
            let at = format!("{} {index} {other:?} {result:?}", rig.name);
            match (other, result) {
                (Other::Reads, Ok(count)) => assert_eq!(*count, small.len(), "{at}"),
                (Other::ReadsLittle, Ok(count)) => {
                    assert!(0 < *count && *count < large.len(), "{at}");
                    let mut rest = *count;
                    let mut buffer = vec![0; 1 << 20];
                    while rest > 0 {
                        let read = rustix::io::read(&clients[index], &mut *buffer).unwrap();
                        assert!(0 < read && read <= rest, "{at}");
                        rest -= read;
                    }
                }
                (Other::IsFull, Err(Errno::AGAIN))
                | (Other::HasClosed | Other::HasReset, Err(Errno::PIPE | Errno::CONNRESET)) => {}
                _ => panic!("{at}"),
            }
            rig.ring.close(*peer);
        }
    }
}

#[test]
fn hang_ups_that_come_together_are_all_announced() {
    const PEERS: usize = 200;
    for mut rig in rigs() {
        let (peers, clients): (Vec<Peer>, Vec<UnixStream>) = (0..PEERS)
            .map(|key| {
                let (server, client) = UnixStream::pair().unwrap();
                let peer = rig.ring.adopt(server.into());
                rig.ring.watch(peer, token(key));
                (peer, client)
            })
            .unzip();
        let mut events = Vec::new();
        rig.ring.poll(&mut events);
        // Epoll tells that a socket is writable, too, which nobody minds.
        events.retain(|event| matches!(event, RingEvent::HangUp(_)));
        assert_eq!(events, [], "{}", rig.name);
        drop(clients);
        // The kernel hands out some twenty at a time: each must announce the next.
        let mut gone: Vec<u32> = rig
            .events(PEERS)
            .into_iter()
            .map(|event| match event {
                RingEvent::HangUp(token) => token.key,
                other => panic!("{}: {other:?}", rig.name),
            })
            .collect();
        gone.sort_unstable();
        assert!(gone.into_iter().eq(0..PEERS as u32), "{}: each once", rig.name);
        for peer in peers {
            rig.ring.close(peer);
        }
    }
}

#[test]
fn a_socket_that_was_full_is_reported_when_it_takes_bytes_again() {
    let large = vec![b'x'; 128 << 10];
    for mut rig in rigs() {
        let (server, mut client) = narrow_pair();
        let peer = rig.ring.adopt(server.into());
        rig.ring.watch(peer, token(3));
        let mut before = Vec::new();
        rig.ring.poll(&mut before);
        let mut sent = 0;
        let mut received = 0;
        while sent < large.len() {
            let result = rig.send(&[Send { peer, bytes: &large[sent..] }])[0];
            match result {
                Ok(count) => sent += count,
                Err(error) => assert_eq!(error, Errno::AGAIN, "{}", rig.name),
            }
            if sent < large.len() {
                rig.ring.watch_writable(peer, token(3));
                rig.ring.poll(&mut before);
                let mut buffer = vec![0; 1 << 20];
                while received < sent {
                    received += client.read(&mut buffer).unwrap();
                }
                // What came in before the client had read was of no use, and asked for again.
                if before.drain(..).all(|event| event != RingEvent::Writable(token(3))) {
                    assert_eq!(rig.events(1), [RingEvent::Writable(token(3))], "{}", rig.name);
                }
            }
        }
        rig.ring.close(peer);
    }
}

#[test]
fn polls_that_the_kernel_gives_up_are_no_hang_ups() {
    for mut rig in rigs() {
        let StreamRing::Uring(_) = &rig.ring else { continue };
        let (server, client) = full_pair();
        let peer = rig.ring.adopt(server.into());
        rig.ring.watch(peer, token(1));
        rig.ring.watch_writable(peer, token(1));
        rig.ring.poll(&mut Vec::new());
        let StreamRing::Uring(ring) = &mut rig.ring else { unreachable!() };
        for kind in [Kind::HangUp, Kind::Writable] {
            let cancel = opcode::AsyncCancel::new(user_data(kind, token(1)))
                .build()
                .flags(squeue::Flags::SKIP_SUCCESS);
            ring.push(&cancel);
        }
        ring.enter();
        assert_eq!(rig.events(1), [RingEvent::Unwatched(token(1))], "{}", rig.name);
        rig.ring.close(peer);
        drop(client);
    }
}
