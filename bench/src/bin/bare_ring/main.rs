//! The limit that no server can beat: a fan-out by `io_uring`, and nothing around it.
//!
//! ```text
//! bare_ring --listen 127.0.0.1:80
//!   GET  anything   the stream: from now on, every event
//!   POST anything   each line of the body is one event for every subscriber; 204
//! ```
//!
//! A subscriber is a byte in a table: there are no streams by name, no history, no keepalives, and
//! no second chance. Who has no room for a whole delivery is dropped, and counted on standard
//! error. What a real server spends more than this, it spends on being one.

mod http;
mod ring;
mod server;

use std::{error::Error, net::SocketAddr, os::fd::OwnedFd};

use argh::FromArgs;
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};

use crate::{ring::Driver, server::Server};

/// Sends per submission, unless said otherwise.
///
/// Taken from rounds of 16 to 4,096 that took turns on the same sockets, where 512 and 1,024 cost a
/// little less than 128. Between processes that difference was smaller than the noise. Descriptors
/// registered with the ring gained nothing, so they are plain ones.
const SLICE: usize = 512;
/// Most that a submission queue of this kernel takes.
const SLICE_MAX: usize = 16_384;
/// Connections that may wait to be accepted; the kernel has a limit of its own.
const LISTEN_BACKLOG: i32 = 65_535;

/// Sends what is posted to everybody who listens, by `io_uring` and nothing else.
#[derive(FromArgs)]
struct Args {
    /// the address; port 0 takes a free one
    #[argh(option)]
    listen: SocketAddr,
    /// share the address with other processes
    #[argh(switch)]
    reuse_port: bool,
    /// sends per submission
    #[argh(option, default = "SLICE")]
    slice: usize,
    /// how events are sent: uring, or send for a loop of send(2)
    #[argh(option, default = "Driver::Uring")]
    driver: Driver,
}

fn main() -> Result<(), Box<dyn Error>> {
    let args: Args = argh::from_env();
    if !(1..=SLICE_MAX).contains(&args.slice) {
        return Err(format!("--slice: 1 to {SLICE_MAX}").into());
    }
    let listener = listen(args.listen, args.reuse_port)?;
    let address: SocketAddr = rustix::net::getsockname(&listener)?.try_into()?;
    let server = Server::new(listener, args.driver, args.slice)?;
    println!("listening on {address}");
    server.run()
}

fn listen(address: SocketAddr, reuse_port: bool) -> rustix::io::Result<OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = rustix::net::socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    sockopt::set_socket_reuseport(&socket, reuse_port)?;
    rustix::net::bind(&socket, &address)?;
    rustix::net::listen(&socket, LISTEN_BACKLOG)?;
    Ok(socket)
}
