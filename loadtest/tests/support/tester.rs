//! The load tester as its users have it: a command with arguments, an exit code, what it says, and
//! the report that it writes.

use std::{
    io::Read,
    process::{Child, ChildStderr, ChildStdout, Command, Stdio},
    thread::JoinHandle,
};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tidewheel_loadtest::report::Report;

use super::{eventually, processes};

/// The measurement was made and nothing was wrong.
pub const CLEAN: i32 = 0;
/// The measurement was made, and something was broken or failed.
pub const NOT_CLEAN: i32 = 1;
/// There was no measurement.
pub const NO_MEASUREMENT: i32 = 2;
/// It was stopped before its end, and nothing was wrong until then.
pub const INTERRUPTED: i32 = 130;

/// Makes any measurement short.
const SHORT: [&str; 2] = ["--settle", "100ms"];

/// Lets one wait for what is late on a busy machine, unless a test says for how long.
const PATIENT: [&str; 2] = ["--drain", "60s"];
/// Those that wait for it.
const DRAINING: [&str; 4] = ["fanout", "slow", "soak", "storm"];

/// A load tester under way. It is killed when this is dropped.
pub struct Tester {
    child: Child,
    stdout: Option<JoinHandle<String>>,
    stderr: Option<JoinHandle<String>>,
    directory: TempDir,
}

/// What came of it.
#[derive(Debug)]
pub struct Outcome {
    /// The exit code; none when a signal ended it.
    pub code: Option<i32>,
    /// What it said on standard output.
    pub stdout: String,
    /// What it said on standard error.
    pub stderr: String,
    report: Option<Report>,
}

/// Runs the load tester with these arguments to its end.
pub fn run(arguments: &[&str]) -> Outcome {
    start(arguments).wait()
}

/// Starts the load tester with these arguments.
pub fn start(arguments: &[&str]) -> Tester {
    start_by(Command::new(PROGRAM), arguments)
}

/// The same with no more open files than this allowed to each process.
pub fn run_with_files(limit: u32, arguments: &[&str]) -> Outcome {
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("ulimit -n {limit} && exec \"$0\" \"$@\""), PROGRAM]);
    start_by(shell, arguments).wait()
}

const PROGRAM: &str = env!("CARGO_BIN_EXE_tidewheel-loadtest");

fn start_by(mut command: Command, arguments: &[&str]) -> Tester {
    let directory = tempfile::tempdir().expect("there is room for a report");
    command.args(&arguments[..1]).args(SHORT).args(&arguments[1..]);
    if DRAINING.contains(&arguments[0]) && !arguments.contains(&PATIENT[0]) {
        command.args(PATIENT);
    }
    command.arg("--json").arg(directory.path().join("report.json"));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the binary was built with the tests");
    let stdout: ChildStdout = child.stdout.take().expect("it is piped");
    let stderr: ChildStderr = child.stderr.take().expect("it is piped");
    Tester { child, stdout: Some(read(stdout)), stderr: Some(read(stderr)), directory }
}

fn read(mut pipe: impl Read + Send + 'static) -> JoinHandle<String> {
    std::thread::spawn(move || {
        let mut text = Vec::new();
        pipe.read_to_end(&mut text).expect("a pipe can be read");
        String::from_utf8_lossy(&text).into_owned()
    })
}

impl Tester {
    /// Waits for its end.
    #[track_caller]
    pub fn wait(mut self) -> Outcome {
        let status = eventually("the load tester ends", || self.child.try_wait().expect("ours"));
        let text = |thread: &mut Option<JoinHandle<String>>| {
            thread.take().expect("it is joined once").join().expect("it does not panic")
        };
        let (stdout, stderr) = (text(&mut self.stdout), text(&mut self.stderr));
        let written = std::fs::read_to_string(self.directory.path().join("report.json")).ok();
        let report =
            written.map(|text| serde_json::from_str(&text).expect("a report is what it says"));
        Outcome { code: status.code(), stdout, stderr, report }
    }

    /// Sends a signal to it alone.
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("the process is ours");
    }

    /// Whether a signal would not just kill it.
    pub fn is_ready(&self) -> bool {
        processes::catches(self.child.id(), Signal::INT)
    }

    /// The processes that hold the subscribers.
    pub fn load_processes(&self) -> Vec<u32> {
        processes::children(self.child.id())
    }
}

impl Drop for Tester {
    fn drop(&mut self) {
        // One that has ended is no error here.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Outcome {
    /// The report, with this exit code.
    #[track_caller]
    pub fn report(&self, code: i32) -> &Report {
        assert_eq!(self.code, Some(code), "{self:#?}");
        let report = self.report.as_ref().expect("a report was written");
        assert_eq!(report.is_clean(), code != NOT_CLEAN, "{self:#?}");
        report
    }

    /// The report of a measurement in which nothing was wrong.
    #[track_caller]
    pub fn clean(&self) -> &Report {
        let report = self.report(CLEAN);
        assert!(!report.interrupted, "{self:#?}");
        report
    }

    /// The report of a measurement that was stopped and in which nothing was wrong until then.
    #[track_caller]
    pub fn interrupted(&self) -> &Report {
        let report = self.report(INTERRUPTED);
        assert!(report.interrupted && self.stdout.contains("interrupted"), "{self:#?}");
        report
    }

    /// The report of a measurement in which just this was wrong, each kind of violation and of
    /// failure with its count; the text for people must say so too.
    #[track_caller]
    pub fn broken(&self, violations: &[(&str, u64)], failures: &[(&str, u64)]) -> &Report {
        let report = self.report(NOT_CLEAN);
        let found: Vec<_> =
            report.violations.iter().map(|found| (found.kind.as_str(), found.count)).collect();
        assert_eq!(found, violations, "{self:#?}");
        let failed: Vec<_> =
            report.failures.iter().map(|(kind, count)| (kind.as_str(), *count)).collect();
        assert_eq!(failed, failures, "{self:#?}");
        for violation in &report.violations {
            assert!(self.stdout.contains(&violation.headline()), "{}", self.stdout);
            assert!(!violation.examples.is_empty(), "{violation:?}");
            for example in &violation.examples {
                assert!(self.stdout.contains(example), "{}", self.stdout);
            }
        }
        for kind in report.failures.keys() {
            assert!(self.stdout.contains(kind), "{}", self.stdout);
        }
        report
    }

    /// What it says when there was no measurement: one line, and no report.
    #[track_caller]
    pub fn refusal(&self) -> &str {
        assert_eq!(self.code, Some(NO_MEASUREMENT), "{self:#?}");
        assert!(self.report.is_none() && self.stdout.is_empty(), "{self:#?}");
        assert!(!self.stderr.contains("panicked"), "{self:#?}");
        let mut lines = self.stderr.lines().filter(|line| !line.ends_with('…'));
        let (line, more) = (lines.next().expect("it says why"), lines.next());
        assert_eq!(more, None, "{self:#?}");
        line
    }
}

/// A figure that must be there.
#[track_caller]
pub fn figure(report: &Report, name: &str) -> f64 {
    report.figure(name).unwrap_or_else(|| panic!("no figure {name}: {:#?}", report.figures))
}

/// A figure that counts something.
#[track_caller]
#[expect(clippy::cast_sign_loss, reason = "it was looked at")]
pub fn count(report: &Report, name: &str) -> u64 {
    let value = figure(report, name);
    assert!(value >= 0.0 && value.fract() == 0.0, "{name} is {value}");
    value as u64
}
