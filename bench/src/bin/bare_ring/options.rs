//! What of the kernel's offers a ring makes use of. Each can be had without the others, so that
//! one of them at a time can be measured against the ring as it is without it.

use std::{
    io,
    os::fd::{AsRawFd, OwnedFd},
    str::FromStr,
};

use io_uring::{IoUring, Submitter, types::Napi};
use rustix::{event::EventfdFlags, process::Resource};

/// Completions that the kernel posts before it begins to keep them in a list.
const COMPLETION_ENTRIES_MIN: u32 = 4_096;
/// Milliseconds for which the kernel's thread goes on looking when nothing comes. That is CPU time
/// too, so it is as short as it can be.
const SQPOLL_IDLE_MS: u32 = 1;
/// Most files that a ring's table holds; and no more than a process may have open.
const FILES_MAX: u64 = 1 << 20;

/// A choice by name on the command line.
macro_rules! choice {
    ($(#[$meta:meta])* $name:ident { $($(#[$variant_meta:meta])* $variant:ident = $word:literal,)* }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name {
            $($(#[$variant_meta])* $variant,)*
        }

        impl FromStr for $name {
            type Err = String;

            fn from_str(word: &str) -> Result<$name, String> {
                match word {
                    $($word => Ok($name::$variant),)*
                    _ => Err(format!("one of: {}", [$($word),*].join(", "))),
                }
            }
        }
    };
}

choice! {
    /// How a delivery is sent. All else is asked of the ring.
    Driver {
        /// Slices of sends, each slice one submission.
        Uring = "uring",
        /// A call of `send(2)` for each subscriber, to compare with.
        Send = "send",
    }
}

choice! {
    /// How the ring is told which socket is meant.
    Files {
        /// By descriptor, which the kernel looks up for each send and for each poll.
        Plain = "plain",
        /// By its place in a table that is registered with the ring.
        ///
        /// A socket has its place there besides its descriptor, under the same number. Sockets that
        /// are in the table alone would save the descriptor, but no more at a send: it looks at
        /// nothing but the table already.
        Direct = "direct",
    }
}

choice! {
    /// Which sends of a delivery post a completion.
    Completions {
        /// Those that did not take everything: `IOSQE_CQE_SKIP_SUCCESS`.
        Failed = "failed",
        /// Each.
        All = "all",
    }
}

choice! {
    /// How a send of a delivery takes its bytes.
    Sends {
        /// Into memory of the kernel.
        Copy = "copy",
        /// By reference: `IORING_OP_SEND_ZC`. Bytes are kept until all sends of them are notified.
        ZeroCopy = "zero-copy",
    }
}

choice! {
    /// When the kernel runs what completes later than its submission: polls, accepts,
    /// notifications of zero-copy.
    TaskWork {
        /// When completions are asked for: `IORING_SETUP_DEFER_TASKRUN`.
        Defer = "defer",
        /// At the next call of whatever kind: `IORING_SETUP_COOP_TASKRUN`.
        Coop = "coop",
        /// At once, by an interrupt if need be.
        Interrupt = "interrupt",
    }
}

/// What a ring is set up with.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// See [`Driver`].
    pub driver: Driver,
    /// See [`Files`].
    pub files: Files,
    /// See [`Completions`].
    pub completions: Completions,
    /// See [`Sends`].
    pub sends: Sends,
    /// See [`TaskWork`].
    pub task_work: TaskWork,
    /// The processor of a thread of the kernel that takes submissions: `IORING_SETUP_SQPOLL`.
    pub sqpoll: Option<u32>,
    /// Microseconds for which a wait polls network devices: `IORING_REGISTER_NAPI`.
    pub busy_poll: Option<u32>,
    /// Entries of the submission queue.
    pub entries: u32,
    /// Whether completions are announced by an eventfd, which is read and waited for.
    pub eventfd: bool,
    /// Whether the ring is entered by an index, not by its descriptor: `IORING_REGISTER_RING_FDS`.
    pub registered_ring: bool,
}

impl Options {
    /// Whether these exclude one another, and why.
    ///
    /// # Errors
    /// When they do.
    pub fn check(&self) -> Result<(), &'static str> {
        let is_plain = self.sends == Sends::Copy && self.completions == Completions::Failed;
        if self.driver == Driver::Send && !is_plain {
            return Err("--driver send asks nothing of the ring: neither --send nor --completions");
        }
        if self.sends == Sends::ZeroCopy && self.completions == Completions::Failed {
            return Err("--send zero-copy needs --completions all: the kernel can leave out none");
        }
        if self.sqpoll.is_some() && self.task_work != TaskWork::Interrupt {
            return Err("--sqpoll needs --task-work interrupt: its thread runs that work itself");
        }
        Ok(())
    }

    /// A ring with these options, of which [`Options::register`] adds some.
    ///
    /// # Errors
    /// When the kernel refuses it.
    pub fn set_up(&self) -> io::Result<Box<IoUring>> {
        let mut builder = IoUring::builder();
        builder
            .setup_single_issuer()
            .setup_submit_all()
            .setup_no_sqarray()
            .setup_cqsize(COMPLETION_ENTRIES_MIN.max(self.entries.saturating_mul(2)))
            .dontfork();
        match self.task_work {
            TaskWork::Defer => builder.setup_defer_taskrun().setup_taskrun_flag(),
            TaskWork::Coop => builder.setup_coop_taskrun().setup_taskrun_flag(),
            TaskWork::Interrupt => &mut builder,
        };
        if let Some(processor) = self.sqpoll {
            builder.setup_sqpoll(SQPOLL_IDLE_MS).setup_sqpoll_cpu(processor);
        }
        builder.build(self.entries).map(Box::new).map_err(refused("this ring"))
    }

    /// Registers with the ring what belongs to it, and returns its eventfd.
    ///
    /// # Errors
    /// When the kernel refuses something.
    pub fn register(&self, ring: &mut Submitter<'_>) -> io::Result<Option<OwnedFd>> {
        if self.registered_ring {
            ring.register_ring_fd().map_err(refused("--registered-ring"))?;
        }
        if self.files == Files::Direct {
            let limit = rustix::process::getrlimit(Resource::Nofile).current;
            let count = limit.map_or(FILES_MAX, |limit| limit.min(FILES_MAX));
            ring.register_files_sparse(count as u32).map_err(refused("--files direct"))?;
        }
        if let Some(timeout) = self.busy_poll {
            let mut napi = Napi::new().set_busy_poll_timeout(timeout);
            ring.register_napi(&mut napi).map_err(refused("--busy-poll"))?;
        }
        if !self.eventfd {
            return Ok(None);
        }
        let eventfd = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        ring.register_eventfd(eventfd.as_raw_fd()).map_err(refused("--eventfd"))?;
        Ok(Some(eventfd))
    }
}

/// Names what the kernel has refused.
fn refused(what: &str) -> impl FnOnce(io::Error) -> io::Error {
    move |error| io::Error::new(error.kind(), format!("the kernel refuses {what}: {error}"))
}
