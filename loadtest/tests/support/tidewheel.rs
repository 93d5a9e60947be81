//! A tidewheel as a process of its own, so that its memory and its processor time are its own.
//!
//! Its program is the one of the tests, started anew with [`serve`] as its only test: the server is
//! a library to them, and cargo would not build another package's binary.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    process::{Child, Command, Stdio},
    sync::mpsc,
};

use serde_json::Value;
use tempfile::TempDir;

use super::{DEADLINE, processes};

/// The variable that says that the program is to be a server.
pub const IS_SERVER: &str = "LOADTEST_IS_SERVER";

/// A server with a journal of its own. It is killed when this is dropped.
pub struct Server {
    child: Child,
    address: SocketAddr,
    _journal: TempDir,
}

/// The server's `main`, where it was asked for; it ends with its standard input.
pub fn serve() {
    if std::env::var_os(IS_SERVER).is_none() {
        return;
    }
    std::thread::spawn(|| {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        std::process::exit(0);
    });
    env_logger::builder().filter_level(log::LevelFilter::Info).init();
    let settings =
        tidewheel::config::load(&tidewheel::config::Serve::default(), std::env::vars_os())
            .expect("the settings are right")
            .into_settings();
    tidewheel::server::run(settings);
}

impl Server {
    /// A server with these settings, on a port that the kernel chose.
    pub fn with(settings: &[(&str, &str)]) -> Self {
        let journal = tempfile::tempdir().expect("there is room for a journal");
        let program = std::env::current_exe().expect("it is running");
        let mut command = Command::new(program);
        command.args(["serve", "--exact", "--ignored", "--nocapture"]);
        command.env_clear().env(IS_SERVER, "1").env("TIDEWHEEL_LISTEN", "127.0.0.1:0");
        command.env("TIDEWHEEL_JOURNAL", journal.path().join("journal"));
        for (name, value) in settings {
            command.env(format!("TIDEWHEEL_{}", name.to_ascii_uppercase()), value);
        }
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("it is the program of this test");
        let log = BufReader::new(child.stderr.take().expect("it is piped"));
        let (tell, told) = mpsc::channel();
        std::thread::spawn(move || {
            for line in log.lines().map_while(Result::ok) {
                if let Some(address) = listening(&line) {
                    let _ = tell.send(address);
                } else {
                    eprintln!("server: {line}");
                }
            }
        });
        let address = told.recv_timeout(DEADLINE).expect("the server says where it listens");
        Self { child, address, _journal: journal }
    }

    /// A server with the default settings.
    pub fn start() -> Self {
        Self::with(&[])
    }

    /// Its URL, as `--server` takes it.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// What it answers to a GET.
    #[track_caller]
    pub fn get(&self, path: &str) -> Value {
        self.ask("GET", path, 200)
    }

    /// The number of a new run.
    pub fn new_run(&self) -> u64 {
        self.ask("POST", "/runs", 201)["id"].as_u64().expect("a run has a number")
    }

    /// Its anonymous memory in bytes, as the kernel has it.
    pub fn memory(&self) -> u64 {
        processes::anonymous_memory(self.child.id())
    }

    fn ask(&self, method: &str, path: &str, status: u16) -> Value {
        let mut socket = TcpStream::connect(self.address).expect("the server listens");
        socket.set_read_timeout(Some(DEADLINE)).expect("it is a socket");
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\
             Content-Length: 0\r\n\r\n"
        );
        socket.write_all(request.as_bytes()).expect("the server reads");
        let mut answer = String::new();
        socket.read_to_string(&mut answer).expect("the server answers");
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{method} {path}: {answer}");
        let (_, body) = answer.split_once("\r\n\r\n").expect("a head ends there");
        serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {body}"))
    }

    /// How many streams it serves now, by its own count.
    pub fn streams(&self) -> u64 {
        self.get("/worker")["workers"][0]["streams"].as_u64().expect("it counts its streams")
    }

    /// The events that were published on each of its runs, oldest first, by its own count: all but
    /// the one that begins a run.
    pub fn published(&self) -> Vec<u64> {
        let answer = self.get("/runs?limit=1000");
        let runs = answer["runs"].as_array().expect("a list of runs").iter().rev();
        runs.map(|run| run["event_count"].as_u64().expect("a count") - 1).collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // One that has ended is no error here.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The address in the line of the log that says where the server listens.
fn listening(line: &str) -> Option<SocketAddr> {
    let (_, rest) = line.split_once("listening on ")?;
    rest.split_whitespace().next()?.parse().ok()
}
