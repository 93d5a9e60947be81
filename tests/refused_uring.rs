//! Where `io_uring` is refused, as Docker's default seccomp profile refuses it: the server runs on
//! epoll and says so, or, told to use `io_uring` and nothing else, says what to allow.

mod support;

use std::{collections::BTreeMap, thread};

use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};
use support::Server;

/// `io_uring_setup`, `io_uring_enter` and `io_uring_register`, by their numbers on every
/// architecture.
const URING_CALLS: [i64; 3] = [425, 426, 427];
const EPERM: u32 = 1;

/// Refuses `io_uring` with the error that Docker's profile gives, and nothing else.
fn filter() -> BpfProgram {
    let rules: BTreeMap<_, _> = URING_CALLS.map(|call| (call, Vec::new())).into();
    let architecture = std::env::consts::ARCH.try_into().expect("seccompiler knows it");
    SeccompFilter::new(rules, SeccompAction::Allow, SeccompAction::Errno(EPERM), architecture)
        .and_then(TryInto::try_into)
        .expect("the rules are constants")
}

/// Runs a test on a thread whose processes may not use `io_uring`.
fn without_uring(test: fn()) {
    let thread = thread::spawn(move || {
        // It holds for this thread and for what it starts, and for no other.
        seccompiler::apply_filter(&filter()).expect("a filter may always be added");
        test();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

#[test]
fn the_server_runs_on_epoll_and_says_so() {
    without_uring(|| {
        let server = Server::start();
        assert!(server.log().contains("using epoll instead"), "{}", server.log());
        assert_eq!(server.json("/worker")["workers"][0]["io_driver"], "epoll");
        let run = server.new_run();
        let mut stream = server.stream(&format!("/runs/{run}/events/stream"));
        let id = server.append(run, "STEP", "null");
        assert_eq!(stream.ids(2), [id - 1, id]);
    });
}

#[test]
fn told_to_use_it_the_server_says_what_to_allow() {
    without_uring(|| {
        let Err(log) = Server::try_with(&["--io", "uring"]) else { panic!("it has started") };
        assert!(log.contains("seccomp profile") && log.contains("io = \"auto\""), "{log}");
    });
}
