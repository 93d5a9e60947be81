//! The log: one line for each thing that is worth knowing, on standard error.
//!
//! ```text
//!   log::info!(conn; "stream ended") ─▶ line ─▶ queue ─▶ one thread ─▶ standard error
//! ```
//!
//! Whoever logs only adds a line to a queue in memory: an event loop must not wait for a terminal
//! that was stopped, or for a pipe that nobody reads. The queue is bounded. What finds no room in it
//! is counted and left out, and the next line that is written says how many those were.
//!
//! Rejected: standard error without blocking, since that is a property of the open file, which
//! others may share; and a line may be cut in the middle there.

mod budget;
mod line;

use std::{
    io::{self, Write},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

use log::{Level, LevelFilter, Log, Metadata, Record};

pub use self::budget::{Budget, Budgets, Kind};
use crate::{
    clock::Clock,
    config::LogFormat,
    limits::{LOG_FLUSH_MS_MAX, LOG_QUEUE_BYTES_MAX},
};

/// Lines that were left out, over all loggers.
static DROPPED: AtomicU64 = AtomicU64::new(0);

/// Lines that were left out so far since the queue was full.
pub fn dropped() -> u64 {
    DROPPED.load(Relaxed)
}

/// Logs on standard error from now on: what the server says at `level`, and the warnings of its
/// libraries. [`log::Logger::flush`](Log::flush) waits for what is on its way, for a bounded time.
///
/// # Errors
/// When the system refuses a thread.
pub fn start(level: LevelFilter, format: LogFormat) -> io::Result<()> {
    let queue = Arc::new(Queue::default());
    let writer = Arc::clone(&queue);
    thread::Builder::new()
        .name("log".into())
        .spawn(move || writer.write_to(io::stderr(), format))?;
    let logger = Logger { level, format, clock: Clock::default(), queue };
    log::set_max_level(level);
    log::set_boxed_logger(Box::new(logger)).map_err(io::Error::other)
}

struct Logger {
    level: LevelFilter,
    format: LogFormat,
    clock: Clock,
    queue: Arc<Queue>,
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata) -> bool {
        let is_ours = metadata.target().split("::").next() == Some("tidewheel");
        let level = if is_ours { self.level } else { self.level.min(LevelFilter::Warn) };
        metadata.level() <= level
    }

    fn log(&self, record: &Record) {
        if self.enabled(record.metadata()) {
            self.queue.push(&line::line(record, self.clock.now(), self.format));
        }
    }

    fn flush(&self) {
        self.queue.flush(Duration::from_millis(LOG_FLUSH_MS_MAX));
    }
}

/// Lines on their way to the thread that writes them.
#[derive(Default)]
struct Queue {
    state: Mutex<State>,
    /// Something has come, or was written.
    changed: Condvar,
}

#[derive(Default)]
struct State {
    lines: Vec<u8>,
    /// Lines that found no room since the last time that was said.
    dropped: u64,
    is_writing: bool,
}

impl State {
    fn is_empty(&self) -> bool {
        self.lines.is_empty() && self.dropped == 0
    }
}

impl Queue {
    fn state(&self) -> MutexGuard<'_, State> {
        // A thread that panics here logs nothing more, and all others may.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, line: &[u8]) {
        let mut state = self.state();
        let was_empty = state.is_empty();
        if state.lines.len() + line.len() > LOG_QUEUE_BYTES_MAX {
            state.dropped += 1;
            DROPPED.fetch_add(1, Relaxed);
        } else {
            state.lines.extend_from_slice(line);
        }
        if was_empty && !state.is_writing {
            drop(state);
            self.changed.notify_all();
        }
    }

    /// Writes what comes, for ever. What cannot be written is lost: there is nobody to tell.
    fn write_to(&self, mut out: impl Write, format: LogFormat) {
        let clock = Clock::default();
        let mut lines = Vec::new();
        loop {
            lines.clear();
            let dropped = {
                let mut state = self.state();
                state.is_writing = false;
                self.changed.notify_all();
                while state.is_empty() {
                    state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                }
                state.is_writing = true;
                std::mem::swap(&mut state.lines, &mut lines);
                std::mem::take(&mut state.dropped)
            };
            let _ = out.write_all(&lines);
            if dropped > 0 {
                let record = |record: &Record| line::line(record, clock.now(), format);
                let told = record(
                    &Record::builder()
                        .level(Level::Warn)
                        .target(module_path!())
                        .args(format_args!("log lines dropped"))
                        .key_values(&[("lines", dropped)])
                        .build(),
                );
                let _ = out.write_all(&told);
            }
        }
    }

    /// Waits until everything is written, but no longer than this.
    fn flush(&self, patience: Duration) {
        let is_busy = |state: &mut State| state.is_writing || !state.is_empty();
        let _ = self.changed.wait_timeout_while(self.state(), patience, is_busy);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// Takes a piece when it is told to.
    struct Slow(mpsc::Receiver<()>, Arc<Mutex<Vec<u8>>>);

    impl Write for Slow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.recv().map_err(io::Error::other)?;
            self.1.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn nobody_waits_for_who_does_not_read_and_what_is_left_out_is_counted() {
        let (go_on, told) = mpsc::channel();
        let written = Arc::new(Mutex::new(Vec::new()));
        let queue = Arc::new(Queue::default());
        let (writer, out) = (Arc::clone(&queue), Slow(told, Arc::clone(&written)));
        thread::spawn(move || writer.write_to(out, LogFormat::Logfmt));
        let line = [&[b'x'; 1_023][..], b"\n"].concat();
        let room = LOG_QUEUE_BYTES_MAX / line.len();
        queue.push(&line);
        // The writer has taken it, and stands.
        while !queue.state().is_writing {
            thread::yield_now();
        }
        let before = dropped();
        for _ in 0..room + 3 {
            queue.push(&line);
        }
        assert_eq!(dropped() - before, 3);
        queue.flush(Duration::from_millis(1));
        assert!(written.lock().unwrap().is_empty());
        for _ in 0..3 {
            go_on.send(()).unwrap();
        }
        queue.flush(Duration::from_secs(30));
        let written = String::from_utf8(written.lock().unwrap().clone()).unwrap();
        assert_eq!(written.lines().count(), 1 + room + 1);
        let last = written.lines().last().unwrap();
        assert!(last.ends_with("level=warn module=logging msg=\"log lines dropped\" lines=3"));
    }
}
