//! What other threads have for a worker: a list behind a lock, and an eventfd that says so.
//!
//! The eventfd is the only thing that wakes a sleeping worker from outside. It is written when the
//! list was empty, so that a thousand answers of one group commit cost one system call. The stream
//! ring's completions are announced through the same eventfd.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{Arc, Mutex, PoisonError},
};

use rustix::event::{EventfdFlags, eventfd};

/// The receiving and the sending side; a sender clones the `Arc`.
#[derive(Debug)]
pub struct Mailbox<T> {
    letters: Mutex<Vec<T>>,
    wake: Arc<OwnedFd>,
}

impl<T> Mailbox<T> {
    /// An empty mailbox with an eventfd of its own.
    ///
    /// # Errors
    /// When the kernel gives no eventfd.
    pub fn new() -> io::Result<Mailbox<T>> {
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Mailbox { letters: Mutex::new(Vec::new()), wake: Arc::new(wake) })
    }

    /// Puts a letter in and wakes the worker if it may be asleep.
    pub fn post(&self, letter: T) {
        if self.push(letter) == 1 {
            self.wake();
        }
    }

    /// Puts a letter in for which [`Mailbox::wake`] is called soon, with those that follow.
    pub fn leave(&self, letter: T) {
        self.push(letter);
    }

    fn push(&self, letter: T) -> usize {
        let mut letters = self.letters.lock().unwrap_or_else(PoisonError::into_inner);
        letters.push(letter);
        letters.len()
    }

    /// Wakes the worker without a letter.
    pub fn wake(&self) {
        // Only a full counter fails (EAGAIN), and then the worker is awake already.
        let _ = rustix::io::write(&*self.wake, &1_u64.to_ne_bytes());
    }

    /// Takes all letters out, in the order in which they came.
    pub fn drain(&self, into: &mut Vec<T>) {
        into.append(&mut self.letters.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Makes the eventfd quiet again. To be called before [`Mailbox::drain`], so that a letter
    /// which comes in between wakes once too often rather than never.
    pub fn hush(&self) {
        let _ = rustix::io::read(&*self.wake, &mut [0_u8; 8]);
    }

    /// The eventfd, to wait on and to register with the stream ring.
    pub fn wake_fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_come_out_in_order_and_the_eventfd_tells_of_them() {
        let mailbox = Mailbox::new().unwrap();
        mailbox.post(1);
        mailbox.post(2);
        let mut counter = [0_u8; 8];
        rustix::io::read(mailbox.wake_fd(), &mut counter).unwrap();
        assert_eq!(u64::from_ne_bytes(counter), 1);
        let mut letters = Vec::new();
        mailbox.drain(&mut letters);
        assert_eq!(letters, [1, 2]);
    }
}
