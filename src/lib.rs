//! Tidewheel: an event streamer for agent runs, builds and jobs.

pub mod config;
pub mod connection;
pub mod event;
pub mod limits;
pub mod tail;
pub mod timer_wheel;
pub mod wire;
