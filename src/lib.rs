//! Tidewheel: an event streamer for agent runs, builds and jobs.
//!
//! `docs/architecture.md` has the bird's-eye view, a map of the code and the invariants.

pub mod admission;
pub mod allocator;
pub mod api;
pub mod arrivals;
pub mod cli;
pub mod client;
pub mod client_address;
pub mod clock;
pub mod config;
pub mod connection;
pub mod deadlines;
pub mod driver;
pub mod event;
pub mod event_loop;
pub mod exchange;
pub mod followers;
pub mod histogram;
pub mod history_readers;
pub mod hub;
pub mod journal;
pub mod journal_keeper;
pub mod journal_tools;
pub mod journal_writer;
pub mod limits;
pub mod logging;
pub mod mailbox;
pub mod metrics;
pub mod process;
pub mod replay;
pub mod route;
pub mod server;
pub mod service_manager;
pub mod shared;
pub mod status;
pub mod stream_ring;
pub mod tail;
pub mod timer_wheel;
pub mod wire;
pub mod worker;
