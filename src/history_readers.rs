//! The threads that read history: reads wait for the disk, and an event loop must not.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, RwLock};
use std::thread::JoinHandle;

use crate::journal::catalog::Catalog;
use crate::journal::store::Store;
use crate::journal_keeper::Reads;
use crate::limits::HISTORY_QUEUE_MAX;

/// One read. It hands over what it found by itself.
pub type HistoryJob = Box<dyn FnOnce(&dyn Store, &RwLock<Catalog>) + Send>;

/// A few threads that do reads in the order in which they were submitted.
pub struct HistoryReaders {
    queue: Arc<Queue>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

#[derive(Default)]
struct Queue {
    state: Mutex<State>,
    arrived: Condvar,
}

#[derive(Default)]
struct State {
    jobs: VecDeque<HistoryJob>,
    /// Threads that have nothing to do.
    idle: usize,
    closed: bool,
}

impl HistoryReaders {
    /// Starts so many threads.
    ///
    /// # Errors
    /// When the system refuses a thread.
    pub fn start(
        store: &Arc<dyn Store>,
        catalog: &Arc<RwLock<Catalog>>,
        reads: &Arc<Reads>,
        threads: usize,
    ) -> io::Result<HistoryReaders> {
        let readers = HistoryReaders {
            queue: Arc::default(),
            threads: Mutex::new(Vec::with_capacity(threads)),
        };
        for number in 0..threads {
            let (queue, reads) = (Arc::clone(&readers.queue), Arc::clone(reads));
            let (store, catalog) = (Arc::clone(store), Arc::clone(catalog));
            let thread = std::thread::Builder::new()
                .name(format!("history-{number}"))
                .spawn(move || queue.work(&*store, &catalog, &reads))?;
            readers.threads().push(thread);
        }
        Ok(readers)
    }

    /// Adds a read to the queue.
    ///
    /// # Errors
    /// Gives it back when [`HISTORY_QUEUE_MAX`] are waiting, or the readers are closed.
    pub fn submit(&self, job: HistoryJob) -> Result<(), HistoryJob> {
        let mut state = self.queue.state();
        if state.closed || state.jobs.len() >= HISTORY_QUEUE_MAX {
            return Err(job);
        }
        state.jobs.push_back(job);
        drop(state);
        self.queue.arrived.notify_one();
        Ok(())
    }

    /// Has a read done before all that wait: it is for whoever looks after the server, and asks when
    /// many wait too.
    ///
    /// # Errors
    /// Gives it back when the readers are closed.
    pub fn submit_first(&self, job: HistoryJob) -> Result<(), HistoryJob> {
        let mut state = self.queue.state();
        if state.closed {
            return Err(job);
        }
        state.jobs.push_front(job);
        drop(state);
        self.queue.arrived.notify_one();
        Ok(())
    }

    /// Reads that are waiting.
    pub fn depth(&self) -> usize {
        self.queue.state().jobs.len()
    }

    /// Whether a read that is submitted now is done at once.
    pub fn has_idle(&self) -> bool {
        let state = self.queue.state();
        state.idle > state.jobs.len()
    }

    /// Drops the reads that are waiting, and returns when those under way have ended.
    pub fn close(&self) {
        let waiting = {
            let mut state = self.queue.state();
            state.closed = true;
            std::mem::take(&mut state.jobs)
        };
        drop(waiting);
        self.queue.arrived.notify_all();
        for thread in self.threads().drain(..) {
            // A read that has panicked has told so on standard error.
            let _ = thread.join();
        }
    }

    fn threads(&self) -> MutexGuard<'_, Vec<JoinHandle<()>>> {
        self.threads.lock().expect("no one panics while holding the lock")
    }
}

impl Drop for HistoryReaders {
    fn drop(&mut self) {
        self.close();
    }
}

impl Queue {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no one panics while holding the lock")
    }

    fn work(&self, store: &dyn Store, catalog: &RwLock<Catalog>, reads: &Reads) {
        while let Some(job) = self.next() {
            let _under_way = reads.begin();
            job(store, catalog);
        }
    }

    fn next(&self) -> Option<HistoryJob> {
        let mut state = self.state();
        loop {
            if let Some(job) = state.jobs.pop_front() {
                return Some(job);
            }
            if state.closed {
                return None;
            }
            state.idle += 1;
            state = self.arrived.wait(state).expect("no one panics while holding the lock");
            state.idle -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;
    use crate::journal::memory::MemoryStore;

    #[test]
    fn reads_run_and_close_waits_for_those_under_way() {
        let store: Arc<dyn Store> = Arc::new(MemoryStore::default());
        let readers = HistoryReaders::start(&store, &Arc::default(), &Arc::default(), 2).unwrap();
        let (sender, receiver) = mpsc::channel();
        for number in 0..100 {
            let sender = sender.clone();
            assert!(
                readers
                    .submit(Box::new(move |_, catalog| {
                        assert_eq!(catalog.read().unwrap().last_id().0, 0);
                        sender.send(number).unwrap();
                    }))
                    .is_ok()
            );
        }
        let mut done: Vec<i32> = receiver.iter().take(100).collect();
        done.sort_unstable();
        assert_eq!(done, (0..100).collect::<Vec<_>>());
        readers.close();
        assert!(readers.submit(Box::new(|_, _| {})).is_err());
    }

    #[test]
    fn it_is_known_whether_a_read_would_wait() {
        let store: Arc<dyn Store> = Arc::new(MemoryStore::default());
        let readers = HistoryReaders::start(&store, &Arc::default(), &Arc::default(), 2).unwrap();
        let (sender, begun) = mpsc::channel();
        let wait_for = |is_idle| {
            while readers.has_idle() != is_idle {
                std::thread::yield_now();
            }
        };
        // Each thread is idle once it has come up.
        wait_for(true);
        let hold = || {
            let (go_on, told) = mpsc::channel::<()>();
            let sender = sender.clone();
            let job: HistoryJob = Box::new(move |_, _| {
                sender.send(()).unwrap();
                let _ = told.recv();
            });
            assert!(readers.submit(job).is_ok());
            begun.recv().unwrap();
            go_on
        };
        let first = hold();
        wait_for(true);
        let second = hold();
        assert!(!readers.has_idle(), "nobody waits, and all are busy");
        assert_eq!(readers.depth(), 0);
        drop(second);
        wait_for(true);
        drop(first);
    }

    #[test]
    fn who_looks_after_the_server_goes_first() {
        let store: Arc<dyn Store> = Arc::new(MemoryStore::default());
        let readers = HistoryReaders::start(&store, &Arc::default(), &Arc::default(), 1).unwrap();
        let (go_on, told) = mpsc::channel();
        let (sender, receiver) = mpsc::channel();
        let submit = |name: &'static str, how: fn(&HistoryReaders, _) -> Result<(), HistoryJob>| {
            let sender = sender.clone();
            let job: HistoryJob = Box::new(move |_, _| sender.send(name).unwrap());
            assert!(how(&readers, job).is_ok());
        };
        assert!(readers.submit(Box::new(move |_, _| told.recv().unwrap())).is_ok());
        submit("replay", HistoryReaders::submit);
        submit("another", HistoryReaders::submit);
        submit("metrics", HistoryReaders::submit_first);
        go_on.send(()).unwrap();
        let done: Vec<&str> = receiver.iter().take(3).collect();
        assert_eq!(done, ["metrics", "replay", "another"]);
    }
}
