//! Slices of sends to real sockets, by both implementations of the ring, beside a plain loop of
//! `send(2)`; and hang-ups.

use std::{
    cell::RefCell,
    io::Read,
    net::{TcpListener, TcpStream},
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
};

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use rustix::net::SendFlags;
use tidewheel::{
    hub::{Peer, Token},
    limits::SEND_SLICE_MIN,
    mailbox::Mailbox,
    stream_ring::{EpollRing, Send, StreamRing, UringRing},
};

/// Sockets that the slices go round. Both ends of all are open at one time, which is within the
/// 1,024 descriptors that a process has by default.
const SOCKETS: usize = 3 * SEND_SLICE_MIN;
/// An event of some 300 bytes.
const EVENT: [u8; 300] = [b'x'; 300];
/// Rounds in which all hang-ups have come at the latest: a round brings some twenty.
const ROUNDS_MAX: usize = SOCKETS;

/// A ring, and what its completions are announced by, which must live as long.
struct Ring {
    ring: StreamRing,
    _mailbox: Mailbox<()>,
}

/// Both of them, where `io_uring` is allowed.
fn rings() -> Vec<(&'static str, Ring)> {
    let mailbox = || Mailbox::new().expect("an eventfd");
    let epoll = StreamRing::Epoll(EpollRing::new().expect("an epoll instance"));
    let mut rings = vec![("epoll", Ring { ring: epoll, _mailbox: mailbox() })];
    let mailbox = mailbox();
    match UringRing::new(mailbox.wake_fd()) {
        Ok(uring) => {
            let ring = StreamRing::Uring(Box::new(uring));
            rings.push(("uring", Ring { ring, _mailbox: mailbox }));
        }
        Err(error) => eprintln!("io_uring is left out: {error}"),
    }
    rings
}

/// The two ends of a connection.
type Pair = (OwnedFd, Box<dyn Read>);

fn unix() -> Vec<Pair> {
    let pair = || {
        let (server, client) = UnixStream::pair().expect("a pair");
        client.set_nonblocking(true).expect("a socket");
        (server.into(), Box::new(client) as Box<dyn Read>)
    };
    (0..SOCKETS).map(|_| pair()).collect()
}

fn tcp() -> Vec<Pair> {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    let pair = || {
        let client = TcpStream::connect(address).expect("a connection");
        client.set_nonblocking(true).expect("a socket");
        let (server, _) = listener.accept().expect("a connection");
        server.set_nodelay(true).expect("a socket");
        (server.into(), Box::new(client) as Box<dyn Read>)
    };
    (0..SOCKETS).map(|_| pair()).collect()
}

/// Makes all connections.
type Network = fn() -> Vec<Pair>;

const NETWORKS: [(&str, Network); 2] = [("unix", unix), ("tcp", tcp)];

/// Clients that are read empty before each slice that is sent to them.
struct Clients {
    clients: Vec<Box<dyn Read>>,
    slice: usize,
}

impl Clients {
    /// Whose turn it is, by their places.
    fn next(&mut self) -> std::ops::Range<usize> {
        let first = self.slice * SEND_SLICE_MIN;
        self.slice = (self.slice + 1) % (SOCKETS / SEND_SLICE_MIN);
        let range = first..first + SEND_SLICE_MIN;
        let mut bytes = [0; 4 * EVENT.len()];
        for client in &mut self.clients[range.clone()] {
            while client.read(&mut bytes).is_ok_and(|count| count > 0) {}
        }
        range
    }
}

/// A figure for each send.
fn sends(criterion: &mut Criterion) {
    for (network, pairs) in NETWORKS {
        let mut group = criterion.benchmark_group(format!("stream_ring/sends, {network}"));
        group.throughput(Throughput::Elements(SEND_SLICE_MIN as u64));

        for (name, Ring { mut ring, _mailbox }) in rings() {
            let (servers, clients): (Vec<_>, Vec<_>) = pairs().into_iter().unzip();
            let mut clients = Clients { clients, slice: 0 };
            let peers: Vec<Peer> = servers.into_iter().map(|server| ring.adopt(server)).collect();
            let mut results = Vec::new();
            group.bench_function(name, |bencher| {
                bencher.iter_batched(
                    || clients.next(),
                    |turn| {
                        results.clear();
                        let sends = peers[turn].iter();
                        ring.send(sends.map(|&peer| Send { peer, bytes: &EVENT }), &mut results);
                        assert!(results.iter().all(|result| *result == Ok(EVENT.len())));
                    },
                    BatchSize::PerIteration,
                );
            });
            for peer in peers {
                ring.close(peer);
            }
        }

        let (servers, clients): (Vec<_>, Vec<_>) = pairs().into_iter().unzip();
        let mut clients = Clients { clients, slice: 0 };
        group.bench_function("a loop of send(2)", |bencher| {
            bencher.iter_batched(
                || clients.next(),
                |turn| {
                    for server in &servers[turn] {
                        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
                        let sent = rustix::net::send(server.as_fd(), &EVENT, flags);
                        assert_eq!(sent, Ok(EVENT.len()));
                    }
                },
                BatchSize::PerIteration,
            );
        });
        group.finish();
    }
}

/// A figure for each client that goes: noticed, and its socket closed. Of `unix:` sockets alone, as
/// closed TCP connections would hold on to their ports until none is left.
fn hang_ups(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("stream_ring/hang-ups, unix");
    group.throughput(Throughput::Elements(SOCKETS as u64));
    for (name, Ring { ring, _mailbox }) in rings() {
        let ring = RefCell::new(ring);
        let mut events = Vec::new();
        group.bench_function(name, |bencher| {
            bencher.iter_batched(
                || abandoned(&mut ring.borrow_mut()),
                |peers| {
                    let ring = &mut *ring.borrow_mut();
                    events.clear();
                    let mut rounds = 0;
                    while events.len() < SOCKETS {
                        ring.poll(&mut events);
                        rounds += 1;
                        assert!(rounds <= ROUNDS_MAX, "{} hang-ups", events.len());
                    }
                    for peer in peers {
                        ring.close(peer);
                    }
                },
                BatchSize::PerIteration,
            );
        });
    }
    group.finish();
}

/// Watched sockets whose clients have just gone.
fn abandoned(ring: &mut StreamRing) -> Vec<Peer> {
    let watched = |(key, (server, client))| {
        let peer = ring.adopt(server);
        ring.watch(peer, Token { key, generation: 1 });
        (peer, client)
    };
    let (peers, clients): (Vec<_>, Vec<_>) = (0..).zip(unix()).map(watched).unzip();
    ring.poll(&mut Vec::new());
    drop(clients);
    peers
}

criterion_group!(benches, sends, hang_ups);
criterion_main!(benches);
