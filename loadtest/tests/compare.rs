//! A comparison, with a tidewheel of this test in the place of the peers that are installed.

mod support;

use std::{
    fs,
    io::Read,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Output},
};

use flate2::read::GzDecoder;
use support::{tester::NOT_CLEAN, tidewheel};
use tidewheel_loadtest::report::comparison::{Comparison, Promise, metrics::METRICS};

/// No test but the server of the others, which start this program anew for it.
#[test]
#[ignore = "the server of the other tests"]
fn serve() {
    tidewheel::serve();
}

/// Writes the script of a peer.
fn write_peer(peers: &Path, name: &str, serve: &str) {
    let directory = peers.join(name);
    fs::create_dir(&directory).expect("it is new");
    let script = directory.join("peer");
    let text = format!(
        "#!/bin/sh\ncase $1 in\ninstall) ;;\nversion) echo \"{name} of this test\" ;;\n\
         serve)\nmkdir -p \"$3\"\n{serve}\n;;\nesac\n"
    );
    fs::write(&script, text).expect("there is room");
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).expect("it is ours");
}

/// Starts this program as a server; it ends with its standard input.
fn serve_tidewheel() -> String {
    let program = std::env::current_exe().expect("it is running");
    format!(
        "sleep 600 | {} TIDEWHEEL_LISTEN=127.0.0.1:$2 TIDEWHEEL_JOURNAL=$3/journal \
         {} serve --exact --ignored --nocapture",
        format_args!("env {}=1", tidewheel::IS_SERVER),
        program.display()
    )
}

/// Compares these peers, and gives what was written.
fn compare(
    peers: &Path,
    names: &str,
    rounds: &str,
) -> (Output, Comparison, Vec<serde_json::Value>) {
    let out = peers.join("out");
    let output = Command::new(env!("CARGO_BIN_EXE_tidewheel-loadtest"))
        .args(["compare", "--quick", "--rounds", rounds, "--subscribers", "20", "--peers", names])
        .arg("--peers-directory")
        .arg(peers)
        .arg("--out")
        .arg(&out)
        .output()
        .expect("the binary was built with the tests");
    let read = |name: &str| {
        fs::read_to_string(out.join(name)).unwrap_or_else(|error| panic!("{error}: {output:?}"))
    };
    let comparison = serde_json::from_str(&read("comparison.json")).expect("it is a comparison");
    let file = fs::File::open(out.join("reports.jsonl.gz")).expect("it was written");
    let mut raw = String::new();
    GzDecoder::new(file).read_to_string(&mut raw).expect("it is whole");
    let raw = raw.lines().map(|line| serde_json::from_str(line).expect("it is JSON")).collect();
    assert!(read("comparison.html").contains("</html>"));
    assert!(read("comparison.md").contains("tidewheel of this test"));
    (output, comparison, raw)
}

#[test]
fn a_comparison_has_every_metric_of_every_round_and_its_raw_reports() {
    let peers = tempfile::tempdir().expect("there is room");
    write_peer(peers.path(), "tidewheel", &serve_tidewheel());
    let (output, comparison, raw) = compare(peers.path(), "tidewheel", "2");
    assert!(output.status.success(), "{output:?}");
    assert_eq!(comparison.rounds, 2);
    let [entry] = &comparison.entries[..] else { panic!("{comparison:?}") };
    assert_eq!((entry.promise, entry.subscribers), (Promise::Durable, 20));
    assert_eq!(entry.faults, Vec::<String>::new());
    for metric in &METRICS {
        let rounds = entry.figures.get(metric.name).map_or(0, Vec::len);
        assert_eq!(rounds, 2, "{}: {entry:?}", metric.name);
    }
    assert!(entry.delivery.as_ref().is_some_and(|delivery| delivery.count() > 0));
    assert_eq!(raw.len(), 12, "two rounds of six measurements");
}

#[test]
fn a_peer_that_does_not_start_is_named_and_the_others_are_measured() {
    let peers = tempfile::tempdir().expect("there is room");
    write_peer(peers.path(), "tidewheel", &serve_tidewheel());
    write_peer(peers.path(), "nchan", "echo no such module >&2; exit 1");
    let (output, comparison, _) = compare(peers.path(), "tidewheel,nchan", "1");
    assert_eq!(output.status.code(), Some(NOT_CLEAN), "{output:?}");
    let names: Vec<&str> = comparison.entries.iter().map(|entry| entry.name.as_str()).collect();
    assert_eq!(names, ["tidewheel (first)", "Nchan", "tidewheel (last)"]);
    let [first, nchan, last] = &comparison.entries[..] else { panic!("{comparison:?}") };
    assert!(nchan.figures.is_empty());
    assert!(nchan.faults.iter().all(|fault| fault.contains("no such module")), "{nchan:?}");
    assert!(first.faults.is_empty() && last.faults.is_empty(), "{comparison:?}");
}
