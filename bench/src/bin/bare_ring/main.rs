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

mod event;
mod http;
mod lent;
mod options;
mod ring;
mod server;

use std::{error::Error, net::SocketAddr, os::fd::OwnedFd};

use argh::FromArgs;
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};

use crate::{
    options::{Completions, Driver, Files, Options, Sends, TaskWork},
    server::Server,
};

/// Sends per submission, unless said otherwise.
///
/// Taken from rounds of 16 to 4,096 that took turns on the same sockets, where 512 and 1,024 cost a
/// little less than 128. Between processes that difference was smaller than the noise.
const SLICE: usize = 512;
/// Most that a submission queue of this kernel takes.
const SLICE_MAX: usize = 16_384;
/// Room for what a slice of sends comes with: polls, heads, answers.
const ENTRIES_MIN: usize = 256;
/// Connections that may wait to be accepted; the kernel has a limit of its own.
const LISTEN_BACKLOG: i32 = 65_535;

/// Sends what is posted to everybody who listens, by `io_uring` and nothing else. The options say
/// what of the kernel's offers the ring makes use of.
#[derive(FromArgs)]
struct Args {
    /// the address; port 0 takes a free one
    #[argh(option)]
    listen: SocketAddr,
    /// share the address with other processes
    #[argh(switch)]
    reuse_port: bool,
    /// sends per submission (512)
    #[argh(option, default = "SLICE")]
    slice: usize,
    /// how events are sent: uring (default), or send for a loop of send(2)
    #[argh(option, default = "Driver::Uring")]
    driver: Driver,
    /// how the ring is told which socket is meant: plain (default) by descriptor, direct by its
    /// place in a table that is registered with the ring
    #[argh(option, default = "Files::Plain")]
    files: Files,
    /// which sends of events post a completion: failed (default), or all
    #[argh(option, default = "Completions::Failed")]
    completions: Completions,
    /// how the ring takes the bytes of events: copy (default), or zero-copy, which needs
    /// --completions all
    #[argh(option, default = "Sends::Copy")]
    send: Sends,
    /// register an eventfd with the ring, read it after each slice, wait for it when idle
    #[argh(switch)]
    eventfd: bool,
    /// when the kernel runs what completes later than its submission: defer (default) when
    /// completions are asked for, coop at the next call of whatever kind, interrupt at once
    #[argh(option, default = "TaskWork::Defer")]
    task_work: TaskWork,
    /// let a thread of the kernel on this processor take submissions; needs --task-work interrupt.
    /// Its CPU time is part of this process's
    #[argh(option, arg_name = "processor")]
    sqpoll: Option<u32>,
    /// poll network devices for so long when idle; loopback is none and has nothing to poll
    #[argh(option, arg_name = "microseconds")]
    busy_poll: Option<u32>,
    /// size of the submission queue (the slice, or 256); that of completions is twice that, or
    /// 4,096
    #[argh(option)]
    entries: Option<u32>,
    /// enter the ring by an index, not by its descriptor
    #[argh(switch)]
    registered_ring: bool,
}

impl Args {
    fn options(&self) -> Options {
        let entries = self.slice.max(ENTRIES_MIN).next_power_of_two();
        Options {
            driver: self.driver,
            files: self.files,
            completions: self.completions,
            sends: self.send,
            task_work: self.task_work,
            sqpoll: self.sqpoll,
            busy_poll: self.busy_poll,
            entries: self.entries.unwrap_or(entries as u32),
            eventfd: self.eventfd,
            registered_ring: self.registered_ring,
        }
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let args: Args = argh::from_env();
    if !(1..=SLICE_MAX).contains(&args.slice) {
        return Err(format!("--slice: 1 to {SLICE_MAX}").into());
    }
    let options = args.options();
    options.check()?;
    let listener = listen(args.listen, args.reuse_port)?;
    let address: SocketAddr = rustix::net::getsockname(&listener)?.try_into()?;
    let server = Server::new(listener, options, args.slice)?;
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
