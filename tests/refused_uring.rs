//! Where `io_uring` is refused, as Docker's default seccomp profile refuses it, in whole or in
//! part: the server runs on epoll and says so, or, told to use `io_uring` and nothing else, says
//! what to allow.

mod support;

use std::{collections::BTreeMap, thread};

use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};
use support::Server;

/// By their numbers on every architecture.
const SETUP: i64 = 425;
const ENTER: i64 = 426;
const REGISTER: i64 = 427;

/// What a filter, or a kernel that was built without it, says.
const EPERM: u32 = 1;
const ENOSYS: u32 = 38;

/// Calls that are refused, and the error that they give.
type Refusal = (&'static [i64], u32);

/// As Docker refuses them, as an old filter does that knows one of them, and as a kernel without.
const REFUSALS: [Refusal; 6] = [
    (&[SETUP, ENTER, REGISTER], EPERM),
    (&[SETUP, ENTER, REGISTER], ENOSYS),
    (&[SETUP], EPERM),
    (&[ENTER], EPERM),
    (&[ENTER], ENOSYS),
    (&[REGISTER], EPERM),
];

fn filter((calls, error): Refusal) -> BpfProgram {
    let rules: BTreeMap<_, _> = calls.iter().map(|call| (*call, Vec::new())).collect();
    let architecture = std::env::consts::ARCH.try_into().expect("seccompiler knows it");
    SeccompFilter::new(rules, SeccompAction::Allow, SeccompAction::Errno(error), architecture)
        .and_then(TryInto::try_into)
        .expect("the rules are constants")
}

/// Runs a test for each refusal, on a thread whose processes it holds for.
fn for_each_refusal(test: fn(Refusal)) {
    for refusal in REFUSALS {
        let thread = thread::spawn(move || {
            // It holds for this thread and for what it starts, and for no other.
            seccompiler::apply_filter(&filter(refusal)).expect("a filter may always be added");
            test(refusal);
        });
        if let Err(panic) = thread.join() {
            eprintln!("with {refusal:?}");
            std::panic::resume_unwind(panic);
        }
    }
}

#[test]
fn the_server_runs_on_epoll_and_says_so() {
    for_each_refusal(|refusal| {
        let server = Server::with(&["--workers", "2"]);
        let log = server.log();
        assert!(log.contains("io_uring cannot be used") && log.contains("using epoll"), "{log}");
        assert!(log.contains("2 worker(s) on epoll"), "{log}");
        for worker in server.json("/worker")["workers"].as_array().expect("there are workers") {
            assert_eq!(worker["io_driver"], "epoll", "{refusal:?}");
        }
        let run = server.new_run();
        let target = format!("/runs/{run}/events/stream");
        let mut streams: Vec<_> = (0..8).map(|_| server.stream(&target)).collect();
        let id = server.append(run, "STEP", "null");
        for stream in &mut streams {
            assert_eq!(stream.ids(2), [id - 1, id]);
        }
    });
}

#[test]
fn told_to_use_it_the_server_says_what_to_allow() {
    for_each_refusal(|refusal| {
        let Err(log) = Server::try_with(&["--io", "uring"]) else {
            panic!("it has started with {refusal:?}")
        };
        let (calls, _) = refusal;
        let names = ["io_uring_setup", "io_uring_enter", "io_uring_register"];
        for what in names.iter().chain(&[
            "Linux 6.1",
            "seccomp profile",
            "kernel.io_uring_disabled=0",
            "--io auto",
        ]) {
            assert!(log.contains(what), "{what} is not in {log}");
        }
        // One line that says it, and no panic.
        assert_eq!(log.lines().count(), 1, "{calls:?}: {log}");
    });
}

/// Docker's profile refuses nothing that epoll needs, and neither do these filters.
#[test]
fn told_to_use_epoll_the_server_asks_for_nothing() {
    for_each_refusal(|_| {
        let server = Server::with(&["--io", "epoll"]);
        assert_eq!(server.log().lines().count(), 1, "{}", server.log());
    });
}
