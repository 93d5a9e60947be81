//! What an idle subscriber costs a running server, and what a delivery to all of them does.
//!
//! ```text
//! taskset -c 0 target/release/tidewheel serve --listen 127.0.0.1:80 &
//! taskset -c 1 target/release/fanout 127.0.0.1:80 $! --subscribers 10000 --events 20
//! ```
//!
//! It opens the subscribers of one new run, reads the server's memory (`RssAnon` of
//! `/proc/PID/status`), appends one event at a time, waits each time until everybody has it, and
//! divides the processor time that the server took meanwhile (`/proc/PID/stat`) by the deliveries.
//! Each subscriber must get every event, or it ends with an error.

use std::{
    error::Error,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    os::fd::AsFd,
    time::{Duration, Instant},
};

use argh::FromArgs;
use rustix::{
    event::epoll,
    net::{AddressFamily, SocketType},
};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Measures a fan-out of a running tidewheel on this machine.
#[derive(FromArgs)]
struct Args {
    /// the server's address
    #[argh(positional)]
    server: SocketAddr,
    /// its process id
    #[argh(positional)]
    pid: u32,
    /// how many subscribers
    #[argh(option, default = "10_000")]
    subscribers: usize,
    /// how many times something is appended
    #[argh(option, default = "20")]
    events: usize,
    /// how many events are appended at a time
    #[argh(option, default = "1")]
    batch: usize,
}

/// Source addresses rotate, so that no one of them runs out of ports, and are others in the next
/// run, since ports rest for a minute after they were used.
const SUBSCRIBERS_PER_SOURCE: usize = 5_000;
const SETTLE: Duration = Duration::from_secs(3);

fn main() -> Result<()> {
    let args: Args = argh::from_env();
    let run = create_run(args.server)?;
    // The allocator gives back with a delay what it no longer needs.
    std::thread::sleep(SETTLE);
    let memory_before = memory(args.pid)?;
    let cpu_before = cpu_seconds(args.pid)?;
    let began = Instant::now();
    let mut subscribers = open(&args, run)?;
    let seconds = began.elapsed().as_secs_f64();
    let cpu = cpu_seconds(args.pid)? - cpu_before;
    let count = args.subscribers as f64;
    println!("opened               {:>10.0} subscribers/s", count / seconds);
    println!("server CPU           {:>10.2} us/subscriber", cpu / count * 1e6);
    std::thread::sleep(SETTLE);
    let per_subscriber = (memory(args.pid)? - memory_before) / count;
    println!("memory, idle         {per_subscriber:>10.0} bytes/subscriber");

    let mut publisher = TcpStream::connect(args.server)?;
    let one = format!(r#"{{"type":"TICK","payload":{{"text":"{}"}}}}"#, "x".repeat(50));
    let body = format!("[{}]", vec![one; args.batch].join(","));
    let cpu_before = cpu_seconds(args.pid)?;
    let began = Instant::now();
    for round in 1..=args.events {
        post(&mut publisher, &format!("/runs/{run}/events"), &body)?;
        subscribers.wait_for(round * args.batch)?;
    }
    let seconds = began.elapsed().as_secs_f64();
    let cpu = cpu_seconds(args.pid)? - cpu_before;
    let deliveries = count * (args.events * args.batch) as f64;
    println!("deliveries           {:>10.0} /s", deliveries / seconds);
    println!("server CPU           {:>10.3} us/delivery", cpu / deliveries * 1e6);
    let per_subscriber = (memory(args.pid)? - memory_before) / count;
    println!("memory, after        {per_subscriber:>10.0} bytes/subscriber");
    Ok(())
}

struct Subscribers {
    epoll: std::os::fd::OwnedFd,
    sockets: Vec<TcpStream>,
    /// Events that each has received.
    received: Vec<usize>,
}

fn open(args: &Args, run: u64) -> Result<Subscribers> {
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let request = format!(
        "GET /runs/{run}/events/stream?after_id=now HTTP/1.1\r\nHost: {}\r\n\r\n",
        args.server
    );
    let mut sockets = Vec::with_capacity(args.subscribers);
    for index in 0..args.subscribers {
        let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None)?;
        let network = 1 + (std::process::id() % 200) as u8;
        let host = 1 + (index / SUBSCRIBERS_PER_SOURCE) as u8;
        let source: SocketAddr = ([127, 0, network, host], 0).into();
        rustix::net::bind(&socket, &source)?;
        rustix::net::connect(&socket, &args.server)?;
        let mut socket = TcpStream::from(socket);
        socket.write_all(request.as_bytes())?;
        sockets.push(socket);
    }
    let mut buffer = [0; 4096];
    for (index, socket) in sockets.iter_mut().enumerate() {
        let mut head = Vec::new();
        // The head, the retry line, and the cursor that `now` begins with.
        while count(&head, b"\n\n") < 2 {
            let read = socket.read(&mut buffer)?;
            if read == 0 {
                return Err(format!("refused: {}", String::from_utf8_lossy(&head)).into());
            }
            head.extend_from_slice(&buffer[..read]);
        }
        socket.set_nonblocking(true)?;
        let data = epoll::EventData::new_u64(index as u64);
        let flags = epoll::EventFlags::IN | epoll::EventFlags::ET;
        epoll::add(&epoll, socket.as_fd(), data, flags)?;
    }
    Ok(Subscribers { epoll, received: vec![0; sockets.len()], sockets })
}

impl Subscribers {
    /// Reads until everybody has so many events.
    fn wait_for(&mut self, wanted: usize) -> Result<()> {
        let mut missing = self.received.iter().filter(|count| **count < wanted).count();
        let mut events = Vec::with_capacity(1_024);
        let mut buffer = vec![0; 256 * 1024];
        while missing > 0 {
            events.clear();
            let patience = rustix::event::Timespec { tv_sec: 10, tv_nsec: 0 };
            let ready = epoll::wait(
                &self.epoll,
                rustix::buffer::spare_capacity(&mut events),
                Some(&patience),
            )?;
            if ready == 0 {
                return Err(format!("{missing} subscribers miss an event").into());
            }
            for event in &events {
                let index = event.data.u64() as usize;
                let before = self.received[index];
                loop {
                    match self.sockets[index].read(&mut buffer) {
                        Ok(0) => return Err("a subscriber was cut off".into()),
                        // Every event has one `id:` line, at the beginning of its frame.
                        Ok(read) => self.received[index] += count(&buffer[..read], b"id: "),
                        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => break,
                        Err(error) => return Err(error.into()),
                    }
                }
                if before < wanted && self.received[index] >= wanted {
                    missing -= 1;
                }
            }
        }
        if self.received.iter().any(|count| *count != wanted) {
            return Err("a subscriber got an event twice".into());
        }
        Ok(())
    }
}

/// How often a pattern occurs; a pattern that is cut in two by a read is missed, which a
/// subscriber that was served in one send never shows.
fn count(bytes: &[u8], pattern: &[u8]) -> usize {
    memchr::memmem::find_iter(bytes, pattern).count()
}

fn create_run(server: SocketAddr) -> Result<u64> {
    let mut publisher = TcpStream::connect(server)?;
    let answer = post(&mut publisher, "/runs", "{}")?;
    let id = answer.split("{\"id\":").nth(1).and_then(|rest| rest.split(',').next());
    Ok(id.ok_or("no run was created")?.parse()?)
}

/// Posts JSON on a connection that stays, and gives back the whole answer, which fits one read.
fn post(publisher: &mut TcpStream, path: &str, body: &str) -> Result<String> {
    write!(
        publisher,
        "POST {path} HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    )?;
    let mut buffer = vec![0; 256 * 1024];
    let read = publisher.read(&mut buffer)?;
    let answer = String::from_utf8_lossy(&buffer[..read]).into_owned();
    if !answer.starts_with("HTTP/1.1 201") {
        return Err(format!("not appended: {answer}").into());
    }
    Ok(answer)
}

/// Anonymous memory of a process, in bytes.
fn memory(pid: u32) -> Result<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    let kilobytes: f64 = line.ok_or("no RssAnon")?.trim().trim_end_matches(" kB").parse()?;
    Ok(kilobytes * 1024.0)
}

/// User and system time of a process, in seconds.
fn cpu_seconds(pid: u32) -> Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields: Vec<&str> =
        stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks: f64 = fields[11].parse::<f64>()? + fields[12].parse::<f64>()?;
    Ok(ticks / rustix::param::clock_ticks_per_second() as f64)
}
