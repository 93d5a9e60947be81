//! Tidewheel: an event streamer for agent runs, builds and jobs.

pub mod cli;
pub mod client;
pub mod clock;
pub mod config;
pub mod connection;
pub mod event;
pub mod history_readers;
pub mod hub;
pub mod journal;
pub mod journal_writer;
pub mod limits;
pub mod tail;
pub mod timer_wheel;
pub mod wire;
