//! Streams over real sockets: their bytes, where they begin and end, who is counted.

#[path = "../support/mod.rs"]
mod support;

mod beginnings;
mod bytes;
mod crowds;
mod ends;
mod selections;

use support::Server;

/// How many streams the server has open.
fn open_streams(server: &Server) -> u64 {
    let worker = server.json("/worker");
    let workers = worker["workers"].as_array().expect("there are workers");
    workers.iter().map(|worker| worker["streams"].as_u64().expect("a count")).sum()
}
