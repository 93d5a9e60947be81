//! Tidewheel: an event streamer for agent runs, builds and jobs.

pub mod config;
pub mod event;
pub mod limits;
