//! The HTTP contract over real sockets, status by status.

#![allow(clippy::format_push_string, reason = "what a test sends is shown as it is")]

#[path = "../support/mod.rs"]
mod support;

mod appends;
mod connections;
mod cors;
mod dangerous;
mod early_answers;
mod metrics;
mod once;
mod pages;
mod runs;
mod service;
