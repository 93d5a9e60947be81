//! Servers that are wrong in one way each, and what the load tester says of them: the kind of the
//! fault, how often it was, and by its exit code whether there was one. What is unusual and right
//! must be no fault.

mod faulty;
mod support;

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use faulty::{Fault, Faulty, Who};
use rustix::{
    net::{AddressFamily, SocketType},
    process::Signal,
};
use support::{
    for_each,
    tester::{self, NOT_CLEAN, Outcome, count},
};

/// Subscribers of a server, half of them on each of two streams.
const SUBSCRIBERS: u64 = 20;
/// Events published on each of the two streams by a fan-out.
const EVENTS: u64 = 10;
/// All deliveries of a fan-out.
const DELIVERIES: u64 = SUBSCRIBERS * EVENTS;
/// Subscribers that a fault of every third one concerns.
const THIRD: u64 = 7;

/// So long those wait who wait in vain: what is right is not as late as that on a busy machine.
const IN_VAIN: &str = "8s";

/// A fan-out of ten events on each of two streams, and more options.
fn fanout(server: &Faulty, more: &str) -> Outcome {
    let options = "fanout --preset plain --subscribers 20 --streams 2 --events 40 --duration 500ms";
    run(server, options, more)
}

/// How long answers are waited for that never come; what comes has the time that it takes.
fn patience(fault: Fault) -> String {
    let is_silent = matches!(fault, Fault::IsSilent(_));
    if is_silent { format!("--timeout {IN_VAIN}") } else { String::new() }
}

/// A storm in which each subscriber misses five events.
fn storm(server: &Faulty, more: &str) -> Outcome {
    run(server, "storm --preset plain --subscribers 20 --streams 2 --behind 5", more)
}

/// Subscribers of a measurement of slow readers that stop reading.
const STALLED: u64 = 4;

/// A measurement of slow readers, with more for them than fits into the sockets' buffers.
fn slow(server: &Faulty, more: &str) -> Outcome {
    let options = "slow --preset plain --subscribers 6 --events 40 --stalled 4 --quiet 250ms \
                   --hold 1s";
    run(server, options, more)
}

/// The same, where those that do not read are long cut off before they read on.
fn slow_and_cut(server: &Faulty, more: &str) -> Outcome {
    let options = "slow --preset plain --subscribers 6 --events 40 --stalled 4 --quiet 250ms \
                   --hold 5s --bytes 8MB";
    run(server, options, more)
}

/// Appends that are read back, on one connection.
fn append(server: &Faulty, more: &str) -> Outcome {
    let base = format!("{}/streams/{{run}}", server.url());
    let shapes = format!(
        "append --connections 1 --rate 40 --duration 500ms --create none --subscribe {base} \
         --publish-type application/x-ndjson --publish-body {{payload}} --format ndjson"
    );
    let mut arguments: Vec<&str> = shapes.split_whitespace().collect();
    let publish = format!("POST {base}");
    arguments.extend(["--publish", &publish]);
    arguments.extend(more.split_whitespace());
    tester::run(&arguments)
}

fn run(server: &Faulty, options: &str, more: &str) -> Outcome {
    let url = server.url();
    let mut arguments: Vec<&str> = options.split_whitespace().collect();
    arguments.extend(["--server", &url]);
    arguments.extend(more.split_whitespace());
    tester::run(&arguments)
}

// ---- nothing is wrong -------------------------------------------------------------------------

#[test]
fn whatever_the_pieces_that_events_come_in_all_is_well() {
    for_each([Fault::None, Fault::Chunks, Fault::Bytes, Fault::CarriageReturns], |fault| {
        let server = Faulty::with(fault);
        let outcome = fanout(&server, "");
        let report = outcome.clean();
        assert_eq!(count(report, "deliveries"), DELIVERIES, "{fault:?}");
        assert_eq!(count(report, "events_checked"), DELIVERIES, "{fault:?}");
        assert_eq!(count(report, "published"), 2 * EVENTS, "{fault:?}");
    });
}

#[test]
fn slow_readers_of_a_server_that_waits_for_them_are_clean() {
    let server = Faulty::with(Fault::None);
    let outcome = slow(
        &server,
        "--bytes 8MB --processes 2 --batch-as single --no-pipelining --bulk-batch 10",
    );
    let report = outcome.clean();
    assert_eq!((count(report, "caught_up"), count(report, "cut")), (STALLED, 0));
    assert_eq!(count(report, "bulk_events"), 2_000);
}

#[test]
fn a_storm_on_a_server_that_remembers_is_clean() {
    let server = Faulty::with(Fault::Chunks);
    let outcome = storm(&server, "--processes 3");
    let report = outcome.clean();
    assert_eq!(count(report, "caught_up"), SUBSCRIBERS);
    assert_eq!(count(report, "replayed"), SUBSCRIBERS * 5);
    assert_eq!(count(report, "events_checked"), SUBSCRIBERS * 7);
}

#[test]
fn a_server_that_ends_its_streams_is_asked_again_in_a_soak() {
    for_each([Fault::EndsStreams(4), Fault::CutsEvents(4)], |fault| {
        let server = Faulty::with(fault);
        let soak = "soak --preset plain --subscribers 20 --streams 2 --events 20 --duration 1s \
                    --churn 10 --appends 0";
        let outcome = run(&server, soak, "");
        let report = outcome.clean();
        // One before all others on each stream, and then ten.
        assert_eq!(count(report, "published"), 22);
        assert_eq!(count(report, "events_checked"), SUBSCRIBERS * 11);
        assert!(count(report, "ended_by_server") >= SUBSCRIBERS);
    });
}

#[test]
fn a_server_may_close_its_publishers_connections() {
    let server = Faulty::with(Fault::ClosesPublishers);
    let outcome = fanout(&server, "--no-pipelining --batch 2 --batch-as single");
    assert_eq!(count(outcome.clean(), "deliveries"), DELIVERIES);
    let outcome = append(&server, "");
    assert_eq!(count(outcome.clean(), "events_checked"), 20);
}

#[test]
fn a_server_that_begins_without_a_past_is_right_in_a_soak() {
    let server = Faulty::with(Fault::StartsLive);
    let soak = "soak --preset plain --subscribers 20 --streams 4 --events 10 --duration 2s \
                --churn 50 --appends 10 --storm-every 500ms";
    let outcome = run(&server, soak, "");
    let report = outcome.clean();
    assert_eq!(count(report, "events_checked"), SUBSCRIBERS / 4 * count(report, "published"));
    assert!(count(report, "returns") > 0);
}

#[test]
fn a_stall_is_charged_to_every_event_that_waits_for_it() {
    let server = Faulty::with(Fault::Stalls(Duration::from_secs(1)));
    let outcome = fanout(&server, "");
    let report = outcome.clean();
    assert_eq!(count(report, "deliveries"), DELIVERIES);
    // The tenth of twenty events waits for the whole second, and half of the others for a part.
    let worst = report.latency("delivery").expect("it was measured").max();
    assert!(worst >= Some(1_000_000_000), "{worst:?}");
    assert!(count(report, "late") >= SUBSCRIBERS / 2, "{report:#?}");
    assert!(outcome.stdout.contains("Stall: "), "{}", outcome.stdout);
}

#[test]
fn no_more_connections_are_opening_than_may_be() {
    let server = Faulty::with(Fault::None);
    let options = "idle --preset plain --subscribers 60 --hold 0s --in-flight 4";
    assert_eq!(count(run(&server, options, "").clean(), "opened"), 60);
    assert!((1..=4).contains(&server.waiting_max()), "{}", server.waiting_max());
}

// ---- events ----------------------------------------------------------------------------------

#[test]
fn an_event_that_never_comes_is_missing() {
    let server = Faulty::with(Fault::Drops);
    let outcome = fanout(&server, &format!("--drain {IN_VAIN}"));
    let report = outcome.broken(&[("missing", 1)], &[]);
    assert_eq!(count(report, "deliveries"), DELIVERIES - 1);
    assert!(report.violations[0].examples[0].contains("never got event 4 of stream"));
}

#[test]
fn an_event_that_comes_again_is_repeated() {
    let server = Faulty::with(Fault::Repeats);
    let outcome = fanout(&server, "");
    let report = outcome.broken(&[("repeated", 1)], &[]);
    assert_eq!(count(report, "deliveries"), DELIVERIES + 1);
    assert!(report.violations[0].examples[0].contains("got event 4 of stream"));
}

#[test]
fn an_event_that_comes_after_a_later_one_is_reordered() {
    let server = Faulty::with(Fault::Swaps);
    let outcome = fanout(&server, "");
    let report = outcome.broken(&[("reordered", 1)], &[]);
    assert_eq!(count(report, "deliveries"), DELIVERIES);
}

#[test]
fn the_last_event_may_come_before_the_one_before_it() {
    let server = Faulty::with(Fault::Swaps);
    // One event before all others and then four: the fourth is held back until the fifth has gone.
    let soak = "soak --preset plain --subscribers 1 --streams 1 --events 8 --duration 500ms \
                --churn 0 --appends 0";
    run(&server, soak, "").broken(&[("reordered", 1)], &[]);
}

#[test]
fn an_event_of_another_stream_is_foreign() {
    let server = Faulty::with(Fault::SendsForeign);
    let outcome = fanout(&server, "");
    let report = outcome.broken(&[("foreign", 1)], &[]);
    assert_eq!(count(report, "deliveries"), DELIVERIES + 1);
}

#[test]
fn repeating_an_event_for_ever_is_no_reason_to_wait_for_ever() {
    let server = Faulty::with(Fault::RepeatsForEver);
    let outcome = fanout(&server, &format!("--drain {IN_VAIN}"));
    let report = outcome.report(NOT_CLEAN);
    let [missing, repeated] = &report.violations[..] else { panic!("{report:#?}") };
    assert_eq!((missing.kind.as_str(), missing.count), ("missing", EVENTS - 4));
    assert!(repeated.kind == "repeated" && repeated.count > 5, "{repeated:?}");
}

#[test]
fn what_is_lost_on_the_way_back_is_missing() {
    // A server that forgets one event of five, and one that forgets everything.
    for_each([(Fault::LosesOnResume, 1), (Fault::ForgetsOnResume, 5)], |(fault, lost)| {
        let server = Faulty::with(fault);
        let outcome = storm(&server, &format!("--drain {IN_VAIN}"));
        let report = outcome.broken(&[("missing", SUBSCRIBERS * lost)], &[]);
        assert_eq!(count(report, "caught_up"), 0);
        assert_eq!(count(report, "replayed"), SUBSCRIBERS * (5 - lost));
    });
}

#[test]
fn what_slow_readers_lack_is_missing_when_they_have_read_on() {
    let server = Faulty::with(Fault::DropsForSlow);
    let outcome = slow(&server, &format!("--bytes 8MB --drain {IN_VAIN}"));
    let report = outcome.broken(&[("missing", STALLED)], &[]);
    assert_eq!((count(report, "stopped"), count(report, "caught_up")), (STALLED, 0));
    // The others' streams come before that of the slow ones.
    let examples = &report.violations[0].examples;
    assert!(examples.iter().all(|example| example.ends_with("of stream 1")), "{examples:?}");
    assert_eq!(count(report, "broken_of_readers"), 0);
    assert_eq!(count(report, "broken_of_stalled"), STALLED);
}

#[test]
fn what_slow_readers_get_again_is_repeated() {
    let server = Faulty::with(Fault::RepeatsForSlow);
    let outcome = slow(&server, "--bytes 8MB");
    let report = outcome.broken(&[("repeated", STALLED)], &[]);
    assert_eq!(count(report, "caught_up"), STALLED);
}

#[test]
fn slow_readers_that_are_cut_off_may_come_back_where_a_server_can_resume() {
    let server = Faulty::with(Fault::CutsSlow);
    let outcome = slow_and_cut(&server, "");
    let report = outcome.clean();
    for name in ["stopped", "cut", "came_back", "caught_up"] {
        assert_eq!(count(report, name), STALLED, "{name}");
    }
    let server = Faulty::with(Fault::CutsSlow);
    let outcome = slow_and_cut(&server, "--resume none");
    let failure = ("cut off by the server while it did not read", STALLED);
    let report = outcome.broken(&[], &[failure]);
    assert_eq!((count(report, "cut"), count(report, "came_back")), (STALLED, 0));
}

#[test]
fn what_a_server_has_forgotten_when_slow_readers_come_back_is_missing() {
    let server = Faulty::with(Fault::CutsSlowAndForgets);
    let outcome = slow_and_cut(&server, &format!("--drain {IN_VAIN}"));
    let report = outcome.report(NOT_CLEAN);
    let [missing] = &report.violations[..] else { panic!("{report:#?}") };
    let most = STALLED * count(report, "bulk_events");
    assert!(missing.kind == "missing" && (STALLED..most).contains(&missing.count), "{missing:?}");
    assert_eq!(count(report, "broken_of_stalled"), missing.count);
    assert_eq!((count(report, "came_back"), count(report, "caught_up")), (STALLED, 0));
}

#[test]
fn what_others_wait_for_while_some_do_not_read_is_told_apart_from_the_quiet_time() {
    // Two first events and a quiet one come before the tenth, which is one of the bulk. No machine
    // is so busy that the quiet one waits as long.
    let server = Faulty::with(Fault::Stalls(Duration::from_secs(5)));
    let options = "slow --preset plain --subscribers 6 --events 40 --stalled 4 --bytes 1MB";
    let outcome = run(&server, options, "--quiet 25ms --hold 1s");
    let report = outcome.clean();
    let worst = |name| report.latency(name).expect("it was measured").max();
    // An event is due each 25 ms, and one of them at the beginning of that time.
    assert!(worst("delivery_stall") >= Some(4_900_000_000), "{report:#?}");
    assert!(worst("delivery_quiet") < worst("delivery_stall"), "{report:#?}");
    assert!(outcome.stdout.contains("Stall: deliveries while some do not read"));
}

#[test]
fn what_was_due_while_some_do_not_read_still_goes_out_when_the_bulk_has() {
    // Sixteen requests of the bulk take 0.8 s, in which 32 events are due and half of them go out.
    let server = Faulty::with(Fault::SlowPublishes(Duration::from_millis(50)));
    let options = "slow --preset plain --subscribers 6 --events 40 --stalled 4 --bytes 1MB";
    let outcome = run(&server, options, "--quiet 25ms --hold 0s --no-pipelining");
    let report = outcome.clean();
    assert!(count(report, "published_stall") >= 32, "{report:#?}");
    let latency = report.latency("delivery_stall").expect("it was measured");
    assert!(latency.max() >= Some(400_000_000), "{report:#?}");
}

#[test]
fn an_event_from_before_the_cursor_is_repeated() {
    let server = Faulty::with(Fault::RepeatsOnResume);
    let outcome = storm(&server, "");
    let report = outcome.broken(&[("repeated", SUBSCRIBERS)], &[]);
    assert_eq!(count(report, "caught_up"), SUBSCRIBERS);
}

#[test]
fn an_interrupted_measurement_still_says_what_it_has_seen() {
    let server = Faulty::with(Fault::Drops);
    let url = server.url();
    let tester = tester::start(&[
        "fanout",
        "--preset",
        "plain",
        "--server",
        &url,
        "--subscribers",
        "4",
        "--events",
        "20",
        "--duration",
        "1h",
    ]);
    // What it lacks is known to be missing when it has got what comes after.
    support::eventually("some came after it", || (server.sent_to_victim() > 10).then_some(()));
    tester.signal(Signal::INT);
    let outcome = tester.wait();
    assert!(outcome.broken(&[("missing", 1)], &[]).interrupted);
}

// ---- publishing ------------------------------------------------------------------------------

#[test]
fn events_that_the_server_refuses_are_failures_and_not_missing() {
    let server = Faulty::with(Fault::RefusesPublishes(10));
    let outcome = fanout(&server, "");
    let report = outcome.report(NOT_CLEAN);
    assert_eq!(report.violations, []);
    let failures: Vec<_> = report.failures.keys().collect();
    assert_eq!(failures, ["publish answered with status 503: busy"]);
    assert!(outcome.stdout.contains(failures[0]), "{}", outcome.stdout);
    assert_eq!(count(report, "published"), 10);
    assert_eq!(count(report, "deliveries"), SUBSCRIBERS / 2 * 10);
}

#[test]
fn what_was_refused_is_not_missing_when_more_has_been_published_after_it() {
    // One event on each of two streams is taken, and five on one, but not those on the other.
    let server = Faulty::with(Fault::RefusesOnePublish);
    let outcome = storm(&server, "");
    let report = outcome.broken(&[], &[("publish answered with status 503: busy", 1)]);
    // Those of the other stream had nothing to catch up with.
    assert_eq!(count(report, "caught_up"), SUBSCRIBERS / 2);
    assert_eq!(count(report, "events_checked"), SUBSCRIBERS / 2 * (7 + 2));
}

#[test]
fn publishes_that_are_never_answered_end_the_measurement() {
    let server = Faulty::with(Fault::IsSilentToPublishers(4));
    let outcome = fanout(&server, &format!("--timeout {IN_VAIN} --no-pipelining"));
    let report = outcome.report(NOT_CLEAN);
    assert_eq!(report.violations, []);
    assert!(report.failures.keys().all(|kind| kind.contains("publish")), "{report:#?}");
    assert_eq!(count(report, "published"), 4);
}

#[test]
fn an_answer_that_an_interrupted_measurement_does_not_wait_for_is_no_failure() {
    let server = Faulty::with(Fault::IsSilentToPublishers(4));
    let url = server.url();
    let fanout = "fanout --preset plain --subscribers 4 --events 20 --duration 1h --server";
    let tester = tester::start(&fanout.split(' ').chain([&*url]).collect::<Vec<_>>());
    support::eventually("one is not answered", || (server.publishes() > 4).then_some(()));
    tester.signal(Signal::INT);
    let outcome = tester.wait();
    assert_eq!(count(outcome.interrupted(), "published"), 4);
}

#[test]
fn appended_events_that_are_not_there_are_missing() {
    let server = Faulty::with(Fault::ForgetsPublish);
    let outcome = append(&server, &format!("--timeout {IN_VAIN}"));
    let report = outcome.broken(&[("missing", 1)], &[]);
    assert_eq!((count(report, "requests"), count(report, "events_checked")), (20, 19));
    assert!(report.violations[0].examples[0].contains("answered with success"));
}

#[test]
fn appended_events_that_are_there_twice_are_repeated() {
    let server = Faulty::with(Fault::PublishesTwice);
    let outcome = append(&server, "--batch 3");
    // Three lines, of which each comes again after the others.
    let report = outcome.broken(&[("repeated", 3)], &[]);
    assert_eq!(count(report, "events_checked"), 7 * 3 + 3);
}

#[test]
fn the_last_append_that_is_there_twice_is_seen() {
    let server = Faulty::with(Fault::PublishesTwice);
    append(&server, "--batch 5").broken(&[("repeated", 5)], &[]);
}

#[test]
fn a_stream_that_cannot_be_read_back_is_a_failure_and_nothing_is_missing() {
    let no = "HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n";
    let server = Faulty::with(Fault::Answers(Who::All, no));
    let outcome = append(&server, "");
    let report = outcome.broken(&[], &[("reading back: status 500", 1)]);
    assert_eq!((count(report, "requests"), count(report, "events_checked")), (20, 0));
}

#[test]
fn appends_that_are_refused_are_failures_and_nothing_is_missing() {
    let server = Faulty::with(Fault::RefusesPublishes(10));
    let outcome = append(&server, "");
    let report = outcome.report(NOT_CLEAN);
    assert_eq!(report.violations, []);
    assert_eq!((count(report, "requests"), count(report, "events_checked")), (10, 10));
}

// ---- subscriptions ---------------------------------------------------------------------------

#[test]
fn subscriptions_that_fail_are_counted_by_their_kind() {
    let status = "HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n";
    let page = "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 0\r\n\r\n";
    let cases = [
        (Fault::Answers(Who::EveryThird, status), "status 500"),
        (Fault::Answers(Who::EveryThird, page), "not an event stream but `text/html`"),
        (
            Fault::Answers(Who::EveryThird, "SSH-2.0-9\r\n"),
            "not an HTTP answer: invalid HTTP version",
        ),
        (Fault::Answers(Who::EveryThird, ""), "closed early by the server"),
        (Fault::IsSilent(Who::EveryThird), "no answer in time"),
    ];
    for_each(cases, |(fault, failure)| {
        let server = Faulty::with(fault);
        let outcome = fanout(&server, &patience(fault));
        let report = outcome.broken(&[], &[(failure, THIRD)]);
        assert_eq!(count(report, "opened"), SUBSCRIBERS - THIRD, "{fault:?}");
        assert_eq!(count(report, "deliveries"), (SUBSCRIBERS - THIRD) * EVENTS, "{fault:?}");
    });
}

#[test]
fn a_stream_that_is_closed_early_is_a_failure_and_what_would_have_come_is_not_missing() {
    let server = Faulty::with(Fault::ClosesEarly);
    let outcome = fanout(&server, "");
    let report = outcome.broken(&[], &[("closed early by the server", 1)]);
    assert_eq!(count(report, "deliveries"), DELIVERIES - (EVENTS - 4));
}

#[test]
fn a_server_that_dies_in_the_middle_has_closed_all_streams() {
    let server = Faulty::with(Fault::Dies(11));
    let outcome = fanout(&server, "");
    let report = outcome.report(NOT_CLEAN);
    assert_eq!(report.violations, []);
    assert_eq!(report.failures["closed early by the server"], SUBSCRIBERS);
    assert!(report.failures.keys().any(|kind| kind.starts_with("publishing connection lost")));
    assert_eq!(count(report, "published"), 10);
}

#[test]
fn a_soak_ends_though_every_stream_does_at_once() {
    let server = Faulty::with(Fault::EndsStreams(0));
    let soak = "soak --preset plain --subscribers 4 --streams 2 --events 20 --duration 500ms \
                --churn 0 --appends 0 --drain 500ms";
    let outcome = run(&server, soak, &format!("--timeout {IN_VAIN}"));
    // One before all others on each of two streams, and then five.
    let report = outcome.broken(&[("missing", 4 * 6)], &[]);
    assert!(count(report, "ended_by_server") > 0);
}

#[test]
fn who_is_not_opened_while_others_are_has_failed() {
    let server = Faulty::with(Fault::IsSilent(Who::AllButTheFirst));
    let idle = "idle --preset plain --subscribers 3 --in-flight 1 --hold 0s";
    let outcome = run(&server, idle, &format!("--timeout {IN_VAIN}"));
    let report = outcome.broken(&[], &[("no answer in time", 3)]);
    assert_eq!(count(report, "opened"), 0);
}

// ---- no measurement --------------------------------------------------------------------------

#[test]
fn a_server_that_is_wrong_from_the_beginning_is_refused() {
    let page = "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 0\r\n\r\n";
    let cases = [
        (Fault::Answers(Who::All, "HTTP/1.1 404 Not Found\r\n\r\n"), "status 404"),
        (Fault::Answers(Who::All, page), "`text/html` and not text/event-stream"),
        (Fault::Answers(Who::All, "220 smtp\r\n"), "not an HTTP answer"),
        (Fault::Answers(Who::All, ""), "closed without an answer"),
        (Fault::IsSilent(Who::All), "no answer in time"),
    ];
    for_each(cases, |(fault, reason)| {
        let server = Faulty::with(fault);
        let outcome = fanout(&server, &patience(fault));
        let line = outcome.refusal();
        assert!(line.contains(reason) && line.contains(&server.url()), "{line}");
    });
}

#[test]
fn a_server_that_is_not_there_is_named() {
    // It has the port, and does not listen: nobody else will.
    let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None);
    let socket = socket.expect("there are descriptors");
    let any_port = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    rustix::net::bind(&socket, &any_port).expect("there is a port");
    let address: SocketAddr =
        rustix::net::getsockname(&socket).and_then(SocketAddr::try_from).expect("it is bound");
    let url = format!("http://{address}");
    for_each(["idle", "fanout", "append", "storm", "slow", "soak"], |command| {
        for preset in ["tidewheel", "plain"] {
            let outcome = tester::run(&[command, "--server", &url, "--preset", preset]);
            let line = outcome.refusal();
            assert!(line.contains("refused") && line.contains(&url), "{line}");
        }
    });
}

#[test]
fn a_command_line_that_makes_no_sense_is_refused_at_once() {
    let cases: &[(&str, &str)] = &[
        ("idle --server https://127.0.0.1/", "https"),
        ("idle --server http://nowhere.invalid/", "nowhere.invalid"),
        ("idle --server 127.0.0.1:80", "http://"),
        ("idle --server http://", "no usable host"),
        ("idle --subscribe http://:80", "cannot be resolved"),
        ("idle --preset nginx", "no preset is called `nginx`: there are tidewheel, plain"),
        ("fanout --publish http://127.0.0.1/", "a method and a URL"),
        ("fanout --publish-body x", "{payload}"),
        ("fanout --publish-header x", "not a header"),
        ("fanout --cursor x", "no cursor"),
        ("fanout --batch-as xml", "array, ndjson, single"),
        ("idle --subscribers 0", "--subscribers must be at least 1"),
        ("idle --streams 0", "--streams must be at least 1"),
        ("idle --rate 0", "--rate must be more than 0"),
        ("idle --rate nan", "--rate must be more than 0"),
        ("idle --in-flight 0", "--in-flight must be at least 1"),
        ("idle --processes 0", "--processes must be at least 1"),
        ("idle --hold soon", "soon"),
        ("fanout --subscribers 0", "--subscribers must be at least 1"),
        ("fanout --events 0", "--events must be more than 0"),
        ("fanout --events 1e300", "no time"),
        ("fanout --events 1e-300", "no time"),
        ("fanout --batch 0", "--batch must be at least 1"),
        ("append --connections 0", "--connections must be at least 1"),
        ("append --depth 0", "--depth must be at least 1"),
        ("append --runs 0", "--runs must be at least 1"),
        ("append --rate -1", "--rate must be more than 0"),
        ("storm --resume none", "cursor"),
        ("storm --subscribers 0", "--subscribers must be at least 1"),
        ("slow --subscribers 0", "--subscribers must be at least 1"),
        ("slow --streams 0", "--streams must be at least 1"),
        ("slow --stalled 0", "--stalled must be at least 1"),
        ("slow --events 0", "--events must be more than 0"),
        ("slow --bytes 0", "--bytes must be at least 1"),
        ("slow --bytes 1PB", "--bytes: 250000000000 events are too many"),
        ("slow --bytes much", "much"),
        ("slow --bulk-batch 0", "--bulk-batch must be at least 1"),
        ("slow --bulk-payload 100", "--bulk-payload must be at least 128 bytes"),
        ("slow --bulk-rate 0", "--bulk-rate must be more than 0"),
        ("slow --read-on few", "`few` is neither a number nor all"),
        ("soak --events 0", "--events must be more than 0"),
        ("soak --churn -1", "--churn must be more than 0"),
        ("soak --appends inf", "--appends must be more than 0"),
    ];
    for_each(cases, |(arguments, reason)| {
        let arguments: Vec<&str> = arguments.split_whitespace().collect();
        let outcome = tester::run(&arguments);
        let line = outcome.refusal();
        assert!(line.contains(reason), "{arguments:?}: {line}");
    });
}

#[test]
fn an_unknown_option_or_command_is_no_measurement() {
    for arguments in [&["idle", "--subscriber", "1"][..], &["flood"], &["idle", "more"]] {
        let outcome = tester::run(arguments);
        assert_eq!(outcome.code, Some(tester::NO_MEASUREMENT), "{outcome:?}");
        assert!(outcome.stdout.is_empty() && !outcome.stderr.contains("panicked"), "{outcome:?}");
    }
}

#[test]
fn more_subscribers_than_files_name_the_processes_that_it_takes() {
    let server = Faulty::with(Fault::None);
    let url = server.url();
    let idle = ["idle", "--preset", "plain", "--server", &url, "--subscribers", "200"];
    let outcome = tester::run_with_files(140, &[&idle[..], &["--processes", "1"]].concat());
    assert!(outcome.refusal().contains("--processes 2"), "{outcome:?}");
    let outcome = tester::run_with_files(140, &[&idle[..], &["--hold", "0s"]].concat());
    assert_eq!(count(outcome.clean(), "opened"), 200);
}
