//! Programs of others: whether they are there, and what they print while they run.

use std::{
    fs::{self, File},
    io::{BufRead as _, BufReader},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc::{Receiver, channel},
    thread,
};

use tempfile::TempDir;

use super::{DEADLINE, eventually, held_port::HeldPort};

/// Whether a test can go on. Says so if not, or fails when every program has to be there.
pub fn is_there(what: &str, there: bool) -> bool {
    if !there {
        let all = std::env::var_os("TIDEWHEEL_TEST_ALL").is_some_and(|value| !value.is_empty());
        assert!(!all, "{what} is missing, and TIDEWHEEL_TEST_ALL is set");
        eprintln!("skipped: {what} is missing");
    }
    there
}

/// Whether a program runs at all.
pub fn runs(program: impl AsRef<Path>, arguments: &[&str]) -> bool {
    let mut command = Command::new(program.as_ref());
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// Where the clients of the tests are.
pub fn clients_directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients")
}

/// The interpreter of the environment that `.ci/run` makes.
pub fn python() -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("it is inside of target");
    target.join("clients-venv/bin/python")
}

/// A program at work: what it prints, line by line. It is killed when this is dropped.
pub struct Running {
    child: Child,
    lines: Receiver<String>,
}

impl Running {
    /// Starts it.
    pub fn start(mut command: Command) -> Running {
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("the program is there");
        let stdout = BufReader::new(child.stdout.take().expect("it is piped"));
        let (sender, lines) = channel();
        thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Running { child, lines }
    }

    /// Its process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The next line.
    pub fn line(&self) -> String {
        self.lines.recv_timeout(DEADLINE).expect("the client says something")
    }

    /// The stream has ended; the client asks again, and is told that this was all.
    pub fn ends(self) {
        loop {
            match &*self.line() {
                "open" => {}
                "end" => break,
                line => panic!("{line}"),
            }
        }
        let status = self.wait();
        assert!(status.success(), "{status}");
    }

    /// Waits for its end.
    pub fn wait(mut self) -> ExitStatus {
        eventually("the client ends", || self.child.try_wait().expect("it is ours"))
    }

    /// The id and the type of the next event; how often it connects is its own affair.
    pub fn event(&self) -> (u64, String) {
        loop {
            let line = self.line();
            if let Some((id, event_type)) =
                line.strip_prefix("event ").and_then(|rest| rest.split_once(' '))
            {
                return (id.parse().expect("an id is a number"), event_type.to_owned());
            }
            assert_eq!(line, "open");
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A program that listens at an address of its own, with a directory for its files. It is killed
/// when this is dropped, and if a test fails its log is shown.
pub struct Listening {
    name: String,
    child: Child,
    port: HeldPort,
    directory: TempDir,
}

impl Listening {
    /// Starts it, given how to for an address and a directory.
    pub fn start(name: &str, command: impl Fn(SocketAddr, &Path) -> Command) -> Listening {
        let directory = tempfile::tempdir().expect("there is room for a directory");
        // Such programs do not take port 0.
        let port = HeldPort::new(Ipv4Addr::LOCALHOST);
        let address = port.address();
        let mut command = command(address, directory.path());
        let log = File::create(directory.path().join("log")).expect("it is our directory");
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("it is a file")).stderr(log);
        let child = command.spawn().expect("the program is there");
        let mut program = Listening { name: name.to_owned(), child, port, directory };
        eventually("the program listens", || {
            let ended = program.child.try_wait().expect("it is ours");
            assert_eq!(ended, None, "{name} has ended");
            TcpStream::connect(address).ok()
        });
        program
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.port.address()
    }

    /// Where its files are.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            eprintln!("---- log of {}\n{}", self.name, self.log());
        }
    }
}
