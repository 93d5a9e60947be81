//! What the coordinator and its load processes tell each other: lines of JSON, over the process's
//! standard input and output. A load process ends when its input does.

use std::{net::IpAddr, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{order::Published, target::Target};

/// What a load process is for: the first line.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Assignment {
    /// How the server is talked to.
    pub target: Target,
    /// Names the measurement.
    pub token: u32,
    /// The names of the streams that are read here: subscriber `n` reads that at `n % streams.len()`.
    pub streams: Vec<String>,
    /// The number of the first of them.
    pub first_stream: u32,
    /// Number of the first subscriber.
    pub first: usize,
    /// How many there are here.
    pub count: usize,
    /// Where connections come from.
    pub sources: Sources,
    /// How many may be between `connect` and their head at a time.
    pub in_flight: usize,
    /// How long one may take for that.
    pub timeout: Duration,
    /// A live event that comes later than this after it was due is late.
    pub stall: Duration,
    /// Whether a subscriber whose stream the server ended comes back with its cursor.
    pub come_back: bool,
}

/// The addresses that connections come from. Each source address has some tens of thousands of
/// ports for one server, and a port rests for a minute after its use.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sources {
    /// The system chooses.
    System,
    /// All of 127.0.0.0/8, another part of it in each measurement.
    Loopback,
    /// These in turn.
    Listed(Vec<IpAddr>),
}

/// What a load process is to do: any further line.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Command {
    /// Opens all that are closed, `per_second` of them; without it, as fast as they are answered.
    Open {
        /// The rate of this process.
        per_second: Option<f64>,
    },
    /// Closes all.
    Cut,
    /// Closes this share of those that are open, picked at random, which come back at once.
    Reconnect {
        /// Between 0 and 1.
        share: f64,
    },
    /// Says what each subscriber should have in the end.
    Expect {
        /// 1, 2, 3 …: which expectation later counts are about.
        expectation: u32,
        /// What was published on each stream.
        published: Vec<Published>,
        /// From when on the time to catch up counts.
        since_ns: Option<u64>,
    },
    /// From now on closes so many a second, picked at random, which come back at once.
    Churn {
        /// The rate of this process.
        per_second: f64,
    },
    /// Lets all that are open stop reading: what the server sends stays where it is.
    StopReading,
    /// Lets them read on, those with a number below this; the others are closed for good.
    ReadOn {
        /// A subscriber's number.
        below: usize,
    },
    /// Counts what is missing, tells the last counts and ends.
    Finish {
        /// Whether all was given the time to come, so that what has not come by now is missing.
        is_complete: bool,
    },
}
