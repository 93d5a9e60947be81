//! Each measurement against a real tidewheel: its figures are held against what was asked for and
//! against what the server itself has counted.

mod support;

use std::time::Duration;

use rustix::process::Signal;
use support::{
    eventually, for_each, processes,
    tester::{self, NOT_CLEAN, Outcome, count, figure},
    tidewheel::{self, Server},
};
use tidewheel_loadtest::report::{Report, Unit};

/// No test but the server of the others, which start this program anew for it.
#[test]
#[ignore = "the server of the other tests"]
fn serve() {
    tidewheel::serve();
}

/// A measurement of a server.
fn run(server: &Server, arguments: &str) -> Outcome {
    let url = server.url();
    let arguments: Vec<&str> = arguments.split_whitespace().collect();
    tester::run(&[&arguments[..1], &["--server", &url], &arguments[1..]].concat())
}

/// What subscribers get of so many events on each stream, where each stream has as many of them.
fn deliveries(subscribers: usize, published: &[u64]) -> u64 {
    assert_eq!(subscribers % published.len(), 0);
    (subscribers / published.len()) as u64 * published.iter().sum::<u64>()
}

/// What a fan-out with so many subscribers must say of what the server has counted.
#[track_caller]
fn check_fanout(report: &Report, server: &Server, subscribers: usize) {
    let published = server.published();
    let expected = deliveries(subscribers, &published);
    assert_eq!(count(report, "opened"), subscribers as u64);
    assert_eq!(count(report, "published"), published.iter().sum::<u64>());
    assert_eq!(count(report, "deliveries"), expected);
    assert_eq!(count(report, "events_checked"), expected);
    let delivery = report.latency("delivery").expect("it was measured");
    assert_eq!(delivery.count(), expected);
    let publish = report.latency("publish").expect("it was measured");
    assert!(publish.count() > 0 && delivery.max() >= delivery.quantile(0.5));
    assert_eq!(report.latency("first_byte").expect("it was measured").count(), subscribers as u64);
    check_usage(report, server);
}

/// The figures of memory and processor time must be there, and possible.
#[track_caller]
fn check_usage(report: &Report, server: &Server) {
    for name in ["memory_per_subscriber", "shared_memory_per_subscriber", "slab_per_subscriber"] {
        let figure = report.figures.iter().find(|figure| figure.name == name);
        let figure = figure.unwrap_or_else(|| panic!("no {name}: {:#?}", report.figures));
        assert_eq!(figure.unit, Unit::Bytes);
        assert!(figure.value.abs() < f64::from(1 << 30), "{figure:?}");
    }
    assert!(figure(report, "load_memory_per_subscriber") > 0.0);
    let memory = report.series.iter().find(|series| series.name == "server_memory");
    let memory = &memory.expect("the server is on this machine").points;
    // The kernel's own figure of the server, which grows and shrinks a little meanwhile.
    let now = server.memory() as f64;
    let is_near = |bytes: f64| bytes > now / 4.0 && bytes < now * 4.0;
    assert!(memory.iter().all(|(_, bytes)| is_near(*bytes)), "{memory:?}, now {now}");
}

#[test]
fn idle_subscribers_are_open_and_kept_alive_while_they_are_held() {
    let server = Server::with(&[("keepalive_interval", "200ms")]);
    let url = server.url();
    let arguments = ["idle", "--server", &url, "--subscribers", "100", "--streams", "3"];
    let tester = tester::start(&[&arguments[..], &["--hold", "4s"]].concat());
    eventually("the server has all streams", || (server.streams() == 100).then_some(()));
    let outcome = tester.wait();
    let report = outcome.clean();
    assert_eq!(count(report, "opened"), 100);
    assert_eq!(count(report, "lost"), 0);
    // Twenty intervals, of which a busy machine may miss most, and more when it is late to close.
    let keepalives = count(report, "keepalives");
    let most = 100.0 * (report.seconds / 0.2 + 1.0);
    assert!(keepalives >= 100 && keepalives as f64 <= most, "{keepalives}, at most {most}");
    assert!(figure(report, "idle_cpu_share") >= 0.0);
    assert!(figure(report, "close_seconds") >= 0.0);
    assert!(report.figure("memory_kept").is_some());
    assert!(report.figure("events_checked").is_none(), "there was nothing to check");
    assert!(!outcome.stdout.contains("every event"), "{}", outcome.stdout);
    check_usage(report, &server);
    eventually("the server has none any more", || (server.streams() == 0).then_some(()));
}

#[test]
fn idle_opens_at_the_rate_that_it_was_asked_for() {
    let server = Server::start();
    let outcome = run(&server, "idle --subscribers 40 --rate 40 --hold 0s --processes 2");
    let report = outcome.clean();
    assert_eq!(count(report, "opened"), 40);
    // The first of each process is due at once, the last after 19 intervals of 50 ms.
    let rate = figure(report, "opened_per_second");
    assert!(rate > 1.0 && rate <= 40.0 / 0.95, "{rate}");
}

#[test]
fn a_fanout_delivers_every_event_to_every_subscriber() {
    let server = Server::start();
    let outcome = run(&server, "fanout --subscribers 100 --events 100 --duration 1s");
    let report = outcome.clean();
    check_fanout(report, &server, 100);
    assert_eq!(count(report, "published"), 100);
    assert!(outcome.stdout.contains("every subscriber got every event once, in order"));
    assert!(figure(report, "events_per_read") >= 1.0);
    assert!(figure(report, "cpu_per_delivery") > 0.0);
    assert!(report.seconds >= 1.0, "{}", report.seconds);
}

#[test]
fn a_fanout_over_several_streams_and_processes_counts_each_stream_for_its_own() {
    let server = Server::start();
    let arguments = "fanout --subscribers 49 --streams 7 --events 100 --duration 1s --processes 3";
    let outcome = run(&server, arguments);
    check_fanout(outcome.clean(), &server, 49);
    // 100 over 7 streams in turn: two have one more. Their runs were made in any order.
    let mut published = server.published();
    published.sort_unstable();
    assert_eq!(published, [14, 14, 14, 14, 14, 15, 15]);
}

#[test]
fn a_batch_is_published_in_each_of_its_forms() {
    for_each(["array", "ndjson", "single"], |form| {
        let server = Server::start();
        let arguments = "fanout --subscribers 20 --streams 2 --events 200 --duration 500ms \
                         --batch 5 --batch-as";
        let outcome = run(&server, &format!("{arguments} {form}"));
        let report = outcome.clean();
        check_fanout(report, &server, 20);
        assert_eq!(server.published(), [50, 50], "{form}");
        let requests = report.latency("publish").expect("it was measured").count();
        assert_eq!(requests, if form == "single" { 100 } else { 20 }, "{form}");
    });
}

#[test]
fn a_payload_is_as_long_as_it_was_asked_for() {
    let server = Server::start();
    let outcome =
        run(&server, "fanout --subscribers 2 --events 10 --duration 300ms --payload 5000");
    check_fanout(outcome.clean(), &server, 2);
    let page = server.get("/runs/1/events?after_id=1");
    let payload = page["events"][0]["payload"].to_string();
    assert_eq!(payload.len(), 5_000, "{payload}");
}

#[test]
fn requests_that_are_spelled_out_measure_the_same_as_a_preset() {
    let server = Server::start();
    let run = server.new_run();
    let url = format!("{}/runs/{run}/events", server.url());
    let (stream, publish) = (format!("{url}/stream?n={{n}}"), format!("post {url}"));
    let body = r#"{"type":"LOAD","payload":{payload}}"#;
    let outcome = tester::run(&[
        "fanout",
        "--preset",
        "plain",
        "--subscribe",
        &stream,
        "--subscribe-header",
        "X-N: {n}",
        "--publish",
        &publish,
        "--publish-type",
        "application/json",
        "--publish-body",
        body,
        "--publish-header",
        "X-From: test",
        "--create",
        "none",
        "--batch-as",
        "array",
        "--resume",
        "header",
        "--cursor",
        "id",
        "--no-pipelining",
        "--subscribers",
        "20",
        "--events",
        "50",
        "--duration",
        "1s",
        "--batch",
        "2",
    ]);
    check_fanout(outcome.clean(), &server, 20);
    assert_eq!(server.published(), [50]);
}

#[test]
fn what_is_appended_is_what_the_server_has() {
    let server = Server::start();
    let outcome = run(&server, "append --connections 8 --depth 3 --runs 3 --duration 1s");
    let report = outcome.clean();
    let requests = count(report, "requests");
    assert_eq!(server.published().iter().sum::<u64>(), requests);
    assert_eq!(count(report, "events_checked"), requests);
    assert_eq!(report.latency("append").expect("it was measured").count(), requests);
    let rates = [figure(report, "appends_per_second"), figure(report, "events_per_second")];
    assert!(rates[0] > 0.0 && (rates[0] - rates[1]).abs() < 1e-6, "{rates:?}");
    let appended = server.get("/worker")["journal"]["appended_events"].as_u64();
    assert_eq!(appended, Some(requests + 3), "each run has one more, its first");
}

#[test]
fn appends_at_a_rate_are_as_many_as_that_makes() {
    for_each(["array", "ndjson", "single"], |form| {
        let server = Server::start();
        let arguments = "append --connections 4 --runs 2 --rate 200 --batch 10 --duration 1s";
        let outcome = run(&server, &format!("{arguments} --format {form}"));
        let report = outcome.clean();
        assert_eq!(server.published(), [100, 100], "{form}");
        assert_eq!(count(report, "events_checked"), 200);
        let requests = count(report, "requests");
        assert_eq!(requests, if form == "single" { 200 } else { 20 }, "{form}");
    });
}

#[test]
fn appends_need_not_be_read_back() {
    let server = Server::start();
    let outcome = run(&server, "append --connections 2 --duration 300ms --no-verify");
    let report = outcome.clean();
    assert_eq!(server.published(), [count(report, "requests")]);
    assert_eq!(report.figure("events_checked"), None);
}

#[test]
fn all_subscribers_of_a_storm_catch_up_with_all_they_missed() {
    let server = Server::start();
    let arguments = "storm --subscribers 60 --streams 4 --behind 50 --processes 2 --while-cut true";
    let outcome = run(&server, arguments);
    let report = outcome.clean();
    // One before the cut and one after the return, beside those that they missed.
    assert_eq!(server.published(), [52; 4]);
    assert_eq!(count(report, "caught_up"), 60);
    assert_eq!(report.latency("catch_up").expect("it was measured").count(), 60);
    assert_eq!(count(report, "replayed"), 60 * 50);
    assert_eq!(count(report, "events_checked"), 60 * 52);
    assert_eq!(count(report, "opened"), 60);
    assert_eq!(report.latency("first_byte").expect("it was measured").count(), 60);
    assert!(figure(report, "caught_up_seconds") > 0.0);
    assert!(figure(report, "returned_per_second") > 0.0);
    assert!(report.figure("while_cut_seconds").is_some());
    check_usage(report, &server);
}

/// A measurement of slow readers: 30 subscribers of three streams, and others that stop reading.
/// 8 MB for these are more than the server's tail and all buffers on the way hold.
fn slow(server: &Server, more: &str) -> Outcome {
    let options = "slow --subscribers 30 --streams 3 --events 60 --quiet 500ms --processes 2";
    run(server, &format!("{options} {more}"))
}

/// What those that read all the time must have got, by phase, and the events that the server has:
/// those of their streams, and those of the others' stream.
#[track_caller]
fn check_readers(report: &Report, server: &Server) -> (u64, u64) {
    let mut published = server.published();
    // The streams were made in any order.
    let bulk = count(report, "bulk_events") + 2;
    let place = published.iter().position(|count| *count == bulk);
    published.remove(place.expect("the stream of those that stop reading"));
    // One before all others, and one after them, on each.
    let mut events = 2 * 3;
    for phase in ["quiet", "stall", "catch_up"] {
        let published = count(report, &format!("published_{phase}"));
        let delivery = report.latency(&format!("delivery_{phase}")).expect("it was measured");
        assert_eq!(delivery.count(), published * 10, "{phase}");
        let publish = report.latency(&format!("publish_{phase}")).expect("it was measured");
        assert_eq!(publish.count(), published, "{phase}");
        events += published;
    }
    assert_eq!(published.iter().sum::<u64>(), events);
    assert!(count(report, "published_quiet") == 30 && count(report, "published_stall") >= 30);
    assert_eq!(count(report, "broken_of_readers"), 0);
    assert_eq!(count(report, "ended_by_server"), 0);
    let [quiet, stalled, catch_up, _] = ["quiet", "stall", "catch_up", "afterwards"]
        .map(|phase| figure(report, &format!("server_memory_{phase}")));
    // Buffers are full of what is not read.
    assert!(figure(report, "tcp_memory_stall") > 1e6, "{report:#?}");
    // The kernel's own figure of the server has the bulk's tail in it by now.
    let now = server.memory() as f64;
    assert!(quiet > 0.0 && quiet <= stalled, "{quiet}, {stalled}");
    assert!(stalled.max(catch_up) >= now * 0.9, "{stalled}, {catch_up}, {now}");
    (events, bulk)
}

#[test]
fn subscribers_that_stop_reading_get_everything_when_they_read_on() {
    for_each(["uring", "epoll"], |io| {
        let server = Server::with(&[("io", io)]);
        let outcome = slow(&server, "--stalled 10 --bytes 8MB --hold 500ms");
        let report = outcome.clean();
        let worker = &server.get("/worker")["workers"][0];
        assert!(worker["io_driver"].as_str().expect("a name").ends_with(io), "{worker}");
        let (events, bulk) = check_readers(report, &server);
        assert_eq!((count(report, "bulk_events"), count(report, "bulk_bytes")), (2_000, 8_000_000));
        assert_eq!(count(report, "events_checked"), 10 * (events + bulk), "{io}");
        assert_eq!(count(report, "opened"), 40);
        for name in ["stopped", "read_on", "caught_up"] {
            assert_eq!(count(report, name), 10, "{name}, {io}");
        }
        for name in ["cut", "came_back", "broken_of_stalled"] {
            assert_eq!(count(report, name), 0, "{name}, {io}");
        }
        assert_eq!(report.latency("catch_up").expect("it was measured").count(), 10);
        // All that was read then, by the server's own count of what it sent in all.
        let read = count(report, "caught_up_bytes");
        let sent = worker["bytes_sent"].as_u64().expect("it counts them");
        assert!((80_000_000..=sent).contains(&read), "{read} of {sent}, {io}");
        for name in ["bulk_seconds", "bulk_rate", "caught_up_seconds", "caught_up_rate"] {
            assert!(figure(report, name) > 0.0, "{name}, {io}");
        }
    });
}

#[test]
fn only_so_many_read_on_as_were_asked_to() {
    let server = Server::start();
    let bulk = "--bytes 1MB --bulk-rate 500KB --bulk-payload 8KB --bulk-batch 4";
    let outcome = slow(&server, &format!("--stalled 10 --read-on 3 --hold 0s {bulk}"));
    let report = outcome.clean();
    let (events, bulk) = check_readers(report, &server);
    assert_eq!(count(report, "bulk_events"), 128);
    // At that rate the last of 32 batches was due after this long.
    assert!(figure(report, "bulk_seconds") >= 1.98, "{report:#?}");
    assert_eq!(count(report, "stopped"), 10);
    for name in ["read_on", "caught_up"] {
        assert_eq!(count(report, name), 3, "{name}");
    }
    // The seven that were closed had only the first.
    assert_eq!(count(report, "events_checked"), 10 * events + 3 * bulk + 7);
}

#[test]
fn subscribers_that_are_cut_off_while_they_do_not_read_come_back_for_the_rest() {
    for_each(["uring", "epoll"], |io| {
        // Those that read on are not as late as this.
        let server = Server::with(&[("io", io), ("client_timeout", "6s")]);
        let outcome = slow(&server, "--stalled 2 --bytes 8MB --hold 15s");
        let report = outcome.clean();
        let (events, bulk) = check_readers(report, &server);
        for name in ["stopped", "cut", "came_back", "caught_up"] {
            assert_eq!(count(report, name), 2, "{name}, {io}");
        }
        assert_eq!(count(report, "events_checked"), 10 * events + 2 * bulk, "{io}");
    });
}

#[test]
fn subscribers_that_come_and_go_in_a_soak_miss_nothing() {
    let server = Server::start();
    let arguments = "soak --subscribers 40 --streams 4 --events 40 --churn 30 --appends 20 \
                     --storm-every 700ms --duration 2s --processes 2";
    let outcome = run(&server, arguments);
    let report = outcome.clean();
    // The streams of the subscribers were made first, those beside after them.
    let published = server.published();
    let (own, beside) = published.split_at(4);
    assert_eq!(count(report, "published"), own.iter().sum::<u64>());
    assert_eq!(count(report, "appended"), beside.iter().sum::<u64>());
    assert_eq!(count(report, "events_checked"), deliveries(40, own));
    assert!(count(report, "returns") > 0);
    check_usage(report, &server);
}

#[test]
fn an_interrupted_measurement_ends_soon_and_keeps_its_figures() {
    let server = Server::start();
    let url = server.url();
    let arguments = ["fanout", "--server", &url, "--subscribers", "30", "--processes", "3"];
    let tester = tester::start(&[&arguments[..], &["--duration", "1h", "--events", "50"]].concat());
    // Some of the last may not be answered yet, and the load processes tell with a delay.
    let has_published = || server.published().first().is_some_and(|count| *count >= 100);
    eventually("some events are published", || has_published().then_some(()));
    let processes = tester.load_processes();
    assert_eq!(processes.len(), 3);
    tester.signal(Signal::INT);
    let outcome = tester.wait();
    let report = outcome.interrupted();
    assert!(report.seconds < 3_000.0);
    assert!(count(report, "published") >= 20);
    assert!(count(report, "deliveries") > 0);
    assert!(report.latency("delivery").expect("it was measured").count() > 0);
    assert!(!processes.into_iter().any(processes::is_running));
}

#[test]
fn every_measurement_can_be_interrupted() {
    let server = Server::start();
    let url = server.url();
    let long: &[&[&str]] = &[
        &["idle", "--hold", "1h", "--subscribers", "5"],
        &["append", "--duration", "1h", "--connections", "2"],
        &["append", "--duration", "1h", "--rate", "10"],
        &["storm", "--while-cut", "exec sleep 3600", "--subscribers", "5", "--behind", "1"],
        &["slow", "--quiet", "1h", "--subscribers", "5", "--stalled", "2"],
        &["slow", "--bulk-rate", "100KB", "--subscribers", "5", "--stalled", "2"],
        &["slow", "--hold", "1h", "--quiet", "0s", "--bytes", "1MB", "--subscribers", "5"],
        &["soak", "--duration", "1h", "--subscribers", "5", "--streams", "2"],
    ];
    for_each(long, |arguments| {
        let all = [&arguments[..1], &["--server", &url], &arguments[1..]].concat();
        let tester = tester::start(&all);
        eventually("it is ready for a signal", || tester.is_ready().then_some(()));
        // Any moment will do; after this one it is in the middle, as a rule.
        std::thread::sleep(Duration::from_secs(2));
        tester.signal(Signal::INT);
        let outcome = tester.wait();
        outcome.interrupted();
    });
}

#[test]
fn a_load_tester_that_is_killed_takes_its_load_processes_with_it() {
    let server = Server::start();
    let url = server.url();
    let arguments = ["idle", "--server", &url, "--subscribers", "30", "--processes", "3"];
    let tester = tester::start(&[&arguments[..], &["--hold", "1h"]].concat());
    eventually("the server has all streams", || (server.streams() == 30).then_some(()));
    let processes = tester.load_processes();
    assert_eq!(processes.len(), 3);
    tester.signal(Signal::KILL);
    assert_eq!(tester.wait().code, None);
    let are_gone = || !processes.iter().any(|pid| processes::is_running(*pid));
    eventually("the load processes are gone", || are_gone().then_some(()));
    eventually("the server has none any more", || (server.streams() == 0).then_some(()));
}

#[test]
fn a_load_process_that_is_killed_ends_the_measurement() {
    let server = Server::start();
    let url = server.url();
    let arguments = ["idle", "--server", &url, "--subscribers", "4", "--processes", "2"];
    let tester = tester::start(&[&arguments[..], &["--hold", "1h"]].concat());
    eventually("the server has all streams", || (server.streams() == 4).then_some(()));
    processes::kill(tester.load_processes()[0]);
    let outcome = tester.wait();
    assert!(outcome.refusal().contains("a load process has ended"), "{outcome:?}");
}

#[test]
fn a_command_that_fails_while_all_are_cut_is_named_in_a_report_of_what_came_before() {
    let server = Server::start();
    let outcome = run(&server, "storm --subscribers 2 --behind 3 --while-cut false");
    let report = outcome.broken(&[], &[("`false` ended with exit status: 1", 1)]);
    assert!(report.interrupted, "{report:#?}");
    assert_eq!(count(report, "opened"), 2);
    // The first of all; what came after the cut had no chance to come, and is not missing.
    assert_eq!(count(report, "events_checked"), 2);
    assert_eq!(server.published(), [1 + 3]);
    assert_eq!(report.figure("caught_up"), None);
}

#[test]
fn a_server_that_ends_is_named() {
    let server = Server::start();
    let url = server.url();
    let arguments = ["idle", "--server", &url, "--subscribers", "10", "--hold", "10s"];
    let tester = tester::start(&arguments);
    eventually("the server has all streams", || (server.streams() == 10).then_some(()));
    drop(server);
    let outcome = tester.wait();
    let report = outcome.report(NOT_CLEAN);
    assert_eq!(report.failures["the server has ended"], 1);
    let lost: u64 = report.failures.values().sum();
    assert_eq!(lost, 1 + 10, "{:?}", report.failures);
}

#[test]
fn processes_are_as_many_as_the_limit_of_files_asks_for() {
    let server = Server::start();
    let url = server.url();
    let arguments = ["fanout", "--server", &url, "--subscribers", "130", "--duration", "300ms"];
    let outcome = tester::run_with_files(100, &arguments);
    check_fanout(outcome.clean(), &server, 130);
    let outcome = tester::run_with_files(100, &[&arguments[..], &["--processes", "1"]].concat());
    assert!(outcome.refusal().contains("use --processes 3"), "{outcome:?}");
}
