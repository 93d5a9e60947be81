//! Programs of others: whether they are there, and what they print while they run.

use std::{
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc::{Receiver, channel},
    thread,
};

use super::{DEADLINE, eventually};

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
