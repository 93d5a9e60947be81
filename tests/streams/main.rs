//! Streams over real sockets: their bytes, where they begin and end, who is counted.

#[path = "../support/mod.rs"]
mod support;

mod beginnings;
mod broken;
mod bytes;
mod crowds;
mod ends;
mod limits;
mod retention;
mod selections;
mod slow;
mod workers;
