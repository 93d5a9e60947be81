//! A load tester for Server-Sent Events.
//!
//! It opens subscribers by the thousand, publishes to them on a schedule, checks that each gets
//! every event once and in order, and reports what that cost.

#![allow(clippy::cast_sign_loss, reason = "rates, times and shares are never negative here")]

pub mod cli;
pub mod client;
pub mod clock;
pub mod compare;
pub mod crowd;
pub mod fleet;
pub mod histogram;
pub mod http;
pub mod machine;
pub mod marker;
pub mod options;
pub mod order;
pub mod preset;
pub mod process;
pub mod progress;
pub mod protocol;
pub mod publisher;
pub mod report;
pub mod scenario;
pub mod session;
pub mod sse;
pub mod subscriber;
pub mod tally;
pub mod target;
