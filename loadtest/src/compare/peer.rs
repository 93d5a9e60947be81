//! The servers that are compared, and one of them while it runs.

use std::{
    io,
    net::{SocketAddr, TcpListener},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use crate::report::comparison::{BARE_RING, Promise, TIDEWHEEL};

/// So long a server may take to listen, and to end.
const PATIENCE: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Pushpin publishes at the port after the one for subscribers, and has its control at the next.
const PORTS: u16 = 3;

/// A server that is compared.
#[derive(Clone, Copy, Debug)]
pub struct Peer {
    /// The name in the table.
    pub name: &'static str,
    /// The directory with its script.
    pub directory: &'static str,
    /// Whose shapes of requests it has.
    pub preset: &'static str,
    /// What an answered append means.
    pub promise: Promise,
    /// More subscribers than these take it so long that the comparison does not give it them.
    pub subscribers_max: usize,
    /// Connections that may be opening at a time.
    pub in_flight: usize,
    /// Whether it is no server, but a limit.
    pub is_limit: bool,
    /// How long a published payload is, in bytes.
    pub payload_bytes: usize,
}

/// Of a payload for a server that puts an envelope around it.
const PAYLOAD_BYTES: usize = 100;
/// A payload so long makes a frame of the bare ring as long as one of tidewheel's: 225 bytes with
/// ids of some thousands.
const BARE_PAYLOAD_BYTES: usize = 207;

const SERVER: Peer = Peer {
    name: "",
    directory: "",
    preset: "plain",
    promise: Promise::MemoryOnly,
    subscribers_max: usize::MAX,
    in_flight: 1_000,
    is_limit: false,
    payload_bytes: PAYLOAD_BYTES,
};

/// Servers of interpreted languages take about 50 us of processor time a delivery.
const SLOW_SUBSCRIBERS_MAX: usize = 3_000;

/// All of them, in the order in which a round measures them; tidewheel comes a second time at its
/// end.
pub const PEERS: &[Peer] = &[
    Peer {
        name: TIDEWHEEL,
        directory: "tidewheel",
        preset: "tidewheel",
        promise: Promise::Durable,
        ..SERVER
    },
    Peer {
        name: "tidewheel on epoll",
        directory: "tidewheel-epoll",
        preset: "tidewheel",
        promise: Promise::Durable,
        ..SERVER
    },
    Peer {
        name: BARE_RING,
        directory: "bare-ring",
        promise: Promise::None,
        is_limit: true,
        payload_bytes: BARE_PAYLOAD_BYTES,
        ..SERVER
    },
    Peer {
        name: "durable-streams",
        directory: "durable-streams",
        preset: "durable-streams",
        promise: Promise::Durable,
        ..SERVER
    },
    Peer { name: "Nchan", directory: "nchan", preset: "nchan", ..SERVER },
    Peer { name: "axum", directory: "axum", ..SERVER },
    Peer {
        name: "Pushpin",
        directory: "pushpin",
        preset: "pushpin",
        subscribers_max: SLOW_SUBSCRIBERS_MAX,
        in_flight: 50,
        ..SERVER
    },
    Peer {
        name: "better-sse",
        directory: "better-sse",
        subscribers_max: SLOW_SUBSCRIBERS_MAX,
        ..SERVER
    },
    Peer {
        name: "sse-starlette",
        directory: "sse-starlette",
        subscribers_max: SLOW_SUBSCRIBERS_MAX,
        ..SERVER
    },
];

impl Peer {
    /// Installs it, and gives its version.
    ///
    /// # Errors
    /// When its script fails.
    pub fn install(&self, peers: &Path) -> io::Result<String> {
        let script = self.script(peers);
        let run = |command: &str| {
            let output = Command::new(&script).arg(command).stderr(Stdio::inherit()).output()?;
            if output.status.success() {
                return Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned());
            }
            let failed = format!("`{} {command}` ended with {}", script.display(), output.status);
            Err(io::Error::other(failed))
        };
        run("install")?;
        run("version")
    }

    /// Starts it on one processor and waits until it listens.
    ///
    /// # Errors
    /// When it does not.
    pub fn serve(&self, peers: &Path, core: usize) -> io::Result<Running> {
        let port = free_ports()?;
        let directory = std::env::temp_dir().join(format!(
            "tidewheel-loadtest-{}-{port}-{}",
            std::process::id(),
            self.directory
        ));
        std::fs::create_dir_all(&directory)?;
        let log = std::fs::File::create(directory.join("server.log"))?;
        let child = Command::new("taskset")
            .args(["-c", &core.to_string()])
            .arg(self.script(peers))
            .args(["serve", &port.to_string()])
            .arg(directory.join("data"))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0)
            .spawn()?;
        let mut running = Running { child, address: ([127, 0, 0, 1], port).into(), directory };
        running.wait_until_it_listens(if self.preset == "pushpin" { port + 1 } else { port })?;
        Ok(running)
    }

    fn script(&self, peers: &Path) -> PathBuf {
        peers.join(self.directory).join("peer")
    }
}

/// A server while it runs; it ends when this is dropped.
#[derive(Debug)]
pub struct Running {
    child: Child,
    /// Where it listens.
    pub address: SocketAddr,
    directory: PathBuf,
}

impl Running {
    /// Its first process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    fn wait_until_it_listens(&mut self, last_port: u16) -> io::Result<()> {
        let began = Instant::now();
        for port in [self.address.port(), last_port] {
            let address = SocketAddr::new(self.address.ip(), port);
            while std::net::TcpStream::connect(address).is_err() {
                let ended = self.child.try_wait()?;
                if ended.is_some() || began.elapsed() > PATIENCE {
                    let log = std::fs::read_to_string(self.directory.join("server.log"))?;
                    let how = ended.map_or("does not listen".into(), |status| status.to_string());
                    return Err(io::Error::other(format!("the server: {how}: {}", log.trim())));
                }
                std::thread::sleep(LOOK_EVERY);
            }
        }
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let pid = Pid::from_child(&self.child);
        // What has ended by itself cannot be told to, and is no error here.
        let _ = kill_process(pid, Signal::TERM);
        let began = Instant::now();
        while matches!(self.child.try_wait(), Ok(None)) && began.elapsed() < PATIENCE {
            std::thread::sleep(LOOK_EVERY);
        }
        let _ = kill_process_group(pid, Signal::KILL);
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// The first of some ports in a row that nobody listens at.
fn free_ports() -> io::Result<u16> {
    loop {
        let first = TcpListener::bind("127.0.0.1:0")?;
        let port = first.local_addr()?.port();
        let free = |port: u16| TcpListener::bind(("127.0.0.1", port)).is_ok();
        if port < u16::MAX - PORTS && (1..PORTS).all(|next| free(port + next)) {
            return Ok(port);
        }
    }
}
