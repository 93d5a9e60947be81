//! The server as a process of its own, on a port that the kernel chose and that stays its own.

use std::{
    fs,
    io::{self, Read as _},
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use super::{Answer, Client, DEADLINE, Sse, eventually, held_port::HeldPort};

/// A server with a journal of its own. It is killed when this is dropped, and if a test fails its
/// log is shown.
pub struct Server {
    child: Option<Child>,
    /// Where it is for the test.
    address: SocketAddr,
    /// The address that it listens on: that one, or all of the host.
    listen: Ipv4Addr,
    /// Where it listens instead, if that is no port.
    socket: Option<PathBuf>,
    /// Its port, also while it is down.
    port: Option<HeldPort>,
    journal: TempDir,
    arguments: Vec<String>,
    log: Arc<Mutex<String>>,
    /// Reads what it logs, in this life.
    reader: Option<JoinHandle<()>>,
}

impl Server {
    /// A server with the default settings.
    pub fn start() -> Server {
        Server::with(&[])
    }

    /// A server with these flags.
    pub fn with(arguments: &[&str]) -> Server {
        Server::try_with(arguments).unwrap_or_else(|log| panic!("the server did not start:\n{log}"))
    }

    /// A server with these flags, or the log of one that refused to start.
    pub fn try_with(arguments: &[&str]) -> Result<Server, String> {
        Server::try_new(arguments, false)
    }

    /// A server with these flags on a journal that is there already.
    pub fn on(journal: &str, arguments: &[&str]) -> Server {
        let directory = tempfile::tempdir().expect("there is room for a name");
        std::os::unix::fs::symlink(journal, directory.path().join("journal"))
            .expect("the directory is empty");
        let server = Server::try_on(directory, arguments, false);
        server.unwrap_or_else(|log| panic!("the server did not start:\n{log}"))
    }

    /// A server whose journal is somewhere below this directory, with these flags.
    pub fn try_in(directory: &Path, arguments: &[&str]) -> Result<Server, String> {
        let journal = tempfile::tempdir_in(directory).expect("there is room for a directory");
        Server::try_on(journal, arguments, false)
    }

    /// A server with these flags that listens on all addresses, for a test in a network of its own.
    pub fn on_all_addresses(arguments: &[&str]) -> Server {
        let journal = tempfile::tempdir().expect("there is room for a journal");
        let mut server = Server::stopped(journal, arguments, false);
        server.listen = Ipv4Addr::UNSPECIFIED;
        server.launch().unwrap_or_else(|log| panic!("the server did not start:\n{log}"));
        server
    }

    fn try_new(arguments: &[&str], is_local: bool) -> Result<Server, String> {
        let journal = tempfile::tempdir().expect("there is room for a journal");
        Server::try_on(journal, arguments, is_local)
    }

    fn try_on(journal: TempDir, arguments: &[&str], is_local: bool) -> Result<Server, String> {
        let mut server = Server::stopped(journal, arguments, is_local);
        server.launch().map(|()| server)
    }

    /// One that is to be launched.
    fn stopped(journal: TempDir, arguments: &[&str], is_local: bool) -> Server {
        Server {
            child: None,
            address: (Ipv4Addr::LOCALHOST, 0).into(),
            listen: Ipv4Addr::LOCALHOST,
            socket: is_local.then(|| journal.path().join("socket")),
            port: None,
            journal,
            arguments: arguments.iter().map(|argument| (*argument).to_owned()).collect(),
            log: Arc::default(),
            reader: None,
        }
    }

    /// A server on each I/O driver that this kernel allows, with these flags.
    pub fn with_each_driver(arguments: &[&str]) -> Vec<Server> {
        Server::on_each_driver(arguments, false)
    }

    /// The same on a `unix:` socket.
    pub fn local_with_each_driver(arguments: &[&str]) -> Vec<Server> {
        Server::on_each_driver(arguments, true)
    }

    fn on_each_driver(arguments: &[&str], is_local: bool) -> Vec<Server> {
        let mut servers = Vec::new();
        for driver in ["uring", "epoll"] {
            match Server::try_new(&[&["--io", driver], arguments].concat(), is_local) {
                Ok(server) => servers.push(server),
                Err(log) if driver == "uring" => eprintln!("skipped, no io_uring here: {log}"),
                Err(log) => panic!("the server did not start with {driver}:\n{log}"),
            }
        }
        servers
    }

    /// A server on each driver with each of these numbers of workers.
    pub fn with_workers(counts: &[usize], arguments: &[&str]) -> Vec<Server> {
        let workers = |count: &usize| {
            let count = count.to_string();
            Server::with_each_driver(&[&["--workers", &*count], arguments].concat())
        };
        counts.iter().flat_map(workers).collect()
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The socket at which it listens, if that is no port.
    pub fn socket_path(&self) -> Option<&Path> {
        self.socket.as_deref()
    }

    /// The directory of its journal.
    pub fn journal(&self) -> &Path {
        self.journal.path()
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("the server runs").id()
    }

    /// How many files it has open.
    pub fn open_files(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.pid())).expect("the server runs").count()
    }

    /// Its memory, without what is mapped from files, in bytes.
    pub fn memory(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid()));
        let status = status.expect("the server runs");
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
        let size = line.and_then(|line| line.split_whitespace().next()).expect("Linux says it");
        size.parse::<u64>().expect("it is in KiB") * 1024
    }

    /// Its flags, for messages.
    pub fn arguments(&self) -> String {
        self.arguments.join(" ")
    }

    /// What it has logged so far, over all its lives.
    pub fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("the process is ours");
            child.wait().expect("the process is ours");
        }
    }

    /// SIGTERM, and waits for the end.
    pub fn terminate(&mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.wait()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        let child = self.child.as_ref().expect("the server runs");
        kill_process(Pid::from_child(child), signal).expect("the process is ours");
    }

    /// Waits for its end, and for all that it has logged.
    pub fn wait(&mut self) -> ExitStatus {
        let mut child = self.child.take().expect("the server runs");
        let status = eventually("the server ends", || child.try_wait().expect("ours"));
        self.child = None;
        self.reader.take().expect("it was launched").join().expect("it does not panic");
        status
    }

    /// Starts it again after its end, on the same journal and the same port.
    pub fn start_again(&mut self) {
        assert!(self.child.is_none(), "the server runs");
        // The one before may hold the port for a moment: see [`Server::try_start_again`].
        let started = Instant::now();
        while let Err(log) = self.launch() {
            assert!(started.elapsed() < DEADLINE, "the server did not start again:\n{log}");
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// The same, or the log of one that refused to start. When an `io_uring` waited on the socket at
    /// which it listened, the kernel lets go of that a moment after the process has ended.
    pub fn try_start_again(&mut self) -> Result<(), String> {
        assert!(self.child.is_none(), "the server runs");
        let started = Instant::now();
        loop {
            match self.launch() {
                Err(log) if log.contains("in use (os error") && started.elapsed() < DEADLINE => {}
                launched => return launched,
            }
        }
    }

    /// SIGTERM and a new start on the same port.
    pub fn restart(&mut self) {
        let status = self.terminate();
        assert!(status.success(), "the server ended with {status}");
        self.start_again();
    }

    /// The same, with these flags in place of what it had.
    pub fn restart_with(&mut self, arguments: &[&str]) {
        self.arguments = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        self.restart();
    }

    /// `kill -9` and a new start on the same port.
    pub fn crash(&mut self) {
        self.kill();
        self.start_again();
    }

    fn launch(&mut self) -> Result<(), String> {
        let journal = self.journal.path().join("journal");
        let listen = if let Some(path) = &self.socket {
            format!("unix:{}", path.display())
        } else {
            let port = self.port.get_or_insert_with(|| HeldPort::new(self.listen));
            port.address().to_string()
        };
        let mut command = serve(&listen, &journal);
        command.args(&self.arguments);
        if !self.arguments.iter().any(|argument| argument == "--drain-window") {
            // Tests that restart it need not see its streams end one by one.
            command.args(["--drain-window", "100ms"]);
        }
        let mut child = command.spawn().expect("the binary was built with the tests");
        let mut stderr = child.stderr.take().expect("it is piped");
        let before = self.log.lock().unwrap().len();
        let log = Arc::clone(&self.log);
        let reader = thread::spawn(move || {
            let mut piece = [0; 4096];
            while let Ok(count @ 1..) = stderr.read(&mut piece) {
                log.lock().unwrap().push_str(&String::from_utf8_lossy(&piece[..count]));
            }
        });
        let address = eventually("the log says where the server listens", || {
            // In this order: what it said before it ended is in the log then.
            let has_ended = child.try_wait().expect("the process is ours").is_some();
            let log = &self.log.lock().unwrap()[before..];
            let address = match &self.socket {
                Some(_) => log.contains("listening on unix:").then_some(self.address),
                None => bound_port(self.listen, log).map(|port| (Ipv4Addr::LOCALHOST, port).into()),
            };
            match address {
                Some(address) if !has_ended => Some(Some(address)),
                _ => has_ended.then_some(None),
            }
        });
        let Some(address) = address else {
            reader.join().expect("it does not panic");
            return Err(self.log.lock().unwrap()[before..].to_owned());
        };
        self.address = address;
        self.child = Some(child);
        self.reader = Some(reader);
        Ok(())
    }
}

/// `tidewheel serve` without settings of the environment; standard error is piped.
pub fn serve(listen: &str, journal: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidewheel"));
    command.args(["serve", "--listen", listen, "--journal"]).arg(journal);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("TIDEWHEEL_") || name == "RUST_LOG" {
            command.env_remove(name);
        }
    }
    command
}

/// The port behind this address in a log, up to the end of its line.
fn bound_port(listen: Ipv4Addr, log: &str) -> Option<u16> {
    let (_, rest) = log.split_once(&format!("{listen}:"))?;
    let end = rest.find(|character: char| !character.is_ascii_digit())?;
    rest[..end].parse().ok().filter(|port| *port > 0)
}

impl Drop for Server {
    fn drop(&mut self) {
        if thread::panicking() {
            let log =
                self.log.lock().map_or_else(|log| log.into_inner().clone(), |log| log.clone());
            let start = log.len().saturating_sub(4_000);
            let start = (start..=log.len()).find(|at| log.is_char_boundary(*at)).unwrap_or(0);
            eprintln!("---- log of {} {}\n{}", self.address, self.arguments(), &log[start..]);
        }
        self.kill();
    }
}

/// What tests ask for again and again, each on a connection of its own.
impl Server {
    /// A connection.
    pub fn client(&self) -> Client {
        self.try_client().expect("the server listens")
    }

    /// A connection, if it listens.
    pub fn try_client(&self) -> io::Result<Client> {
        match &self.socket {
            Some(path) => Client::try_connect_local(path),
            None => Client::try_connect(self.address),
        }
    }

    /// One request.
    pub fn request(
        &self,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Answer {
        self.client().request(method, target, headers, body)
    }

    /// GET.
    pub fn get(&self, target: &str) -> Answer {
        self.request("GET", target, &[], "")
    }

    /// How many streams each worker has open, as `/worker` says.
    pub fn streams_by_worker(&self) -> Vec<u64> {
        self.by_worker("streams")
    }

    /// How many requests each worker has taken, those that ask for this among them.
    pub fn requests_by_worker(&self) -> Vec<u64> {
        self.by_worker("requests")
    }

    /// How many streams it has open.
    pub fn open_streams(&self) -> u64 {
        self.streams_by_worker().iter().sum()
    }

    /// How many files it has open once so many streams are all its connections.
    pub fn files_with_streams(&self, streams: u64) -> usize {
        let mut client = self.client();
        let mut before = None;
        eventually("streams are all its connections", || {
            let answer = client.request("GET", "/worker", &[], "").expect(200).json();
            let workers = answer["workers"].as_array().expect("there are workers");
            let sum = |what: &str| -> u64 {
                workers.iter().map(|worker| worker[what].as_u64().expect("a number")).sum()
            };
            // And the one that asks.
            let is_so = sum("streams") == streams && sum("connections") == streams + 1;
            let files = is_so.then(|| self.open_files() - 1);
            // A socket is closed a moment after its connection is not counted any more.
            let has_settled = before == files;
            before = files;
            thread::sleep(Duration::from_millis(20));
            files.filter(|_| has_settled)
        })
    }

    /// A number that `/worker` says of each worker.
    pub fn by_worker(&self, what: &str) -> Vec<u64> {
        let answer = self.json("/worker");
        let workers = answer["workers"].as_array().expect("there are workers");
        workers.iter().map(|worker| worker[what].as_u64().expect("a number")).collect()
    }

    /// GET of something that is there, as JSON.
    pub fn json(&self, target: &str) -> Value {
        self.get(target).expect(200).json()
    }

    /// POST of JSON.
    pub fn post(&self, target: &str, body: &str) -> Answer {
        self.request("POST", target, &[], body)
    }

    /// PATCH of JSON.
    pub fn patch(&self, target: &str, body: &str) -> Answer {
        self.request("PATCH", target, &[], body)
    }

    /// DELETE.
    pub fn delete(&self, target: &str) -> Answer {
        self.request("DELETE", target, &[], "")
    }

    /// Creates a run, and says its id.
    pub fn new_run(&self) -> u64 {
        self.new_run_with("{}")
    }

    /// Creates a run from this body, and says its id.
    pub fn new_run_with(&self, body: &str) -> u64 {
        self.post("/runs", body).expect(201).json()["id"].as_u64().expect("a run has an id")
    }

    /// Appends one event, and says its id. The payload is JSON.
    pub fn append(&self, run: u64, event_type: &str, payload: &str) -> u64 {
        let body = format!("{{\"type\":\"{event_type}\",\"payload\":{payload}}}");
        let answer = self.post(&format!("/runs/{run}/events"), &body).expect(201);
        answer.json()["id"].as_u64().expect("an event has an id")
    }

    /// Ends a run.
    pub fn end(&self, run: u64, status: &str) -> Answer {
        self.patch(&format!("/runs/{run}"), &format!("{{\"status\":\"{status}\"}}"))
    }

    /// Every event of a run, page by page.
    pub fn events(&self, run: u64) -> Vec<Value> {
        self.events_after(run, 0)
    }

    /// The same after this id.
    pub fn events_after(&self, run: u64, mut after: u64) -> Vec<Value> {
        let mut client = self.client();
        let mut events = Vec::new();
        loop {
            let target = format!("/runs/{run}/events?limit=1000&after_id={after}");
            let page = client.request("GET", &target, &[], "").expect(200).json();
            events.extend(page["events"].as_array().expect("a page has events").iter().cloned());
            after = page["next_after_id"].as_u64().expect("a page says where the next begins");
            if page["has_more"] == false {
                return events;
            }
        }
    }

    /// Opens a stream.
    pub fn stream(&self, target: &str) -> Sse {
        self.stream_with(target, &[])
    }

    /// Opens a stream with these header fields.
    pub fn stream_with(&self, target: &str, headers: &[(&str, &str)]) -> Sse {
        Sse::open(self.client(), target, headers)
    }
}
