//! The server as a whole: opens the journal, binds, starts the workers, and ends them in order.
//!
//! It binds only when the journal is open, so that a restart is a short wait for its clients and
//! not a 404. A signal drains: no more connections are taken, streams end over a window, requests
//! in hand are finished, and the journal is closed last. A second signal ends at once.
//!
//! ```text
//! serving ── signal ─▶ grace ── drain_grace ─▶ draining ── all workers are through ─▶ journal closed
//!                        └──── second signal ──────┴─────── patience is over ──────────────▲
//! ```

use std::{
    io,
    net::{SocketAddr, ToSocketAddrs},
    os::{fd::OwnedFd, unix::net::UnixStream},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
        mpsc,
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use rustix::{
    net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, ipproto, sockopt},
    process::{Resource, Rlimit, getrlimit, setrlimit},
};
use signal_hook::{
    consts::{SIGINT, SIGTERM},
    iterator::Signals,
};
use socket2::SockRef;

use crate::{
    admission::Admissions,
    allocator,
    arrivals::{Entrance, Listening},
    clock::Clock,
    config::{IoChoice, Listen, Settings},
    driver::IoDriver,
    event_loop::{LoopThread, Start},
    history_readers::HistoryReaders,
    journal::CommittedBatch,
    journal_keeper::Retention,
    journal_writer::{Listener, OpenJournal},
    limits::{
        BIND_PATIENCE_MS, DRAIN_PATIENCE_MS, FILES_RESERVED, HISTORY_READERS, LISTEN_BACKLOG,
        SURPLUS_CONNECTIONS, UNSENT_BYTES_MAX,
    },
    mailbox::Mailbox,
    service_manager::{self, Inherited, Watchdog},
    shared::{Shared, WorkerStats},
    worker::{Letter, Mailboxes},
};

/// Why the server does not start, or has stopped.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The journal cannot be opened.
    #[error("{0}")]
    Journal(#[from] crate::journal::store::OpenError),
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {error}")]
    Listen {
        /// As the setting has it.
        address: String,
        /// What the system says.
        error: io::Error,
    },
    /// What the service manager has handed over is not what is needed.
    #[error("the sockets that were handed over (LISTEN_FDS) cannot be used: {0}")]
    Inherited(io::Error),
    /// `io = "uring"`, and the kernel refuses it.
    #[error(
        "io_uring cannot be used: {0}. It needs Linux 6.1 or later, the system calls \
         io_uring_setup, io_uring_enter and io_uring_register in the seccomp profile (Docker's \
         default one refuses them), kernel.io_uring_disabled=0, and 1 MiB of locked memory a \
         worker (ulimit -l); or use --io auto or --io epoll"
    )]
    Uring(io::Error),
    /// Something else that the system refuses.
    #[error("{what}: {error}")]
    System {
        /// What was tried.
        what: &'static str,
        /// What the system says.
        error: io::Error,
    },
}

fn system(what: &'static str) -> impl FnOnce(io::Error) -> ServerError {
    move |error| ServerError::System { what, error }
}

/// Runs the server until a signal ends it.
pub fn run(settings: Settings) -> ExitCode {
    match serve(settings) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log::error!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn serve(settings: Settings) -> Result<(), ServerError> {
    // First of all, while there is no other thread.
    let inherited = Inherited::take().map_err(ServerError::Inherited)?;
    let signals = Signals::new([SIGTERM, SIGINT]).map_err(system("cannot handle signals"))?;
    let files_max = raise_file_limit();
    allocator::use_small_pages();
    let worker_count = settings.workers as usize;
    let mailboxes = (0..worker_count)
        .map(|_| Mailbox::new().map(Arc::new))
        .collect::<io::Result<Mailboxes>>()
        .map_err(system("cannot make a mailbox"))?;
    let (driver, threads) = start_threads(settings.io, &mailboxes)?;
    let journal = OpenJournal::open(&settings.journal, settings.idempotency_keys_max as usize)?;
    allocator::give_back();
    let clock = Arc::new(Clock::default());
    let readers =
        HistoryReaders::start(journal.store(), journal.catalog(), journal.reads(), HISTORY_READERS)
            .map_err(system("cannot start the history readers"))?;
    let retention = Retention {
        window_bytes: settings.window_bytes.0,
        max_age: settings.max_age,
        max_bytes: settings.max_bytes.0,
        max_events_per_run: settings.max_events_per_run.map_or(0, |max| max.get().into()),
    };
    let journal = journal
        .start(Arc::clone(&clock), settings.durability, retention, listeners(&mailboxes))
        .map_err(system("cannot start the journal writer"))?;
    let mut bound = match inherited.http {
        Some(socket) => inherit(socket, settings.client_timeout)?,
        None => bind_patiently(&settings.listen, worker_count, settings.client_timeout)?,
    };
    let mut admin = match (inherited.admin, &settings.admin_listen.0) {
        (Some(socket), _) => Some(inherit(socket, settings.client_timeout)?),
        (None, Some(listen)) => Some(bind_patiently(listen, 1, settings.client_timeout)?),
        (None, None) => None,
    };
    let (connections_max, surplus_max) = room_for_connections(&settings, files_max);
    let admissions = Admissions::new(&settings, connections_max, surplus_max, Instant::now());
    log::info!(
        "listening on {}{} (journal {}, {} worker(s) on {}, at most {connections_max} connections)",
        bound.address,
        if bound.is_inherited { ", which was handed over" } else { "" },
        settings.journal.display(),
        worker_count,
        driver.as_str(),
    );
    if let Some(admin) = &admin {
        log::info!("backups are made at {}", admin.address);
    }
    let shared = Arc::new(Shared {
        cors: (&settings).into(),
        settings,
        driver,
        connections_max,
        admissions: Arc::new(admissions),
        clock,
        journal,
        readers,
        workers: (0..worker_count).map(|_| Arc::new(WorkerStats::default())).collect(),
        draining: AtomicBool::new(false),
    });
    let listeners = Listeners {
        address: bound.address.clone(),
        http: bound.entrances(worker_count).map_err(system("cannot make a mailbox"))?,
        admin: admin.as_mut().and_then(|admin| admin.listening().pop()),
    };
    let outcome = run_workers(&shared, threads, listeners, &mailboxes, signals);
    service_manager::tell_stopping("Closing the journal");
    shared.readers.close();
    shared.journal.close();
    for path in [bound.socket_path, admin.and_then(|admin| admin.socket_path)].into_iter().flatten()
    {
        let _ = std::fs::remove_file(path);
    }
    if outcome.is_ok() {
        log::info!("stopped");
    }
    outcome
}

/// What the writer tells of every batch: each worker's mailbox gets it.
fn listeners(mailboxes: &[Arc<Mailbox<Letter>>]) -> Vec<Box<dyn Listener>> {
    mailboxes.iter().map(|mailbox| Box::new(WorkerListener(Arc::clone(mailbox))) as _).collect()
}

/// A worker, to the journal writer.
struct WorkerListener(Arc<Mailbox<Letter>>);

impl Listener for WorkerListener {
    fn tell(&self, batch: &Arc<CommittedBatch>) {
        self.0.leave(Letter::Committed(Arc::clone(batch), Instant::now()));
    }

    fn wake(&self) {
        self.0.wake();
    }
}

// ---- the life of the workers --------------------------------------------------------------------

/// What the main thread waits for.
enum Happening {
    Signal,
    WorkerEnded(usize, io::Result<()>),
}

/// How far the server is with its end.
#[derive(Clone, Copy)]
enum Stage {
    Serving,
    /// It serves on until then, and only says that it is not ready.
    Grace(Instant),
    /// Patience with clients is over then.
    Draining(Instant),
}

/// Where connections come in.
struct Listeners {
    address: String,
    /// One for each worker.
    http: Vec<Entrance>,
    /// The first worker has the address for administration.
    admin: Option<Listening>,
}

fn run_workers(
    shared: &Arc<Shared>,
    threads: Vec<LoopThread>,
    listeners: Listeners,
    mailboxes: &Mailboxes,
    signals: Signals,
) -> Result<(), ServerError> {
    let (tell, happenings) = mpsc::channel();
    watch_signals(signals, tell.clone()).map_err(system("cannot start a thread"))?;
    let Listeners { address, http, admin: mut admin_listener } = listeners;
    let mut serving: Vec<Option<JoinHandle<()>>> = Vec::new();
    for (id, (thread, entrance)) in threads.into_iter().zip(http).enumerate() {
        let mailboxes = Arc::clone(mailboxes);
        let admin_listener = admin_listener.take();
        let start = Start { id, entrance, admin_listener, mailboxes, shared: Arc::clone(shared) };
        let tell = tell.clone();
        serving.push(Some(thread.serve(start, move |result| {
            let _ = tell.send(Happening::WorkerEnded(id, result));
        })));
    }
    service_manager::tell_ready(&address);
    let settings = &shared.settings;
    let mut watchdog = Watchdog::wanted(Instant::now());
    let mut stage = Stage::Serving;
    while serving.iter().any(Option::is_some) {
        let alarm = watchdog.as_ref().map(Watchdog::due);
        let happening = match [stage.ends(), alarm].into_iter().flatten().min() {
            Some(at) => happenings.recv_timeout(at.saturating_duration_since(Instant::now())).ok(),
            None => Some(happenings.recv().expect("this thread has a sender itself")),
        };
        match (happening, stage) {
            (Some(Happening::Signal), Stage::Serving) => {
                let status = format!("draining: streams end within {:?}", settings.drain_window);
                log::info!("{status}");
                shared.draining.store(true, Relaxed);
                service_manager::tell_stopping(&status);
                stage = Stage::Grace(Instant::now() + settings.drain_grace);
            }
            (Some(Happening::Signal), Stage::Grace(_) | Stage::Draining(_)) => {
                log::warn!("a second signal: ending at once");
                return Ok(());
            }
            (Some(Happening::WorkerEnded(id, result)), _) => {
                result.map_err(system("a worker has failed"))?;
                if let Some(thread) = serving[id].take() {
                    let _ = thread.join();
                }
            }
            (None, _) => {}
        }
        let now = Instant::now();
        match stage {
            Stage::Grace(end) if end <= now => {
                let patience = Duration::from_millis(DRAIN_PATIENCE_MS);
                stage = Stage::Draining(now + settings.drain_window + patience);
                for mailbox in &**mailboxes {
                    mailbox.post(Letter::Drain);
                }
            }
            Stage::Draining(end) if end <= now => {
                log::warn!("connections are left after the drain; ending them");
                return Ok(());
            }
            _ => {}
        }
        if let Some(watchdog) = &mut watchdog {
            watchdog.turn(now, mailboxes);
        }
    }
    Ok(())
}

impl Stage {
    fn ends(self) -> Option<Instant> {
        match self {
            Stage::Serving => None,
            Stage::Grace(end) | Stage::Draining(end) => Some(end),
        }
    }
}

fn watch_signals(mut signals: Signals, tell: mpsc::Sender<Happening>) -> io::Result<()> {
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        for _ in signals.forever() {
            if tell.send(Happening::Signal).is_err() {
                return;
            }
        }
    })?;
    Ok(())
}

// ---- what the system gives ----------------------------------------------------------------------

/// Starts the workers' threads with what the kernel allows.
fn start_threads(
    choice: IoChoice,
    mailboxes: &Mailboxes,
) -> Result<(IoDriver, Vec<LoopThread>), ServerError> {
    if choice != IoChoice::Epoll {
        match (LoopThread::start_all(IoDriver::Uring, mailboxes), choice) {
            (Ok(threads), _) => return Ok((IoDriver::Uring, threads)),
            (Err(error), IoChoice::Uring) => return Err(ServerError::Uring(error)),
            (Err(error), _) => {
                log::warn!("io_uring cannot be used ({error}): using epoll instead");
            }
        }
    }
    let threads = LoopThread::start_all(IoDriver::Epoll, mailboxes);
    Ok((IoDriver::Epoll, threads.map_err(system("cannot start the workers"))?))
}

/// Takes as many open files as the hard limit allows, and says how many these are.
fn raise_file_limit() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum,
        Err(_) => limit.current,
    }
    .unwrap_or(u64::MAX)
}

/// As many connections as are asked for, and as the limit on open files leaves; and how many more
/// there may be to be told that there are too many.
fn room_for_connections(settings: &Settings, files_max: u64) -> (usize, usize) {
    let files = files_max.saturating_sub(FILES_RESERVED);
    let possible = (files - SURPLUS_CONNECTIONS.min(files / 4)).max(1);
    let wanted = settings.max_connections.map_or(possible, |max| u64::from(max.get()));
    if wanted > possible {
        log::warn!(
            "max_connections is {wanted}, but the limit of {files_max} open files leaves {possible}"
        );
    }
    let connections = wanted.min(possible);
    let surplus = files.saturating_sub(connections).max(1);
    let count = |files| usize::try_from(files).unwrap_or(usize::MAX);
    (count(connections), count(surplus))
}

/// Sockets that listen: one for each worker, or one for all.
struct Bound {
    address: String,
    listeners: Vec<OwnedFd>,
    /// To be removed at the end.
    socket_path: Option<PathBuf>,
    is_inherited: bool,
}

impl Bound {
    /// The sockets, as the workers take them over.
    fn listening(&mut self) -> Vec<Listening> {
        let is_inherited = self.is_inherited;
        self.listeners.drain(..).map(|socket| Listening { socket, is_inherited }).collect()
    }

    /// Where the connections of each worker come from.
    fn entrances(&mut self, workers: usize) -> io::Result<Vec<Entrance>> {
        let mut listening = self.listening();
        // The first worker has the one for all.
        let without = workers - listening.len();
        let others: Vec<_> =
            (0..without).map(|_| Mailbox::new().map(Arc::new)).collect::<io::Result<_>>()?;
        let first = Entrance::Socket(listening.remove(0), others.clone());
        let more = listening.into_iter().map(|socket| Entrance::Socket(socket, Vec::new()));
        let shares = others.into_iter().map(Entrance::Share);
        Ok(std::iter::once(first).chain(more).chain(shares).collect())
    }
}

/// Takes over a socket that listens already: one for all workers.
fn inherit(socket: OwnedFd, client_timeout: Duration) -> Result<Bound, ServerError> {
    let reference = SockRef::from(&socket);
    let address = reference.local_addr().map_err(ServerError::Inherited)?;
    let prepare = || {
        reference.set_nonblocking(true)?;
        if address.as_socket().is_some() {
            prepare_connections(&socket, client_timeout)?;
        }
        // It listens; this only says for how many there is room.
        Ok(rustix::net::listen(&socket, LISTEN_BACKLOG)?)
    };
    prepare().map_err(ServerError::Inherited)?;
    let address = match (address.as_socket(), address.as_pathname()) {
        (Some(address), _) => address.to_string(),
        (None, Some(path)) => format!("unix:{}", path.display()),
        (None, None) => "unix:@".to_owned(),
    };
    Ok(Bound { address, listeners: vec![socket], socket_path: None, is_inherited: true })
}

/// Binds, and waits a little for the address: the kernel lets go of a listening socket some
/// milliseconds after its process has ended, when an `io_uring` was waiting on it.
fn bind_patiently(
    listen: &Listen,
    workers: usize,
    client_timeout: Duration,
) -> Result<Bound, ServerError> {
    let began = Instant::now();
    loop {
        match bind(listen, workers, client_timeout) {
            Err(error)
                if error.kind() == io::ErrorKind::AddrInUse
                    && began.elapsed() < Duration::from_millis(BIND_PATIENCE_MS) =>
            {
                std::thread::sleep(Duration::from_millis(BIND_PATIENCE_MS / 50));
            }
            bound => {
                let address = listen.to_string();
                return bound.map_err(|error| ServerError::Listen { address, error });
            }
        }
    }
}

fn bind(listen: &Listen, workers: usize, client_timeout: Duration) -> io::Result<Bound> {
    match listen {
        Listen::Tcp { host, port } => {
            let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
            for address in (host.as_str(), *port).to_socket_addrs()? {
                match bind_tcp(address, workers, client_timeout) {
                    Ok(bound) => return Ok(bound),
                    Err(error) => last = error,
                }
            }
            Err(last)
        }
        Listen::Unix(path) => bind_unix(path),
    }
}

/// The first socket is bound without `SO_REUSEPORT`, so that an address on which somebody listens
/// is refused; the others then share it, and the kernel spreads the connections.
fn bind_tcp(address: SocketAddr, workers: usize, client_timeout: Duration) -> io::Result<Bound> {
    let first = tcp_socket(address)?;
    rustix::net::bind(&first, &address)?;
    let address: SocketAddr = rustix::net::getsockname(&first)?.try_into()?;
    let mut listeners = vec![first];
    if workers > 1 {
        sockopt::set_socket_reuseport(&listeners[0], true)?;
        for _ in 1..workers {
            let socket = tcp_socket(address)?;
            sockopt::set_socket_reuseport(&socket, true)?;
            rustix::net::bind(&socket, &address)?;
            listeners.push(socket);
        }
    }
    for listener in &listeners {
        prepare_connections(listener, client_timeout)?;
        rustix::net::listen(listener, LISTEN_BACKLOG)?;
    }
    Ok(Bound { address: address.to_string(), listeners, socket_path: None, is_inherited: false })
}

fn tcp_socket(address: SocketAddr) -> io::Result<OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, Some(ipproto::TCP))?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    Ok(socket)
}

/// What each connection is to have, set once: whoever is accepted inherits it (`tcp(7)`).
fn prepare_connections(listener: &OwnedFd, client_timeout: Duration) -> io::Result<()> {
    // Small answers and events must not wait for an acknowledgement.
    sockopt::set_tcp_nodelay(listener, true)?;
    // A peer that acknowledges nothing is the kernel's to find.
    sockopt::set_tcp_user_timeout(listener, client_timeout.as_millis() as u32)?;
    // Else a subscriber that does not read takes megabytes of the kernel's memory.
    SockRef::from(listener).set_tcp_notsent_lowat(UNSENT_BYTES_MAX)
}

/// A `unix:` socket is one for all workers.
fn bind_unix(path: &Path) -> io::Result<Bound> {
    let address = SocketAddrUnix::new(path)?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    match rustix::net::bind(&socket, &address) {
        Err(rustix::io::Errno::ADDRINUSE) if is_abandoned(path) => {
            std::fs::remove_file(path)?;
            rustix::net::bind(&socket, &address)?;
        }
        other => other?,
    }
    rustix::net::listen(&socket, LISTEN_BACKLOG)?;
    let address = format!("unix:{}", path.display());
    Ok(Bound {
        address,
        listeners: vec![socket],
        socket_path: Some(path.to_owned()),
        is_inherited: false,
    })
}

/// Whether a socket is there on which nobody listens: one that a killed server has left.
fn is_abandoned(path: &Path) -> bool {
    UnixStream::connect(path).is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn a_connection_has_what_was_set_on_its_listener() {
        let timeout = Duration::from_millis(4_321);
        let handed_over = TcpListener::bind("127.0.0.1:0").unwrap().into();
        let bind = |workers| bind_tcp(([127, 0, 0, 1], 0).into(), workers, timeout).unwrap();
        for bound in [bind(1), bind(2), inherit(handed_over, timeout).unwrap()] {
            let _client = TcpStream::connect(&bound.address).unwrap();
            let mut accepted = None;
            while accepted.is_none() {
                let mut waiting = bound.listeners.iter();
                accepted = waiting.find_map(|socket| rustix::net::accept(socket).ok());
            }
            let socket = accepted.unwrap();
            assert!(sockopt::tcp_nodelay(&socket).unwrap());
            assert_eq!(sockopt::tcp_user_timeout(&socket), Ok(4_321));
            let lowat = SockRef::from(&socket).tcp_notsent_lowat().unwrap();
            assert_eq!(lowat, UNSENT_BYTES_MAX);
        }
    }
}
