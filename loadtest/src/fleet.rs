//! The load processes, as their coordinator sees them: told together, counted together.
//!
//! A process holds as many connections as it may have files, so there are as many processes as
//! that takes. The coordinator itself holds no subscriber: what it does at the terminal, and what
//! it publishes, delays none of them.

use std::{
    collections::BTreeMap,
    io::{self, BufRead, BufReader, Write},
    os::unix::process::CommandExt,
    process::{Child, ChildStdin, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    time::{Duration, Instant},
};

use crate::{
    histogram::Histogram,
    order::Published,
    protocol::{Assignment, Command},
    report::Violation,
    tally::{Counters, Tick, merge_failures, merge_violations},
};

/// The argument with which this program is a load process.
pub const LOAD_PROCESS: &str = "load-process";

/// So long a load process may take for its last words.
const LAST_WORDS: Duration = Duration::from_secs(30);

/// The load processes of a measurement.
#[derive(Debug)]
pub struct Fleet {
    processes: Vec<Process>,
    expectation: u32,
    ticks: Receiver<(usize, io::Result<Tick>)>,
    /// Time to first byte.
    pub first_byte: Histogram,
    /// Delivery latency of all so far.
    pub delivery: Histogram,
    /// The same since it was last taken.
    pub delivery_lately: Histogram,
    /// Time to catch up.
    pub catch_up: Histogram,
}

#[derive(Debug)]
struct Process {
    child: Child,
    input: Option<ChildStdin>,
    subscribers: u64,
    last: Tick,
}

impl Fleet {
    /// Starts a process for each assignment.
    ///
    /// # Errors
    /// When a process cannot be started.
    pub fn start(assignments: &[Assignment]) -> io::Result<Self> {
        let (sender, ticks) = channel();
        let processes = assignments
            .iter()
            .enumerate()
            .map(|(index, assignment)| Process::start(index, assignment, sender.clone()))
            .collect::<io::Result<_>>()?;
        Ok(Self {
            processes,
            expectation: 0,
            ticks,
            first_byte: Histogram::default(),
            delivery: Histogram::default(),
            delivery_lately: Histogram::default(),
            catch_up: Histogram::default(),
        })
    }

    /// How many processes there are.
    pub fn processes(&self) -> usize {
        self.processes.len()
    }

    /// Opens all that are closed, at a rate shared out among the processes.
    ///
    /// # Errors
    /// When a process is gone.
    pub fn open(&mut self, per_second: Option<f64>) -> io::Result<()> {
        let per_second = per_second.map(|rate| rate / self.processes.len() as f64);
        self.tell(&Command::Open { per_second })
    }

    /// From now on so many a second leave and come back.
    ///
    /// # Errors
    /// When a process is gone.
    pub fn churn(&mut self, per_second: f64) -> io::Result<()> {
        self.tell(&Command::Churn { per_second: per_second / self.processes.len() as f64 })
    }

    /// Tells all of them.
    ///
    /// # Errors
    /// When a process is gone.
    pub fn tell(&mut self, command: &Command) -> io::Result<()> {
        for process in &mut self.processes {
            process.tell(command)?;
        }
        Ok(())
    }

    /// Says what was published, by stream, which each subscriber should have in the end; `since_ns`
    /// is from when on the time to catch up counts, where it is measured.
    ///
    /// # Errors
    /// When a process is gone.
    pub fn expect(&mut self, published: Vec<Published>, since_ns: Option<u64>) -> io::Result<()> {
        self.expectation += 1;
        let expectation = self.expectation;
        self.tell(&Command::Expect { expectation, published, since_ns })
    }

    /// Takes what the processes tell, for so long.
    ///
    /// # Errors
    /// When a process has failed.
    pub fn listen(&mut self, wait: Duration) -> io::Result<()> {
        let until = Instant::now() + wait;
        loop {
            match self.ticks.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok((index, tick)) => self.handle_tick(index, tick?),
                Err(RecvTimeoutError::Timeout) => return Ok(()),
                Err(RecvTimeoutError::Disconnected) if self.has_finished() => return Ok(()),
                Err(RecvTimeoutError::Disconnected) => return Err(gone()),
            }
        }
    }

    fn has_finished(&self) -> bool {
        self.processes.iter().all(|process| process.last.finished)
    }

    fn handle_tick(&mut self, index: usize, mut tick: Tick) {
        self.first_byte.add(&std::mem::take(&mut tick.first_byte));
        let delivery = std::mem::take(&mut tick.delivery);
        self.delivery.add(&delivery);
        self.delivery_lately.add(&delivery);
        self.catch_up.add(&std::mem::take(&mut tick.catch_up));
        self.processes[index].last = tick;
    }

    /// The counts of all.
    pub fn counters(&self) -> Counters {
        let mut sum = Counters::default();
        for process in &self.processes {
            let mut counters = process.last.counters;
            // A tick from before the expectation was heard is about the one before.
            if counters.expectation != self.expectation {
                counters.lacking = process.subscribers;
            }
            sum.add(&counters);
        }
        sum
    }

    /// The failures of all by kind.
    pub fn failures(&self) -> BTreeMap<String, u64> {
        let mut sum = BTreeMap::new();
        for process in &self.processes {
            merge_failures(&mut sum, &process.last.failures);
        }
        sum
    }

    /// The violations of all.
    pub fn violations(&self) -> Vec<Violation> {
        let mut all = Vec::new();
        for process in &self.processes {
            merge_violations(&mut all, &process.last.violations);
        }
        all
    }

    /// Hears their last counts, and ends them; `is_complete` says whether all that was published
    /// was given the time to come.
    ///
    /// # Errors
    /// When a process has failed.
    pub fn finish(&mut self, is_complete: bool) -> io::Result<()> {
        self.tell(&Command::Finish { is_complete })?;
        let until = Instant::now() + LAST_WORDS;
        while !self.has_finished() {
            if Instant::now() > until {
                return Err(io::Error::other("a load process does not end"));
            }
            self.listen(Duration::from_millis(10))?;
        }
        for process in &mut self.processes {
            process.input = None;
            process.child.wait()?;
        }
        Ok(())
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        for process in &mut self.processes {
            // One that has ended is no error here.
            let _ = process.child.kill();
            let _ = process.child.wait();
        }
    }
}

impl Process {
    fn start(
        index: usize,
        assignment: &Assignment,
        ticks: Sender<(usize, io::Result<Tick>)>,
    ) -> io::Result<Self> {
        // Of its own process group, so that Ctrl-C reaches the coordinator alone.
        let mut child = std::process::Command::new(std::env::current_exe()?)
            .arg(LOAD_PROCESS)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .process_group(0)
            .spawn()?;
        let output = child.stdout.take().expect("it is piped");
        let subscribers = assignment.count as u64;
        let mut last = Tick::default();
        last.counters.waiting = subscribers;
        let mut process = Self { input: child.stdin.take(), child, subscribers, last };
        process.tell(assignment)?;
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines() {
                let tick = line.and_then(|line| Ok(serde_json::from_str::<Tick>(&line)?));
                let ends = tick.as_ref().map_or(true, |tick| tick.finished);
                if ticks.send((index, tick)).is_err() || ends {
                    return;
                }
            }
            // The receiver may be gone too, when all is over.
            let _ = ticks.send((index, Err(gone())));
        });
        Ok(process)
    }

    fn tell(&mut self, what: &impl serde::Serialize) -> io::Result<()> {
        let input = self.input.as_mut().ok_or_else(gone)?;
        let mut line = serde_json::to_vec(what)?;
        line.push(b'\n');
        input.write_all(&line)
    }
}

fn gone() -> io::Error {
    io::Error::other("a load process has ended by itself")
}

/// The main function of a load process.
///
/// # Errors
/// When the coordinator speaks nonsense, or the system refuses something.
pub fn run_load_process() -> io::Result<()> {
    let (sender, commands) = channel();
    let mut input = io::stdin().lock();
    let mut line = String::new();
    input.read_line(&mut line)?;
    let assignment: Assignment = serde_json::from_str(&line)?;
    drop(input);
    crate::process::connections_max();
    let mut crowd = crate::crowd::Crowd::new(assignment)?;
    let (wake, waker) = rustix::pipe::pipe()?;
    crowd.watch_input(&wake)?;
    std::thread::spawn(move || {
        for line in io::stdin().lock().lines() {
            let Ok(line) = line else { break };
            // Both fail only when the main thread has ended.
            if sender.send(line).is_err() || rustix::io::write(&waker, b"!").is_err() {
                return;
            }
        }
        // The coordinator is gone, and with it the reason to be here.
        std::process::exit(1);
    });
    let tell = |tick: &Tick| -> io::Result<()> {
        let mut line = serde_json::to_vec(tick)?;
        line.push(b'\n');
        io::stdout().lock().write_all(&line)
    };
    loop {
        if crowd.turn()? {
            rustix::io::read(&wake, &mut [0; 1])?;
            let line = commands.recv().map_err(io::Error::other)?;
            if let Some(last) = crowd.handle(serde_json::from_str(&line)?) {
                return tell(&last);
            }
        }
        if let Some(tick) = crowd.poll_tick() {
            tell(&tick)?;
        }
    }
}
