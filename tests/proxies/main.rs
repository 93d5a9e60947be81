//! Real proxies in front of a real server, with the files of `deploy/` as they are but for addresses:
//! events come one by one, silence ends nothing, clients that go are gone at the server, and a
//! restart is something that clients come back from.

#[path = "../support/mod.rs"]
mod support;

mod page;
mod proxy;
mod quiet;
mod restarts;
mod streams;
